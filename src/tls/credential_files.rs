//! The files of credentials, each read once in a round: a host's certificate and its CAs are named by each of its
//! clusters.
//!
//! A round is the compiling of a configuration, or one look whether files have changed. Nothing outlives it, so content is
//! never older than the round.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustls::pki_types::pem;
use zeroize::Zeroizing;

use crate::digest::{Digest, Digester};

/// What was read in this round.
#[derive(Default)]
pub struct CredentialFiles {
    texts: ReadTexts,
    secrets: ReadTexts,
    /// Permission bits.
    modes: RefCell<BTreeMap<PathBuf, Option<u32>>>,
}

type ReadTexts = RefCell<BTreeMap<PathBuf, Result<Rc<FileText>, String>>>;

/// The text of a file; it is overwritten when it is dropped, because it may have a key.
pub(super) struct FileText {
    bytes: Zeroizing<Vec<u8>>,
    digest: Digest,
}

impl FileText {
    fn of(bytes: Zeroizing<Vec<u8>>) -> Rc<Self> {
        let mut digester = Digester::default();
        digester.add(&bytes);
        Rc::new(Self { digest: digester.digest(), bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl CredentialFiles {
    /// The text of a file that is not secret.
    ///
    /// # Errors
    /// In words.
    pub(super) fn text(&self, path: &Path) -> Result<Rc<FileText>, String> {
        once(&self.texts, path, text)
    }

    /// The text of a file with a key.
    ///
    /// # Errors
    /// In words.
    pub(super) fn secret(&self, path: &Path) -> Result<Rc<FileText>, String> {
        once(&self.secrets, path, secret_text)
    }

    /// The permission bits of that file, if there is one.
    pub(super) fn mode(&self, path: &Path) -> Option<u32> {
        if let Some(known) = self.modes.borrow().get(path) {
            return *known;
        }
        let mode = std::fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o777);
        self.modes.borrow_mut().insert(path.to_owned(), mode);
        mode
    }
}

fn once(
    known: &ReadTexts,
    path: &Path,
    read: impl FnOnce(&Path) -> Result<Zeroizing<Vec<u8>>, String>,
) -> Result<Rc<FileText>, String> {
    if let Some(known) = known.borrow().get(path) {
        return known.clone();
    }
    let read = read(path).map(FileText::of);
    known.borrow_mut().insert(path.to_owned(), read.clone());
    read
}

/// Reads a file that is not secret, of at most 64 MiB.
///
/// # Errors
/// In words.
pub(super) fn text(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    const LARGEST: u64 = 64 * 1024 * 1024;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| {
        // The file may have a key as well, so the buffer must not be reallocated, unless the file grows meanwhile.
        let size = file.metadata().map_or(0, |metadata| metadata.len()).min(LARGEST);
        bytes.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
        file.take(LARGEST + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LARGEST) => Ok(bytes),
        Ok(_) => Err(format!("{} is larger than 64 MiB", path.display())),
        Err(error) => Err(unreadable(path, &pem::Error::Io(error))),
    }
}

pub(super) fn secret_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret(path).map_err(|error| unreadable(path, &pem::Error::Io(error)))
}

/// Reads a file into memory that is never reallocated, because that would leave a copy behind.
///
/// # Errors
/// The file system's, or `EFBIG` for one of 256 KiB or more.
pub(crate) fn secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    /// Larger than any key file.
    const LARGEST: usize = 256 * 1024;
    let file = File::open(path)?;
    // All of it is overwritten in the end, so it is about as large as the file; a pipe has no size.
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(LARGEST);
    // Into less than 32 free bytes the library reads by way of a buffer on the stack, which nobody overwrites.
    let capacity = if size == 0 { LARGEST } else { LARGEST.min((size + 1).max(64)) };
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let most = u64::try_from(capacity).unwrap_or(u64::MAX);
    // Reads to the end of the file but not beyond the capacity, which would make the vector grow.
    file.take(most).read_to_end(&mut bytes)?;
    if bytes.len() == LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 256 KiB"));
    }
    if bytes.len() == capacity {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "grew while it was read"));
    }
    Ok(bytes)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
pub(super) fn unreadable(path: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        error => format!("{} is not valid PEM: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A secret of up to 30 bytes was read by way of the stack, where a copy stayed.
    #[test]
    fn a_short_secret_is_read_into_memory_with_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for length in [1, 30, 31, 63, 64, 1000] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            let read = secret(&path).unwrap();
            assert_eq!(read.len(), length);
            assert_eq!(read.capacity(), (length + 1).max(64));
        }
    }

    #[test]
    fn a_file_is_read_once_in_a_round_and_again_in_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "before").unwrap();
        let (round, missing) = (CredentialFiles::default(), folder.path().join("none"));
        assert!(round.text(&missing).is_err());
        let first = round.text(&file).unwrap();
        std::fs::write(&file, "after").unwrap();
        std::fs::write(&missing, "now").unwrap();
        assert!(Rc::ptr_eq(&first, &round.text(&file).unwrap()));
        assert!(round.text(&missing).is_err());
        assert_eq!(round.secret(&file).unwrap().bytes(), b"after", "keys are read in their own way");
        let next = CredentialFiles::default();
        assert_eq!(next.text(&file).unwrap().bytes(), b"after");
        assert_eq!(next.text(&missing).unwrap().bytes(), b"now");
    }
}
