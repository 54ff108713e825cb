//! Kafka: TLS with the first byte, nothing rewritten. Brokers name each other to clients: read docs/protocols/direct.md
//! before use.
//!
//! Source: kafka.apache.org, "Kafka protocol guide" (request header, ApiVersions, SaslHandshake).

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, ReplyTo};

#[derive(Debug)]
pub(super) struct Kafka;

impl Protocol for Kafka {
    fn label(&self) -> &'static str {
        "kafka"
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint =
            "the client speaks TLS to a plaintext port; set security.protocol to PLAINTEXT or SASL_PLAINTEXT";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// `connections.max.idle.ms` is ten minutes by default.
    fn silence_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(600))
    }

    /// No response can carry a text before its version has been agreed on.
    fn refusal(&self, _: &Refusal<'_>) -> Option<Vec<u8>> {
        None
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(ApiVersions::default()))
    }
}

/// A length, then a request's number and version. Clients begin with ApiVersions (18), old ones with Metadata (3) or
/// SaslHandshake (17).
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    const FOREIGN: FirstMessageVerdict =
        FirstMessageVerdict::Foreign("the client's first bytes are not a Kafka request");
    /// A broker's default of `socket.request.max.bytes`.
    const REQUEST_MAX: u32 = 100 * 1024 * 1024;
    let Some(length) = bytes.first_chunk::<4>().map(|four| u32::from_be_bytes(*four)) else {
        return FirstMessageVerdict::Incomplete;
    };
    if !(8..=REQUEST_MAX).contains(&length) {
        return FOREIGN;
    }
    match bytes.get(4..8) {
        None => FirstMessageVerdict::Incomplete,
        Some([0, 0..=100, 0, 0..=30]) => FirstMessageVerdict::Speaks(ReplyTo::default()),
        Some(_) => FOREIGN,
    }
}

/// ApiVersions 0, which every broker answers, even before a login.
#[derive(Debug, Default)]
struct ApiVersions {
    held: Vec<u8>,
}

const CORRELATION: [u8; 4] = *b"ambr";

impl Probe for ApiVersions {
    fn begin(&mut self) -> Vec<u8> {
        let client = b"ambassador";
        let mut request = vec![0, 18, 0, 0];
        request.extend(CORRELATION);
        request.extend(u16::try_from(client.len()).unwrap_or_default().to_be_bytes());
        request.extend_from_slice(client);
        let mut bytes = u32::try_from(request.len()).unwrap_or_default().to_be_bytes().to_vec();
        bytes.extend(request);
        bytes
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError(
                "the broker closed the connection instead of answering ApiVersions".into(),
            ));
        }
        self.held.extend_from_slice(bytes);
        match self.held.get(4..8) {
            None => Ok(ProbeStep::Incomplete),
            Some(correlation) if correlation == CORRELATION => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            Some(_) => Err(ProbeError("the broker's answer is not for our request".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_head() {
        for (bytes, speaks) in [
            (&b"\0\0\0\x20\0\x12\0\x03\0\0\0\x01"[..], true),
            (b"\0\0\0\x20\0\x03\0\x00", true),
            (b"\0\0\0\x20\x01\x03\0\x00", false),
            (b"\0\0\0\x04\0\x03\0\x00", false),
            (b"GET / HTTP/1.1", false),
        ] {
            assert_eq!(matches!(judge(bytes), FirstMessageVerdict::Speaks(_)), speaks, "{bytes:?}");
        }
        assert!(matches!(judge(b"\0\0\0\x20\0"), FirstMessageVerdict::Incomplete));
    }

    #[test]
    fn a_probe_waits_for_the_answer_to_its_own_request() {
        let mut probe = ApiVersions::default();
        assert_eq!(probe.begin().len(), 4 + 8 + 12);
        assert!(matches!(probe.receive(b"\0\0\0\x10am"), Ok(ProbeStep::Incomplete)));
        assert!(matches!(probe.receive(b"br\0\0"), Ok(ProbeStep::Serves { .. })));
        assert!(ApiVersions::default().receive(b"HTTP/1.1 400").is_err());
    }
}
