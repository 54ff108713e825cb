//! A file in memory without a name, for another ambassador process (memfd_create(2)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The file. It is closed on exec, unless it is passed on.
#[derive(Debug)]
pub(crate) struct MemoryFile(OwnedFd);

impl MemoryFile {
    /// Makes one with that content, sealed against changes.
    ///
    /// # Errors
    /// What memfd_create(2) and write(2) return: `ENOMEM`, or `EACCES` if the host forbids such files.
    pub(crate) fn holding(content: &[u8]) -> io::Result<Self> {
        let mut file =
            File::from(memfd_create("ambassador", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all(content)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self(file.into()))
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// What read(2) returns; `FileTooLarge` if it is longer than `most` bytes.
    pub(crate) fn read(self, most: u64) -> io::Result<Vec<u8>> {
        let file = File::from(self.0);
        let length = file.metadata()?.len();
        if length > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // The cast is exact: the length is at most `most`, which fits in memory.
        let mut content = vec![0; length as usize];
        // From offset 0: the descriptor's offset is where the writer stopped.
        file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }
}

impl From<OwnedFd> for MemoryFile {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_can_be_written() {
        let file = MemoryFile::holding(b"what is known").unwrap();
        let mut other = File::from(file.as_fd().try_clone_to_owned().unwrap());
        other.write_all(b"more").unwrap_err();
        assert_eq!(file.read(100).unwrap(), b"what is known");
        let file = MemoryFile::holding(b"too much").unwrap();
        assert_eq!(file.read(7).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
