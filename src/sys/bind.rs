//! Local addresses to accept on: TCP and unix sockets, bound by us or passed to us.

mod unix;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Accepted, Options, Peer, register};
use unix::SocketFile;

/// An address to accept on, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(UnixBind),
    /// Sockets that systemd bound for us.
    Systemd(SystemdBind),
}

/// A unix socket, with the owner and mode of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixBind {
    /// Where the socket file appears.
    pub path: PathBuf,
    /// Permission bits of the file; write permission is what connect(2) asks for.
    pub mode: u32,
    /// The file's owner, by uid; `None`: our own.
    pub owner: Option<u32>,
    /// The file's group, by gid; `None`: our own.
    pub group: Option<u32>,
}

/// The sockets of one descriptor name (`FileDescriptorName=` of systemd.socket(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdBind {
    pub name: String,
    /// Addresses other than loopback are allowed.
    pub expose: bool,
}

/// The address of a bound socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// With the actual port, where the kernel chose one.
    Tcp(SocketAddr),
    /// The path; one that begins with `@` is in the abstract namespace.
    Unix(PathBuf),
}

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    bind: Bind,
    reason: String,
    /// The configuration key, if it is known.
    setting: Option<String>,
}

/// A listening socket. Dropping it stops accepting and removes the file of a unix socket that we bound, unless another
/// process has replaced the file.
#[derive(Debug)]
pub struct ListeningSocket {
    io: AsyncFd<OwnedFd>,
    local: LocalAddress,
    file: Option<SocketFile>,
    /// Accepted sockets inherit a user timeout, which is unset for loopback peers.
    spares_loopback: AtomicBool,
    /// Another process goes on listening on it: the file and the queued connections are left to that.
    is_handed_on: AtomicBool,
}

const ACCEPTED: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Length of the queue of completed connections; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

impl ListeningSocket {
    /// Binds, listens and registers with the current worker's reactor. On Linux accepted sockets inherit the options,
    /// so none has to be set on each.
    ///
    /// # Errors
    /// When the address is in use, permission or folder is missing, or another kind of file is in the way.
    pub fn bind(bind: &Bind, options: &Options) -> Result<Self, BindError> {
        let refused = |reason: String| BindError::new(bind, reason);
        let (socket, local, file) = match bind {
            Bind::Tcp(address) => tcp(*address, options).map_err(|error| refused(reason(&error)))?,
            Bind::Unix(unix) => unix::bind_unix(unix).map_err(refused)?,
            Bind::Systemd(_) => return Err(refused("systemd binds it, and passes it to a process".into())),
        };
        Self::new(OwnedFd::from(socket), local, file, options).map_err(|error| refused(error.to_string()))
    }

    /// Takes over a socket that systemd bound.
    ///
    /// # Errors
    /// When the reactor or the kernel refuses.
    pub(super) fn adopt(fd: OwnedFd, local: LocalAddress, options: &Options) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::new(fd, local, None, options)
    }

    /// Takes over a socket that another ambassador process bound, with its file. It counts as handed on until
    /// [`ListeningSocket::set_handed_on`] changes that, as the predecessor may still be needed.
    ///
    /// # Errors
    /// When the reactor or the kernel refuses, or the file of a unix socket has gone.
    pub(super) fn succeed(
        fd: OwnedFd,
        local: LocalAddress,
        bind: &Bind,
        options: &Options,
    ) -> io::Result<Self> {
        let (local, file) = match bind {
            Bind::Unix(unix) => {
                let file = SocketFile::at(&unix.path)?;
                unix.apply_permissions()?;
                // The kernel has the temporary name that it was bound to.
                (LocalAddress::Unix(unix.path.clone()), Some(file))
            }
            Bind::Tcp(_) | Bind::Systemd(_) => (local, None),
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        let listening = Self::new(fd, local, file, options)?;
        listening.set_handed_on(true);
        Ok(listening)
    }

    /// Sets whether another process goes on listening here when we stop.
    pub fn set_handed_on(&self, is_handed_on: bool) {
        self.is_handed_on.store(is_handed_on, Ordering::Relaxed);
    }

    fn new(
        fd: OwnedFd,
        local: LocalAddress,
        file: Option<SocketFile>,
        options: &Options,
    ) -> io::Result<Self> {
        let io = register(fd, Interest::READABLE)?;
        let listening = Self {
            io,
            local,
            file,
            spares_loopback: AtomicBool::new(false),
            is_handed_on: AtomicBool::new(false),
        };
        listening.set_options(options)?;
        Ok(listening)
    }

    /// Sets the options of sockets that are accepted from now on.
    ///
    /// # Errors
    /// What setsockopt(2) returns.
    pub fn set_options(&self, options: &Options) -> io::Result<()> {
        let LocalAddress::Tcp(address) = self.local else { return Ok(()) };
        options.apply(&self.io.get_ref(), address.ip())?;
        let spares = options.user_timeout.is_some() && !address.ip().is_loopback();
        self.spares_loopback.store(spares, Ordering::Relaxed);
        Ok(())
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Waits for the next connection; returns it with its peer.
    ///
    /// # Errors
    /// What accept4(2) returns. `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM` leave the connection in the queue; the other
    /// errors concern that one connection.
    pub async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        let (fd, from) = self
            .io
            .async_io(Interest::READABLE, |listening| Ok(acceptfrom_with(listening, ACCEPTED)?))
            .await?;
        self.accepted(fd, from)
    }

    /// Accepts a connection from the queue without waiting, unless the socket is handed on.
    ///
    /// # Errors
    /// As [`ListeningSocket::accept`]; `WouldBlock` if there is none, or if it is handed on.
    pub fn accept_waiting(&self) -> io::Result<(Accepted, Peer)> {
        if self.is_handed_on.load(Ordering::Relaxed) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let (fd, from) = acceptfrom_with(self.io.get_ref(), ACCEPTED)?;
        self.accepted(fd, from)
    }

    fn accepted(&self, fd: OwnedFd, from: Option<SocketAddrAny>) -> io::Result<(Accepted, Peer)> {
        let peer = match (&self.local, from) {
            (LocalAddress::Tcp(_), Some(from)) => {
                let from = SocketAddr::try_from(from).map_err(|_| io::Error::from(ErrorKind::Unsupported))?;
                if self.spares_loopback.load(Ordering::Relaxed) && from.ip().is_loopback() {
                    Options::reset_loopback(&fd)?;
                }
                Peer::Tcp(from)
            }
            (LocalAddress::Tcp(_), None) => return Err(ErrorKind::ConnectionAborted.into()),
            (LocalAddress::Unix(_), _) => Peer::Unix,
        };
        Ok((Accepted { fd, is_unix: peer == Peer::Unix }, peer))
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.get_ref().as_fd()
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && !self.is_handed_on.load(Ordering::Relaxed)
        {
            file.remove_if_ours();
        }
    }
}

type Listener = (Socket, LocalAddress, Option<SocketFile>);

fn tcp(address: SocketAddr, options: &Options) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses: a configuration for both has to list both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // Before listen(2): from then on the kernel completes connections.
    options.apply(&socket, address.ip())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, LocalAddress::Tcp(local), None))
}

impl BindError {
    pub(super) fn new(bind: &Bind, reason: String) -> Self {
        Self { bind: bind.clone(), reason, setting: None }
    }

    /// Adds the configuration key of the address, such as `admin.bind`.
    #[must_use]
    pub fn of(self, setting: String) -> Self {
        Self { setting: Some(setting), ..self }
    }

    /// The configuration key of the address, if it is known.
    #[must_use]
    pub fn setting(&self) -> Option<&str> {
        self.setting.as_deref()
    }

    /// What failed and why, without the key.
    #[must_use]
    pub fn message(&self) -> String {
        format!("cannot listen on {}: {}", self.bind, self.reason)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setting) = &self.setting {
            write!(f, "{setting}: ")?;
        }
        write!(f, "{}", self.message())
    }
}

impl std::error::Error for BindError {}

/// Describes the usual errors so that the reader knows what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "ErrorKind is open, and not ours")]
fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "the address is in use by another socket".into(),
        ErrorKind::AddrNotAvailable => "no interface of this host has that address".into(),
        ErrorKind::PermissionDenied => {
            format!("{error}; a port below 1024 needs CAP_NET_BIND_SERVICE, a path needs a writable folder")
        }
        ErrorKind::NotFound => "the folder does not exist".into(),
        _ => error.to_string(),
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(unix) => write!(f, "unix:{}", unix.path.display()),
            Self::Systemd(systemd) => write!(f, "systemd:{}", systemd.name),
        }
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;

    const OPTIONS: Options =
        Options { keepalive: Some(Duration::from_secs(41)), user_timeout: Some(Duration::from_secs(43)) };

    /// The options of the accepted socket when `to` is dialled on a socket bound to `bind`.
    async fn accepted_options(bind: Ipv4Addr, to: IpAddr) -> (bool, Option<Duration>, Option<Duration>) {
        let listening = ListeningSocket::bind(&Bind::Tcp((bind, 0).into()), &OPTIONS).unwrap();
        let LocalAddress::Tcp(local) = listening.local() else { panic!("it is TCP") };
        let _client = TcpStream::connect((to, local.port())).unwrap();
        let (accepted, _) = listening.accept().await.unwrap();
        let socket = SockRef::from(&accepted.fd);
        let keepalive = socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap());
        (socket.tcp_nodelay().unwrap(), keepalive, socket.tcp_user_timeout().unwrap())
    }

    /// An address of this host that is not loopback, if it has a route.
    fn outer_address() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing; the address is one for documentation (RFC 5737).
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().unwrap().ip())
    }

    #[tokio::test]
    async fn accepted_sockets_have_the_options_of_their_listener() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(accepted_options(Ipv4Addr::LOCALHOST, loopback).await, (true, None, None));
        let from_loopback = accepted_options(Ipv4Addr::UNSPECIFIED, loopback).await;
        assert_eq!(from_loopback, (true, OPTIONS.keepalive, None), "no user timeout towards loopback");
        if let Some(outer) = outer_address() {
            let inherited = accepted_options(Ipv4Addr::UNSPECIFIED, outer).await;
            assert_eq!(inherited, (true, OPTIONS.keepalive, OPTIONS.user_timeout));
        }
    }

    #[tokio::test]
    async fn a_path_as_long_as_a_socket_address_allows_can_be_bound() {
        let folder = tempfile::tempdir().unwrap();
        let room = 107 - folder.path().as_os_str().len() - 1;
        let path = folder.path().join("s".repeat(room));
        let unix = UnixBind { path: path.clone(), mode: 0o600, owner: None, group: None };
        let listening = ListeningSocket::bind(&Bind::Unix(unix), &Options::NONE).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
    }
}
