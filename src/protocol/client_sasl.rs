//! SASL as a server has it, towards the client of a session that we have signed in: PLAIN and LOGIN, without framing.

use super::sasl::from_base64;

/// A SASL exchange with the client: what it is asked next.
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

    /// The client's answer in base64. `=` is an empty one (RFC 4959 §3).
    pub(super) fn answer(self, answer: &[u8]) -> SaslVerdict {
        match (self, answer) {
            (_, b"*") => SaslVerdict::Cancelled,
            (_, answer) if answer != b"=" && from_base64(answer).is_none() => SaslVerdict::Malformed,
            (Self::User, _) => SaslVerdict::Ask(Self::Password),
            (Self::Plain | Self::Password, _) => SaslVerdict::Accepted,
        }
    }
}
