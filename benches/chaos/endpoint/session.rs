//! One session of an endpoint, in the mode that it was accepted in.
//!
//! Lacks a limit of its own on threads: the stage's clients are few.
use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::schedule::Mode;
use crate::speech::{ENOUGH, MESSAGE, Speech};

/// The sessions of a full endpoint.
const ROOM: usize = 1;

/// No session here is silent for longer.
const SILENCE: Duration = Duration::from_secs(60);

/// Delay of the slow handshake.
const SLOW: Duration = Duration::from_secs(2);

/// A TLS record of 16 KiB each: some 250 KB/s.
const SIP: Duration = Duration::from_millis(64);

pub(super) struct Server {
    pub(super) key: u8,
    pub(super) speech: Speech,
    pub(super) good: Arc<ServerConfig>,
    pub(super) bad: Arc<ServerConfig>,
    pub(super) sessions: AtomicUsize,
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

impl Server {
    pub(super) fn serve(&self, mut socket: TcpStream, mode: Mode) -> io::Result<()> {
        match mode {
            // Closed with a linger of zero, it is reset.
            Mode::Reset => return SockRef::from(&socket).set_linger(Some(Duration::ZERO)),
            Mode::Slow => sleep(SLOW),
            Mode::SlowReader => SockRef::from(&socket).set_recv_buffer_size(65_536)?,
            Mode::Well | Mode::Early | Mode::WrongCert | Mode::Blackhole | Mode::Full => {}
        }
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_nodelay(true)?;
        self.speech.upgrade(&mut socket)?;
        let config = if mode == Mode::WrongCert { &self.bad } else { &self.good };
        let mut tls = handshaken(config, socket)?;
        if mode == Mode::Early {
            return Ok(());
        }
        let _counted = Counted::one_more(&self.sessions);
        self.speech.let_in(&mut tls)?;
        if mode == Mode::SlowReader {
            return sip(&mut tls);
        }
        let is_full = mode == Mode::Full && self.sessions.load(Ordering::SeqCst) > ROOM;
        if is_full { self.turn_away(&mut tls) } else { self.echo(&mut tls) }
    }

    fn echo(&self, tls: &mut Tls) -> io::Result<()> {
        let head = self.speech.asking().len();
        let mut message = vec![0; head + MESSAGE];
        while filled(tls, &mut message)? {
            tls.write_all(&[self.speech.answering(), &[self.key], &message[head..]].concat())?;
            tls.flush()?;
        }
        tls.conn.send_close_notify();
        tls.flush()
    }

    fn turn_away(&self, tls: &mut Tls) -> io::Result<()> {
        tls.write_all(&[self.speech.answering(), &[ENOUGH], &[b'x'; MESSAGE]].concat())?;
        tls.conn.send_close_notify();
        tls.flush()?;
        // Bytes that arrived meanwhile must not turn the end into a reset.
        drop(tls.read(&mut [0; 64]));
        Ok(())
    }
}

/// One of the sessions, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one_more(sessions: &'a AtomicUsize) -> Self {
        sessions.fetch_add(1, Ordering::SeqCst);
        Self(sessions)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn handshaken(config: &Arc<ServerConfig>, socket: TcpStream) -> io::Result<Tls> {
    let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, socket);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    // Tickets, which follow the handshake.
    while tls.conn.wants_write() {
        tls.conn.write_tls(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Whether another message has come; an end within a message counts as one as well.
fn filled(tls: &mut Tls, message: &mut [u8]) -> io::Result<bool> {
    match tls.read_exact(message) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn sip(tls: &mut Tls) -> io::Result<()> {
    let mut record = [0; 16 * 1024];
    while tls.read(&mut record)? > 0 {
        sleep(SIP);
    }
    Ok(())
}
