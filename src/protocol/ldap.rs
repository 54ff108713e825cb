//! LDAP: the client speaks first, StartTLS is sent before its first message, and nothing is rewritten unless we sign in.
//!
//! Sources: RFC 4511 (§4.1.1 messages, §4.14 StartTLS, §4.4.1 notice of disconnection, appendix A result codes), X.690
//! §8.1 (BER). Active Directory sends lengths of four bytes where one would suffice.

mod bind;
mod login;
mod own_binds;

use std::borrow::Cow;
use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    Login, LoginContext, NothingBuffered, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal,
    RefusalKind, ReplyTo, SecretKind, Service, TurnedAway, Upgrade, UpgradeError, UpgradeStep, Upgraded,
};

/// LDAPv3 (RFC 4511).
#[derive(Debug)]
pub(super) struct Ldap;

impl Protocol for Ldap {
    fn label(&self) -> &'static str {
        "ldap"
    }

    fn service(&self) -> Service {
        Service { tls_names: &["ldaps"], ports: &[389, 3268], tls_ports: &[636, 3269], ..Service::UNKNOWN }
    }

    /// slapd takes 548.
    fn proxy_header_max(&self) -> usize {
        512
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; use ldap:// instead of ldaps://";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::default()))
    }

    /// `idletimeout` is off by default in OpenLDAP; Active Directory's InitRecvTimeout is 120 s.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// `idletimeout` is off by default.
    fn silence_timeout(&self) -> Option<Duration> {
        None
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(result(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(AnonymousBind::default()))
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::Certificate]
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::BindLogin::new(context)))
    }
}

// ---------------------------------------------------------------------------------------------------
// BER

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
const OCTET_STRING: u8 = 0x04;

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const EXTENDED_RESPONSE: u8 = 0x78;

/// A tag with its content, and the bytes after it.
#[derive(Debug)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

/// Why there is no element.
#[derive(Debug, PartialEq, Eq)]
enum Ber {
    /// It extends beyond these bytes.
    Incomplete,
    /// It is not valid in LDAP.
    Malformed,
}

/// Longer than any message that is read.
const ELEMENT_MAX: usize = 64 * 1024;

/// The first element of `bytes`, with a definite length in any form: LDAP allows all of them (RFC 4511 §5.1).
fn element(bytes: &[u8]) -> Result<Element<'_>, Ber> {
    let (head, length) = head(bytes)?;
    if length > ELEMENT_MAX {
        return Err(Ber::Malformed);
    }
    let whole = bytes.get(head..).ok_or(Ber::Incomplete)?;
    let (content, rest) = whole.split_at_checked(length).ok_or(Ber::Incomplete)?;
    Ok(Element { tag: bytes[0], content, rest })
}

/// The lengths of an element's head and of its content.
fn head(bytes: &[u8]) -> Result<(usize, usize), Ber> {
    match bytes {
        [_, short @ 0..=0x7f, ..] => Ok((2, usize::from(*short))),
        [_, long @ 0x81..=0x84, rest @ ..] => {
            let count = usize::from(long & 0x7f);
            let octets = rest.get(..count).ok_or(Ber::Incomplete)?;
            Ok((2 + count, octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet))))
        }
        [] | [_] => Err(Ber::Incomplete),
        _ => Err(Ber::Malformed),
    }
}

/// An element in the shortest form.
fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    [&head_of(tag, content.len()), content].concat()
}

/// The head of an element with a content of that length.
fn head_of(tag: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![tag];
    match length {
        short @ 0..=0x7f => bytes.push(u8::try_from(short).unwrap_or_default()),
        long => {
            let length = u32::try_from(long).unwrap_or(u32::MAX).to_be_bytes();
            let zeros = length.iter().take_while(|octet| **octet == 0).count();
            bytes.push(0x80 | u8::try_from(length.len() - zeros).unwrap_or_default());
            bytes.extend_from_slice(&length[zeros..]);
        }
    }
    bytes
}

/// An INTEGER that is not negative.
fn number(content: &[u8]) -> Option<u32> {
    if content.is_empty() || content.len() > 5 || content[0] & 0x80 != 0 {
        return None;
    }
    let value = content.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
    u32::try_from(value).ok()
}

fn integer(value: u32) -> Vec<u8> {
    let bytes = [&[0], &value.to_be_bytes()[..]].concat();
    let begin =
        bytes.windows(2).position(|pair| pair[0] != 0 || pair[1] & 0x80 != 0).unwrap_or(bytes.len() - 1);
    encoded(INTEGER, &bytes[begin..])
}

// ---------------------------------------------------------------------------------------------------
// The client's first message

/// The requests that a client may begin with, and their responses.
const REQUESTS: [(u8, u8); 9] = [
    (BIND_REQUEST, BIND_RESPONSE),
    (0x63, 0x65),
    (0x66, 0x67),
    (0x68, 0x69),
    (0x4a, 0x6b),
    (0x6c, 0x6d),
    (0x6e, 0x6f),
    (0x77, EXTENDED_RESPONSE),
    // Unbind and abandon have no response.
    (0x42, 0),
];

/// A SEQUENCE, a message id, a request. The request need not be complete.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    const FOREIGN: FirstMessageVerdict =
        FirstMessageVerdict::Foreign("the client's first bytes are not an LDAP request");
    if bytes.first().is_some_and(|tag| *tag != SEQUENCE) {
        return FOREIGN;
    }
    let begun = head(bytes).and_then(|(head, _)| {
        let body = bytes.get(head..).ok_or(Ber::Incomplete)?;
        let id = element(body)?;
        Ok((id.tag, number(id.content), *id.rest.first().ok_or(Ber::Incomplete)?))
    });
    match begun {
        Err(Ber::Incomplete) => FirstMessageVerdict::Incomplete,
        Ok((INTEGER, Some(id), request)) if REQUESTS.iter().any(|(known, _)| *known == request) => {
            let [a, b, c, d] = id.to_be_bytes();
            FirstMessageVerdict::Speaks(ReplyTo([1, request, a, b, c, d, 0, 0]))
        }
        Ok(_) | Err(Ber::Malformed) => FOREIGN,
    }
}

const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;

/// The response to the client's request; libldap shows its text. A client that has sent no request gets the notice of
/// disconnection.
fn result(refusal: &Refusal<'_>) -> Vec<u8> {
    const PROTOCOL_ERROR: u8 = 2;
    const INSUFFICIENT_ACCESS_RIGHTS: u8 = 50;
    const NOTICE_OF_DISCONNECTION: &[u8] = b"1.3.6.1.4.1.1466.20036";
    let code = match refusal.kind {
        RefusalKind::BadRequest => PROTOCOL_ERROR,
        RefusalKind::Denied | RefusalKind::LoginFailed => INSUFFICIENT_ACCESS_RIGHTS,
        RefusalKind::Full => BUSY as u8,
        RefusalKind::Unreachable | RefusalKind::ShuttingDown => UNAVAILABLE as u8,
    };
    let is_transient = |code: u16| matches!(u32::from(code), BUSY | UNAVAILABLE);
    let refusal = refusal.filtered(|by| by.code.is_some_and(is_transient));
    let code = refusal.server_code().and_then(|code| u8::try_from(code).ok()).unwrap_or(code);
    let ReplyTo([_, request, a, b, c, d, ..]) = refusal.reply_to;
    let response = REQUESTS.iter().find(|(known, response)| *known == request && *response != 0);
    let mut body = encoded(ENUMERATED, &[code]);
    body.extend(encoded(OCTET_STRING, b""));
    body.extend(encoded(OCTET_STRING, refusal.sentence().as_bytes()));
    let (id, tag) = match response {
        Some((_, tag)) => (u32::from_be_bytes([a, b, c, d]), *tag),
        None => {
            body.extend(encoded(0x8a, NOTICE_OF_DISCONNECTION));
            (0, EXTENDED_RESPONSE)
        }
    };
    encoded(SEQUENCE, &[integer(id), encoded(tag, &body)].concat())
}

// ---------------------------------------------------------------------------------------------------
// StartTLS

/// ExtendedRequest 1.3.6.1.4.1.1466.20037, message 1. The client may reuse the number: our operation has ended by then.
const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
/// The most that is read at once; a response has 14 bytes, or some 60.
const PORTION: usize = 512;

/// Sends StartTLS alone: slapd would execute a Bind that follows it, in plaintext.
#[derive(Debug, Default)]
struct StartTls {
    held: Vec<u8>,
}

impl Upgrade for StartTls {
    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::Send(Cow::Borrowed(START_TLS))
    }

    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        self.held.extend_from_slice(bytes);
        if self.held[0] != SEQUENCE {
            return Err(UpgradeError::NotTheProtocol { protocol: "LDAP", byte: self.held[0] });
        }
        match element(&self.held) {
            Err(Ber::Incomplete) => Ok(UpgradeStep::ReadAtMost(PORTION)),
            Err(Ber::Malformed) => Err(MALFORMED),
            Ok(message) => {
                agrees(message.content)?;
                Ok(UpgradeStep::Upgrade(Upgraded::new(NothingBuffered::behind(message.rest)?)))
            }
        }
    }
}

const MALFORMED: UpgradeError = UpgradeError::Unsuitable("the server's answer to StartTLS is malformed");

/// Message id, ExtendedResponse, resultCode success.
fn agrees(message: &[u8]) -> Result<(), UpgradeError> {
    let id = element(message).map_err(|_| MALFORMED)?;
    let response = element(id.rest).map_err(|_| MALFORMED)?;
    match (id.tag, number(id.content), response.tag) {
        (INTEGER, Some(1), EXTENDED_RESPONSE) => {}
        (INTEGER, Some(0), EXTENDED_RESPONSE) => {
            return Err(disconnection(response.content));
        }
        (INTEGER, Some(_), _) => {
            return Err(UpgradeError::Unsuitable(
                "the server answers StartTLS with a message for another request",
            ));
        }
        _ => return Err(MALFORMED),
    }
    let code = element(response.content).map_err(|_| MALFORMED)?;
    match (code.tag, number(code.content)) {
        (ENUMERATED, Some(0)) => Ok(()),
        (ENUMERATED, Some(BUSY | UNAVAILABLE)) => Err(parse_refusal("LDAP result", response.content)),
        (ENUMERATED, Some(_)) => Err(UpgradeError::Declined),
        _ => Err(MALFORMED),
    }
}

/// Notice of disconnection (RFC 4511 §4.4.1). Only these two of its codes mean that the server has no room; any other
/// would answer a request that the client has not sent yet.
fn disconnection(result: &[u8]) -> UpgradeError {
    match element(result).map(|code| (code.tag, number(code.content))) {
        Ok((ENUMERATED, Some(BUSY | UNAVAILABLE))) => parse_refusal("LDAP notice of disconnection", result),
        _ => {
            UpgradeError::Unsuitable("the server gives notice of disconnection instead of answering StartTLS")
        }
    }
}

/// LDAPResult: a code, a name, and a text for users.
fn parse_refusal(kind: &'static str, result: &[u8]) -> UpgradeError {
    let read = || {
        let code = element(result).ok()?;
        let message = element(element(code.rest).ok()?.rest).ok()?;
        Some((u16::try_from(number(code.content)?).ok(), message.content.to_vec()))
    };
    let (code, words) = read().unwrap_or_default();
    TurnedAway::new(kind, code, &words).into()
}

// ---------------------------------------------------------------------------------------------------
// The probe

/// An anonymous Bind without a password: the server answers it in any case.
#[derive(Debug, Default)]
struct AnonymousBind {
    held: Vec<u8>,
}

impl Probe for AnonymousBind {
    fn begin(&mut self) -> Vec<u8> {
        b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00".to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection instead of answering a bind".into()));
        }
        self.held.extend_from_slice(bytes);
        let malformed = |_| ProbeError("the server's answer to a bind is not LDAP".into());
        let message = match element(&self.held) {
            Err(Ber::Incomplete) if self.held[0] == SEQUENCE => return Ok(ProbeStep::Incomplete),
            message => message.map_err(malformed)?,
        };
        let id = element(message.content).map_err(malformed)?;
        let response = element(id.rest).map_err(malformed)?;
        let code = element(response.content).map_err(malformed)?;
        match (response.tag, number(code.content)) {
            (BIND_RESPONSE, Some(BUSY)) => Err(ProbeError("the server is busy (51)".into())),
            (BIND_RESPONSE, Some(UNAVAILABLE)) => Err(ProbeError("the server is unavailable (52)".into())),
            (BIND_RESPONSE, Some(_)) => {
                Ok(ProbeStep::Serves { goodbye: b"\x30\x05\x02\x01\x02\x42\x00".to_vec() })
            }
            _ => Err(ProbeError("the server's answer to a bind is another".into())),
        }
    }
}

#[cfg(test)]
mod tests;
