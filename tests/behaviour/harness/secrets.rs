//! A password file for `login`, and how it is replaced.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A directory with a password file.
pub(crate) struct Secrets(tempfile::TempDir);

impl Secrets {
    pub(crate) fn of(password: &str) -> Self {
        let secrets = Self(tempfile::tempdir().expect("a temporary directory"));
        secrets.write(password);
        secrets
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("password")
    }

    /// Replaces the file as issuers of credentials do: by another one of its name.
    pub(crate) fn write(&self, password: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, format!("{password}\n")).expect("a file");
        fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("a mode");
        fs::rename(new, self.path()).expect("a replaced file");
    }

    /// The section `login` for that user.
    pub(crate) fn login(&self, user: &str, more: &str) -> String {
        format!("login: {{ as: {user}{more}, password: {{ file: {} }} }}", self.path().display())
    }
}
