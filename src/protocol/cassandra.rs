//! Cassandra and Scylla, native protocol 1 to 5: TLS with the first byte, nothing rewritten.
//!
//! Source: doc/native_protocol_v4.spec and _v5.spec of Cassandra: §2 (frames), §4.1.1 (STARTUP), §4.2.1 and §9 (ERROR).

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo, Service};

#[derive(Debug)]
pub(super) struct Cassandra;

impl Protocol for Cassandra {
    fn label(&self) -> &'static str {
        "cassandra"
    }

    fn service(&self) -> Service {
        Service { names: &["scylla", "cql"], ..Service::UNKNOWN }
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; turn TLS (ssl_context) off in the client";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// `native_transport_idle_timeout` is off by default.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// `native_transport_idle_timeout` is off by default.
    fn silence_timeout(&self) -> Option<Duration> {
        None
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Options::default()))
    }
}

const STARTUP: u8 = 0x01;
const OPTIONS: u8 = 0x05;

/// A request's version, 1 to 5 or a later one that is being negotiated, and one of the two requests that begin a
/// connection. Versions 1 and 2 have a shorter stream id.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    const FOREIGN: FirstMessageVerdict =
        FirstMessageVerdict::Foreign("the client's first frame is not Cassandra's STARTUP or OPTIONS");
    let Some(version) = bytes.first() else { return FirstMessageVerdict::Incomplete };
    if !matches!(version & 0x7f, 1..=6 | 0x40..=0x46) || version & 0x80 != 0 {
        return FOREIGN;
    }
    let (opcode, stream) =
        if *version < 3 { (bytes.get(3), bytes.get(2..3)) } else { (bytes.get(4), bytes.get(2..4)) };
    match (opcode, stream) {
        (Some(&(STARTUP | OPTIONS)), Some(stream)) => {
            let second = stream.get(1).copied().unwrap_or_default();
            FirstMessageVerdict::Speaks(ReplyTo([*version, stream[0], second, 0, 0, 0, 0, 0]))
        }
        (Some(_), _) => FOREIGN,
        (None, _) => FirstMessageVerdict::Incomplete,
    }
}

/// ERROR. It is never wrapped in version 5's outer frames before STARTUP has been answered.
fn error(refusal: &Refusal<'_>) -> Vec<u8> {
    let code: u32 = match refusal.kind {
        RefusalKind::BadRequest => 0x000a,
        RefusalKind::Denied | RefusalKind::LoginFailed => 0x2100,
        RefusalKind::Full => 0x1001,
        RefusalKind::Unreachable | RefusalKind::ShuttingDown => 0x0000,
    };
    let sentence = refusal.sentence();
    let words = sentence.get(..4096).unwrap_or(&sentence).as_bytes();
    let mut body = code.to_be_bytes().to_vec();
    body.extend(u16::try_from(words.len()).unwrap_or_default().to_be_bytes());
    body.extend_from_slice(words);
    let ReplyTo([version, first, second, ..]) = refusal.reply_to;
    // The client has sent nothing: the version that all clients know.
    let version = if version == 0 { 4 } else { version };
    let mut frame = vec![version | 0x80, 0, first];
    if version >= 3 {
        frame.push(second);
    }
    frame.push(0);
    frame.extend(u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
    frame.extend(body);
    frame
}

/// OPTIONS, which needs no login.
#[derive(Debug, Default)]
struct Options {
    held: Vec<u8>,
}

impl Probe for Options {
    fn begin(&mut self) -> Vec<u8> {
        vec![4, 0, 0, 0, OPTIONS, 0, 0, 0, 0]
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        const SUPPORTED: u8 = 0x06;
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection instead of answering OPTIONS".into()));
        }
        self.held.extend_from_slice(bytes);
        match self.held.first_chunk::<5>() {
            None => Ok(ProbeStep::Incomplete),
            Some([0x81..=0xff, _, _, _, SUPPORTED]) => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            Some(_) => Err(ProbeError("the server's answer to OPTIONS is not SUPPORTED".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_versions_are_known() {
        for (bytes, speaks) in [
            (&[4, 0, 0, 1, STARTUP][..], true),
            (&[5, 0, 0, 0, OPTIONS], true),
            (&[2, 0, 9, STARTUP], true),
            (&[0x42, 0, 0, 0, STARTUP], true),
            (&[4, 0, 0, 1, 7], false),
            (&[0x84, 0, 0, 0, STARTUP], false),
            (b"GET /", false),
        ] {
            assert_eq!(matches!(judge(bytes), FirstMessageVerdict::Speaks(_)), speaks, "{bytes:?}");
        }
        assert!(matches!(judge(&[4, 0, 0, 1]), FirstMessageVerdict::Incomplete));
    }

    #[test]
    fn a_refusal_is_an_error_on_the_clients_stream() {
        for (reply_to, head) in [
            (ReplyTo([4, 1, 2, 0, 0, 0, 0, 0]), &[0x84, 0, 1, 2, 0][..]),
            (ReplyTo([2, 9, 0, 0, 0, 0, 0, 0]), &[0x82, 0, 9, 0]),
            (ReplyTo::default(), &[0x84, 0, 0, 0, 0]),
        ] {
            let frame = error(&Refusal {
                server: None,
                kind: RefusalKind::Full,
                reason: "r",
                session: "s",
                reply_to,
            });
            assert!(frame.starts_with(head) && frame.ends_with(b"ambassador: r [session s]"));
        }
    }

    #[test]
    fn a_probe_waits_for_supported() {
        let mut probe = Options::default();
        assert!(matches!(probe.receive(&[0x84, 0, 0]), Ok(ProbeStep::Incomplete)));
        assert!(matches!(probe.receive(&[0, 6, 0]), Ok(ProbeStep::Serves { .. })));
        assert!(Options::default().receive(b"HTTP/1").is_err());
    }
}
