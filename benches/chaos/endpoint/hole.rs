//! A port that drops SYNs: its accept queue is full and nothing is accepted.
//!
//! Lacks ICMP and a firewall: those belong to the machine.
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// The source address of the connections that fill the queue, so that they are not counted as a proxy's.
pub(crate) const FILLER: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);

pub(super) struct Hole {
    _listener: TcpListener,
    _fill: Vec<Socket>,
}

impl Hole {
    /// A listener with a backlog of zero, which takes one connection: the second is for kernels that take two.
    pub(super) fn dig(listener: TcpListener) -> io::Result<Self> {
        let at = listener.local_addr()?;
        let fill = (0..2).map(|_| dial(at)).collect::<io::Result<Vec<Socket>>>()?;
        Ok(Self { _listener: listener, _fill: fill })
    }
}

/// Begins to connect, without waiting.
fn dial(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((IpAddr::V4(FILLER), 0)).into())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(socket),
    }
}
