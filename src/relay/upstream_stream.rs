//! The upstream's stream, and [`Leg`], what a relay needs of either connection.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use super::scratch::with_scratch;
use crate::sys::{Socket, Transport};
use crate::tls::{KeyLimitDue, Stream};

/// An established connection to an endpoint.
#[derive(Debug)]
pub enum UpstreamStream<T = Socket> {
    /// Plaintext: bulky flows never leave the kernel.
    Socket(T),
    /// TLS whose handshake is done.
    Tls(Box<Stream<T>>),
}

impl<T: Transport> UpstreamStream<T> {
    /// Makes the close that follows a reset.
    pub fn abort(&self) {
        match self {
            Self::Socket(socket) => socket.abort(),
            Self::Tls(stream) => stream.socket().abort(),
        }
    }

    /// Our address of the connection.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.socket()?.local(),
            Self::Tls(stream) => stream.socket().socket()?.local(),
        }
    }

    /// The address it is connected to.
    /// The server has taken the connection without our certificate: it has answered, or it owes no answer.
    pub const fn note_accepted(&mut self) {
        if let Self::Tls(stream) = self {
            stream.note_accepted();
        }
    }

    /// The server's address.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.peer(),
            Self::Tls(stream) => stream.socket().peer(),
        }
    }

    /// When it should end because its TLS keys are nearly used up, if they are.
    pub(super) const fn key_limit_due(&self) -> Option<KeyLimitDue> {
        match self {
            Self::Socket(_) => None,
            Self::Tls(stream) => stream.key_limit_due(),
        }
    }

    /// Whether its TLS has ended without a close_notify.
    pub(super) const fn was_truncated(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Tls(stream) => stream.was_truncated(),
        }
    }

    /// Whether its server asked for a certificate and got none.
    pub const fn is_uncertified(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Tls(stream) => stream.is_uncertified(),
        }
    }

    /// Reads a portion into `buffer`, which has to be larger than a TLS record (32 KiB); 0 is the end.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut leg = self;
        leg.poll_read(cx, buffer)
    }

    /// Reads one portion into the worker's scratch memory and passes it to `see`, which saves the caller a cleared
    /// buffer. An empty portion is the end.
    ///
    /// # Errors
    /// The connection's, or TLS's.
    pub async fn read_scratch<R>(&mut self, mut see: impl FnMut(&[u8]) -> R) -> io::Result<R> {
        poll_fn(|cx| self.poll_read_scratch(cx, &mut see)).await
    }

    /// Polls for one portion, as [`UpstreamStream::read_scratch`] does.
    pub fn poll_read_scratch<R>(
        &mut self,
        cx: &mut Context<'_>,
        see: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        with_scratch(GLIMPSE, |scratch| {
            let read = ready!(self.poll_recv(cx, scratch))?;
            Poll::Ready(Ok(see(&scratch[..read])))
        })
    }

    /// Passes what comes next to `see` without taking it: the next read returns it again. An empty portion is the end,
    /// or an error that the next read returns. Only with TLS; on a plaintext socket the answer is the default at once.
    pub fn poll_peek<R>(&mut self, cx: &mut Context<'_>, see: impl FnOnce(&[u8]) -> R) -> Poll<R>
    where
        R: Default,
    {
        match self {
            Self::Socket(_) => Poll::Ready(R::default()),
            Self::Tls(stream) => with_scratch(GLIMPSE, |scratch| {
                let seen = ready!(stream.poll_peek(cx, scratch));
                Poll::Ready(see(&scratch[..seen]))
            }),
        }
    }

    /// Stores an error of the connection for the next read, as the kernel reports it only once.
    pub fn remember(&mut self, error: &io::Error) {
        match self {
            Self::Socket(_) => {}
            Self::Tls(stream) => stream.remember(error),
        }
    }

    /// Takes some of `bytes`; [`UpstreamStream::poll_flush`] writes what has not reached the kernel.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut leg = self;
        leg.poll_write(cx, bytes)
    }

    /// Writes what was taken to the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut leg = self;
        Leg::poll_flush(&mut leg, cx)
    }

    /// Ends our direction; done at once if the server has gone.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut leg = self;
        leg.poll_finish(cx)
    }

    /// Writes all of `bytes` to the kernel.
    ///
    /// # Errors
    /// The connection's, or TLS's.
    pub async fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut leg = self;
        while !bytes.is_empty() {
            let taken = poll_fn(|cx| leg.poll_write(cx, bytes)).await?;
            bytes = &bytes[taken..];
        }
        poll_fn(|cx| leg.poll_flush(cx)).await
    }

    /// Ends our direction and waits for the server's end. A close while something is unread, such as TLS 1.3's
    /// tickets, would reset the connection. The caller sets the deadline.
    ///
    /// # Errors
    /// The connection's, or TLS's.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        let mut leg = &mut *self;
        poll_fn(|cx| leg.poll_finish(cx)).await;
        while self.read_scratch(<[u8]>::len).await? > 0 {
            // A server that keeps sending must not keep the worker from others.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl UpstreamStream {
    /// Registers it with the current worker.
    ///
    /// # Errors
    /// When its reactor refuses: `ENOMEM`, `ENOSPC`.
    pub fn register_here(self) -> io::Result<Self> {
        match self {
            Self::Socket(socket) => socket.register_here().map(Self::Socket),
            Self::Tls(stream) => stream.register_here().map(|stream| Self::Tls(Box::new(stream))),
        }
    }

    /// Whether anything unread has arrived from the server: bytes, TLS's own ones included, or its end.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let socket = match self {
            Self::Socket(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        };
        !matches!(socket.peek(), Ok(None))
    }
}

/// The most that one look takes: more than a TLS record.
const GLIMPSE: usize = 64 * 1024;

/// What a copy needs of a leg.
pub(super) trait Leg {
    /// Reads into `buffer`; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Takes some of `bytes`.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// Writes what was taken to the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends our direction; done at once if the peer has gone.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T: Transport> Leg for &T {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Transport::poll_recv(*self, cx, buffer)
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

impl<T: Transport> Leg for &mut Stream<T> {
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

impl<T: Transport> Leg for &mut UpstreamStream<T> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            UpstreamStream::Socket(socket) => Leg::poll_read(&mut &*socket, cx, buffer),
            UpstreamStream::Tls(stream) => Leg::poll_read(&mut &mut **stream, cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            UpstreamStream::Socket(socket) => Leg::poll_write(&mut &*socket, cx, bytes),
            UpstreamStream::Tls(stream) => Leg::poll_write(&mut &mut **stream, cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            UpstreamStream::Socket(socket) => Leg::poll_flush(&mut &*socket, cx),
            UpstreamStream::Tls(stream) => Leg::poll_flush(&mut &mut **stream, cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            UpstreamStream::Socket(socket) => Leg::poll_finish(&mut &*socket, cx),
            UpstreamStream::Tls(stream) => Leg::poll_finish(&mut &mut **stream, cx),
        }
    }
}
