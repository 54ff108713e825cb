//! SASL as a server has it, towards the client of a session that we have signed in: PLAIN and LOGIN, without framing. The
//! client is taken at its word, or held to a user and a password.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::login::ClientCredentials;
use super::sasl::from_base64;

/// What the client is asked next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaslRequest {
    /// PLAIN's message.
    Plain,
    /// LOGIN's name.
    User,
    /// LOGIN's password.
    Password,
}

/// What follows an answer of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaslVerdict {
    Ask(SaslRequest),
    Accepted,
    /// User or password are not those that the client is held to.
    Rejected,
    Cancelled,
    /// It is no base64.
    Malformed,
}

/// The mechanisms that clients are offered.
pub(super) const OFFERED: &str = "PLAIN LOGIN";

impl SaslRequest {
    /// The first question of that mechanism; `None`: it is not offered.
    pub(super) fn first(mechanism: &[u8]) -> Option<Self> {
        match () {
            () if mechanism.eq_ignore_ascii_case(b"PLAIN") => Some(Self::Plain),
            () if mechanism.eq_ignore_ascii_case(b"LOGIN") => Some(Self::User),
            () => None,
        }
    }

    /// The challenge in base64; clients go by the order of LOGIN's, and some by its words.
    pub(super) const fn challenge(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::User => "VXNlcm5hbWU6",
            Self::Password => "UGFzc3dvcmQ6",
        }
    }
}

/// Judges the client's user and password.
#[derive(Debug, Default)]
pub(super) struct ClientCheck {
    /// `None`: the client is taken at its word.
    expected: Option<Arc<dyn ClientCredentials>>,
    /// The name that the client has given, ahead of its password.
    user: Vec<u8>,
}

impl ClientCheck {
    pub(super) const fn new(expected: Option<Arc<dyn ClientCredentials>>) -> Self {
        Self { expected, user: Vec::new() }
    }

    /// Whether the client must log in, and with what it is held to.
    pub(super) const fn is_strict(&self) -> bool {
        self.expected.is_some()
    }

    /// The client gives its name, ahead of its password.
    pub(super) fn name(&mut self, user: &[u8]) {
        self.user = user.to_vec();
    }

    /// Whether the client is let in with the name that it has given and this password.
    pub(super) fn accepts_password(&self, password: &[u8]) -> bool {
        self.accepts(&self.user, password)
    }

    /// Whether the client is let in. The time that it takes tells neither how much of the password is right nor how long
    /// it is, nor whether the name is.
    pub(super) fn accepts(&self, user: &[u8], password: &[u8]) -> bool {
        let Some(expected) = &self.expected else { return true };
        let Some(expected) = expected.current() else { return false };
        let is_user = is_equal(user, expected.user.as_bytes());
        let is_password = is_equal(password, expected.secret.expose().as_bytes());
        is_user & is_password
    }

    /// The client's answer in base64. `=` is an empty one (RFC 4959 §3).
    pub(super) fn answer(&mut self, request: SaslRequest, answer: &[u8]) -> SaslVerdict {
        let decoded = match answer {
            b"*" => return SaslVerdict::Cancelled,
            b"=" => Some(Vec::new()),
            other => from_base64(other),
        };
        let Some(decoded) = decoded.map(Zeroizing::new) else { return SaslVerdict::Malformed };
        let is_accepted = match request {
            SaslRequest::User => {
                self.name(&decoded);
                return SaslVerdict::Ask(SaslRequest::Password);
            }
            SaslRequest::Password => self.accepts_password(&decoded),
            SaslRequest::Plain => !self.is_strict() || self.accepts_plain(&decoded),
        };
        if is_accepted { SaslVerdict::Accepted } else { SaslVerdict::Rejected }
    }

    /// PLAIN's message: whom to act as, if it is another one, name and password (RFC 4616 §2).
    fn accepts_plain(&self, message: &[u8]) -> bool {
        let parts: Vec<_> = message.split(|byte| *byte == 0).collect();
        match parts[..] {
            [whom, user, password] => (whom.is_empty() || whom == user) && self.accepts(user, password),
            _ => false,
        }
    }
}

/// Digests have one length, so that the time says nothing of that of the secret.
fn is_equal(given: &[u8], expected: &[u8]) -> bool {
    let [given, expected] = [given, expected].map(|text| digest(&SHA256, text));
    verify_slices_are_equal(given.as_ref(), expected.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::line_login::tests::Held;

    fn check() -> ClientCheck {
        ClientCheck::new(Some(Held::credentials()))
    }

    fn plain(message: &str) -> SaslVerdict {
        check().answer(SaslRequest::Plain, data_encoding::BASE64.encode(message.as_bytes()).as_bytes())
    }

    #[test]
    fn only_the_user_and_the_password_are_let_in() {
        for (user, password, is_accepted) in [
            ("printer", "tray 2", true),
            ("printer", "tray 3", false),
            ("printer", "tray 2 ", false),
            ("printer", "", false),
            ("Printer", "tray 2", false),
            ("", "tray 2", false),
            ("", "", false),
        ] {
            assert_eq!(
                check().accepts(user.as_bytes(), password.as_bytes()),
                is_accepted,
                "{user}:{password}"
            );
            let expected = if is_accepted { SaslVerdict::Accepted } else { SaslVerdict::Rejected };
            assert_eq!(plain(&format!("\0{user}\0{password}")), expected);
        }
        assert!(ClientCheck::default().accepts(b"any", b"thing"));
    }

    #[test]
    fn a_message_of_plain_has_three_parts_and_acts_for_nobody_else() {
        assert_eq!(plain("printer\0printer\0tray 2"), SaslVerdict::Accepted);
        for message in [
            "",
            "printer",
            "printer\0tray 2",
            "root\0printer\0tray 2",
            "\0printer\0tray 2\0",
            "\0\0",
            "\0\0\0",
        ] {
            assert_eq!(plain(message), SaslVerdict::Rejected, "{message:?}");
        }
        assert_eq!(check().answer(SaslRequest::Plain, b"="), SaslVerdict::Rejected);
        assert_eq!(check().answer(SaslRequest::Plain, b"*"), SaslVerdict::Cancelled);
        assert_eq!(check().answer(SaslRequest::Plain, b"?"), SaslVerdict::Malformed);
    }

    /// Without a password in force nobody is let in, rather than everybody.
    #[test]
    fn where_the_password_is_not_known_nobody_is_let_in() {
        #[derive(Debug)]
        struct Unknown;
        impl ClientCredentials for Unknown {
            fn current(&self) -> Option<crate::protocol::LoginCredentials> {
                None
            }
        }
        let check = ClientCheck::new(Some(Arc::new(Unknown)));
        assert!(!check.accepts(b"", b"") && !check.accepts(b"printer", b"tray 2"));
    }
}
