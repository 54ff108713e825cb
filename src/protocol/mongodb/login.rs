//! Signs in to MongoDB for the client ahead of its first message, which then goes on as it is: by SCRAM-SHA-256, or by
//! MONGODB-X509, where the TLS client certificate is the proof.
//!
//! A client that has credentials of its own cannot be served: SCRAM would have to prove to it that we know its password.
//! So the client is to have none.
//!
//! Sources: github.com/mongodb/specifications, "Authentication" (saslStart, saslContinue, `skipEmptyExchange`, error 18,
//! `authenticate` with MONGODB-X509 and its database `$external`);
//! MongoDB's error_codes.yml; bsonspec.org. Deliberately absent: SCRAM-SHA-1, MONGODB-OIDC.

use zeroize::Zeroizing;

use super::{HEAD, OP_MSG, document, element, le_u32, message, string};
use crate::protocol::TurnedAway;
use crate::protocol::login::{
    AllowedMechanisms, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind, SignedIn,
};
use crate::protocol::sasl::scram::{Binding, Scram};

/// The longest answer to a step of the login.
const ANSWER_MAX: usize = 64 * 1024;
/// The body of OP_MSG before its document: flags, and the kind of its section.
const BODY_HEAD: usize = 5;
/// The database of users that something else than MongoDB knows.
const EXTERNAL: &str = "$external";
const AUTHENTICATION_FAILED: u32 = 18;
const MECHANISM_UNAVAILABLE: u32 = 334;

/// One login.
#[derive(Debug)]
pub(super) struct SaslLogin {
    credentials: LoginCredentials,
    mechanisms: AllowedMechanisms,
    /// The database that knows the user.
    source: String,
    opening: Vec<u8>,
    /// `None`: MONGODB-X509.
    scram: Option<Scram>,
    expects: Expects,
    held: Vec<u8>,
}

/// The server's next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    /// In answer to MONGODB-X509.
    Accepted,
    ServerFirst,
    ServerFinal,
    /// The server has proved itself, and wants one more message, which is empty.
    Done,
}

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "MongoDB", reason }
}

/// The fields of an answer that matter.
#[derive(Debug, Default)]
struct Answer<'a> {
    is_ok: bool,
    code: Option<u32>,
    words: &'a [u8],
    conversation: &'a [u8],
    is_done: bool,
    payload: &'a [u8],
}

/// Cuts the next element of a document: its type, its name, and its value.
fn next_element<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let (kind, rest) = bytes.split_first()?;
    let name_end = rest.iter().position(|byte| *byte == 0)?;
    let (name, value) = (&rest[..name_end], &rest[name_end + 1..]);
    let sized = |more: usize| Some(usize::try_from(le_u32(value, 0)?).ok()?.saturating_add(more));
    let length = match kind {
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x02 | 0x0d | 0x0e => sized(4)?,
        0x03 | 0x04 => sized(0)?,
        0x05 => sized(5)?,
        0x07 => 12,
        0x08 => 1,
        0x0a => 0,
        0x10 => 4,
        0x13 => 16,
        _ => return None,
    };
    let (value, rest) = value.split_at_checked(length)?;
    *bytes = rest;
    Some((*kind, name, value))
}

/// Reads the document of an OP_MSG.
fn answer(document: &[u8]) -> Option<Answer<'_>> {
    let length = usize::try_from(le_u32(document, 0)?).ok()?;
    let mut rest = document.get(4..length.checked_sub(1)?)?;
    let mut answer = Answer::default();
    while !rest.is_empty() {
        match next_element(&mut rest)? {
            (0x01, b"ok", value) => answer.is_ok = f64::from_le_bytes(*value.first_chunk()?) == 1.0,
            (0x10, b"ok", value) => answer.is_ok = le_u32(value, 0)? == 1,
            (0x08, b"ok", value) => answer.is_ok = value == [1],
            (0x10, b"code", value) => answer.code = le_u32(value, 0),
            (0x02, b"errmsg", value) => answer.words = value.get(4..)?.strip_suffix(&[0])?,
            (0x10, b"conversationId", value) => answer.conversation = value,
            (0x08, b"done", value) => answer.is_done = value == [1],
            (0x05, b"payload", value) => answer.payload = value.get(5..)?,
            _ => {}
        }
    }
    Some(answer)
}

fn binary(name: &str, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("a message of the login is short").to_le_bytes();
    element(0x05, name, &[&length, &[0][..], value].concat())
}

impl SaslLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, mechanisms, database, opening, nonce, .. } = context;
        let (scram, source, expects) = if credentials.secret.kind() == SecretKind::Certificate {
            (None, EXTERNAL, Expects::Accepted)
        } else {
            let scram = Scram::new(credentials.secret.clone(), &credentials.user, &Binding::None, &nonce);
            (Some(scram), database.unwrap_or("admin"), Expects::ServerFirst)
        };
        Self {
            credentials,
            mechanisms,
            source: source.into(),
            opening: opening.to_vec(),
            scram,
            expects,
            held: Vec::new(),
        }
    }

    fn command(&self, mut elements: Vec<Vec<u8>>) -> LoginStep {
        elements.push(string("$db", &self.source));
        let body = [&[0; BODY_HEAD][..], &document(&elements)].concat();
        LoginStep::Send(Zeroizing::new(message([0; 4], OP_MSG, &body)))
    }

    fn go_on(&self, conversation: &[u8], payload: &[u8]) -> LoginStep {
        let begin = element(0x10, "saslContinue", &1_u32.to_le_bytes());
        let conversation = element(0x10, "conversationId", conversation);
        self.command(vec![begin, conversation, binary("payload", payload)])
    }

    fn answered(&mut self, answer: &Answer<'_>) -> Result<LoginStep, LoginError> {
        if !answer.is_ok {
            return Err(self.error(answer));
        }
        let conversation = if answer.conversation.is_empty() { &[0; 4] } else { answer.conversation };
        match (self.expects, &mut self.scram) {
            (Expects::ServerFirst, Some(scram)) => {
                let last = scram.last(answer.payload)?;
                self.expects = Expects::ServerFinal;
                Ok(self.go_on(conversation, &last))
            }
            (Expects::ServerFinal, Some(scram)) => {
                if scram.verify(answer.payload)?.is_some() {
                    return Err(LoginError::Unproven("it reported an error in place of its signature"));
                }
                self.expects = Expects::Done;
                Ok(if answer.is_done { self.signed_in() } else { self.go_on(conversation, b"") })
            }
            (Expects::Done, _) if answer.is_done => Ok(self.signed_in()),
            (Expects::Done, _) => Err(malformed("the login has no end")),
            // MONGODB-X509 has one step.
            (Expects::Accepted, None) => Ok(self.signed_in()),
            (Expects::Accepted, Some(_)) | (Expects::ServerFirst | Expects::ServerFinal, None) => {
                Err(malformed("an answer that belongs to no login"))
            }
        }
    }

    fn signed_in(&mut self) -> LoginStep {
        LoginStep::SignedIn(SignedIn { to_server: std::mem::take(&mut self.opening), ..SignedIn::default() })
    }

    fn error(&self, answer: &Answer<'_>) -> LoginError {
        let code = answer.code.and_then(|code| u16::try_from(code).ok());
        let by = self.credentials.verdict(TurnedAway::new("MongoDB error", code, answer.words), answer.words);
        match answer.code {
            Some(AUTHENTICATION_FAILED) => {
                let is_of_secret = self.expects != Expects::ServerFirst;
                LoginError::Rejected { user: self.credentials.shown().to_owned(), by, is_of_secret }
            }
            Some(MECHANISM_UNAVAILABLE) => {
                let offered = match self.scram {
                    Some(_) => "no SCRAM-SHA-256 for that user",
                    None => "no MONGODB-X509",
                };
                self.credentials.no_mechanism(&self.mechanisms, &[offered])
            }
            _ => LoginError::TurnedAway(by),
        }
    }
}

impl Login for SaslLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let Some(scram) = &self.scram else {
            let begin = element(0x10, "authenticate", &1_u32.to_le_bytes());
            let user = &self.credentials.user;
            let user = (!user.is_empty()).then(|| string("user", user));
            let command = [begin, string("mechanism", "MONGODB-X509")].into_iter().chain(user);
            return Ok(self.command(command.collect()));
        };
        let options = document(&[element(0x08, "skipEmptyExchange", &[1])]);
        Ok(self.command(vec![
            element(0x10, "saslStart", &1_u32.to_le_bytes()),
            string("mechanism", "SCRAM-SHA-256"),
            binary("payload", &scram.first()),
            element(0x03, "options", &options),
        ]))
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.held.extend_from_slice(bytes);
        let Some(length) = le_u32(&self.held, 0) else { return Ok(LoginStep::Read) };
        let length = length as usize;
        if !(HEAD + BODY_HEAD..=ANSWER_MAX).contains(&length) {
            return Err(malformed("an answer of impossible length"));
        }
        if self.held.len() < length {
            return Ok(LoginStep::Read);
        }
        let held = std::mem::take(&mut self.held);
        if held.len() > length || le_u32(&held, 12) != Some(OP_MSG) || held[HEAD + 4] != 0 {
            return Err(malformed("its answer is not one OP_MSG with one document"));
        }
        let answer = answer(&held[HEAD + BODY_HEAD..]).ok_or(malformed("its answer is no document"))?;
        self.answered(&answer)
    }
}

#[cfg(test)]
mod tests;
