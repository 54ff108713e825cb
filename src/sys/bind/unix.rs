//! Unix sockets and the files that name them.
//!
//! A socket appears under its name with its final owner and mode, or not at all: it is bound to a temporary name in
//! the same folder, set up, and renamed. That replaces a file whose process is gone; a socket that answers is in use,
//! and an error. Mode and owner are set by descriptor, never through a link that another process has put in the file's
//! place. If two processes start on one path at the same instant, both may find no live socket; the later one wins.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, Listener, LocalAddress, UnixBind, reason};
use crate::sys::folder::{Folder, FolderFile};

pub(super) fn bind_unix(unix: &UnixBind) -> Result<Listener, String> {
    refuse_occupied(&unix.path)?;
    let beside = beside(&unix.path);
    let made = bind_beside(unix, &beside)
        .map(|(socket, file)| (socket, LocalAddress::Unix(unix.path.clone()), Some(file)))
        .map_err(|error| reason(&error));
    if made.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    made
}

const LIVE: &str = "another process is listening on this socket";

/// An error if `path` is occupied: by a socket that answers, or by a file that is not a socket.
fn refuse_occupied(path: &Path) -> Result<(), String> {
    let kind = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err("a file that is no socket is in the way; remove it or choose another path".into());
    }
    // Non-blocking: a busy owner with a full queue would hold us up.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
        .and_then(|probe| probe.connect(&SockAddr::unix(path)?));
    match probe {
        // No process listens: the owner is gone.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(LIVE.into()),
        Ok(()) => Err(LIVE.into()),
        Err(error) => Err(format!("a socket file is in the way, and cannot be tried: {error}")),
    }
}

/// A temporary name in the same folder, so that the rename is atomic. It contains the final name if that fits, as `ss
/// -lx` shows it.
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
    let folder = Folder::of(beside)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // bind(2) makes the file with this mode, less the umask, so it is never more permissive than in the end.
    fchmod(&socket, Mode::from_raw_mode(unix.mode))?;
    bind_to_path(&socket, &folder, beside)?;
    let made = dress(unix, &folder, name_of(beside))?;
    socket.listen(BACKLOG)?;
    folder.rename(&made, name_of(beside), name_of(&unix.path))?;
    let (device, inode) = (made.stat.st_dev, made.stat.st_ino);
    Ok((socket, SocketFile { path: unix.path.clone(), device, inode }))
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

impl UnixBind {
    /// Sets mode and owner of an existing socket's file.
    ///
    /// # Errors
    /// What chmod(2) and chown(2) return, and when the file is not a socket of ours.
    pub fn apply_permissions(&self) -> io::Result<()> {
        dress(self, &Folder::of(&self.path)?, name_of(&self.path)).map(drop)
    }
}

/// Sets the file's mode and owner. In a folder where other users may write, it may be theirs, which is an error.
fn dress(unix: &UnixBind, folder: &Folder, name: &OsStr) -> io::Result<FolderFile> {
    let file = folder.find(name)?;
    if !file.is_socket() || (folder.is_shared() && !file.could_be_ours(unix.owner)) {
        return Err(io::Error::other("somebody else has put another file in the socket's place"));
    }
    if unix.owner.is_some() || unix.group.is_some() {
        file.set_owner(unix.owner, unix.group)?;
    }
    file.set_mode(unix.mode)?;
    Ok(file)
}

/// Only the temporary name may be longer than a socket address allows (107 bytes); then the folder is named by
/// descriptor.
fn bind_to_path(socket: &Socket, folder: &Folder, path: &Path) -> io::Result<()> {
    if let Ok(address) = SockAddr::unix(path) {
        return socket.bind(&address);
    }
    let short = Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string()).join(name_of(path));
    socket.bind(&SockAddr::unix(short)?)
}

/// The file of a unix socket, recognised by device and inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The socket file at that path.
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn bind(path: &Path, mode: u32) -> UnixBind {
        let owner = Some(rustix::process::geteuid().as_raw());
        UnixBind { path: path.into(), mode, owner, group: None }
    }

    /// Mode and owner were set by path: a user who could write in the folder put a link in the new socket's place, and
    /// a daemon of root's gave away the link's target. Only sockets of ours get a mode and an owner, and links are not
    /// followed.
    #[test]
    fn a_link_in_the_sockets_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [victim, other, planted] =
            ["victim", "other.sock", "app.sock"].map(|name| folder.path().join(name));
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let _other = UnixListener::bind(&other).unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
        for target in [&victim, &other] {
            symlink(target, &planted).unwrap();
            let error = bind(&planted, 0o666).apply_permissions().expect_err("a link");
            assert!(error.to_string().contains("somebody else"), "{error}");
            assert_eq!(mode(target), 0o600, "{}", target.display());
            fs::remove_file(&planted).unwrap();
        }
        fs::hard_link(&victim, &planted).unwrap();
        bind(&planted, 0o666).apply_permissions().expect_err("a file");
        assert_eq!(mode(&victim), 0o600);
        fs::remove_file(&planted).unwrap();
        fs::hard_link(&other, &planted).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        bind(&planted, 0o666)
            .apply_permissions()
            .expect_err("a socket with another name, where others may write");
        assert_eq!(mode(&other), 0o600);
    }

    #[test]
    fn a_socket_has_its_mode_whatever_the_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        for folder_mode in [0o700, 0o777, 0o1777] {
            fs::set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
            for wanted in [0o600, 0o660, 0o666, 0o777] {
                let path = folder.path().join("app.sock");
                let made = bind_unix(&bind(&path, wanted)).unwrap();
                assert_eq!(mode(&path), wanted, "{folder_mode:o}");
                drop(made);
                bind(&path, 0o640).apply_permissions().unwrap();
                assert_eq!(mode(&path), 0o640, "{folder_mode:o}");
            }
        }
    }
}
