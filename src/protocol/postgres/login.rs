//! Signs in to PostgreSQL for the client: from the StartupMessage to the first ReadyForQuery.
//!
//! Sources: PostgreSQL documentation, "Message Flow" and "SASL Authentication"; libpq's fe-auth.c (md5),
//! fe-auth-oauth.c (OAUTHBEARER without a name); be-secure-openssl.c (what a channel is bound to). The client is not asked
//! for anything: it gets AuthenticationOk and what the server says behind it. Deliberately absent: GSS, SSPI.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use super::startup::AUTHENTICATION_SASL;
use super::{HEAD, OPENING_MAX, be_u32, error_message, field, not_now, sqlstate};
use crate::protocol::TurnedAway;
use crate::protocol::login::{
    AllowedMechanisms, LOGIN_MAX, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind,
    SignedIn, secret_message,
};
use crate::protocol::sasl::scram::{Binding, Scram};
use crate::protocol::sasl::{Mechanism, OAUTHBEARER_GO_ON, offered_to};
use crate::protocol::verdict::REPEATS;

/// One login.
#[derive(Debug)]
pub(super) struct StartupLogin {
    credentials: LoginCredentials,
    mechanisms: AllowedMechanisms,
    /// The database to use; `None`: the client's.
    database: Option<String>,
    /// The client's StartupMessage, and what follows it.
    opening: Vec<u8>,
    channel_binding: Option<Vec<u8>>,
    nonce: [u8; 18],
    held: Vec<u8>,
    total: usize,
    expects: Expects,
    /// The credentials were sent, so that an error is about them.
    has_proved: bool,
    signed_in: SignedIn,
}

/// What is to come from the server.
#[derive(Debug)]
enum Expects {
    /// An authentication request, AuthenticationOk or an error.
    Request,
    /// SCRAM's next message.
    Scram(Scram),
    /// After OAUTHBEARER's message: Ok, or what is wrong with the token.
    Bearer,
    /// After AuthenticationOk: parameters, the cancel key, ReadyForQuery.
    Ready,
}

/// libpq's names of methods (`require_auth`).
const NONE: &str = "none";
const PASSWORD: &str = "password";
const MD5: &str = "md5";
const OAUTH: &str = "oauth";

const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_CLEARTEXT: u32 = 3;
const AUTHENTICATION_MD5: u32 = 5;
const AUTHENTICATION_SASL_CONTINUE: u32 = 11;
const AUTHENTICATION_SASL_FINAL: u32 = 12;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "PostgreSQL", reason }
}

impl StartupLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, mechanisms, database, opening, channel_binding, nonce, .. } = context;
        // Method `cert`: TLS has proved it already, and the server asks for nothing.
        let has_proved = credentials.secret.kind() == SecretKind::Certificate;
        Self {
            credentials,
            mechanisms,
            database: database.map(Into::into),
            opening: opening.to_vec(),
            channel_binding,
            nonce,
            held: Vec::new(),
            total: 0,
            expects: Expects::Request,
            has_proved,
            signed_in: SignedIn::default(),
        }
    }

    /// The client's StartupMessage with our user, and with our database where one is set.
    fn startup(&self, startup: &[u8]) -> Result<Vec<u8>, LoginError> {
        const UNEVEN: LoginError = LoginError::Client("its first message (StartupMessage) is malformed");
        let parameters = startup.get(8..).and_then(|rest| rest.strip_suffix(&[0])).ok_or(UNEVEN)?;
        let mut texts = parameters.split(|byte| *byte == 0);
        let mut pairs = Vec::new();
        while let Some(name) = texts.next().filter(|name| !name.is_empty()) {
            pairs.push((name, texts.next().ok_or(UNEVEN)?));
        }
        let value = |name: &[u8]| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let its_user = value(b"user");
        let its_database = value(b"database");
        if let Some(ours) = &self.database
            // libpq names the user's own database if it is told none.
            && its_database.is_some_and(|its| Some(its) != its_user && its != ours.as_bytes())
        {
            return Err(LoginError::Client("it asks for another database than login.database"));
        }
        let database = self.database.as_deref().map(str::as_bytes).or(its_database);
        let mut message = startup[..8].to_vec();
        let own = [(&b"user"[..], Some(self.credentials.user.as_bytes())), (b"database", database)];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let others = pairs.iter().copied().filter(|(name, _)| *name != b"user" && *name != b"database");
        for (name, value) in own.chain(others) {
            message.extend_from_slice(name);
            message.push(0);
            message.extend_from_slice(value);
            message.push(0);
        }
        message.push(0);
        if message.len() > OPENING_MAX {
            return Err(LoginError::Client("its first message is too long for our user's name"));
        }
        let length = u32::try_from(message.len()).expect("a startup packet is bounded");
        message[..4].copy_from_slice(&length.to_be_bytes());
        Ok(message)
    }

    /// Reads one whole message. `Some`: what to send, or the end.
    fn message(&mut self, message: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        match (message[0], &self.expects) {
            (b'R', Expects::Ready) => Err(malformed("an authentication request after AuthenticationOk")),
            (b'R', _) => self.request(message),
            (b'E', _) => self.error(message).map(Some),
            // The client is not to have what it does not know.
            (b'N', _) | (b'S', Expects::Ready) if self.credentials.is_repeated_in(&message[HEAD..]) => {
                Ok(None)
            }
            // A notice, or the version that the server speaks instead of the client's.
            (b'N' | b'v', _) | (b'S' | b'K', Expects::Ready) => {
                self.signed_in.to_client.extend_from_slice(message);
                Ok(None)
            }
            (b'Z', Expects::Ready) => {
                self.signed_in.to_client.extend_from_slice(message);
                Ok(Some(self.signed_in()))
            }
            _ => Err(malformed("a message that belongs to no login")),
        }
    }

    fn signed_in(&mut self) -> LoginStep {
        let mut signed_in = std::mem::take(&mut self.signed_in);
        signed_in.to_client.append(&mut self.held);
        LoginStep::SignedIn(signed_in)
    }

    fn request(&mut self, message: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        let kind = be_u32(message, HEAD).ok_or(malformed("an authentication request without a kind"))?;
        let data = &message[HEAD + 4..];
        let expects = std::mem::replace(&mut self.expects, Expects::Request);
        match (kind, expects) {
            (AUTHENTICATION_OK, Expects::Scram(scram)) if !scram.is_over() => {
                Err(LoginError::Unproven("it let us in without its signature"))
            }
            // It asked for nothing.
            (AUTHENTICATION_OK, Expects::Request) if !self.has_proved && !self.mechanisms.allows(NONE) => {
                Err(self.no_mechanism(&[NONE]))
            }
            (AUTHENTICATION_OK, _) => {
                self.signed_in.to_client.extend_from_slice(message);
                self.expects = Expects::Ready;
                Ok(None)
            }
            (AUTHENTICATION_CLEARTEXT, Expects::Request) => self.password(),
            (AUTHENTICATION_MD5, Expects::Request) => self.md5(data),
            (AUTHENTICATION_SASL, Expects::Request) => self.begin_sasl(data).map(Some),
            (AUTHENTICATION_SASL_CONTINUE, Expects::Scram(mut scram)) => {
                let last = scram.last(data)?;
                self.expects = Expects::Scram(scram);
                self.has_proved = true;
                Ok(Some(LoginStep::Send(typed(b'p', &[&last]))))
            }
            (AUTHENTICATION_SASL_FINAL, Expects::Scram(mut scram)) => {
                // PostgreSQL reports a wrong password by an ErrorResponse instead.
                if scram.verify(data)?.is_some() {
                    return Err(LoginError::Unproven("it reported an error in place of its signature"));
                }
                self.expects = Expects::Scram(scram);
                Ok(None)
            }
            // The token is refused, and why; the error itself follows our answer (RFC 7628 §3.2.3).
            (AUTHENTICATION_SASL_CONTINUE, Expects::Bearer) => {
                self.expects = Expects::Bearer;
                Ok(Some(LoginStep::Send(typed(b'p', &[OAUTHBEARER_GO_ON]))))
            }
            (7..=9, _) => Err(self.no_mechanism(&["GSS or SSPI"])),
            _ => Err(malformed("an authentication request out of order, or of an unknown kind")),
        }
    }

    /// A PasswordMessage.
    fn password(&mut self) -> Result<Option<LoginStep>, LoginError> {
        let is_no_password =
            matches!(self.credentials.secret.kind(), SecretKind::BearerToken | SecretKind::Certificate);
        if is_no_password || !self.mechanisms.allows(PASSWORD) {
            return Err(self.no_mechanism(&[PASSWORD]));
        }
        let message = typed(b'p', &[self.credentials.secret.expose().as_bytes(), b"\0"]);
        self.has_proved = true;
        Ok(Some(LoginStep::Send(message)))
    }

    /// `md5` and the digest of the digest of password and user, with the server's salt.
    fn md5(&mut self, salt: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        if salt.len() != 4 {
            return Err(malformed("an md5 request without a salt of four bytes"));
        }
        if self.credentials.secret.kind() != SecretKind::Password || !self.mechanisms.allows(MD5) {
            return Err(self.no_mechanism(&[MD5]));
        }
        let LoginCredentials { user, secret } = &self.credentials;
        let inner = hex(&[secret.expose().as_bytes(), user.as_bytes()]);
        let outer = Zeroizing::new(format!("md5{}", *hex(&[inner.as_bytes(), salt])));
        let message = typed(b'p', &[outer.as_bytes(), b"\0"]);
        self.has_proved = true;
        Ok(Some(LoginStep::Send(message)))
    }

    fn begin_sasl(&mut self, offer: &[u8]) -> Result<LoginStep, LoginError> {
        let names: Vec<_> = offer
            .split(|byte| *byte == 0)
            .filter_map(|name| std::str::from_utf8(name).ok())
            .filter(|name| !name.is_empty())
            .collect();
        let LoginCredentials { secret, .. } = &self.credentials;
        let can_bind = self.channel_binding.is_some();
        let is_allowed = |mechanism: Mechanism| {
            let is_oauth = mechanism == Mechanism::OAuthBearer;
            self.mechanisms.allows(if is_oauth { OAUTH } else { mechanism.name() })
        };
        let chosen = Mechanism::choose(&names, secret.kind(), can_bind, is_allowed);
        let (mechanism, first) = match chosen {
            Some(Mechanism::OAuthBearer) => {
                // Without a name: the server has it from the StartupMessage, and refuses another.
                let token = secret.expose().as_bytes();
                self.expects = Expects::Bearer;
                self.has_proved = true;
                (Mechanism::OAuthBearer, secret_message(&[b"n,,\x01auth=Bearer ", token, b"\x01\x01"]))
            }
            Some(mechanism @ (Mechanism::ScramSha256 | Mechanism::ScramSha256Plus)) => {
                let binding = match (mechanism, self.channel_binding.take()) {
                    (Mechanism::ScramSha256Plus, Some(hash)) => Binding::EndPoint(hash),
                    (_, Some(_)) => Binding::NotOffered,
                    (_, None) => Binding::None,
                };
                let scram = Scram::new(secret.clone(), "", &binding, &self.nonce);
                let first = scram.first();
                self.expects = Expects::Scram(scram);
                (mechanism, Zeroizing::new(first))
            }
            _ => return Err(self.no_mechanism(&offered_to(&names, can_bind))),
        };
        let length = u32::try_from(first.len()).expect("a first message is short").to_be_bytes();
        Ok(LoginStep::Send(typed(b'p', &[mechanism.name().as_bytes(), b"\0", &length, &first])))
    }

    fn no_mechanism(&self, offered: &[&str]) -> LoginError {
        self.credentials.no_mechanism(&self.mechanisms, offered)
    }

    /// An ErrorResponse: about the login (class 28), about room, or about what the client asked for, such as a database
    /// that does not exist: the client gets that one as it is.
    fn error(&mut self, message: &[u8]) -> Result<LoginStep, LoginError> {
        let fields = &message[HEAD..];
        if let Some(by) = not_now(fields) {
            return Err(LoginError::TurnedAway(self.credentials.verdict(by, fields)));
        }
        let code = sqlstate(fields).unwrap_or_default();
        if code.starts_with("28") {
            let kind = if code == "28P01" { "PostgreSQL error 28P01" } else { "PostgreSQL error 28000" };
            let by = TurnedAway::new(kind, None, field(fields, b'M').unwrap_or_default());
            let by = self.credentials.verdict(by, fields);
            let user = self.credentials.user.clone();
            return Err(LoginError::Rejected { user, by, is_of_secret: self.has_proved });
        }
        // Poolers have other codes for a wrong password.
        if self.has_proved && !matches!(self.expects, Expects::Ready) {
            let by = TurnedAway::new("PostgreSQL error", None, field(fields, b'M').unwrap_or_default());
            let by = self.credentials.verdict(by, fields);
            let user = self.credentials.user.clone();
            return Err(LoginError::Rejected { user, by, is_of_secret: true });
        }
        match self.credentials.is_repeated_in(fields) {
            true => self.signed_in.to_client.extend(error_message(code, REPEATS)),
            false => self.signed_in.to_client.extend_from_slice(message),
        }
        self.signed_in.is_refused = true;
        Ok(self.signed_in())
    }
}

impl Login for StartupLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let mut opening = std::mem::take(&mut self.opening);
        if opening.is_empty() {
            // There is no client: the database that every server has.
            let database = self.database.as_deref().unwrap_or("postgres").as_bytes();
            opening = [&b"\0\0\0\0\0\x03\0\0database\0"[..], database, b"\0\0"].concat();
            let length = u32::try_from(opening.len()).unwrap_or_default();
            opening[..4].copy_from_slice(&length.to_be_bytes());
        }
        let length = be_u32(&opening, 0).unwrap_or_default() as usize;
        let (startup, behind) = opening.split_at_checked(length).ok_or(malformed("no StartupMessage"))?;
        let message = self.startup(startup)?;
        self.signed_in.to_server = behind.to_vec();
        Ok(LoginStep::Send(Zeroizing::new(message)))
    }

    fn has_proved(&self) -> bool {
        self.has_proved
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
        loop {
            let Some(length) = be_u32(&self.held, 1) else { return Ok(LoginStep::Read) };
            let length = length as usize;
            if !(4..LOGIN_MAX).contains(&length) {
                return Err(malformed("a message with an impossible length"));
            }
            if self.held.len() <= length {
                return Ok(LoginStep::Read);
            }
            let message: Vec<u8> = self.held.drain(..=length).collect();
            if let Some(step) = self.message(&message)? {
                return Ok(step);
            }
        }
    }
}

/// A message of that type.
fn typed(kind: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length + 4).expect("a message of the login is bounded").to_be_bytes();
    let head: [&[u8]; 2] = [&[kind], &length];
    secret_message(&[&head, parts].concat())
}

/// MD5 of the parts in hexadecimal digits.
fn hex(parts: &[&[u8]]) -> Zeroizing<String> {
    let mut digest = Md5::new();
    parts.iter().for_each(|part| digest.update(part));
    let mut text = Zeroizing::new(String::with_capacity(32));
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
