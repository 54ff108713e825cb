//! What a relay and a TLS stream need of a connection: a trait, so that tests can use a connection in memory that
//! fails at every step, as a loopback socket cannot.
//!
//! It has no waiting, deadlines or options: those are the socket's, or its caller's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::Socket;

/// A connected stream of bytes, which is closed on drop.
pub trait Transport: fmt::Debug {
    /// Reads into `buffer`; 0 is the end of the stream.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`; returns how many.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Ends our direction; does nothing if the peer has gone.
    fn finish(&self);

    /// Makes the close that follows a reset.
    fn abort(&self);

    /// The peer's address, if it has one.
    fn peer(&self) -> Option<SocketAddr>;

    /// The socket, if it is one: between two sockets bytes need not leave the kernel.
    fn socket(&self) -> Option<&Socket>;
}

impl Transport for Socket {
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Self::poll_recv(self, cx, buffer)
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_send(self, cx, bytes)
    }

    fn finish(&self) {
        Self::finish(self);
    }

    fn abort(&self) {
        Self::abort(self);
    }

    fn peer(&self) -> Option<SocketAddr> {
        Self::peer(self)
    }

    fn socket(&self) -> Option<&Socket> {
        Some(self)
    }
}
