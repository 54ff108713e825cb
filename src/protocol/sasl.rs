//! SASL mechanisms as a client has them: PLAIN, LOGIN, XOAUTH2, OAUTHBEARER, SCRAM-SHA-256 and EXTERNAL, and one exchange by any of
//! them, without the framing that each protocol puts around it.
//!
//! Sources: RFC 4422 appendix A (EXTERNAL), RFC 4616 (PLAIN), RFC 5802 and RFC 7677 (SCRAM), RFC 7628 (OAUTHBEARER), draft-murchison-sasl-login (LOGIN),
//! Google's and Microsoft's documentation of XOAUTH2.

pub(super) mod scram;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::login::{LoginContext, LoginCredentials, LoginError, SecretKind, secret_message};
use scram::{Binding, Scram};

/// A mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    /// User and password, each in answer to a question.
    Login,
    XOAuth2,
    OAuthBearer,
    ScramSha256,
    /// SCRAM-SHA-256 bound to the TLS connection.
    ScramSha256Plus,
    /// By the TLS client certificate.
    External,
}

impl Mechanism {
    const ALL: [Self; 7] = [
        Self::Plain,
        Self::Login,
        Self::XOAuth2,
        Self::OAuthBearer,
        Self::ScramSha256,
        Self::ScramSha256Plus,
        Self::External,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::External => "EXTERNAL",
        }
    }

    /// The best offered mechanism that may carry such a secret and is allowed; names are compared without case (RFC 4422 §3.1).
    pub(super) fn choose(
        offered: &[&str],
        kind: SecretKind,
        can_bind: bool,
        is_allowed: impl Fn(Self) -> bool,
    ) -> Option<Self> {
        let mut that_carry = names(kind).iter().filter_map(|name| Self::named(name));
        that_carry.find(|mechanism| {
            (can_bind || *mechanism != Self::ScramSha256Plus)
                && is_allowed(*mechanism)
                && offered.iter().any(|name| name.eq_ignore_ascii_case(mechanism.name()))
        })
    }
}

/// The names of the mechanisms that may carry such a secret, the best first.
pub(super) const fn names(kind: SecretKind) -> &'static [&'static str] {
    match kind {
        SecretKind::Password => &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"],
        SecretKind::PasswordToken => &["PLAIN", "LOGIN"],
        SecretKind::BearerToken => &["OAUTHBEARER", "XOAUTH2"],
        SecretKind::Certificate => &["EXTERNAL"],
        SecretKind::LoneToken | SecretKind::Nkey => &[],
    }
}

/// What a server offers, for a message. Channel binding takes a certificate whose hash is known.
pub(super) fn offered_to<'a>(offered: &[&'a str], can_bind: bool) -> Vec<&'a str> {
    let needs_binding = |name: &&str| name.eq_ignore_ascii_case(Mechanism::ScramSha256Plus.name());
    let note = (!can_bind && offered.iter().any(needs_binding)).then_some("without a channel to bind to");
    offered.iter().copied().chain(note).collect()
}

/// The only message of PLAIN (RFC 4616 §2).
pub(super) fn plain(credentials: &LoginCredentials) -> Zeroizing<Vec<u8>> {
    secret_message(&[b"\0", credentials.user.as_bytes(), b"\0", credentials.secret.expose().as_bytes()])
}

/// The first message of XOAUTH2.
pub(super) fn xoauth2(credentials: &LoginCredentials) -> Zeroizing<Vec<u8>> {
    let (user, token) = (credentials.user.as_bytes(), credentials.secret.expose().as_bytes());
    secret_message(&[b"user=", user, b"\x01auth=Bearer ", token, b"\x01\x01"])
}

/// The first message of OAUTHBEARER (RFC 7628 §3.1). In the name `,` and `=` are escaped (RFC 5801 §4).
pub(super) fn oauthbearer(credentials: &LoginCredentials) -> Zeroizing<Vec<u8>> {
    let user = escaped_name(&credentials.user);
    let token = credentials.secret.expose().as_bytes();
    secret_message(&[b"n,a=", user.as_bytes(), b",\x01auth=Bearer ", token, b"\x01\x01"])
}

/// The answer to OAUTHBEARER's error message, which the server waits for before it ends the exchange (RFC 7628 §3.2.3).
pub(super) const OAUTHBEARER_GO_ON: &[u8] = b"\x01";

fn escaped_name(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// One exchange with a server, by the best mechanism that it offers.
#[derive(Debug)]
pub(super) struct Exchange {
    mechanism: Mechanism,
    credentials: LoginCredentials,
    scram: Option<Scram>,
    /// Challenges so far.
    challenges: u32,
}

impl Exchange {
    /// Chooses among the offered mechanisms.
    ///
    /// # Errors
    /// [`LoginError::NoMechanism`].
    pub(super) fn new(offered: &[&str], context: &LoginContext<'_>) -> Result<Self, LoginError> {
        let LoginContext { credentials, mechanisms, channel_binding, nonce, .. } = context;
        let (kind, can_bind) = (credentials.secret.kind(), channel_binding.is_some());
        let is_allowed = |mechanism: Mechanism| mechanisms.allows(mechanism.name());
        let Some(mechanism) = Mechanism::choose(offered, kind, can_bind, is_allowed) else {
            return Err(credentials.no_mechanism(mechanisms, &offered_to(offered, can_bind)));
        };
        let binding = match (mechanism, channel_binding) {
            (Mechanism::ScramSha256Plus, Some(hash)) => Some(Binding::EndPoint(hash.clone())),
            (Mechanism::ScramSha256, Some(_)) => Some(Binding::NotOffered),
            (Mechanism::ScramSha256, None) => Some(Binding::None),
            _ => None,
        };
        let LoginCredentials { user, secret } = credentials;
        let scram = binding.map(|binding| Scram::new(secret.clone(), user, &binding, nonce));
        Ok(Self { mechanism, credentials: credentials.clone(), scram, challenges: 0 })
    }

    /// The mechanism.
    pub(super) const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The first message, before any challenge; `None`: the server speaks first (LOGIN).
    pub(super) fn initial(&self) -> Option<Zeroizing<Vec<u8>>> {
        match (self.mechanism, &self.scram) {
            (Mechanism::Plain, _) => Some(plain(&self.credentials)),
            (Mechanism::XOAuth2, _) => Some(xoauth2(&self.credentials)),
            (Mechanism::OAuthBearer, _) => Some(oauthbearer(&self.credentials)),
            // Who we want to be; the server compares that with the certificate.
            (Mechanism::External, _) => Some(secret_message(&[self.credentials.user.as_bytes()])),
            (_, Some(scram)) => Some(Zeroizing::new(scram.first())),
            (_, None) => None,
        }
    }

    /// The answer to a challenge after the first message.
    ///
    /// # Errors
    /// The server's message is wrong, or one too many.
    pub(super) fn challenged(&mut self, challenge: &[u8]) -> Result<Zeroizing<Vec<u8>>, LoginError> {
        const TOO_MANY: LoginError =
            LoginError::Malformed { protocol: "SASL", reason: "a challenge too many" };
        self.challenges += 1;
        let LoginCredentials { user, secret } = &self.credentials;
        match (self.mechanism, self.challenges, &mut self.scram) {
            // Whatever the questions are called, this is their order.
            (Mechanism::Login, 1, _) => Ok(secret_message(&[user.as_bytes()])),
            (Mechanism::Login, 2, _) => Ok(secret_message(&[secret.expose().as_bytes()])),
            // What is wrong with the token; the refusal itself follows our answer.
            (Mechanism::XOAuth2, 1, _) => Ok(Zeroizing::default()),
            (Mechanism::OAuthBearer, 1, _) => Ok(secret_message(&[OAUTHBEARER_GO_ON])),
            (_, 1, Some(scram)) => Ok(Zeroizing::new(scram.last(challenge)?)),
            // Where success carries no data, the server's signature is a challenge, whose answer is empty.
            (_, 2, Some(scram)) => match scram.verify(challenge)? {
                None => Ok(Zeroizing::default()),
                Some(_) => Err(LoginError::Unproven("it reported an error in place of its signature")),
            },
            _ => Err(TOO_MANY),
        }
    }

    /// Whether a message has carried the secret or its proof, provided that the first message was sent.
    pub(super) const fn has_shown_secret(&self) -> bool {
        let messages = match self.mechanism {
            Mechanism::Plain | Mechanism::XOAuth2 | Mechanism::OAuthBearer | Mechanism::External => 0,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => 1,
            Mechanism::Login => 2,
        };
        self.challenges >= messages
    }

    /// The server reports success, with this data, if there is any.
    ///
    /// # Errors
    /// [`LoginError::Unproven`].
    pub(super) fn succeeded(&mut self, data: Option<&[u8]>) -> Result<(), LoginError> {
        let Some(scram) = &mut self.scram else { return Ok(()) };
        match data {
            Some(data) if !scram.is_over() => match scram.verify(data)? {
                None => Ok(()),
                Some(_) => Err(LoginError::Unproven("it reported an error in place of its signature")),
            },
            _ if scram.is_over() => Ok(()),
            _ => Err(LoginError::Unproven("it let us in without its signature")),
        }
    }
}

/// Base64 in memory that is overwritten.
pub(super) fn base64(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(vec![0; BASE64.encode_len(bytes.len())]);
    BASE64.encode_mut(bytes, &mut text);
    text
}

/// Base64 of the other side; `None`: it is none.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(text.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::login::{AllowedMechanisms, Secret};

    fn of(user: &str, kind: SecretKind, secret: &str) -> LoginCredentials {
        let secret = Secret::new(kind, Zeroizing::new(secret.into()));
        LoginCredentials { user: user.into(), secret }
    }

    #[test]
    fn the_best_mechanism_is_chosen_and_none_that_the_secret_is_not_for() {
        use Mechanism::*;
        use SecretKind::*;
        for (offered, kind, can_bind, expected) in [
            ("PLAIN LOGIN SCRAM-SHA-256", Password, false, Some(ScramSha256)),
            ("PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", Password, true, Some(ScramSha256Plus)),
            ("SCRAM-SHA-256-PLUS PLAIN", Password, false, Some(Plain)),
            ("login plain", Password, true, Some(Plain)),
            ("LOGIN", Password, true, Some(Login)),
            ("XOAUTH2 PLAIN", Password, true, Some(Plain)),
            ("XOAUTH2", Password, true, None),
            ("PLAIN LOGIN XOAUTH2", BearerToken, true, Some(XOAuth2)),
            ("XOAUTH2 OAUTHBEARER", BearerToken, true, Some(OAuthBearer)),
            ("PLAIN LOGIN", BearerToken, true, None),
            ("SCRAM-SHA-256", PasswordToken, true, None),
            ("PLAIN EXTERNAL SCRAM-SHA-256", Certificate, true, Some(External)),
            ("PLAIN LOGIN SCRAM-SHA-256", Certificate, true, None),
            ("PLAIN EXTERNAL", Password, true, Some(Plain)),
            ("", Password, true, None),
        ] {
            let offer: Vec<_> = offered.split(' ').collect();
            assert_eq!(Mechanism::choose(&offer, kind, can_bind, |_| true), expected, "{offered} {kind:?}");
        }
    }

    #[test]
    fn nothing_weaker_than_what_is_allowed_is_chosen() {
        use SecretKind::*;
        for (offered, kind, binding, allowed, expected) in [
            ("PLAIN LOGIN SCRAM-SHA-256", Password, false, &["SCRAM-SHA-256"][..], Ok("SCRAM-SHA-256")),
            (
                "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS",
                Password,
                true,
                &["SCRAM-SHA-256"],
                Ok("SCRAM-SHA-256-PLUS"),
            ),
            ("PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", Password, true, &["PLAIN"], Ok("PLAIN")),
            ("PLAIN LOGIN", Password, true, &["LOGIN", "SCRAM-SHA-256"], Ok("LOGIN")),
            ("PLAIN LOGIN", Password, true, &["SCRAM-SHA-256"], Err("(SCRAM-SHA-256): PLAIN, LOGIN")),
            (
                "SCRAM-SHA-256",
                Password,
                true,
                &["SCRAM-SHA-256-PLUS"],
                Err("(SCRAM-SHA-256-PLUS): SCRAM-SHA-256"),
            ),
            (
                "SCRAM-SHA-256-PLUS",
                Password,
                false,
                &["SCRAM-SHA-256-PLUS"],
                Err("(SCRAM-SHA-256-PLUS): SCRAM-SHA-256-PLUS, without a channel to bind to"),
            ),
            ("XOAUTH2 PLAIN", BearerToken, true, &["OAUTHBEARER"], Err("(OAUTHBEARER): XOAUTH2, PLAIN")),
            ("XOAUTH2 OAUTHBEARER", BearerToken, true, &["XOAUTH2"], Ok("XOAUTH2")),
        ] {
            let context = LoginContext {
                mechanisms: AllowedMechanisms::only(allowed),
                channel_binding: binding.then(|| vec![1]),
                ..context(of("tim", kind, "pw"))
            };
            match (Exchange::new(&offered.split(' ').collect::<Vec<_>>(), &context), expected) {
                (Ok(exchange), Ok(name)) => assert_eq!(exchange.mechanism().name(), name, "{offered}"),
                (Err(error), Err(words)) => {
                    let kind = kind.words();
                    let expected = format!(
                        "the server offers no login that suits {kind} and is allowed by `mechanisms` {words}"
                    );
                    assert_eq!(error.to_string(), expected);
                }
                other => panic!("{offered}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_server_without_mechanisms_or_with_strange_ones_is_quoted_with_care() {
        for (offered, expected) in
            [("", "none"), ("X\x1b[2J\x07Y", "X[2JY"), ("A-pw-B", "its words repeat the secret")]
        {
            let error =
                Exchange::new(&[offered], &context(of("tim", SecretKind::Password, "pw"))).unwrap_err();
            let expected = format!("the server offers no login that suits a password: {expected}");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn names_are_those_of_the_mechanisms() {
        let names = SecretKind::ALL.into_iter().flat_map(names);
        assert!(names.clone().all(|name| Mechanism::named(name).is_some()));
        for mechanism in Mechanism::ALL {
            assert!(
                names.clone().any(|name| *name == mechanism.name()),
                "nothing is carried by {mechanism:?}"
            );
        }
    }

    fn context(credentials: LoginCredentials) -> LoginContext<'static> {
        LoginContext {
            credentials,
            mechanisms: AllowedMechanisms::default(),
            database: None,
            client: None,
            opening: &[],
            is_greeted: true,
            channel_binding: None,
            nonce: [7; 18],
        }
    }

    fn exchange(offered: &str, credentials: LoginCredentials) -> Exchange {
        Exchange::new(&offered.split(' ').collect::<Vec<_>>(), &context(credentials)).unwrap()
    }

    #[test]
    fn each_exchange_has_its_order() {
        let mut login = exchange("LOGIN", of("tim", SecretKind::Password, "pw"));
        assert_eq!(login.initial(), None);
        assert_eq!(**login.challenged(b"Username:").unwrap(), *b"tim");
        assert_eq!(**login.challenged(b"Password:").unwrap(), *b"pw");
        assert!(login.challenged(b"more?").is_err());
        for (mechanism, answer) in [("XOAUTH2", &b""[..]), ("OAUTHBEARER", b"\x01")] {
            let mut refused = exchange(mechanism, of("tim", SecretKind::BearerToken, "t"));
            assert!(refused.initial().is_some_and(|first| first.ends_with(b"auth=Bearer t\x01\x01")));
            assert_eq!(**refused.challenged(b"{\"status\":\"401\"}").unwrap(), *answer);
            assert!(refused.challenged(b"").is_err());
        }
        let mut plain = exchange("PLAIN", of("tim", SecretKind::Password, "pw"));
        assert!(plain.challenged(b"").is_err());
        assert_eq!(plain.succeeded(None), Ok(()));
        let mut external = exchange("EXTERNAL", of("tim", SecretKind::Certificate, "7"));
        assert!(external.initial().is_some_and(|first| **first == *b"tim") && external.has_shown_secret());
        assert!(external.challenged(b"").is_err());
        let mut scram = exchange("SCRAM-SHA-256", of("tim", SecretKind::Password, "pw"));
        assert!(matches!(scram.succeeded(None), Err(LoginError::Unproven(_))), "without its signature");
    }

    #[test]
    fn messages_are_those_of_the_standards() {
        let password = of("tim", SecretKind::Password, "tanstaaftanstaaf");
        assert_eq!(**plain(&password), *b"\0tim\0tanstaaftanstaaf");
        let token = of("user@example.com", SecretKind::BearerToken, "vF9dft4qmT");
        assert_eq!(**xoauth2(&token), *b"user=user@example.com\x01auth=Bearer vF9dft4qmT\x01\x01");
        assert_eq!(**oauthbearer(&token), *b"n,a=user@example.com,\x01auth=Bearer vF9dft4qmT\x01\x01");
        let odd = of("a=b,c", SecretKind::BearerToken, "t");
        assert!(oauthbearer(&odd).starts_with(b"n,a=a=3Db=2Cc,"));
        assert_eq!(**base64(b"\0a\0b"), *b"AGEAYg==");
    }
}
