//! What a relay and a TLS stream ask of a connection, so that a connection in memory can fail at every step of theirs as no
//! socket of loopback can be made to.
//!
//! Lacks waiting, deadlines and options: those are the socket's, or its caller's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::Socket;

/// A connected stream of bytes. Dropped, it is closed.
pub trait Transport: fmt::Debug {
    /// Reads into `buffer`; 0 is the end of the stream.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`; how many is the answer.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Ends our direction. A peer that is gone already needs no telling.
    fn finish(&self);

    /// Makes the coming close a reset.
    fn abort(&self);

    /// The address of a peer that has one.
    fn peer(&self) -> Option<SocketAddr>;

    /// The socket, where there is one: between two of them bytes need not leave the kernel.
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
