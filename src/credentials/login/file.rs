//! `login.password: { file }`: a file with a password, or with user and password.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::answer::secret;
use super::{FetchError, FetchedLogin, LoginSource};
use crate::protocol::{LoginCredentials, Secret, SecretKind};
use crate::tls::read_secret;

/// The longest secret, in bytes.
const SECRET_MAX: usize = 16 * 1024;

/// A password file.
#[derive(Debug)]
pub(crate) struct PasswordFile {
    label: &'static str,
    path: PathBuf,
    /// `None`: the file has it, too.
    user: Option<String>,
}

impl PasswordFile {
    pub(crate) const fn new(path: PathBuf, user: Option<String>) -> Self {
        Self { label: "password", path, user }
    }

    /// One that the client is held to.
    pub(crate) const fn of_client(path: PathBuf, user: Option<String>) -> Self {
        Self { label: "client", path, user }
    }

    /// Reads it now.
    ///
    /// # Errors
    /// In words, without any secret.
    pub(crate) fn read(&self) -> Result<LoginCredentials, String> {
        let shown = self.path.display();
        let bytes = read_secret(&self.path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
        let (user, password) = match &self.user {
            Some(user) => (user.clone(), without_line_end(text)),
            None => return both(text).map_err(|reason| format!("{shown} {reason}")),
        };
        credentials(user, password).map_err(|reason| format!("{shown} {reason}"))
    }
}

impl LoginSource for PasswordFile {
    fn label(&self) -> &'static str {
        self.label
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::Password
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        Ok(FetchedLogin { credentials: self.read()?, expires: None })
    }
}

/// A warning where users other than the file's owner and group may read it.
pub(crate) fn exposure(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let words = "everybody on this host may read the password: chmod 0600, or 0640 with a group of its own";
    (mode & 0o007 != 0).then(|| format!("{} has mode {mode:04o}; {words}", path.display()))
}

/// A secret in a file, without the line end that editors add.
///
/// # Errors
/// In words, without any of it.
pub(crate) fn secret_of(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let bytes = read_secret(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    let text = without_line_end(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    if text.chars().any(char::is_control) || text.len() > SECRET_MAX {
        return Err(format!("{shown} has more in it than one secret"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Editors and `echo` end a file by a line end, which belongs to no password.
pub(super) fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn credentials(user: String, password: &str) -> Result<LoginCredentials, &'static str> {
    if user.is_empty() || password.is_empty() {
        return Err(if user.is_empty() { "has an empty user" } else { "has an empty password" });
    }
    if user.contains('\0') || password.contains(['\0', '\n', '\r']) {
        return Err("has a NUL or a line end within user or password");
    }
    let secret = Secret::new(SecretKind::Password, Zeroizing::new(password.to_owned()));
    Ok(LoginCredentials { user, secret })
}

/// The names of the fields, as issuers of credentials write them (Vault, AWS Secrets Manager, CloudNativePG).
const USER: [&str; 2] = ["username", "user"];
const PASSWORD: [&str; 1] = ["password"];

/// The same of an object in JSON.
#[derive(Deserialize)]
struct Both {
    username: Option<String>,
    user: Option<String>,
    #[serde(deserialize_with = "secret", default)]
    password: Option<Zeroizing<String>>,
}

/// A JSON object, or lines `key=value`, with user and password; other keys are left alone.
fn both(text: &str) -> Result<LoginCredentials, &'static str> {
    const WHAT: &str =
        "has no `username` and `password`: without `as`, a file has both, as JSON or as lines key=value";
    if text.trim_start().starts_with('{') {
        let read = serde_json::from_str::<Both>(text);
        // serde's errors quote what they do not like.
        let read = read.map_err(|error| if error.is_data() { WHAT } else { "begins as JSON and is none" })?;
        let user = read.username.or(read.user).ok_or(WHAT)?;
        return credentials(user, &read.password.ok_or(WHAT)?);
    }
    let fields = || text.lines().filter_map(|line| line.split_once('='));
    let value = |names: &[&str]| {
        let mut known =
            fields().filter(|(key, _)| names.iter().any(|name| key.trim().eq_ignore_ascii_case(name)));
        known.next().map(|(_, value)| value)
    };
    let (user, password) = (value(&USER).ok_or(WHAT)?, value(&PASSWORD).ok_or(WHAT)?);
    credentials(user.trim().to_owned(), password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_has_one_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        for (content, expected) in [
            (&b"hunter2\r\n"[..], Ok("hunter2")),
            (b"", Err("is empty")),
            (b"\n", Err("is empty")),
            (b"hunter2\nother\n", Err("has more in it than one secret")),
            (&[b'x'; SECRET_MAX + 1], Err("has more in it than one secret")),
            (b"\xff", Err("is not UTF-8")),
        ] {
            std::fs::write(&file, content).unwrap();
            let read = secret_of(&file);
            match expected {
                Ok(secret) => assert_eq!(read.unwrap().as_str(), secret),
                Err(reason) => {
                    let error = read.unwrap_err();
                    assert!(error.ends_with(reason) && !error.contains("hunter2"), "{error}");
                }
            }
        }
    }

    fn read(user: Option<&str>, content: &[u8]) -> Result<(String, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, content).unwrap();
        let read = PasswordFile::new(path.clone(), user.map(Into::into)).read();
        let shown = path.display().to_string();
        read.map(|read| (read.user, read.secret.expose().to_owned()))
            .map_err(|reason| reason.replace(&shown, "FILE"))
    }

    #[test]
    fn a_password_is_the_file_without_its_last_line_end() {
        for (content, expected) in [
            (&b"hunter2"[..], "hunter2"),
            (b"hunter2\n", "hunter2"),
            (b"hunter2\r\n", "hunter2"),
            (b" spaces stay \n", " spaces stay "),
            (b"{\"password\": \"raw\"}", "{\"password\": \"raw\"}"),
        ] {
            assert_eq!(read(Some("app"), content), Ok(("app".into(), expected.into())));
        }
    }

    #[test]
    fn a_file_may_have_both() {
        let expected = Ok(("v-app-1".to_owned(), "a=b c".to_owned()));
        for content in [
            &b"{\"username\": \"v-app-1\", \"password\": \"a=b c\", \"lease\": 3600}"[..],
            b"\n{\"user\": \"v-app-1\", \"password\": \"a=b c\"}\n",
            b"username=v-app-1\npassword=a=b c\n",
            b"# issued\r\nUser = v-app-1\r\nPASSWORD=a=b c\r\n",
        ] {
            assert_eq!(read(None, content), expected, "{}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn what_is_no_credential_is_said_without_showing_it() {
        for (user, content, expected) in [
            (Some("app"), &b""[..], "FILE has an empty password"),
            (Some("app"), b"\n", "FILE has an empty password"),
            (Some("app"), b"two\nlines", "FILE has a NUL or a line end within user or password"),
            (Some("app"), b"\xff\xfe", "FILE is not UTF-8"),
            (None, b"{\"password\": \"hunter2\"", "FILE begins as JSON and is none"),
            (None, b"username=\npassword=hunter2", "FILE has an empty user"),
            (
                None,
                b"{\"username\": \"hunter2\", \"password\": 7}",
                "FILE has no `username` and `password`: without `as`, a file has both, as JSON or as lines key=value",
            ),
            (
                None,
                b"hunter2\n",
                "FILE has no `username` and `password`: without `as`, a file has both, as JSON or as lines key=value",
            ),
        ] {
            let reason = read(user, content).unwrap_err();
            assert_eq!(reason, expected);
        }
    }
}
