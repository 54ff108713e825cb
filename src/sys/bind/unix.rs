//! Unix sockets and the files that name them.
//!
//! A socket appears under its name with its final owner and mode, or not at all: it is bound beside the name, set up,
//! and renamed over it. A file whose process is gone is replaced that way; one that answers is somebody's, and is left
//! alone. Two processes that start on one path in the same instant may both find nobody there; the later one wins.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, Listener, LocalAddress, UnixBind, reason};

pub(super) fn bind_unix(unix: &UnixBind) -> Result<Listener, String> {
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
    dress(unix, beside)?;
    socket.listen(BACKLOG)?;
    let metadata = std::fs::symlink_metadata(beside)?;
    let file = SocketFile { path: unix.path.clone(), device: metadata.dev(), inode: metadata.ino() };
    Ok((socket, file))
}

impl UnixBind {
    /// Gives the file of a socket that is there the mode and the owner that are asked for.
    ///
    /// # Errors
    /// What chmod(2) and chown(2) say.
    pub fn dress(&self) -> io::Result<()> {
        dress(self, &self.path)
    }
}

/// Gives the file the mode and the owner that were asked for.
fn dress(unix: &UnixBind, file: &Path) -> io::Result<()> {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(unix.mode))?;
    if unix.owner.is_some() || unix.group.is_some() {
        chown(file, unix.owner, unix.group)?;
    }
    Ok(())
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
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The socket file that is at that path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    pub(super) fn remove_if_ours(&self) {
        let ours = |found: &std::fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
