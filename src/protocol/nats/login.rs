//! Signs in to NATS for the client, by a CONNECT of our own and a PING, which the server answers after its verdict. The
//! client's CONNECT follows without credentials: the server reads it into the same options, of which those that are not
//! named keep their values, and finds ours again.
//!
//! Sources: docs.nats.io, "NATS Protocol" (CONNECT, -ERR); processConnect in nats-server's server/client.go (options are
//! unmarshalled into what is there, and the login is checked again), defaultOpts (why ours name nothing else).
//! Deliberately absent: tokens, nkeys and JWTs.

use serde_json::to_writer;
use zeroize::Zeroizing;

use super::{LINE_MAX, Rewriting, Server, begins_with, error, info_for_client};
use crate::protocol::login::{
    LOGIN_MAX, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SignedIn, secret_message,
};

/// The options of a CONNECT that are credentials.
const CREDENTIALS: &[&str] = &["user", "pass", "auth_token", "jwt", "nkey", "sig"];

/// One login.
#[derive(Debug)]
pub(super) struct ConnectLogin {
    credentials: LoginCredentials,
    /// INFO is still to come.
    expects_info: bool,
    /// INFO for the client, if the upgrade has not had it.
    info: Vec<u8>,
    held: Vec<u8>,
    total: usize,
}

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "NATS", reason }
}

impl ConnectLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, is_greeted, .. } = context;
        Self { credentials, expects_info: !is_greeted, info: Vec::new(), held: Vec::new(), total: 0 }
    }

    fn connect(&self) -> LoginStep {
        let LoginCredentials { user, secret } = &self.credentials;
        let (user, password) = (quoted(user), quoted(secret.expose()));
        let options: [&[u8]; 5] =
            [b"CONNECT {\"protocol\":0,\"user\":", &user, b",\"pass\":", &password, b"}\r\nPING\r\n"];
        LoginStep::Send(secret_message(&options))
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        if begins_with(line, "-ERR") {
            return Err(self.error(line));
        }
        if self.expects_info {
            self.info = info_for_client(line).ok_or(malformed("its first line is no INFO"))?;
            self.expects_info = false;
            return Ok(Some(self.connect()));
        }
        match line {
            b"+OK" => Ok(None),
            b"PONG" => Ok(Some(LoginStep::SignedIn(SignedIn {
                to_client: [std::mem::take(&mut self.info), std::mem::take(&mut self.held)].concat(),
                to_server: Vec::new(),
                dialogue: Some(Box::new(Rewriting::new(Server::Passing, CREDENTIALS))),
                ..SignedIn::default()
            }))),
            _ if begins_with(line, "INFO") => Ok(None),
            _ => Err(malformed("its answer to CONNECT and PING is another")),
        }
    }

    fn error(&self, line: &[u8]) -> LoginError {
        let by = error(line);
        let words = by.words.to_ascii_lowercase();
        let is_late = words.starts_with("authentication timeout");
        let by = self.credentials.verdict(by, line);
        match words.starts_with("authorization") || words.starts_with("authentication") && !is_late {
            true => LoginError::Rejected { user: self.credentials.user.clone(), by, is_of_secret: true },
            false => LoginError::TurnedAway(by),
        }
    }
}

/// A text in JSON.
fn quoted(text: &str) -> Zeroizing<Vec<u8>> {
    // With its final capacity (`\u0000` is the longest escape): a vector that grows leaves a copy behind.
    let mut quoted = Zeroizing::new(Vec::with_capacity(6 * text.len() + 2));
    to_writer(&mut *quoted, text).expect("a text is JSON, and a vector takes it");
    quoted
}

impl Login for ConnectLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        Ok(if self.expects_info { LoginStep::Read } else { self.connect() })
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.total += bytes.len();
        if self.total > LOGIN_MAX {
            return Err(LoginError::Endless(LOGIN_MAX));
        }
        self.held.extend_from_slice(bytes);
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            if let Some(step) = self.line(line.trim_ascii_end())? {
                return Ok(step);
            }
        }
        if self.held.len() > LINE_MAX {
            Err(malformed("a line longer than 64 KiB"))
        } else {
            Ok(LoginStep::Read)
        }
    }
}

#[cfg(test)]
mod tests;
