//! AMQP, 0-9-1 (RabbitMQ) and 1.0: TLS with the first byte, nothing rewritten unless we sign in.
//!
//! Sources: AMQP 0-9-1 §2.2.4 (Connection.Start, .Close), §4.2.2 (protocol header), RabbitMQ's "version negotiation";
//! AMQP 1.0 part 2 §2.4 (open, close).

mod login;

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    Login, LoginContext, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo,
    SecretKind, Service,
};

#[derive(Debug)]
pub(super) struct Amqp;

impl Protocol for Amqp {
    fn label(&self) -> &'static str {
        "amqp"
    }

    fn service(&self) -> Service {
        Service { names: &["rabbitmq"], tls_names: &["amqps"], ports: &[5672], tls_ports: &[5671] }
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        Some(Box::new(FirstMessage::new(judge, SPEAKS_TLS)))
    }

    /// The login needs the client's properties, which only come after a Start.
    fn opening_for_login(&self) -> Option<Box<dyn Opening>> {
        Some(Box::new(login::StartOpening::default()))
    }

    /// RabbitMQ's `handshake_timeout` is 10 s.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(8))
    }

    /// A client of 0-9-1 accepts only Connection.Start as the answer to its header; Connection.Close after it can carry
    /// a text. In 1.0 a close needs an open, and text has a type of its own: such clients only see the connection end.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        match refusal.reply_to {
            HEADER_SEEN => Some([start(), close(refusal)].concat()),
            STARTED => Some(close(refusal)),
            _ => None,
        }
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Header::default()))
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::PasswordToken, SecretKind::Certificate]
    }

    /// RabbitMQ's `ssl_cert_login_from`.
    fn certificate_names_user(&self) -> bool {
        true
    }

    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        match kind {
            SecretKind::Certificate => &["EXTERNAL"],
            SecretKind::Password | SecretKind::PasswordToken => &["PLAIN"],
            SecretKind::BearerToken | SecretKind::LoneToken | SecretKind::Nkey => &[],
        }
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::StartLogin::new(context)))
    }
}

const SPEAKS_TLS: &str = "the client speaks TLS to a plaintext port; use amqp:// instead of amqps://";

/// The client has received a Start.
const STARTED: ReplyTo = ReplyTo::WELCOMED;
/// The client has sent the header of 0-9-1.
const HEADER_SEEN: ReplyTo = ReplyTo([2, 0, 0, 0, 0, 0, 0, 0]);
/// The client has sent another header.
const OTHER_HEADER_SEEN: ReplyTo = ReplyTo([3, 0, 0, 0, 0, 0, 0, 0]);

const HEADER_0_9_1: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// `AMQP`, a protocol id, a version.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    if !b"AMQP".starts_with(&bytes[..bytes.len().min(4)]) {
        return FirstMessageVerdict::Foreign("the client's first bytes are not AMQP's header");
    }
    match bytes.first_chunk::<8>() {
        None => FirstMessageVerdict::Incomplete,
        Some(HEADER_0_9_1) => FirstMessageVerdict::Speaks(HEADER_SEEN),
        Some(_) => FirstMessageVerdict::Speaks(OTHER_HEADER_SEEN),
    }
}

const METHOD: u8 = 1;
const FRAME_END: u8 = 0xce;

/// A method frame of channel 0.
fn method(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&[METHOD, 0, 0][..], &length, &payload, &[FRAME_END]].concat()
}

/// Version 0-9, no properties, PLAIN, en_US.
fn start() -> Vec<u8> {
    let mut arguments = vec![0, 9, 0, 0, 0, 0];
    for words in ["PLAIN", "en_US"] {
        arguments.extend(u32::try_from(words.len()).unwrap_or_default().to_be_bytes());
        arguments.extend_from_slice(words.as_bytes());
    }
    method(10, 10, &arguments)
}

/// The longest short string: its length is one byte.
const SHORT_MAX: usize = 255;

fn close(refusal: &Refusal<'_>) -> Vec<u8> {
    const CONNECTION_FORCED: u16 = 320;
    const ACCESS_REFUSED: u16 = 403;
    const RESOURCE_ERROR: u16 = 506;
    const FRAME_ERROR: u16 = 501;
    let code = match refusal.kind {
        RefusalKind::BadRequest => FRAME_ERROR,
        RefusalKind::Denied | RefusalKind::LoginFailed => ACCESS_REFUSED,
        RefusalKind::Full => RESOURCE_ERROR,
        RefusalKind::Unreachable | RefusalKind::ShuttingDown => CONNECTION_FORCED,
    };
    let sentence = refusal.sentence();
    let sentence = shortened(sentence);
    let words = sentence.as_bytes();
    let mut arguments = code.to_be_bytes().to_vec();
    arguments.push(u8::try_from(words.len()).unwrap_or_default());
    arguments.extend_from_slice(words);
    arguments.extend([0; 4]);
    method(10, 50, &arguments)
}

/// The sentence as a short string: the outcome at its begin and the session's id at its end are kept.
fn shortened(sentence: String) -> String {
    const GAP: &str = "...";
    if sentence.len() <= SHORT_MAX {
        return sentence;
    }
    let (words, id) = sentence.split_at(sentence.rfind(" [").unwrap_or(sentence.len()));
    let room = SHORT_MAX.saturating_sub(id.len() + GAP.len());
    let end = (0..=room.min(words.len())).rev().find(|at| words.is_char_boundary(*at)).unwrap_or_default();
    [&words[..end], GAP, id].concat()
}

/// Sends the header, which the server answers by Connection.Start; then closes. RabbitMQ logs that as an incomplete
/// handshake.
#[derive(Debug, Default)]
struct Header {
    held: Vec<u8>,
}

impl Probe for Header {
    fn begin(&mut self) -> Vec<u8> {
        HEADER_0_9_1.to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError(
                "the broker closed the connection instead of answering AMQP's header".into(),
            ));
        }
        self.held.extend_from_slice(bytes);
        match self.held.first_chunk::<11>() {
            None => Ok(ProbeStep::Incomplete),
            Some([METHOD, 0, 0, _, _, _, _, 0, 10, 0, 10]) => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            Some([b'A', b'M', b'Q', b'P', ..]) => {
                Err(ProbeError("the broker does not speak AMQP 0-9-1".into()))
            }
            Some(_) => Err(ProbeError("the broker's answer is not Connection.Start".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_known_by_their_headers() {
        assert!(matches!(judge(b"AMQP\0\0\x09"), FirstMessageVerdict::Incomplete));
        assert!(matches!(judge(HEADER_0_9_1), FirstMessageVerdict::Speaks(HEADER_SEEN)));
        assert!(matches!(judge(b"AMQP\x03\x01\0\0"), FirstMessageVerdict::Speaks(OTHER_HEADER_SEEN)));
        assert!(matches!(judge(b"AMQX"), FirstMessageVerdict::Foreign(_)));
    }

    #[test]
    fn a_refusal_is_a_start_and_a_close_with_words() {
        let refusal = |reason, reply_to| Refusal {
            server: None,
            kind: RefusalKind::Unreachable,
            reason,
            session: "00ff",
            reply_to,
        };
        let bytes = Amqp.refusal(&refusal("r", HEADER_SEEN)).unwrap();
        let (first, second) = bytes.split_at(start().len());
        assert_eq!(first, start());
        assert_eq!(second[7..11], [0, 10, 0, 50]);
        assert_eq!((second[11..13].to_vec(), usize::from(second[13])), (vec![1, 64], 28));
        assert_eq!(second.last(), Some(&FRAME_END));
        let long = "é".repeat(400);
        assert_eq!(Amqp.refusal(&refusal("r", STARTED)).unwrap(), second);
        let bytes = Amqp.refusal(&refusal(&long, HEADER_SEEN)).unwrap();
        let close = String::from_utf8_lossy(&bytes[start().len() + 14..]).into_owned();
        assert!(close.starts_with("ambassador: é") && close.contains("é... [session 00ff]"), "{close}");
        assert!(Amqp.refusal(&refusal("r", OTHER_HEADER_SEEN)).is_none());
    }

    #[test]
    fn a_probe_waits_for_connection_start() {
        let mut probe = Header::default();
        let start = start();
        assert!(matches!(probe.receive(&start[..5]), Ok(ProbeStep::Incomplete)));
        assert!(matches!(probe.receive(&start[5..]), Ok(ProbeStep::Serves { .. })));
        assert!(Header::default().receive(b"AMQP\0\x01\0\0 and more").is_err());
        assert!(Header::default().receive(b"").is_err());
    }
}
