//! XMPP by direct TLS (port 5223): nothing rewritten.
//!
//! Sources: RFC 6120 §4.2 (stream header), §4.9 (stream errors); XEP-0368 (direct TLS, ALPN `xmpp-client`).

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo, Service};

/// XMPP, from a client to its server.
#[derive(Debug)]
pub(super) struct Xmpp;

impl Protocol for Xmpp {
    fn label(&self) -> &'static str {
        "xmpp"
    }

    fn service(&self) -> Service {
        Service { names: &["jabber"], tls_names: &["xmpps"], ports: &[5222, 5269], tls_ports: &[5223, 5270] }
    }

    fn alpn(&self) -> &'static [&'static str] {
        &["xmpp-client"]
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; turn direct TLS off in the client";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// A stream of our own that contains only the error.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        let condition = match refusal.kind {
            RefusalKind::BadRequest => "not-well-formed",
            RefusalKind::Denied | RefusalKind::LoginFailed => "not-authorized",
            RefusalKind::Full => "resource-constraint",
            RefusalKind::Unreachable => "remote-connection-failed",
            RefusalKind::ShuttingDown => "system-shutdown",
        };
        let words = refusal.sentence().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        Some(
            format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams' version='1.0' from='ambassador.invalid' \
                 id='{}'><stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{words}</text></stream:error></stream:stream>",
                refusal.session
            )
            .into_bytes(),
        )
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Stream::default()))
    }
}

/// A stream header, perhaps after an XML declaration. Some clients send whitespace before it as a keep-alive.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    let begin = bytes.trim_ascii_start();
    if [&b"<?xml"[..], b"<stream:stream"].iter().any(|known| begin.starts_with(known)) {
        return FirstMessageVerdict::Speaks(ReplyTo::default());
    }
    if [&b"<?xml"[..], b"<stream:stream"].iter().any(|known| known.starts_with(begin)) {
        return FirstMessageVerdict::Incomplete;
    }
    FirstMessageVerdict::Foreign("the client's first bytes are not an XMPP stream")
}

/// A stream to an unknown name: the server opens one in return, and then sends an error.
#[derive(Debug, Default)]
struct Stream {
    held: Vec<u8>,
}

/// Longer than a stream header with its error.
const ANSWER_MAX: usize = 16 * 1024;

impl Probe for Stream {
    fn begin(&mut self) -> Vec<u8> {
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
          xmlns:stream='http://etherx.jabber.org/streams' to='probe.invalid' version='1.0'>"
            .to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() || self.held.len() > ANSWER_MAX {
            return Err(ProbeError("the server opened no stream".into()));
        }
        self.held.extend_from_slice(bytes);
        let text = String::from_utf8_lossy(&self.held);
        if text.contains("system-shutdown") || text.contains("resource-constraint") {
            return Err(ProbeError("the server is shutting down, or has no room".into()));
        }
        if text.contains("<stream:stream")
            && (text.contains("stream:features") || text.contains("stream:error"))
        {
            return Ok(ProbeStep::Serves { goodbye: b"</stream:stream>".to_vec() });
        }
        Ok(ProbeStep::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_with_and_without_a_declaration() {
        for (bytes, expected) in [
            (&b"<?xml version='1.0'?>"[..], Some(true)),
            (b" \n<stream:stream to='a'", Some(true)),
            (b"<stre", None),
            (b"", None),
            (b"GET /", Some(false)),
        ] {
            let verdict = match judge(bytes) {
                FirstMessageVerdict::Incomplete => None,
                FirstMessageVerdict::Speaks(_) => Some(true),
                FirstMessageVerdict::Foreign(_) => Some(false),
            };
            assert_eq!(verdict, expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_probe_takes_any_stream_for_an_answer() {
        let mut probe = Stream::default();
        assert!(matches!(
            probe.receive(b"<?xml version='1.0'?><stream:stream id='x'>"),
            Ok(ProbeStep::Incomplete)
        ));
        assert!(matches!(
            probe.receive(b"<stream:error><host-unknown/></stream:error>"),
            Ok(ProbeStep::Serves { .. })
        ));
        assert!(Stream::default().receive(b"").is_err());
    }

    #[test]
    fn a_refusal_is_one_element_whatever_it_says() {
        let refusal = Refusal {
            server: None,
            kind: RefusalKind::Full,
            reason: "<a> & b",
            session: "s",
            reply_to: ReplyTo::default(),
        };
        let words = String::from_utf8(Xmpp.refusal(&refusal).unwrap()).unwrap();
        assert!(words.contains("&lt;a&gt; &amp; b") && words.contains("<resource-constraint "));
    }
}
