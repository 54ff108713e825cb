//! Signs in to an LDAP server for the client, ahead of its first message: by a simple bind, or by SASL EXTERNAL with the TLS
//! client certificate. Whatever binds the client sends after that is the matter of [`OwnBinds`].
//!
//! Sources: RFC 4511 §4.2 (bind), §4.4.1 (notice of disconnection), appendix A (result codes); RFC 4513 §5.1.2 (a bind
//! without a password is anonymous, so none is sent), §5.2.3 (EXTERNAL), §5.2.1.8 (authorization identities); saslauthz.c
//! of OpenLDAP (who may be whom). Deliberately absent: other SASL mechanisms.

use zeroize::Zeroizing;

use super::own_binds::OwnBinds;
use super::{
    BIND_REQUEST, BIND_RESPONSE, BUSY, Ber, ENUMERATED, EXTENDED_RESPONSE, INTEGER, OCTET_STRING, SEQUENCE,
    UNAVAILABLE, element, head_of, integer, number,
};
use crate::protocol::login::{
    Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind, SignedIn, secret_message,
};
use crate::protocol::{Dialogue, Outbox, TurnedAway};

/// The message id of our bind. StartTLS had 1; the client may reuse both, since both operations have ended by then.
const OWN_ID: u32 = 2;
/// The choice `simple` of AuthenticationChoice.
pub(super) const SIMPLE: u8 = 0x80;
/// The choice `sasl`.
const SASL: u8 = 0xa3;
const VERSION: [u8; 3] = [INTEGER, 1, 3];

/// One login.
#[derive(Debug)]
pub(super) struct BindLogin {
    credentials: LoginCredentials,
    opening: Vec<u8>,
    held: Vec<u8>,
}

const MALFORMED: LoginError = LoginError::Malformed { protocol: "LDAP", reason: "it is no answer to a bind" };

impl BindLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, opening, .. } = context;
        Self { credentials, opening: opening.to_vec(), held: Vec::new() }
    }

    fn signed_in(&mut self, behind: &[u8]) -> Result<LoginStep, LoginError> {
        let mut binds = OwnBinds::new(self.credentials.clone());
        let mut out = Outbox::default();
        binds
            .on_downstream(&std::mem::take(&mut self.opening), &mut out)
            .and_then(|()| binds.on_upstream(behind, &mut out))
            .map_err(|error| LoginError::Client(error.reason))?;
        let is_over = binds.is_finished();
        Ok(LoginStep::SignedIn(SignedIn {
            to_client: out.to_downstream,
            to_server: out.to_upstream,
            dialogue: (!is_over).then(|| Box::new(binds) as Box<dyn Dialogue>),
            ..SignedIn::default()
        }))
    }

    /// The result of the bind, or of the connection where the id is 0.
    fn result(&mut self, id: u32, result: &[u8], behind: &[u8]) -> Result<LoginStep, LoginError> {
        let result = BindResult::parse(result).ok_or(MALFORMED)?;
        let kind = if id == 0 { "LDAP notice of disconnection" } else { "LDAP result" };
        match result.code {
            0 if id == OWN_ID => self.signed_in(behind),
            0 | IN_PROGRESS => Err(MALFORMED),
            _ => {
                let by = result.verdict(kind, &self.credentials);
                match result.judges_secret() {
                    Some(is_of_secret) if id != 0 => {
                        let user = self.credentials.user.clone();
                        Err(LoginError::Rejected { user, by, is_of_secret })
                    }
                    _ => Err(LoginError::TurnedAway(by)),
                }
            }
        }
    }
}

/// The server expects another message of a SASL exchange; EXTERNAL has one.
const IN_PROGRESS: u32 = 14;

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

impl Login for BindLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let LoginCredentials { user, secret } = &self.credentials;
        let is_password = secret.kind() != SecretKind::Certificate;
        if is_password && (user.is_empty() || secret.expose().is_empty()) {
            let offered = "binds with a name and a password; others are anonymous".into();
            return Err(LoginError::NoMechanism { kind: secret.kind(), offered });
        }
        Ok(LoginStep::Send(bind_message(OWN_ID, &self.credentials)))
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.held.extend_from_slice(bytes);
        if self.held[0] != SEQUENCE {
            return Err(MALFORMED);
        }
        let held = std::mem::take(&mut self.held);
        let message = match element(&held) {
            Err(Ber::Incomplete) => {
                self.held = held;
                return Ok(LoginStep::Read);
            }
            message => message.map_err(|_| MALFORMED)?,
        };
        let id = element(message.content).map_err(|_| MALFORMED)?;
        let response = element(id.rest).map_err(|_| MALFORMED)?;
        match (id.tag, number(id.content), response.tag) {
            (INTEGER, Some(OWN_ID), BIND_RESPONSE) => self.result(OWN_ID, response.content, message.rest),
            (INTEGER, Some(0), EXTENDED_RESPONSE) => self.result(0, response.content, b""),
            _ => Err(MALFORMED),
        }
    }
}

#[cfg(test)]
mod tests;
