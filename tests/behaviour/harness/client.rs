//! A local application: a plain TCP or unix connection to a listener. It has no TLS, which is the point of the
//! product.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{PATIENCE, Pattern};

pub(crate) struct Client {
    socket: Socket,
    /// The listener accepted and reset before connect(2) had returned, which then reports the reset.
    reset_at_once: bool,
}

/// How the other side ended the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset,
}

impl Client {
    pub(crate) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        let reset_at_once = match socket.connect_timeout(&address.into(), PATIENCE) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
            connected => connected.map(|()| false)?,
        };
        Ok(Self { reset_at_once, ..Self::new(socket)? })
    }

    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        Self::new(std::os::fd::OwnedFd::from(stream).into())
    }

    fn new(socket: Socket) -> io::Result<Self> {
        // No read of a test waits for ever: a hang becomes a failure with a message.
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, reset_at_once: false })
    }

    /// Our own address of a TCP connection.
    #[track_caller]
    pub(crate) fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address").as_socket().expect("an address of TCP")
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("the connection takes what is sent");
    }

    /// Sends `bytes`, unless the connection is closed already.
    pub(crate) fn try_send(&mut self, bytes: &str) {
        drop(self.socket.write_all(bytes.as_bytes()));
    }

    /// Sends `bytes` and ends our side, whether or not the peer still reads.
    pub(crate) fn offer(&mut self, bytes: &str) {
        drop(self.socket.write_all(bytes.as_bytes()));
        drop(self.socket.shutdown(Shutdown::Write));
    }

    /// Reads exactly as many bytes as `expected` has, and compares.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let got = self.receive(expected.len());
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    #[track_caller]
    pub(crate) fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.socket
            .read_exact(&mut bytes)
            .unwrap_or_else(|error| panic!("{count} bytes do not come: {error}"));
        bytes
    }

    /// One round trip through an echo upstream.
    #[track_caller]
    pub(crate) fn echo(&mut self, text: &str) {
        self.send(text);
        self.expect(text);
    }

    /// A round trip, or `false` when the connection has ended.
    pub(crate) fn try_echo(&mut self, text: &str) -> bool {
        let mut bytes = vec![0; text.len()];
        self.socket.write_all(text.as_bytes()).is_ok()
            && self.socket.read_exact(&mut bytes).is_ok()
            && bytes == text.as_bytes()
    }

    /// Reads to the end: the bytes, and how it ended.
    #[track_caller]
    pub(crate) fn read_out(&mut self) -> (Vec<u8>, End) {
        if self.reset_at_once {
            return (Vec::new(), End::Reset);
        }
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return (all, End::Orderly),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (all, End::Reset),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    panic!("neither bytes nor an end come: {error}; so far {}", String::from_utf8_lossy(&all))
                }
            }
        }
    }

    /// Waits for the end of a connection on which no byte may arrive.
    #[track_caller]
    pub(crate) fn ending(&mut self) -> End {
        let (bytes, end) = self.read_out();
        assert!(
            bytes.is_empty(),
            "nothing but an end was due, and {:?} came",
            String::from_utf8_lossy(&bytes)
        );
        end
    }

    /// Sends one byte as TCP urgent data (`MSG_OOB`).
    #[track_caller]
    pub(crate) fn send_urgent(&self, byte: u8) {
        self.socket.send_out_of_band(&[byte]).expect("the connection takes an urgent byte");
    }

    /// Writes without end from a thread of its own; returns the error that stopped it.
    #[track_caller]
    pub(crate) fn keep_writing(&self) -> JoinHandle<io::Error> {
        let mut socket = self.socket.try_clone().expect("a second handle");
        thread::spawn(move || {
            loop {
                if let Err(error) = socket.write_all(b"and another line\n") {
                    return error;
                }
            }
        })
    }

    /// Ends our side only.
    pub(crate) fn end_sending(&self) {
        self.socket.shutdown(Shutdown::Write).expect("a shutdown");
    }

    /// Closes with a TCP reset.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Sends `count` bytes of the pattern and checks `count` bytes of it coming back, both at once.
    #[track_caller]
    pub(crate) fn exchange(self, count: usize) {
        let mut reader = self.socket.try_clone().expect("a second handle");
        let sending = thread::spawn(move || {
            let mut socket = self.socket;
            let mut pattern = Pattern::default();
            while pattern.offset() < count {
                let chunk = pattern.upcoming((count - pattern.offset()).min(256 * 1024));
                socket.write_all(chunk)?;
                pattern.advance(chunk.len());
            }
            socket.shutdown(Shutdown::Write)
        });
        let mut pattern = Pattern::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer).expect("bytes or their end") {
                0 => break,
                got => pattern
                    .check(&buffer[..got])
                    .unwrap_or_else(|at| panic!("what came differs at byte {at}")),
            }
        }
        sending.join().expect("a sender that does not panic").expect("all bytes are taken");
        assert_eq!(pattern.offset(), count, "as many bytes came as were sent");
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}
