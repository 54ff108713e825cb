//! IRC: TLS with the first byte (port 6697), nothing rewritten.
//!
//! Sources: RFC 2812 §3.1 (registration), §3.7.4 (ERROR); ircv3.net, capability negotiation. STARTTLS is deprecated
//! there.

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{Opening, Protocol, Refusal, ReplyTo, Service};

#[derive(Debug)]
pub(super) struct Irc;

impl Protocol for Irc {
    fn label(&self) -> &'static str {
        "irc"
    }

    fn service(&self) -> Service {
        Service { tls_names: &["ircs"], ports: &[6667], tls_ports: &[6697], ..Service::UNKNOWN }
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; turn TLS off in the client";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(format!("ERROR :{}\r\n", refusal.sentence()).into_bytes())
    }
}

/// A command is a word of letters; tags or a prefix may precede it.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    match bytes.first() {
        None => FirstMessageVerdict::Incomplete,
        Some(b':' | b'@' | b'\r' | b'\n') => FirstMessageVerdict::Speaks(ReplyTo::default()),
        Some(first) if first.is_ascii_alphabetic() => FirstMessageVerdict::Speaks(ReplyTo::default()),
        Some(_) => FirstMessageVerdict::Foreign("the client's first bytes are not IRC's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_byte_tells_irc_from_others() {
        for (bytes, speaks) in
            [(&b"CAP LS 302\r\n"[..], true), (b"NICK a\r\n", true), (b"\x10\x0c", false), (b"<?xml", false)]
        {
            assert_eq!(matches!(judge(bytes), FirstMessageVerdict::Speaks(_)), speaks, "{bytes:?}");
        }
    }
}
