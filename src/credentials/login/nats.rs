//! `login.token: { file }` and `login.nkey: { file }`: what NATS has besides passwords.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::file::without_line_end;
use super::{FetchError, FetchedLogin, LoginSource};
use crate::protocol::{LoginCredentials, Secret, SecretKind, nkey_credentials};
use crate::tls::read_secret;

/// A file with a token that is a login by itself.
#[derive(Debug)]
pub(crate) struct TokenFile(pub(crate) PathBuf);

/// A file with the seed of an nkey, alone or with the JWT that it belongs to (`.creds`).
#[derive(Debug)]
pub(crate) struct NkeyFile(pub(crate) PathBuf);

/// The text of a file, read by `parse`, whose errors are about that file.
fn read(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<LoginCredentials, &'static str>,
) -> Result<FetchedLogin, String> {
    let shown = path.display();
    let bytes = read_secret(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    let credentials = parse(text).map_err(|reason| format!("{shown} {reason}"))?;
    Ok(FetchedLogin { credentials, expires: None })
}

fn token(text: &str) -> Result<LoginCredentials, &'static str> {
    let token = without_line_end(text);
    if token.is_empty() || token.contains(['\0', '\n', '\r']) {
        return Err("has no token, or a NUL or a line end within it");
    }
    let secret = Secret::new(SecretKind::LoneToken, Zeroizing::new(token.to_owned()));
    Ok(LoginCredentials { user: String::new(), secret })
}

impl LoginSource for TokenFile {
    fn label(&self) -> &'static str {
        "token"
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::LoneToken
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        Ok(read(&self.0, token)?)
    }
}

impl LoginSource for NkeyFile {
    fn label(&self) -> &'static str {
        "nkey"
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::Nkey
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        Ok(read(&self.0, nkey_credentials)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_file_without_its_last_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (content, expected) in
            [("s3cr3t\n", Some("s3cr3t")), ("a b", Some("a b")), ("", None), ("\n", None), ("a\nb", None)]
        {
            std::fs::write(&path, content).unwrap();
            let read = TokenFile(path.clone()).fetch();
            let read = read.map(|read| read.credentials.secret.expose().to_owned());
            assert_eq!(read.as_deref().ok(), expected);
            assert!(read.err().is_none_or(|error| !error.reason.contains("a\nb")));
        }
    }
}
