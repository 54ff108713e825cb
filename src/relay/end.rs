//! The upstream end of a relay, and what a relay needs of either end.

use std::io;
use std::task::{Context, Poll};

use crate::sys::Socket;
use crate::tls::Stream;

/// A usable upstream.
#[derive(Debug)]
pub enum End {
    /// Plaintext: bulky flows never leave the kernel.
    Socket(Socket),
    /// TLS, handshake done.
    Tls(Box<Stream>),
}

impl End {
    /// Makes the coming close a reset.
    pub fn abort(&self) {
        match self {
            Self::Socket(socket) => socket.abort(),
            Self::Tls(stream) => stream.socket().abort(),
        }
    }
}

/// What a copy needs of a leg.
pub(super) trait Leg {
    /// Reads into `buffer`; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Takes some of `bytes`.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// Hands on to the kernel what was taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends our direction. A peer that is gone already needs no telling.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Leg for &Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_recv(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.finish();
        Poll::Ready(())
    }
}

impl Leg for &mut Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Stream::poll_read(self, cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Stream::poll_write(self, cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_flush(self, cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Stream::poll_finish(self, cx).map(drop)
    }
}

impl Leg for &mut End {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            End::Socket(socket) => Leg::poll_read(&mut &*socket, cx, buffer),
            End::Tls(stream) => Leg::poll_read(&mut &mut **stream, cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            End::Socket(socket) => Leg::poll_write(&mut &*socket, cx, bytes),
            End::Tls(stream) => Leg::poll_write(&mut &mut **stream, cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            End::Socket(socket) => Leg::poll_flush(&mut &*socket, cx),
            End::Tls(stream) => Leg::poll_flush(&mut &mut **stream, cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            End::Socket(socket) => Leg::poll_finish(&mut &*socket, cx),
            End::Tls(stream) => Leg::poll_finish(&mut &mut **stream, cx),
        }
    }
}
