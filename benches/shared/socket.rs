//! Sockets for the load, the upstream and the floors: non-blocking, no Nagle, a backlog for a burst.
//!
//! Lacks the other options of a product; 127.0.0.1 is the only network here.
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, recv, send, socket_with,
    sockopt,
};

/// std's own listener has a backlog of 128, too short for the rows with many sessions.
pub(crate) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    listen_with(at, 4096)
}

/// `backlog`: how many more than one connection may wait to be accepted.
pub(crate) fn listen_with(at: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket.into())
}

/// A connected stream; it blocks until configured otherwise.
pub(crate) fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next connection, already non-blocking, if there is one.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of bytes that the socket took, perhaps none.
pub(crate) fn send_some(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The number of received bytes: `None` if there are none yet, zero at the end of the stream.
pub(crate) fn receive_some(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    receive(socket, buffer, RecvFlags::DONTWAIT)
}

/// As `receive_some`, but TCP drops the bytes in the kernel: a sink that costs next to nothing.
pub(crate) fn drop_some(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    receive(socket, buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)
}

fn receive(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
    match recv(socket, buffer, flags) {
        Ok((_, came)) => Ok(Some(came)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
