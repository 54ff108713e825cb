//! Our bind request, and what a server's answer to it means.
//!
//! Sources: RFC 4511 §4.2 (bind), appendix A (result codes); RFC 4513 §5.2.3 (EXTERNAL), §5.2.1.8 (authorization identities);
//! saslauthz.c of OpenLDAP (who may be whom).

use zeroize::Zeroizing;

use super::{
    BIND_REQUEST, BUSY, ENUMERATED, INTEGER, OCTET_STRING, SEQUENCE, UNAVAILABLE, element, head_of, integer,
    number,
};
use crate::protocol::TurnedAway;
use crate::protocol::login::{LoginCredentials, SecretKind, secret_message};

/// The choice `simple` of AuthenticationChoice.
pub(super) const SIMPLE: u8 = 0x80;
/// The choice `sasl`.
pub(super) const SASL: u8 = 0xa3;
pub(super) const VERSION: [u8; 3] = [INTEGER, 1, 3];

/// The server expects another message of a SASL exchange; EXTERNAL has one.
pub(super) const IN_PROGRESS: u32 = 14;

/// What a server says to a bind.
#[derive(Debug)]
pub(super) struct BindResult<'a> {
    pub(super) code: u32,
    words: &'a [u8],
    whole: &'a [u8],
}

impl<'a> BindResult<'a> {
    /// Of the content of a response; `None`: it is none.
    pub(super) fn parse(whole: &'a [u8]) -> Option<Self> {
        let code = element(whole).ok()?;
        let number = number(code.content).filter(|_| code.tag == ENUMERATED)?;
        let words = || element(element(code.rest).ok()?.rest).ok().map(|words| words.content);
        let words = words().filter(|words| !words.is_empty()).unwrap_or_else(|| meaning(number).as_bytes());
        Some(Self { code: number, words, whole })
    }

    /// Whether it rejects the credentials: `Some(true)`, because of the secret, or because of what a server demands of binds, such
    /// as a name that is one; `Some(false)`, whatever the secret is.
    pub(super) const fn judges_secret(&self) -> Option<bool> {
        match self.code {
            // The last three: a certificate that may not be who it says.
            32 | 48 | 49 | 53 | 50 | 71 | 123 => Some(true),
            7 | 8 | 13 | 34 => Some(false),
            _ => None,
        }
    }

    /// As words that do not repeat the secret.
    pub(super) fn verdict(&self, kind: &'static str, credentials: &LoginCredentials) -> TurnedAway {
        let by = TurnedAway::new(kind, u16::try_from(self.code).ok(), self.words);
        credentials.verdict(by, self.whole)
    }
}

/// A bind with these credentials.
pub(super) fn bind_message(id: u32, credentials: &LoginCredentials) -> Zeroizing<Vec<u8>> {
    let LoginCredentials { user, secret } = credentials;
    let is_external = secret.kind() == SecretKind::Certificate;
    let identity = if is_external { authorization_identity(user) } else { String::new() };
    let mechanism = head_of(OCTET_STRING, EXTERNAL.len());
    let identity_head = head_of(OCTET_STRING, identity.len());
    let external: [&[u8]; 4] = [&mechanism, EXTERNAL, &identity_head, identity.as_bytes()];
    let (name, choice, proof): (&[u8], u8, &[&[u8]]) = match is_external {
        true => (b"", SASL, &external),
        false => (user.as_bytes(), SIMPLE, &[secret.expose().as_bytes()]),
    };
    let length = |parts: &[&[u8]]| parts.iter().map(|part| part.len()).sum();
    let (name_head, choice_head) = (head_of(OCTET_STRING, name.len()), head_of(choice, length(proof)));
    let bind = [&[&VERSION, &name_head[..], name, &choice_head], proof].concat();
    let bind_head = head_of(BIND_REQUEST, length(&bind));
    let id = integer(id);
    let message = [&[&id[..], &bind_head], &bind[..]].concat();
    let message_head = head_of(SEQUENCE, length(&message));
    secret_message(&[&[&message_head[..]], &message[..]].concat())
}

const EXTERNAL: &[u8] = b"EXTERNAL";

/// A name as SASL has it: that of an entry, unless it says what it is.
fn authorization_identity(user: &str) -> String {
    if user.is_empty() || user.starts_with("dn:") || user.starts_with("u:") {
        user.to_owned()
    } else {
        format!("dn:{user}")
    }
}

/// Words for servers that have none of their own.
const fn meaning(code: u32) -> &'static str {
    match code {
        8 => "stronger authentication required",
        13 => "confidentiality required",
        32 => "no such object",
        34 => "invalid DN syntax",
        48 => "inappropriate authentication",
        49 => "invalid credentials",
        50 => "insufficient access",
        53 => "unwilling to perform",
        BUSY => "busy",
        UNAVAILABLE => "unavailable",
        _ => "",
    }
}
