//! A client and an endpoint on one thread, in lockstep: nothing is sent before the previous bytes have arrived. So the
//! daemon sees the same events in the same order in every run, as far as a kernel can guarantee it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::daemon::Daemon;

/// Spent only if something is broken; a daemon under valgrind is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon with its client and endpoint.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) endpoint: TcpListener,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Whether each session leaves a record, which is waited for.
    pub(crate) is_recorded: bool,
}

impl Stage {
    /// The endpoint listens from now on, before a daemon dials it.
    pub(crate) fn listen() -> io::Result<TcpListener> {
        let endpoint = TcpListener::bind(("127.0.0.1", 0))?;
        // On Linux it applies to accept(2) too.
        SockRef::from(&endpoint).set_read_timeout(Some(PATIENCE))?;
        Ok(endpoint)
    }
}

/// Both ends of one session.
pub(crate) struct Session<'a> {
    /// Its log is read, if the session leaves a record there.
    daemon: Option<&'a mut Daemon>,
    client: TcpStream,
    endpoint: Endpoint,
    buffer: Vec<u8>,
}

enum Endpoint {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl<'a> Session<'a> {
    pub(crate) fn begin(stage: &'a mut Stage) -> io::Result<Self> {
        let client = TcpStream::connect(stage.daemon.address)?;
        prepare(&client)?;
        let (socket, _) = stage.endpoint.accept().map_err(|error| failed("the daemon's dial", &error))?;
        prepare(&socket)?;
        let endpoint = match &stage.tls {
            None => Endpoint::Plain(socket),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Endpoint::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        let daemon = stage.is_recorded.then_some(&mut stage.daemon);
        Ok(Self { daemon, client, endpoint, buffer: Vec::new() })
    }

    /// From the client to the endpoint.
    pub(crate) fn send(&mut self, bytes: usize) -> io::Result<()> {
        self.buffer.resize(bytes, 7);
        self.client.write_all(&self.buffer)?;
        let arrived = self.endpoint.stream().read_exact(&mut self.buffer);
        arrived.map_err(|error| failed("the client's bytes", &error))
    }

    /// From the endpoint to the client.
    pub(crate) fn answer(&mut self, bytes: usize) -> io::Result<()> {
        self.buffer.resize(bytes, 7);
        self.endpoint.stream().write_all(&self.buffer)?;
        let arrived = self.client.read_exact(&mut self.buffer);
        arrived.map_err(|error| failed("the endpoint's bytes", &error))
    }

    /// The client ends, then the endpoint; both see the other's end, and the daemon is idle, or all but idle without a record.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.client.shutdown(Shutdown::Write)?;
        self.expect_end(|session, buffer| session.endpoint.stream().read(buffer), "the client's end")?;
        self.endpoint.finish()?;
        self.expect_end(|session, buffer| session.client.read(buffer), "the endpoint's end")?;
        self.daemon.map_or(Ok(()), Daemon::wait_for_record)
    }

    fn expect_end(
        &mut self,
        read: impl FnOnce(&mut Self, &mut [u8]) -> io::Result<usize>,
        what: &str,
    ) -> io::Result<()> {
        match read(self, &mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::Error::other(format!("waited for {what}, and got bytes"))),
            Err(error) => Err(failed(what, &error)),
        }
    }
}

impl Endpoint {
    fn stream(&mut self) -> &mut dyn Talk {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut **stream,
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock)?;
                stream.sock.shutdown(Shutdown::Write)
            }
        }
    }
}

trait Talk: Read + Write {}

impl<T: Read + Write> Talk for T {}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

fn failed(what: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("waited for {what}: {error}"))
}
