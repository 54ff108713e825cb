//! The folder of a file that we make, by descriptor: who else may write there, and files in it as themselves, whatever a link
//! of somebody else's would make of their names.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, Stat, Uid, chownat, fstat, open, openat, renameat, statat,
};

/// A folder that is open, so that it stays the same one.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    stat: Stat,
}

/// A file in it that is open for nothing but being looked at and dressed (O_PATH), never through a link.
#[derive(Debug)]
pub(super) struct FolderFile {
    fd: OwnedFd,
    pub(super) stat: Stat,
}

const OTHERS_WRITE: RawMode = 0o002;
const GROUP_WRITES: RawMode = 0o020;
const BITS: RawMode = 0o7777;

impl Folder {
    /// The folder that a file of that path is in.
    ///
    /// # Errors
    /// What open(2) says.
    pub(crate) fn of(file: &Path) -> io::Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let fd = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// Whether its mode lets users write there that are neither root, nor its owner, nor in a group of root's or ours: the
    /// permission bits as ls(1) shows them, if so. A folder with the sticky bit is one, too: what is there is safe in it, but
    /// not a name before we have it.
    #[must_use]
    pub(crate) fn open_to_others(&self) -> Option<u32> {
        let ours = [0, rustix::process::getegid().as_raw()];
        let mode = self.stat.st_mode;
        let group_writes = mode & GROUP_WRITES != 0 && !ours.contains(&self.stat.st_gid);
        (group_writes || mode & OTHERS_WRITE != 0).then_some(mode & BITS)
    }

    /// Whether anybody but root and the user that we run as may have put there what is in it.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.open_to_others().is_some() || !is_ours(self.stat.st_uid)
    }

    /// The file of that name, as itself.
    pub(super) fn find(&self, name: &OsStr) -> io::Result<FolderFile> {
        let fd = openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(FolderFile { fd, stat })
    }

    /// Gives a file that we made its final name. It is looked at again: where others write, it may have been another's by then.
    pub(super) fn rename(&self, made: &FolderFile, from: &OsStr, to: &OsStr) -> io::Result<()> {
        renameat(&self.fd, from, &self.fd, to)?;
        let there = statat(&self.fd, to, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_it = (there.st_dev, there.st_ino) == (made.stat.st_dev, made.stat.st_ino);
        if is_it { Ok(()) } else { Err(io::Error::other("somebody else has put another file in its place")) }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FolderFile {
    pub(super) fn is_socket(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Socket
    }

    /// Whether it has that one name, and an owner who could be ourselves or whoever we gave it to.
    pub(super) fn could_be_ours(&self, owner: Option<u32>) -> bool {
        self.stat.st_nlink == 1 && (is_ours(self.stat.st_uid) || owner == Some(self.stat.st_uid))
    }

    pub(super) fn set_owner(&self, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        Ok(chownat(&self.fd, "", owner, group, AtFlags::EMPTY_PATH)?)
    }

    /// A descriptor of this kind is no argument of fchmod(2), and fchmodat2(2) is younger than what we run on: by its magic
    /// link, which leads to this very file.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        if self.stat.st_mode & BITS == mode {
            return Ok(());
        }
        let link = Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string());
        rustix::fs::chmod(&link, Mode::from_raw_mode(mode)).map_err(|error| {
            io::Error::other(format!("cannot give the socket file its mode by /proc/self/fd: {error}"))
        })
    }
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_open_to_others_by_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, expected) in
            [(0o700, None), (0o755, None), (0o777, Some(0o777)), (0o1777, Some(0o1777)), (0o775, None)]
        {
            set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let opened = Folder::of(&folder.path().join("a.sock")).unwrap();
            assert_eq!(opened.open_to_others(), expected, "{mode:o}");
            assert_eq!(opened.is_shared(), expected.is_some(), "{mode:o}");
        }
    }
}
