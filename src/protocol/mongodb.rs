//! MongoDB: TLS with the first byte, nothing rewritten unless we sign in. A replica set names its members to clients: see
//! docs/protocols/direct.md.
//!
//! Sources: mongodb.com, "MongoDB Wire Protocol" (message header, OP_MSG, OP_QUERY, OP_REPLY, OP_COMPRESSED);
//! bsonspec.org.

mod login;

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    Login, LoginContext, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo,
    SecretKind, Service,
};

#[derive(Debug)]
pub(super) struct MongoDb;

impl Protocol for MongoDb {
    fn label(&self) -> &'static str {
        "mongodb"
    }

    fn service(&self) -> Service {
        Service { names: &["mongo"], ..Service::UNKNOWN }
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; set tls=false in the connection string";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// Servers do not limit the time before `hello`.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// Servers do not limit the time before `hello`.
    fn silence_timeout(&self) -> Option<Duration> {
        None
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Hello::default()))
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::Certificate]
    }

    /// Since MongoDB 3.4.
    fn certificate_names_user(&self) -> bool {
        true
    }

    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        match kind {
            SecretKind::Password => &["SCRAM-SHA-256"],
            SecretKind::Certificate => &["MONGODB-X509"],
            SecretKind::BearerToken
            | SecretKind::PasswordToken
            | SecretKind::LoneToken
            | SecretKind::Nkey => &[],
        }
    }

    fn names_database_in_login(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::SaslLogin::new(context)))
    }
}

const HEAD: usize = 16;
const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_COMPRESSED: u32 = 2012;
const OP_MSG: u32 = 2013;
/// The maxMessageSizeBytes that servers announce.
const MESSAGE_MAX: u32 = 48_000_000;

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|four| four.first_chunk()).map(|four| u32::from_le_bytes(*four))
}

/// Length, request id, response-to, operation.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    const FOREIGN: FirstMessageVerdict =
        FirstMessageVerdict::Foreign("the client's first message is not MongoDB's");
    if le_u32(bytes, 0).is_some_and(|length| !(HEAD as u32..=MESSAGE_MAX).contains(&length)) {
        return FOREIGN;
    }
    match (le_u32(bytes, 4), le_u32(bytes, 12)) {
        (Some(request), Some(operation @ (OP_QUERY | OP_COMPRESSED | OP_MSG))) => {
            let [a, b, c, d] = request.to_le_bytes();
            FirstMessageVerdict::Speaks(ReplyTo([1, u8::from(operation == OP_QUERY), a, b, c, d, 0, 0]))
        }
        (_, Some(_)) => FOREIGN,
        (_, None) => FirstMessageVerdict::Incomplete,
    }
}

/// A message with its head.
fn message(response_to: [u8; 4], operation: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEAD + body.len()).unwrap_or_default().to_le_bytes();
    [&length, &[0; 4], &response_to, &operation.to_le_bytes(), body].concat()
}

/// A BSON document of encoded elements.
fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = elements.concat();
    let length = u32::try_from(body.len() + 5).unwrap_or_default().to_le_bytes();
    [&length[..], &body, &[0]].concat()
}

fn element(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [&[kind], name.as_bytes(), &[0], value].concat()
}

fn string(name: &str, value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len() + 1).unwrap_or_default().to_le_bytes();
    element(0x02, name, &[&length, value.as_bytes(), &[0]].concat())
}

/// `{ ok: 0, errmsg, code, codeName }`, by the operation that answers the client's.
fn error(refusal: &Refusal<'_>) -> Vec<u8> {
    let (code, name): (u32, _) = match refusal.kind {
        RefusalKind::BadRequest => (17, "ProtocolError"),
        RefusalKind::Denied | RefusalKind::LoginFailed => (13, "Unauthorized"),
        RefusalKind::Full => (202, "NetworkInterfaceExceededTimeLimit"),
        RefusalKind::Unreachable => (6, "HostUnreachable"),
        RefusalKind::ShuttingDown => (91, "ShutdownInProgress"),
    };
    let answer = document(&[
        element(0x01, "ok", &0.0_f64.to_le_bytes()),
        string("errmsg", &refusal.sentence()),
        element(0x10, "code", &code.to_le_bytes()),
        string("codeName", name),
    ]);
    let ReplyTo([_, is_query, a, b, c, d, ..]) = refusal.reply_to;
    if is_query == 1 {
        // No flags, no cursor, one document from 0.
        let body = [&[0; 4][..], &[0; 8], &[0; 4], &1_u32.to_le_bytes(), &answer].concat();
        return message([a, b, c, d], OP_REPLY, &body);
    }
    message([a, b, c, d], OP_MSG, &[&[0; 5][..], &answer].concat())
}

/// `{ hello: 1, $db: "admin" }`, which needs no login.
#[derive(Debug, Default)]
struct Hello {
    held: Vec<u8>,
}

impl Probe for Hello {
    fn begin(&mut self) -> Vec<u8> {
        let command = document(&[element(0x10, "hello", &1_u32.to_le_bytes()), string("$db", "admin")]);
        message([0; 4], OP_MSG, &[&[0; 5][..], &command].concat())
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection instead of answering hello".into()));
        }
        self.held.extend_from_slice(bytes);
        let Some(length) = le_u32(&self.held, 0) else { return Ok(ProbeStep::Incomplete) };
        if length > MESSAGE_MAX || le_u32(&self.held, 12).is_some_and(|operation| operation != OP_MSG) {
            return Err(ProbeError("the server's answer to hello is not MongoDB's".into()));
        }
        if self.held.len() < length as usize {
            return Ok(ProbeStep::Incomplete);
        }
        // The only double named `ok` in the answer.
        let ok = element(0x01, "ok", &1.0_f64.to_le_bytes());
        if self.held.windows(ok.len()).any(|window| *window == ok) {
            Ok(ProbeStep::Serves { goodbye: Vec::new() })
        } else {
            Err(ProbeError("the server answered hello with an error".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_messages_of_drivers_are_known() {
        for (operation, speaks) in
            [(OP_MSG, true), (OP_QUERY, true), (OP_COMPRESSED, true), (OP_REPLY, false), (2002, false)]
        {
            let bytes = message([0; 4], operation, b"body");
            assert_eq!(matches!(judge(&bytes), FirstMessageVerdict::Speaks(_)), speaks, "{operation}");
            assert!(matches!(judge(&bytes[..15]), FirstMessageVerdict::Incomplete));
        }
        assert!(matches!(judge(b"GET / HTTP/1.1\r\n"), FirstMessageVerdict::Foreign(_)));
    }

    #[test]
    fn a_refusal_answers_the_request_in_its_own_operation() {
        let refusal = |is_query| Refusal {
            server: None,
            kind: RefusalKind::Unreachable,
            reason: "r",
            session: "s",
            reply_to: ReplyTo([1, is_query, 7, 0, 0, 0, 0, 0]),
        };
        for (is_query, operation) in [(0, OP_MSG), (1, OP_REPLY)] {
            let bytes = error(&refusal(is_query));
            assert_eq!(le_u32(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
            assert_eq!((le_u32(&bytes, 8), le_u32(&bytes, 12)), (Some(7), Some(operation)));
            assert!(String::from_utf8_lossy(&bytes).contains("ambassador: r [session s]"));
        }
    }

    #[test]
    fn a_probe_looks_for_ok() {
        for (ok, serves) in [(1.0_f64, true), (0.0, false)] {
            let answer = document(&[element(0x01, "ok", &ok.to_le_bytes())]);
            let bytes = message([0; 4], OP_MSG, &[&[0; 5][..], &answer].concat());
            let mut probe = Hello::default();
            assert!(matches!(probe.receive(&bytes[..20]), Ok(ProbeStep::Incomplete)));
            assert_eq!(probe.receive(&bytes[20..]).is_ok(), serves);
        }
        assert!(Hello::default().receive(b"HTTP/1.1 400 Bad").is_err());
    }
}
