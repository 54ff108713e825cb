//! The folder of a file that we make, by descriptor: whether other users may write there, and its files, without
//! following links that they may have put there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, Stat, Uid, chownat, fstat, open, openat, renameat, statat,
};

/// An open folder, which stays the same one when its path changes.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    stat: Stat,
}

/// A file in it, opened with O_PATH to read its metadata and set mode and owner, never through a link.
#[derive(Debug)]
pub(super) struct FolderFile {
    fd: OwnedFd,
    pub(super) stat: Stat,
}

const OTHERS_WRITE: RawMode = 0o002;
const GROUP_WRITES: RawMode = 0o020;
const BITS: RawMode = 0o7777;

impl Folder {
    /// The parent folder of that path.
    ///
    /// # Errors
    /// What open(2) returns.
    pub(crate) fn of(file: &Path) -> io::Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let fd = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// The permission bits, as ls(1) shows them, if they let users write there who are neither root, nor its owner,
    /// nor in root's or our group. The sticky bit does not change that: it protects existing files, but not a name
    /// before we have made it.
    #[must_use]
    pub(crate) fn open_to_others(&self) -> Option<u32> {
        let ours = [0, rustix::process::getegid().as_raw()];
        let mode = self.stat.st_mode;
        let group_writes = mode & GROUP_WRITES != 0 && !ours.contains(&self.stat.st_gid);
        (group_writes || mode & OTHERS_WRITE != 0).then_some(mode & BITS)
    }

    /// Whether users other than root and our own may have made files in it.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.open_to_others().is_some() || !is_ours(self.stat.st_uid)
    }

    /// The file of that name, or the link itself.
    pub(super) fn find(&self, name: &OsStr) -> io::Result<FolderFile> {
        let fd = openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(FolderFile { fd, stat })
    }

    /// Gives a file that we made its final name, and checks that it is still our file: where others may write, it may
    /// have been replaced before the rename.
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

    /// Whether it has one name, and its owner is root, our user or `owner`.
    pub(super) fn could_be_ours(&self, owner: Option<u32>) -> bool {
        self.stat.st_nlink == 1 && (is_ours(self.stat.st_uid) || owner == Some(self.stat.st_uid))
    }

    pub(super) fn set_owner(&self, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        Ok(chownat(&self.fd, "", owner, group, AtFlags::EMPTY_PATH)?)
    }

    /// fchmod(2) does not take an O_PATH descriptor, and fchmodat2(2) is newer than the kernels that we support: so by
    /// the descriptor's magic link, which leads to this very file.
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
