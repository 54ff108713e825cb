//! The account of the servers that refuse to run as root: PostgreSQL and Postfix's smtp-sink.
//!
//! Creates no account: as root it takes `postgres`, which Debian's package creates, else `nobody`; without root, the
//! current user.
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};

/// `None` when we are not root: then no change is needed.
pub(crate) struct Account(Option<User>);

impl Account {
    pub(crate) fn unprivileged() -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Self(Some(user)));
            }
        }
        Err(io::Error::other("there is neither a user `postgres` nor `nobody` to run servers as"))
    }

    /// A command that runs `program` under this account.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let Some(user) = &self.0 else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        // Changing the account resets the death signal of the `pinned` role, so it is set again.
        command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]);
        command.args(["--clear-groups", "--pdeathsig=TERM"]).arg(program);
        command
    }

    /// Makes the file or folder the account's own, with access for it alone.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let Some(user) = &self.0 else { return Ok(()) };
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
    }
}
