//! The binds of a client that we have signed in. As long as the connection is ours, binds of nobody and of our own name
//! are answered by us. A bind of another name is the server's: programs check their users' passwords by it, and an answer
//! of ours would let everybody in. After it the connection is of that user, or of nobody; a client that then binds
//! as us again, as Apache and Dovecot do, has its bind replaced by ours. Its placeholder never reaches the server, which
//! might count it against the account.
//!
//! Sources: RFC 4511 §4.2.1 (what a bind does to a connection, also one that fails; a client waits for its result).
//! Deliberately absent: names that are written differently than by case and spaces; a bind inside a SASL security layer,
//! behind which nothing is read.

use super::bind::{BindResult, SIMPLE, bind_message};
use super::{
    BIND_REQUEST, BIND_RESPONSE, BUSY, Ber, ELEMENT_MAX, ENUMERATED, INTEGER, OCTET_STRING, SEQUENCE,
    element, encoded, head, integer, number,
};
use crate::protocol::login::LoginCredentials;
use crate::protocol::{Dialogue, DialogueError, Outbox, ReplyTo};

/// Follows the binds of a session.
#[derive(Debug)]
pub(super) struct OwnBinds {
    credentials: LoginCredentials,
    client: Messages,
    server: Messages,
    /// The connection is still, or again, of our user.
    is_ours: bool,
    asked: Option<Asked>,
    /// The server has rejected our credentials in this session; they are not tried again.
    rejected: Option<Rejected>,
    /// Something is no message of LDAP: nothing is read any more.
    is_passing: bool,
}

/// A bind of ours, in place of the client's, that the server has not answered.
#[derive(Debug)]
struct Asked {
    id: u32,
    /// No bind of another name followed it.
    is_last: bool,
}

#[derive(Debug)]
struct Rejected {
    code: u32,
    words: String,
}

impl OwnBinds {
    pub(super) fn new(credentials: LoginCredentials) -> Self {
        Self {
            credentials,
            client: Messages::default(),
            server: Messages::default(),
            is_ours: true,
            asked: None,
            rejected: None,
            is_passing: false,
        }
    }

    /// A bind of the client.
    fn bind(&mut self, bind: &[u8], out: &mut Outbox) {
        let own = self.credentials.user.strip_prefix("dn:").unwrap_or(&self.credentials.user);
        let Some(id) = own_bind(bind, own) else {
            self.is_ours = false;
            self.asked = self.asked.take().map(|asked| Asked { is_last: false, ..asked });
            out.to_upstream.extend_from_slice(bind);
            return;
        };
        match (&self.rejected, &self.asked) {
            _ if self.is_ours => out.to_downstream.extend(response(id, 0, "")),
            (_, Some(_)) => out.to_downstream.extend(response(id, BUSY, "a bind is under way")),
            (Some(Rejected { code, words }), None) => out.to_downstream.extend(response(id, *code, words)),
            (None, None) => {
                self.asked = Some(Asked { id, is_last: true });
                out.to_upstream.extend_from_slice(&bind_message(id, &self.credentials));
            }
        }
    }

    /// The server's answer to a bind.
    fn answer(&mut self, answer: &[u8], out: &mut Outbox) {
        let result = bind_result(answer);
        let of_ours = result.filter(|(id, _)| self.asked.as_ref().is_some_and(|asked| asked.id == *id));
        if let Some((id, result)) = of_ours {
            self.is_ours = result.code == 0 && self.asked.take().is_some_and(|asked| asked.is_last);
            self.asked = None;
            if result.judges_secret().is_some() {
                let words = result.verdict("LDAP result", &self.credentials).words;
                out.to_downstream.extend(response(id, result.code, &words));
                self.rejected = Some(Rejected { code: result.code, words });
                return;
            }
        }
        out.to_downstream.extend_from_slice(answer);
    }

    /// Some bytes are no message; all of them pass from now on.
    fn pass(&mut self, out: &mut Outbox) {
        self.is_passing = true;
        out.to_upstream.append(&mut self.client.held);
        out.to_downstream.append(&mut self.server.held);
    }
}

impl Dialogue for OwnBinds {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.client.held.extend_from_slice(bytes);
        while !self.is_passing {
            match self.client.next(BIND_REQUEST) {
                Part::Incomplete => return Ok(()),
                Part::Whole(bind) => self.bind(&bind, out),
                Part::Other(bytes) => out.to_upstream.extend(bytes),
                Part::TooLong(id) => {
                    let [a, b, c, d] = id.to_be_bytes();
                    let reply_to = ReplyTo([1, BIND_REQUEST, a, b, c, d, 0, 0]);
                    return Err(DialogueError::of_client(
                        "the client's bind is longer than 64 KiB",
                        reply_to,
                    ));
                }
                Part::Foreign => self.pass(out),
            }
        }
        out.to_upstream.append(&mut self.client.held);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.server.held.extend_from_slice(bytes);
        while !self.is_passing {
            match self.server.next(BIND_RESPONSE) {
                Part::Incomplete => return Ok(()),
                Part::Whole(answer) => self.answer(&answer, out),
                Part::Other(bytes) => out.to_downstream.extend(bytes),
                Part::TooLong(_) | Part::Foreign => self.pass(out),
            }
        }
        out.to_downstream.append(&mut self.server.held);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_passing
    }
}

/// Cuts one side's bytes into messages.
#[derive(Debug, Default)]
struct Messages {
    held: Vec<u8>,
    /// Bytes to come of a message that is not looked at.
    left: usize,
}

/// What a side's bytes begin with.
#[derive(Debug)]
enum Part {
    Incomplete,
    /// A message with the operation that is looked at.
    Whole(Vec<u8>),
    /// The same, but too long: its id.
    TooLong(u32),
    /// Of other messages.
    Other(Vec<u8>),
    Foreign,
}

impl Messages {
    fn next(&mut self, operation: u8) -> Part {
        if self.held.is_empty() {
            return Part::Incomplete;
        }
        if self.left == 0 {
            let (id, length, its) = match begin(&self.held) {
                Ok(begin) => begin,
                Err(Ber::Incomplete) => return Part::Incomplete,
                Err(Ber::Malformed) => return Part::Foreign,
            };
            match its == operation {
                true if length > ELEMENT_MAX => return Part::TooLong(id),
                true if length > self.held.len() => return Part::Incomplete,
                true => return Part::Whole(self.held.drain(..length).collect()),
                false => self.left = length,
            }
        }
        let taken = self.left.min(self.held.len());
        self.left -= taken;
        Part::Other(self.held.drain(..taken).collect())
    }
}

/// Of the first message: its id, its length, and its operation. None of them need be complete.
fn begin(bytes: &[u8]) -> Result<(u32, usize, u8), Ber> {
    let (head, length) = match bytes {
        [SEQUENCE, ..] => head(bytes)?,
        _ => return Err(Ber::Malformed),
    };
    let id = element(bytes.get(head..).ok_or(Ber::Incomplete)?)?;
    let number = number(id.content).filter(|_| id.tag == INTEGER).ok_or(Ber::Malformed)?;
    let operation = *id.rest.first().ok_or(Ber::Incomplete)?;
    let before = bytes.len() - id.rest.len();
    // Or the operation would be of another message.
    if head + length <= before { Err(Ber::Malformed) } else { Ok((number, head + length, operation)) }
}

/// The id of a bind that is ours to answer: a simple one of nobody or of our own name.
fn own_bind(message: &[u8], own: &str) -> Option<u32> {
    let id = element(element(message).ok()?.content).ok()?;
    let version = element(element(id.rest).ok()?.content).ok()?;
    let name = element(version.rest).ok()?;
    let choice = element(name.rest).ok()?;
    let is_own = name.content.is_empty() || is_same_name(name.content, own);
    number(id.content).filter(|_| is_own && (name.tag, choice.tag) == (OCTET_STRING, SIMPLE))
}

fn bind_result(message: &[u8]) -> Option<(u32, BindResult<'_>)> {
    let id = element(element(message).ok()?.content).ok()?;
    let result = BindResult::parse(element(id.rest).ok()?.content)?;
    Some((number(id.content)?, result))
}

/// Whether two names are written alike, but for case and for spaces around commas and equals signs.
fn is_same_name(name: &[u8], own: &str) -> bool {
    let parts = |name: &str| {
        name.split(',')
            .map(|part| part.split('=').map(|text| text.trim().to_lowercase()).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    std::str::from_utf8(name).is_ok_and(|name| parts(name) == parts(own))
}

/// A BindResponse.
pub(super) fn response(id: u32, code: u32, words: &str) -> Vec<u8> {
    // The same content as an INTEGER's, which may have a zero ahead.
    let code = encoded(ENUMERATED, &integer(code)[2..]);
    let result = [code, encoded(OCTET_STRING, b""), encoded(OCTET_STRING, words.as_bytes())];
    encoded(SEQUENCE, &[integer(id), encoded(BIND_RESPONSE, &result.concat())].concat())
}

#[cfg(test)]
mod tests;
