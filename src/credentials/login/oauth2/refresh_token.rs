//! The file of a refresh token (RFC 6749 §6), which is replaced when the server replaces the token.
//!
//! The new file stands beside the old one before it takes its name, so there is a whole token at any time. It has mode
//! 0600 and belongs to whom the old one, or the folder, belongs to: `sign-in` may be run by root for a daemon that is not.
//!
//! A token that was replaced must not be used again: many servers take that for a theft, and revoke all of its descendants
//! (RFC 9700 §4.14.2). So the file is locked (flock) from before it is read until the new one is in its place. Other clusters with the
//! same file, a successor of this process and `sign-in` wait for that. File systems without locks do without.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use crate::credentials::login::file::secret_of;
use crate::sync::Mutex;
use crate::sys::replace_file;

/// A refresh token's file.
pub(crate) struct RefreshTokenFile {
    path: PathBuf,
    /// A new token that could not be written, with the content of the file that it replaces.
    unsaved: Mutex<Option<Unsaved>>,
    /// What the last request was made with.
    used: Mutex<Option<Zeroizing<String>>>,
}

struct Unsaved {
    replaces: Zeroizing<String>,
    token: Zeroizing<String>,
}

impl fmt::Debug for RefreshTokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RefreshTokenFile {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path, unsaved: Mutex::new(None), used: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Locks it against all others who ask with its token. It may block, for as long as the request of another one.
    pub(super) fn lock(&self) -> Option<File> {
        loop {
            let file = File::open(&self.path).ok()?;
            flock(&file, FlockOperation::LockExclusive).ok()?;
            let (locked, now) = (file.metadata().ok()?, fs::metadata(&self.path).ok()?);
            // Meanwhile another file may have taken the name.
            if (locked.dev(), locked.ino()) == (now.dev(), now.ino()) {
                return Some(file);
            }
        }
    }

    /// Takes over what another one of the same path could not write.
    pub(super) fn adopt(&self, earlier: &Self) {
        if self.path == earlier.path {
            *self.unsaved.lock() = earlier.unsaved.lock().take();
        }
    }

    /// The token to use now.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, String> {
        if !self.path.exists() {
            let shown = self.path.display();
            return Err(format!("there is no refresh token in {shown} yet: `ambassador sign-in` gets one"));
        }
        let in_file = secret_of(&self.path)?;
        let mut unsaved = self.unsaved.lock();
        // Whoever has written another one meanwhile means that one.
        let kept = unsaved.take().filter(|unsaved| unsaved.replaces == in_file);
        let token = kept.as_ref().map_or_else(|| in_file.clone(), |kept| kept.token.clone());
        *unsaved = kept;
        *self.used.lock() = Some(in_file);
        Ok(token)
    }

    /// Takes the server's new token: into the file, or, if that fails, into memory until it can be written.
    pub(super) fn rotate(&self, token: Zeroizing<String>) {
        let Some(replaces) = self.used.lock().take() else { return };
        // One that a person has got meanwhile stays.
        if secret_of(&self.path).is_ok_and(|now| now != replaces) || token == replaces {
            return;
        }
        *self.unsaved.lock() = match self.save(&token) {
            Ok(()) => None,
            Err(error) => {
                let file = self.path.display();
                tracing::error!(%file, "the new refresh token cannot be written, and is lost when the process ends: {error}");
                Some(Unsaved { replaces, token })
            }
        };
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The file system's; then the old one is still there.
    pub(crate) fn save(&self, token: &str) -> io::Result<()> {
        // With its final capacity: a vector that grows leaves a copy behind.
        let mut content = Zeroizing::new(Vec::with_capacity(token.len() + 1));
        content.extend_from_slice(token.as_bytes());
        content.push(b'\n');
        replace_file(&self.path, &content)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn token(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.into())
    }

    #[test]
    fn a_new_token_replaces_the_file_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("refresh");
        let file = RefreshTokenFile::new(path.clone());
        assert!(file.read().unwrap_err().contains("`ambassador sign-in` gets one"));
        file.save("one").unwrap();
        assert_eq!(file.read().unwrap().as_str(), "one");
        file.rotate(token("two"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        // A link stays a link.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("refresh", &link).unwrap();
        let linked = RefreshTokenFile::new(link.clone());
        linked.read().unwrap();
        linked.rotate(token("three"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_token_that_a_person_has_got_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = RefreshTokenFile::new(folder.path().join("refresh"));
        file.save("one").unwrap();
        file.read().unwrap();
        file.save("of a person").unwrap();
        file.rotate(token("two"));
        assert_eq!(file.read().unwrap().as_str(), "of a person");
    }

    #[test]
    fn what_cannot_be_written_is_used_from_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("refresh");
        let file = RefreshTokenFile::new(path.clone());
        file.save("one").unwrap();
        file.read().unwrap();
        // A folder of that name, with something in it, cannot be replaced, whoever we are.
        let beside = folder.path().join(format!(".refresh.{}.new", std::process::id()));
        fs::create_dir_all(beside.join("full")).unwrap();
        file.rotate(token("two"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(file.read().unwrap().as_str(), "two");
        fs::remove_dir_all(beside).unwrap();
        file.rotate(token("three"));
        assert_eq!(
            (file.read().unwrap().as_str(), fs::read_to_string(&path).unwrap().as_str()),
            ("three", "three\n")
        );
    }
}
