//! Addresses without a server, each reserved for the length of a test so that the OS cannot give the port to another
//! process.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// A port that refuses: bound, never listening.
pub(crate) struct ClosedPort {
    socket: Socket,
}

impl ClosedPort {
    pub(crate) fn new() -> Self {
        Self { socket: bound() }
    }

    pub(crate) fn address(&self) -> String {
        address_of(&self.socket).to_string()
    }
}

/// A port that neither accepts nor refuses. On Linux a listener whose accept queue is full drops further SYNs, so with
/// a backlog of zero and one connection waiting every connect hangs, as behind a firewall that drops.
pub(crate) struct BlackHole {
    socket: Socket,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// The same at an address of the test's choice.
    pub(crate) fn at(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&address.into()).expect("a port");
        socket.listen(0).expect("a listening socket");
        let address = address_of(&socket);
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
            assert!(waiting.len() < 64, "this kernel queues without end");
        }
        Self { socket, _waiting: waiting }
    }

    pub(crate) fn address(&self) -> String {
        address_of(&self.socket).to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        address_of(&self.socket).port()
    }
}

/// A unix socket whose owner lives and does not accept: its queue is full, so a further connect would wait.
pub(crate) struct BusySocket {
    listener: Socket,
    waiting: Vec<Socket>,
}

impl BusySocket {
    pub(crate) fn bind(path: &Path) -> Self {
        let listener = unix_stream();
        listener.bind(&SockAddr::unix(path).expect("a path that fits")).expect("a socket file");
        listener.listen(0).expect("a listening socket");
        let mut waiting = Vec::new();
        let full = loop {
            let client = unix_stream();
            client.set_nonblocking(true).expect("a non-blocking socket");
            match client.connect(&SockAddr::unix(path).expect("a path that fits")) {
                Ok(()) => waiting.push(client),
                Err(error) => break error,
            }
            assert!(waiting.len() < 64, "this kernel queues without end");
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock, "{full}");
        Self { listener, waiting }
    }

    /// Accepts all waiting connections, and no other.
    #[track_caller]
    pub(crate) fn serves_who_waited(&self) {
        self.listener.set_nonblocking(true).expect("a non-blocking socket");
        let accepted = std::iter::from_fn(|| self.listener.accept().ok()).count();
        assert_eq!(accepted, self.waiting.len());
    }
}

fn unix_stream() -> Socket {
    Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket")
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a port");
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().expect("a bound socket").as_socket().expect("an IP address")
}
