//! Local addresses we accept on: TCP and unix sockets.
//!
//! A unix socket appears under its name with its final owner and mode, or not at all: it is bound beside
//! the name, set up, and renamed over it. A socket file whose process is gone is replaced that way; one
//! that answers is somebody's, and is left alone. Two processes that start on one path in the same instant
//! may both find nobody there; the later one wins.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Accepted, Options, Peer, register};

/// An address to accept on, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(UnixBind),
}

/// A unix socket and who may reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixBind {
    /// Where the socket file appears.
    pub path: PathBuf,
    /// Permission bits of the file; write permission is what connect(2) asks for.
    pub mode: u32,
    /// The file's owner, by uid; `None` is whoever we run as.
    pub owner: Option<u32>,
    /// The file's group, by gid; `None` is ours.
    pub group: Option<u32>,
}

/// An address that is really bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// With the port the kernel chose, where it did.
    Tcp(SocketAddr),
    /// The path.
    Unix(PathBuf),
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {bind}: {reason}")]
pub struct BindError {
    bind: Bind,
    reason: String,
}

/// A listening socket. Dropping it stops accepting; a unix socket's file goes with it, unless another
/// process has put its own in that place since.
#[derive(Debug)]
pub struct Listening {
    io: AsyncFd<OwnedFd>,
    local: LocalAddress,
    file: Option<SocketFile>,
    /// Accepted sockets inherit options that peers on loopback shall not have.
    spares_loopback: bool,
}

/// Connections the kernel completes and keeps for us while we are busy; it lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

impl Listening {
    /// Binds, listens and registers with the current worker's reactor. Accepted sockets inherit the options, as
    /// Linux lets them: nothing is left to be set on each.
    ///
    /// # Errors
    /// In words: in use, no permission, no such folder, not a socket.
    pub fn bind(bind: &Bind, options: &Options) -> Result<Self, BindError> {
        let refused = |reason: String| BindError { bind: bind.clone(), reason };
        let (socket, local, file) = match bind {
            Bind::Tcp(address) => tcp(*address, options).map_err(|error| refused(reason(&error)))?,
            Bind::Unix(unix) => bind_unix(unix).map_err(refused)?,
        };
        let io = register(OwnedFd::from(socket), Interest::READABLE)
            .map_err(|error| refused(error.to_string()))?;
        let spares_loopback = options.user_timeout.is_some()
            && matches!(bind, Bind::Tcp(address) if !address.ip().is_loopback());
        Ok(Self { io, local, file, spares_loopback })
    }

    /// Where it listens in fact.
    #[must_use]
    pub const fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Waits for the next connection; with it comes who connected.
    ///
    /// # Errors
    /// What accept4(2) says. `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM` leave the connection in the backlog; the
    /// other errors belong to that one connection.
    pub async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, from) =
            self.io.async_io(Interest::READABLE, |listening| Ok(acceptfrom_with(listening, flags)?)).await?;
        let peer = match (&self.local, from) {
            (LocalAddress::Tcp(_), Some(from)) => {
                let from = SocketAddr::try_from(from).map_err(|_| io::Error::from(ErrorKind::Unsupported))?;
                if self.spares_loopback && from.ip().is_loopback() {
                    Options::spare_loopback(&fd)?;
                }
                Peer::Tcp(from)
            }
            (LocalAddress::Tcp(_), None) => return Err(ErrorKind::ConnectionAborted.into()),
            (LocalAddress::Unix(_), _) => Peer::Unix,
        };
        Ok((Accepted(fd), peer))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove_if_ours();
        }
    }
}

type Listener = (Socket, LocalAddress, Option<SocketFile>);

fn tcp(address: SocketAddr, options: &Options) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses here; who wants both lists both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    options.apply(&socket, address.ip())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, LocalAddress::Tcp(local), None))
}

fn bind_unix(unix: &UnixBind) -> Result<Listener, String> {
    refuse_occupied(&unix.path)?;
    let beside = beside(&unix.path);
    let made = bind_beside(unix, &beside).map_err(|error| reason(&error)).and_then(|(socket, file)| {
        std::fs::rename(&beside, &unix.path).map_err(|error| format!("rename into place: {error}"))?;
        Ok((socket, LocalAddress::Unix(unix.path.clone()), Some(file)))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    made
}

const LIVE: &str = "another process is listening on this socket";

/// Refuses when something lives at `path`: a socket that answers, or a file that is no socket.
fn refuse_occupied(path: &Path) -> Result<(), String> {
    let kind = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err("a file that is no socket is in the way; remove it or choose another path".into());
    }
    // Without waiting: an owner that is alive but busy has a full queue, and would hold us up.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
        .and_then(|probe| probe.connect(&SockAddr::unix(path)?));
    match probe {
        // Nobody listens: its process is gone.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(LIVE.into()),
        Ok(()) => Err(LIVE.into()),
        Err(error) => Err(format!("a socket file is in the way, and cannot be tried: {error}")),
    }
}

/// A name in the same folder, so that the rename is one step; the final one is in it where it fits, for those
/// who look at `ss -lx`.
fn beside(path: &Path) -> PathBuf {
    let process = std::process::id();
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{process}"));
    let telling = path.with_file_name(name);
    if SockAddr::unix(&telling).is_ok() { telling } else { path.with_file_name(format!(".{process}")) }
}

fn bind_beside(unix: &UnixBind, beside: &Path) -> io::Result<(Socket, SocketFile)> {
    let _ = std::fs::remove_file(beside);
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    bind_to_path(&socket, beside)?;
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(unix.mode))?;
    if unix.owner.is_some() || unix.group.is_some() {
        chown(beside, unix.owner, unix.group)?;
    }
    socket.listen(BACKLOG)?;
    let metadata = std::fs::symlink_metadata(beside)?;
    let file = SocketFile { path: unix.path.clone(), device: metadata.dev(), inode: metadata.ino() };
    Ok((socket, file))
}

/// The name beside may be longer than a socket address holds (107 bytes) where the final one is not; then the
/// folder is named by descriptor.
fn bind_to_path(socket: &Socket, path: &Path) -> io::Result<()> {
    if let Ok(address) = SockAddr::unix(path) {
        return socket.bind(&address);
    }
    let (folder, name) =
        (path.parent().unwrap_or_else(|| Path::new("/")), path.file_name().unwrap_or_default());
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    socket.bind(&SockAddr::unix(short)?)
}

/// The file that names a unix socket, recognised by inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn remove_if_ours(&self) {
        let ours = |found: &std::fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The usual failures in words that say what to do.
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

    /// What the accepted end has when `to` is dialled on a socket bound to `bind`.
    async fn accepted_options(bind: Ipv4Addr, to: IpAddr) -> (bool, Option<Duration>, Option<Duration>) {
        let listening = Listening::bind(&Bind::Tcp((bind, 0).into()), &OPTIONS).unwrap();
        let LocalAddress::Tcp(local) = listening.local() else { panic!("it is TCP") };
        let _client = TcpStream::connect((to, local.port())).unwrap();
        let (accepted, _) = listening.accept().await.unwrap();
        let socket = SockRef::from(&accepted.0);
        let keepalive = socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap());
        (socket.tcp_nodelay().unwrap(), keepalive, socket.tcp_user_timeout().unwrap())
    }

    /// An address of this host that is not loopback, where it has a route.
    fn outer_address() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing; the address is of those that documents use (RFC 5737).
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
        let listening = Listening::bind(&Bind::Unix(unix), &Options::NONE).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
    }
}
