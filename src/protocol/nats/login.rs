//! Signs in to NATS for the client, by a CONNECT of our own and a PING, which the server answers after its verdict: with user
//! and password, a token, the signature of the server's nonce by an nkey, with its JWT if it has one, or with nothing, where the
//! server knows the TLS client certificate. The client's CONNECT follows without credentials: the server reads it into the same options, of which those that are not
//! named keep their values, and finds ours again.
//!
//! Sources: docs.nats.io, "NATS Protocol" (CONNECT, -ERR), "NKeys"; nats.go's connectProto (which options go together); processConnect in nats-server's server/client.go (options are
//! unmarshalled into what is there, and the login is checked again), defaultOpts (why ours name nothing else).
//! Deliberately absent: auth callouts.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, from_slice, to_writer};
use zeroize::Zeroizing;

use super::nkey::Nkey;
use super::{LINE_MAX, Rewriting, Server, begins_with, error, info_for_client};
use crate::protocol::login::{
    AllowedMechanisms, LOGIN_MAX, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind,
    SignedIn, secret_message,
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
    /// What the server wants to be signed; empty, if it has not said.
    challenge: String,
    held: Vec<u8>,
    total: usize,
}

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "NATS", reason }
}

impl ConnectLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, is_greeted, .. } = context;
        Self {
            credentials,
            expects_info: !is_greeted,
            info: Vec::new(),
            challenge: String::new(),
            held: Vec::new(),
            total: 0,
        }
    }

    fn connect(&self) -> Result<LoginStep, LoginError> {
        let LoginCredentials { user, secret } = &self.credentials;
        let (user, text) = (quoted(user), quoted(secret.expose()));
        let signed = if secret.kind() == SecretKind::Nkey { self.signed()? } else { Zeroizing::default() };
        let credentials: &[&[u8]] = match secret.kind() {
            SecretKind::LoneToken => &[b",\"auth_token\":", &text],
            SecretKind::Nkey => &[&signed],
            SecretKind::Certificate => &[],
            SecretKind::Password | SecretKind::PasswordToken | SecretKind::BearerToken => {
                &[b",\"user\":", &user, b",\"pass\":", &text]
            }
        };
        let (begin, end): (&[u8], &[u8]) = (b"CONNECT {\"protocol\":0", b"}\r\nPING\r\n");
        Ok(LoginStep::Send(secret_message(&[&[begin], credentials, &[end]].concat())))
    }

    /// The options of a login by nkey. A JWT names its key itself.
    fn signed(&self) -> Result<Zeroizing<Vec<u8>>, LoginError> {
        let secret = &self.credentials.secret;
        if self.challenge.is_empty() {
            let offered = "its INFO has no nonce to sign";
            return Err(self.credentials.no_mechanism(&AllowedMechanisms::default(), &[offered]));
        }
        let nkey = Nkey::parse(secret.expose()).map_err(LoginError::Client)?;
        let signature = BASE64URL_NOPAD.encode(&nkey.sign(self.challenge.as_bytes()));
        let (name, value) = match nkey.jwt() {
            Some(jwt) => ("jwt", quoted(jwt)),
            None => ("nkey", quoted(&nkey.public())),
        };
        let parts: [&[u8]; 7] =
            [b",\"", name.as_bytes(), b"\":", &value, b",\"sig\":\"", signature.as_bytes(), b"\""];
        Ok(secret_message(&parts))
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        if begins_with(line, "-ERR") {
            return Err(self.error(line));
        }
        if self.expects_info {
            self.info = info_for_client(line).ok_or(malformed("its first line is no INFO"))?;
            self.expects_info = false;
            self.challenge = challenge(line);
            return self.connect().map(Some);
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
            true => {
                LoginError::Rejected { user: self.credentials.shown().to_owned(), by, is_of_secret: true }
            }
            false => LoginError::TurnedAway(by),
        }
    }
}

/// The nonce of an INFO; it may be one from before TLS (see [`info_for_client`]).
fn challenge(info: &[u8]) -> String {
    let said = || from_slice::<Value>(info.get("INFO ".len()..)?).ok();
    said().and_then(|said| Some(said.get("nonce")?.as_str()?.to_owned())).unwrap_or_default()
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
        if self.expects_info { Ok(LoginStep::Read) } else { self.connect() }
    }

    fn greeted(&mut self, greeting: &[u8]) {
        self.challenge = challenge(greeting);
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
