//! One connected stream socket, TCP or unix, registered with the worker's reactor.
//!
//! The reactor reports edges, so readiness is cleared after a short read: on Linux a read that returns less than the
//! buffer's size has emptied the socket, and the next byte raises a new edge. That saves the extra `recv` that would
//! only return `EAGAIN`. The exceptions are reads that stop early: at urgent data, after which short reads from that
//! peer prove nothing, and, on a unix socket, at a message with descriptors or from another sender (unix(7)), which
//! the kernel marks. There is no buffer here.

use std::future::Future;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, Shutdown, SocketFlags, SocketType,
    bind, connect, getpeername, getsockname, ipproto, recv, recvmsg, send, shutdown, socket_with,
};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

#[cfg(test)]
mod tests;

use super::descriptors::{DescriptorUser, check_headroom, have_room};
use super::socket_options::Options;
use super::{PeerProcess, Pipe, is_own, register};

/// The address of an upstream, and how to connect to it.
#[derive(Debug, Clone, Copy)]
pub struct ConnectTarget {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The local address to connect from; `None` leaves it to the kernel.
    pub from: Option<IpAddr>,
    /// We send bytes as soon as it is connected. The ACK that ends TCP's handshake then travels with them, which saves
    /// a packet; a server that speaks first would wait 200 ms for it.
    pub speaks_first: bool,
    /// It may use one of the last descriptors, which sessions must leave free.
    pub is_upkeep: bool,
}

/// The peer of an accepted socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process on this host; [`Socket::peer_process`] says which.
    Unix,
}

impl Peer {
    /// The address of another host; `None` for a peer on this host, whichever of its addresses it uses.
    #[must_use]
    pub fn other_host(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(from) => Some(from.ip().to_canonical()).filter(|ip| !is_own(*ip)),
            Self::Unix => None,
        }
    }
}

/// An accepted socket that is not registered with a reactor yet, so that it can move to another worker. It has its
/// listener's [`Options`].
#[derive(Debug)]
pub struct Accepted {
    pub(super) fd: OwnedFd,
    pub(super) is_unix: bool,
}

impl Accepted {
    /// Whether enough descriptors are left after this one, which is the newest.
    ///
    /// # Errors
    /// `EMFILE`: only the last ones are left, which are not for sessions.
    pub fn leaves_room(&self) -> io::Result<()> {
        check_headroom(self.fd.as_fd(), DescriptorUser::Accept)
    }

    /// The same later on, when this one need not be the newest.
    ///
    /// # Errors
    /// `EMFILE`, as for [`Accepted::leaves_room`].
    pub fn is_room(&self) -> io::Result<()> {
        have_room(&self.fd)
    }

    /// Closes with a reset, without a reactor.
    pub fn abort(self) {
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
    }
}

/// How a peer went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It sent a FIN, and none of its bytes is unread.
    Finished,
    /// It reset the connection, or closed both directions of a unix socket.
    Reset,
}

/// A connected, non-blocking stream socket. Dropping it closes it with a FIN.
#[derive(Debug)]
pub struct Socket {
    io: AsyncFd<OwnedFd>,
    /// Nothing was sent yet. A socket that has just been connected takes bytes, so the first send does not wait for
    /// the reactor.
    is_fresh: AtomicBool,
    is_unix: bool,
}

impl Socket {
    /// Registers an accepted socket with the current worker.
    ///
    /// # Errors
    /// When the reactor refuses: `ENOMEM`, `ENOSPC`.
    pub fn adopt(accepted: Accepted) -> io::Result<Self> {
        Self::register(accepted.fd, accepted.is_unix)
    }

    /// Moves to the current worker; its readiness is unknown until that worker's reactor reports it.
    ///
    /// # Errors
    /// When the reactor refuses: `ENOMEM`, `ENOSPC`.
    pub fn register_here(self) -> io::Result<Self> {
        Self::register(self.io.into_inner(), self.is_unix)
    }

    /// Begins to connect over TCP; [`Socket::connected`] waits for the result.
    ///
    /// # Errors
    /// What connect(2) returns at once.
    pub fn connect(target: ConnectTarget, options: &Options) -> io::Result<Self> {
        Self::register(begin_connecting(target, options)?, false)
    }

    /// Waits until it is connected. The caller sets the deadline.
    ///
    /// # Errors
    /// The final error of connect(2).
    pub async fn connected(&self) -> io::Result<()> {
        // On loopback TCP's whole handshake is done when connect(2) returns EINPROGRESS.
        if getpeername(self.io.get_ref()).is_ok() {
            return Ok(());
        }
        self.io.writable().await?.retain_ready();
        SockRef::from(self.io.get_ref()).take_error()?.map_or(Ok(()), Err)
    }

    /// The peer's address; `None` for a unix socket, or when it is not connected.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(getpeername(self.io.get_ref()).ok()??).ok()
    }

    /// Our own address; `None` for a unix socket.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(getsockname(self.io.get_ref()).ok()?).ok()
    }

    /// The process at the other end of a unix socket.
    ///
    /// # Errors
    /// What getsockopt(2) returns.
    pub fn peer_process(&self) -> io::Result<PeerProcess<'_>> {
        PeerProcess::of(self.io.get_ref().as_fd())
    }

    fn register(fd: OwnedFd, is_unix: bool) -> io::Result<Self> {
        Ok(Self { io: register(fd, ALL)?, is_fresh: AtomicBool::new(true), is_unix })
    }

    /// Reads what has arrived already, without waiting; `None` when nothing has.
    ///
    /// # Errors
    /// What recv(2) returns.
    pub fn recv_arrived(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(self.io.get_ref(), buffer, RecvFlags::DONTWAIT) {
            Ok((received, _)) => Ok(Some(received)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for unread bytes and copies the first of them without taking them, which [`Socket::recv_arrived`] does. 0
    /// is the end of the stream.
    ///
    /// # Errors
    /// What recv(2) returns.
    pub fn look<'a>(&'a self, buffer: &'a mut [u8]) -> impl Future<Output = io::Result<usize>> + 'a {
        std::future::poll_fn(move |cx| {
            loop {
                let mut ready = ready!(self.io.poll_read_ready(cx))?;
                match recv(self.io.get_ref(), &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                    Ok((seen, _)) => return Poll::Ready(Ok(seen)),
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Err(Errno::INTR) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        })
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match self.take(buffer) {
                Ok((received, stopped_early)) => {
                    let is_short = received > 0 && received < buffer.len();
                    if is_short && !stopped_early && !self.has_seen_urgent_data() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Reads, and returns whether the read may have stopped before the socket was empty: on a unix socket, at a
    /// message with ancillary data. As the buffer for these is empty, the kernel marks that as truncated.
    fn take(&self, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
        if !self.is_unix {
            return recv(self.io.get_ref(), buffer, RecvFlags::empty())
                .map(|(received, _)| (received, false));
        }
        let mut none = RecvAncillaryBuffer::default();
        let into = &mut [IoSliceMut::new(buffer)];
        let message = recvmsg(self.io.get_ref(), into, &mut none, RecvFlags::empty())?;
        Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
    }

    /// Whether the kernel ever reported EPOLLPRI (or the peer's end, after which it does not matter). Reads the
    /// reactor's state, without a system call.
    fn has_seen_urgent_data(&self) -> bool {
        self.io.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Writes some of `bytes`; returns how many.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_fresh.load(Relaxed) {
            self.is_fresh.store(false, Relaxed);
            match send(self.io.get_ref(), bytes, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Poll::Ready(result.map_err(io::Error::from)),
            }
        }
        loop {
            let mut ready = ready!(self.io.poll_write_ready(cx))?;
            match send(self.io.get_ref(), bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    if sent < bytes.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what has arrived into an empty pipe, at most `most` bytes. 0 is the end of the stream, or urgent data in
    /// front of more: only [`Socket::poll_recv`] tells these apart, and steps over the mark.
    pub fn poll_fill(&self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match pipe.fill(self.io.get_ref(), most) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.has_seen_urgent_data() => {
                    return Poll::Ready(Ok(0));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Moves some of the pipe's bytes into the socket.
    pub fn poll_drain(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_write_ready(cx))?;
            match pipe.drain(self.io.get_ref()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ends our direction: the peer reads everything sent so far, then the end. Does nothing if the peer has gone.
    pub fn finish(&self) {
        let _ = shutdown(self.io.get_ref(), Shutdown::Write);
    }

    /// Makes the close that follows a reset, so that the peer sees its stream as truncated, not as ended. A unix
    /// socket has no reset: there the peer sees an end (docs/DECISIONS.md).
    pub fn abort(&self) {
        let _ = SockRef::from(self.io.get_ref()).set_linger(Some(Duration::ZERO));
    }

    /// Whether bytes of the peer are unread.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        matches!(self.peek(), Ok(Some(Some(_))))
    }

    /// Looks at the first unread byte without taking it: `None` if there is nothing yet, `Some(None)` at the peer's
    /// end.
    ///
    /// # Errors
    /// What recv(2) returns.
    pub fn peek(&self) -> io::Result<Option<Option<u8>>> {
        let mut byte = [0];
        match recv(self.io.get_ref(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Ok(Some(None)),
            Ok(_) => Ok(Some(Some(byte[0]))),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the peer has gone. A FIN after bytes is a half-close that must be relayed, so from then on this
    /// waits for a reset only. Unread bytes are found here; `has_spoken`: some have been read already.
    ///
    /// It waits for the kernel's hang-up events only (EPOLLRDHUP, EPOLLHUP, EPOLLERR): tokio maps them to the priority
    /// and error interests too, so the readiness that the relay will need stays untouched.
    pub async fn gone(&self, has_spoken: bool) -> Gone {
        if self.io.ready(Interest::PRIORITY).await.is_err() || self.is_hung_up() {
            return Gone::Reset;
        }
        let mut byte = [0];
        match recv(self.io.get_ref(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) if !has_spoken => Gone::Finished,
            // A half-close after bytes, or urgent data: only an error means that the peer has gone now.
            Ok(_) | Err(Errno::AGAIN) => {
                let _ = self.io.ready(Interest::ERROR).await;
                Gone::Reset
            }
            Err(_) => Gone::Reset,
        }
    }

    /// Whether both directions are closed: by a reset, or by the close of a unix peer.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.io, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Reads exactly one portion of at most `buffer` bytes.
    ///
    /// # Errors
    /// What recv(2) returns.
    pub fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> impl Future<Output = io::Result<usize>> + 'a {
        std::future::poll_fn(move |cx| self.poll_recv(cx, buffer))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What send(2) returns.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}

/// What hyper needs of the admin address's connections.
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let received = ready!(self.poll_recv(cx, buf.initialize_unfilled()))?;
        buf.advance(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

const ALL: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

const fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

/// A TCP socket that is connecting to `target`.
fn begin_connecting(target: ConnectTarget, options: &Options) -> io::Result<OwnedFd> {
    let ConnectTarget { address, from, speaks_first, is_upkeep } = target;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family(address), SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if !is_upkeep {
        check_headroom(socket.as_fd(), DescriptorUser::Dial)?;
    }
    options.apply(&socket, address.ip())?;
    if speaks_first {
        set_tcp_quickack(&socket, false)?;
    }
    if let Some(from) = from {
        // The port is chosen at connect time, when the whole 4-tuple is known, so one local address
        // serves as many connections as there are ports *per endpoint*, not in all.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        bind(&socket, &SocketAddr::new(from, 0))?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.io.get_ref().as_fd()
    }
}
