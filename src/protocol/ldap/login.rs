//! Signs in to an LDAP server for the client: a simple bind ahead of its first message. Binds that the client begins with
//! are then answered by us if they are of nobody or of our own name; whatever else it says is the server's.
//!
//! A bind of another name must be the server's: programs check their users' passwords by it, and an answer of ours would
//! let everybody in.
//!
//! Sources: RFC 4511 §4.2 (bind), §4.4.1 (notice of disconnection), appendix A (result codes); RFC 4513 §5.1.2 (a bind
//! without a password is anonymous, so none is sent). Deliberately absent: SASL; a bind behind the client's first other
//! request.

use super::{
    BIND_REQUEST, BIND_RESPONSE, BUSY, Ber, ELEMENT_MAX, ENUMERATED, EXTENDED_RESPONSE, INTEGER,
    OCTET_STRING, SEQUENCE, UNAVAILABLE, element, encoded, head, head_of, integer, number,
};
use crate::protocol::login::{
    AllowedMechanisms, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SignedIn, secret_message,
};
use crate::protocol::{Dialogue, DialogueError, Outbox, TurnedAway};

/// The message id of our bind. StartTLS had 1; the client may reuse both, since both operations have ended by then.
const OWN_ID: u32 = 2;
/// The choice `simple` of AuthenticationChoice.
const SIMPLE: u8 = 0x80;
const VERSION: [u8; 3] = [INTEGER, 1, 3];

/// One login.
#[derive(Debug)]
pub(super) struct SimpleBind {
    credentials: LoginCredentials,
    opening: Vec<u8>,
    held: Vec<u8>,
}

const MALFORMED: LoginError = LoginError::Malformed { protocol: "LDAP", reason: "it is no answer to a bind" };

impl SimpleBind {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, opening, .. } = context;
        Self { credentials, opening: opening.to_vec(), held: Vec::new() }
    }

    fn signed_in(&mut self, behind: Vec<u8>) -> LoginStep {
        let mut binds = OwnBinds { name: self.credentials.user.clone(), held: Vec::new(), is_passing: false };
        let mut out = Outbox::default();
        binds.take(&std::mem::take(&mut self.opening), &mut out);
        out.to_downstream.extend(behind);
        let is_over = binds.is_finished();
        LoginStep::SignedIn(SignedIn {
            to_client: out.to_downstream,
            to_server: out.to_upstream,
            dialogue: (!is_over).then(|| Box::new(binds) as Box<dyn Dialogue>),
            ..SignedIn::default()
        })
    }

    /// The result of the bind, or of the connection where the id is 0.
    fn result(&mut self, id: u32, result: &[u8], behind: Vec<u8>) -> Result<LoginStep, LoginError> {
        let code = element(result).map_err(|_| MALFORMED)?;
        let number = number(code.content).filter(|_| code.tag == ENUMERATED).ok_or(MALFORMED)?;
        let kind = if id == 0 { "LDAP notice of disconnection" } else { "LDAP result" };
        let words = || element(element(code.rest).ok()?.rest).ok().map(|words| words.content);
        let words = words().filter(|words| !words.is_empty()).unwrap_or_else(|| meaning(number).as_bytes());
        let by = self.credentials.verdict(TurnedAway::new(kind, u16::try_from(number).ok(), words), result);
        // A password, and what a server demands of binds: a name that is none, TLS, or another mechanism.
        let is_of_secret = matches!(number, 32 | 48 | 49 | 53);
        match number {
            0 if id == OWN_ID => Ok(self.signed_in(behind)),
            0 => Err(MALFORMED),
            _ if id != 0 && (is_of_secret || matches!(number, 7 | 8 | 13 | 34)) => {
                Err(LoginError::Rejected { user: self.credentials.user.clone(), by, is_of_secret })
            }
            _ => Err(LoginError::TurnedAway(by)),
        }
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
        53 => "unwilling to perform",
        BUSY => "busy",
        UNAVAILABLE => "unavailable",
        _ => "",
    }
}

impl Login for SimpleBind {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let LoginCredentials { user, secret } = &self.credentials;
        let (name, password) = (user.as_bytes(), secret.expose().as_bytes());
        if name.is_empty() || password.is_empty() {
            let offered = "binds with a name and a password; others are anonymous";
            return Err(self.credentials.no_mechanism(&AllowedMechanisms::default(), &[offered]));
        }
        let (name_head, password_head) = (head_of(OCTET_STRING, name.len()), head_of(SIMPLE, password.len()));
        let bind = [&VERSION, &name_head[..], name, &password_head, password];
        let length = |parts: &[&[u8]]| parts.iter().map(|part| part.len()).sum();
        let bind_head = head_of(BIND_REQUEST, length(&bind));
        let id = integer(OWN_ID);
        let message = [&[&id[..], &bind_head], &bind[..]].concat();
        let message_head = head_of(SEQUENCE, length(&message));
        Ok(LoginStep::Send(secret_message(&[&[&message_head[..]], &message[..]].concat())))
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
            (INTEGER, Some(OWN_ID), BIND_RESPONSE) => {
                self.result(OWN_ID, response.content, message.rest.to_vec())
            }
            (INTEGER, Some(0), EXTENDED_RESPONSE) => self.result(0, response.content, Vec::new()),
            _ => Err(MALFORMED),
        }
    }
}

/// Answers the binds that the client begins with.
#[derive(Debug)]
struct OwnBinds {
    /// Who we have signed in as.
    name: String,
    /// The begin of a message.
    held: Vec<u8>,
    /// The client has sent another request.
    is_passing: bool,
}

/// A message of the client.
enum Request {
    Incomplete,
    /// A bind that is ours to answer: its id, and its length.
    OwnBind(u32, usize),
    Other,
}

impl OwnBinds {
    fn take(&mut self, bytes: &[u8], out: &mut Outbox) {
        if self.is_passing {
            out.to_upstream.extend_from_slice(bytes);
            return;
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        loop {
            match request(rest, &self.name) {
                Request::Incomplete => {
                    self.held = rest.to_vec();
                    return;
                }
                Request::OwnBind(id, length) => {
                    out.to_downstream.extend(success(id));
                    rest = &rest[length..];
                }
                Request::Other => {
                    self.is_passing = true;
                    out.to_upstream.extend_from_slice(rest);
                    return;
                }
            }
        }
    }
}

/// The first message. What is wrong with one, the server says.
fn request(bytes: &[u8], own: &str) -> Request {
    let bind = || {
        let (head, length) = head(bytes)?;
        if bytes[0] != SEQUENCE || length > ELEMENT_MAX {
            return Err(Ber::Malformed);
        }
        let id = element(&bytes[head.min(bytes.len())..])?;
        if *id.rest.first().ok_or(Ber::Incomplete)? != BIND_REQUEST {
            return Err(Ber::Malformed);
        }
        let message = element(bytes)?;
        let id = element(message.content).map_err(|_| Ber::Malformed)?;
        let bind = element(id.rest).map_err(|_| Ber::Malformed)?;
        let version = element(bind.content).map_err(|_| Ber::Malformed)?;
        let name = element(version.rest).map_err(|_| Ber::Malformed)?;
        let choice = element(name.rest).map_err(|_| Ber::Malformed)?;
        let is_own = (name.tag, choice.tag) == (OCTET_STRING, SIMPLE)
            && (name.content.is_empty() || is_same_name(name.content, own));
        let number = number(id.content).filter(|_| is_own).ok_or(Ber::Malformed)?;
        Ok((number, bytes.len() - message.rest.len()))
    };
    match bind() {
        Ok((id, length)) => Request::OwnBind(id, length),
        Err(Ber::Incomplete) => Request::Incomplete,
        Err(Ber::Malformed) => Request::Other,
    }
}

/// Whether two names are written alike, but for case and for spaces behind commas.
fn is_same_name(name: &[u8], own: &str) -> bool {
    let parts = |name: &str| name.split(',').map(|part| part.trim().to_lowercase()).collect::<Vec<_>>();
    std::str::from_utf8(name).is_ok_and(|name| parts(name) == parts(own))
}

/// The BindResponse of a bind that went well.
fn success(id: u32) -> Vec<u8> {
    let result = [encoded(ENUMERATED, &[0]), encoded(OCTET_STRING, b""), encoded(OCTET_STRING, b"")].concat();
    encoded(SEQUENCE, &[integer(id), encoded(BIND_RESPONSE, &result)].concat())
}

impl Dialogue for OwnBinds {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.take(bytes, out);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_downstream.extend_from_slice(bytes);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_passing
    }
}

#[cfg(test)]
mod tests;
