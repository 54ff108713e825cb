//! Signing in to the server in the client's place: who to sign in as, and the dialogue with the server.
//!
//! A [`Login`] runs behind TLS, before anything of the client is relayed (driver: `dial::login`). It reads the
//! server's messages only up to the end of the login, so that what follows is the relay's.

use core::net::IpAddr;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Dialogue, TurnedAway};
use crate::sync::Mutex;

/// A user, and the secret that proves it.
#[derive(Debug, Clone)]
pub struct LoginCredentials {
    /// The user's name at the server.
    pub user: String,
    /// The secret.
    pub secret: Secret,
}

impl LoginCredentials {
    /// Who it is, for people: some secrets need no name.
    #[must_use]
    pub fn shown(&self) -> &str {
        match (&*self.user, self.secret.kind()) {
            ("", SecretKind::Certificate) => "the certificate's subject",
            ("", SecretKind::LoneToken) => "the token's user",
            (user, _) => user,
        }
    }
}

/// What kind of secret it is; it decides which mechanisms may carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A password that lasts until it is replaced.
    Password,
    /// An OAuth 2.0 access token (RFC 6750), sent by XOAUTH2 or OAUTHBEARER.
    BearerToken,
    /// A token that takes the place of a password and is only of use in the clear (AWS RDS, Azure, Google Cloud SQL).
    PasswordToken,
    /// None: the TLS client certificate proves the user. The text tells one certificate from the next, and is not exposed.
    Certificate,
    /// A token that is sent alone, without a user (NATS' `auth_token`).
    LoneToken,
    /// The seed of an Ed25519 key that signs the server's nonce, below the JWT that it belongs to, if there is one (NATS).
    Nkey,
}

/// A secret. Clones share one memory, which is overwritten before it is given back. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(Arc<SecretMemory>);

struct SecretMemory {
    kind: SecretKind,
    text: Zeroizing<String>,
    /// What SCRAM derives from the password and a server's salt: thousands of hash rounds that need not be repeated for
    /// each session.
    derived: Mutex<Vec<(Derivation, Zeroizing<[u8; 32]>)>>,
}

/// The server's parameters of a key that is derived from a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Derivation {
    /// The server's salt.
    pub(super) salt: Vec<u8>,
    /// Hash rounds.
    pub(super) iterations: u32,
}

/// Derivations that are kept for one secret: one for each server with a salt of its own.
const DERIVED_MAX: usize = 16;

impl Secret {
    /// A secret of that kind.
    #[must_use]
    pub fn new(kind: SecretKind, text: Zeroizing<String>) -> Self {
        Self(Arc::new(SecretMemory { kind, text, derived: Mutex::new(Vec::new()) }))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SecretKind {
        self.0.kind
    }

    /// The secret itself; not for logs or errors. Empty where the certificate is the proof.
    #[must_use]
    pub fn expose(&self) -> &str {
        if self.0.kind == SecretKind::Certificate { "" } else { &self.0.text }
    }

    /// The key for these parameters, made by `derive` unless it is known.
    pub(super) fn derived(
        &self,
        parameters: &Derivation,
        derive: impl FnOnce(&str) -> Zeroizing<[u8; 32]>,
    ) -> Zeroizing<[u8; 32]> {
        if let Some((_, key)) = self.0.derived.lock().iter().find(|(known, _)| known == parameters) {
            return key.clone();
        }
        // Without the lock: it takes milliseconds.
        let key = derive(self.expose());
        let mut derived = self.0.derived.lock();
        if derived.len() >= DERIVED_MAX {
            derived.remove(0);
        }
        derived.push((parameters.clone(), key.clone()));
        key
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.0.text == other.0.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("kind", &self.0.kind).finish_non_exhaustive()
    }
}

/// Which mechanisms may carry the secret (`login.mechanisms`). By default all that suit its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedMechanisms(Option<Arc<[&'static str]>>);

impl AllowedMechanisms {
    /// These, of [`super::Protocol::login_mechanisms`], and no other one.
    #[must_use]
    pub fn only(names: &[&'static str]) -> Self {
        Self(Some(names.into()))
    }

    /// Whether the mechanism of that name may be used. One that is bound to the connection (`…-PLUS`) is the same one, and
    /// stronger.
    pub(super) fn allows(&self, name: &str) -> bool {
        let has = |name: &str| {
            self.0.iter().flat_map(|names| names.iter()).any(|own| own.eq_ignore_ascii_case(name))
        };
        let unbound = name.len().checked_sub("-PLUS".len()).and_then(|end| name.split_at_checked(end));
        self.0.is_none()
            || has(name)
            || unbound.is_some_and(|(unbound, plus)| plus.eq_ignore_ascii_case("-PLUS") && has(unbound))
    }
}

impl fmt::Display for AllowedMechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => Ok(()),
            Some(names) => write!(f, " and is allowed by `mechanisms` ({})", names.join(", ")),
        }
    }
}

/// Who the client has to be, where it is held to a user and password of its own (`login.client`).
pub trait ClientCredentials: fmt::Debug + Send + Sync {
    /// The user and the password at this moment. `None`: they are not known, and nobody is let in.
    fn current(&self) -> Option<LoginCredentials>;
}

/// What a login begins with.
#[derive(Debug, Clone)]
pub struct LoginContext<'a> {
    /// Who to sign in as.
    pub credentials: LoginCredentials,
    /// What may carry the secret.
    pub mechanisms: AllowedMechanisms,
    /// `login.database`: the database to sign in to, for protocols that name one in the login. `None`: the client's.
    pub database: Option<&'a str>,
    /// The client is held to this user and password. `None`: it is taken at its word. Only where
    /// [`Protocol::holds_clients`](super::Protocol::holds_clients).
    pub client: Option<Arc<dyn ClientCredentials>>,
    /// The client's first message, if its protocol has the client speak first; else empty.
    pub opening: &'a [u8],
    /// The upgrade to TLS has read the server's greeting, so that the server waits for us.
    pub is_greeted: bool,
    /// `tls-server-end-point` of the connection (RFC 5929 §4): the hash of the server's certificate. `None`: it is not known,
    /// or there is no TLS.
    pub channel_binding: Option<Vec<u8>>,
    /// Unpredictable bytes for one login.
    pub nonce: [u8; 18],
}

/// Signs in: the server's bytes go in, and what to do comes out.
pub trait Login: fmt::Debug + Send {
    /// The local address of the connection, before anything else; protocols that name it override this.
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// The greeting that the upgrade has read, as the client gets it; empty, if it has read none. Before anything else.
    fn greeted(&mut self, greeting: &[u8]) {
        let _ = greeting;
    }

    /// The first step.
    ///
    /// # Errors
    /// The client's first message cannot be signed in with.
    fn begin(&mut self) -> Result<LoginStep, LoginError>;

    /// Whether the secret, or a proof made of it, has been sent.
    fn has_proved(&self) -> bool {
        true
    }

    /// Bytes of the server; none at all means that it closed.
    ///
    /// # Errors
    /// See [`LoginError`]; the connection must be closed.
    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError>;
}

/// What the driver of a [`Login`] does next.
#[derive(Debug)]
pub enum LoginStep {
    /// Write these bytes to the server, then read. Overwritten after use: they may hold a secret.
    Send(Zeroizing<Vec<u8>>),
    /// Read more from the server.
    Read,
    /// The session may begin.
    SignedIn(SignedIn),
}

/// The result of a login: how the session goes on.
#[derive(Debug, Default)]
pub struct SignedIn {
    /// Bytes for the client, sent before anything of the server.
    pub to_client: Vec<u8>,
    /// What is left of the client's first message for the server.
    pub to_server: Vec<u8>,
    /// Rewrites what follows, where the client has yet to be told that it is signed in. `None`: the protocol's own
    /// dialogue, if it has one.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// It is no session: `to_client` is the server's error about what the client asks for, such as a database that does not exist.
    /// That says nothing of the credential.
    pub is_refused: bool,
}

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The server does not accept the credentials; it is not asked again with them.
    #[error("the server rejected the login as {user} ({by})")]
    Rejected {
        /// The user.
        user: String,
        /// The server's own words.
        by: TurnedAway,
        /// It has seen the secret. If not, it rejects the user, whatever the secret is.
        is_of_secret: bool,
    },
    /// The server takes no session now, whoever asks: it is full, starting or stopping.
    #[error("the server turned the login away ({0})")]
    TurnedAway(TurnedAway),
    /// The server offers no mechanism that may carry the secret.
    #[error("the server offers no login that suits {kind}{allowed}: {offered}", kind = .kind.words())]
    NoMechanism {
        /// The kind of the secret.
        kind: SecretKind,
        /// Those that the configuration permits.
        allowed: AllowedMechanisms,
        /// What the server offers instead.
        offered: String,
        /// The login had to be carried through to a refusal, which the server counts as one of a wrong secret.
        is_counted: bool,
    },
    /// The server did not prove that it knows the password, or its proof is wrong: it may be another server.
    #[error("the server did not prove that it knows the password: {0}")]
    Unproven(&'static str),
    /// The server's message is not of the protocol, or not one of a login.
    #[error("the server's answer to the login is not {protocol}: {reason}")]
    Malformed {
        /// The configured protocol.
        protocol: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The client's first message does not fit a login of ours.
    #[error("the client cannot be signed in: {0}")]
    Client(&'static str),
    /// The server's messages exceed the limit, in bytes.
    #[error("the server's answer to the login is longer than {0} bytes")]
    Endless(usize),
    /// The only login that was tried with the credential came to nothing: a server that ends the connection may mean the
    /// secret.
    #[error("the first login with this credential came to nothing: {0}")]
    Unclear(String),
    /// The answer did not come in time.
    #[error("the server has not answered the login within {0:?}")]
    Late(Duration),
    /// The server closed the connection.
    #[error("the server closed the connection in the middle of the login")]
    Closed,
    /// The connection failed.
    #[error("the connection failed in the middle of the login: {0}")]
    Lost(String),
}

impl LoginError {
    /// Whether the endpoint is to blame, and another one may do better. What the credentials or the client bring about is the
    /// same everywhere.
    #[must_use]
    pub const fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Malformed { .. } | Self::Endless(_) | Self::Closed | Self::Lost(_) => true,
            Self::Rejected { .. }
            | Self::TurnedAway(_)
            | Self::NoMechanism { .. }
            | Self::Unproven(_)
            | Self::Unclear(_)
            | Self::Late(_)
            | Self::Client(_) => false,
        }
    }

    /// What the server said of the secret, if it has rejected it. A server that lets the answer wait counts as one that has: many
    /// delay the answer to a wrong password, and each question is counted.
    #[must_use]
    pub fn rejection(&self) -> Option<String> {
        matches!(
            self,
            Self::Rejected { is_of_secret: true, .. }
                | Self::NoMechanism { is_counted: true, .. }
                | Self::Unproven(_)
                | Self::Unclear(_)
                | Self::Late(_)
        )
        .then(|| self.to_string())
    }
}

impl SecretKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Password,
        Self::BearerToken,
        Self::PasswordToken,
        Self::Certificate,
        Self::LoneToken,
        Self::Nkey,
    ];

    /// In words, for messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Password => "a password",
            Self::BearerToken => "an OAuth token",
            Self::PasswordToken => "a token in place of a password",
            Self::Certificate => "a client certificate",
            Self::LoneToken => "a token without a user",
            Self::Nkey => "an nkey",
        }
    }
}

/// The most that a server may send during a login.
pub const LOGIN_MAX: usize = 256 * 1024;

/// A message for the server that holds a secret.
pub(super) fn secret_message(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // With its final capacity: a vector that grows leaves a copy behind.
    let mut message = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(SecretKind::Password, Zeroizing::new(text.into()))
    }

    #[test]
    fn a_secret_is_not_shown() {
        let credentials = LoginCredentials { user: "app".into(), secret: secret("hunter2") };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("app") && shown.contains("Password") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_is_not_allowed_is_known_by_its_name() {
        let all = AllowedMechanisms::default();
        assert!(all.allows("PLAIN") && all.to_string().is_empty());
        let scram = AllowedMechanisms::only(&["SCRAM-SHA-256"]);
        assert!(scram.allows("scram-sha-256") && scram.allows("SCRAM-SHA-256-PLUS"));
        assert!(!scram.allows("PLAIN") && !scram.allows("-PLUS") && !scram.allows("ü-PLUS"));
        let plus = AllowedMechanisms::only(&["SCRAM-SHA-256-PLUS", "OAUTHBEARER"]);
        assert!(!plus.allows("SCRAM-SHA-256") && plus.allows("SCRAM-SHA-256-PLUS"));
        assert_eq!(plus.to_string(), " and is allowed by `mechanisms` (SCRAM-SHA-256-PLUS, OAUTHBEARER)");
    }

    #[test]
    fn a_server_that_repeats_the_secret_is_not_quoted() {
        let credentials = LoginCredentials { user: "tim".into(), secret: secret("tan+staaf/tan") };
        let verdict = |words: &str| {
            let words = format!("unknown: {words}");
            credentials.verdict(TurnedAway::new("X", Some(5), words.as_bytes()), words.as_bytes()).to_string()
        };
        // The secret, that of PLAIN, of LOGIN, and of a URL.
        for words in [
            "tan+staaf/tan",
            "\0tim\0tan+staaf/tan",
            "dGFuK3N0YWFmL3Rhbg==",
            "AHRpbQB0YW4rc3RhYWYvdGFu",
            "tan%2Bstaaf%2Ftan",
        ] {
            assert_eq!(verdict(words), "X 5: its words repeat the secret", "{words}");
        }
        assert_eq!(verdict("tan"), "X 5: unknown: tan");
        // Where the words are cut is no matter.
        let long = format!("{}tan+staaf/tan", " ".repeat(10_000));
        assert_eq!(verdict(&long), "X 5: its words repeat the secret");
    }

    #[test]
    fn a_key_is_derived_once_for_each_salt_and_a_bounded_number_is_kept() {
        let secret = secret("x");
        let mut derived = 0;
        for round in 0..2 {
            for salt in 0..DERIVED_MAX as u8 {
                let parameters = Derivation { salt: vec![salt], iterations: 4096 };
                let key = secret.derived(&parameters, |_| {
                    derived += 1;
                    Zeroizing::new([salt; 32])
                });
                assert_eq!(key[0], salt, "{round}");
            }
        }
        assert_eq!(derived, DERIVED_MAX);
        let other = Derivation { salt: vec![0], iterations: 4097 };
        secret.derived(&other, |_| Zeroizing::new([7; 32]));
        assert_eq!(secret.0.derived.lock().len(), DERIVED_MAX);
    }
}
