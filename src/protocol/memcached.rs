//! Memcached, text, meta and binary: TLS with the first byte (`memcached -Z`), nothing rewritten.
//!
//! Source: doc/protocol.txt of memcached; the binary protocol's first byte is 0x80.

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::lines::{LineExchange, LineProbe, ProbeReply, begins_with};
use super::{Opening, Probe, Protocol, Refusal, ReplyTo};
use std::borrow::Cow;

#[derive(Debug)]
pub(super) struct Memcached;

impl Protocol for Memcached {
    fn label(&self) -> &'static str {
        "memcached"
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; turn TLS off in the client";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// `idle_timeout` is off by default.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// `idle_timeout` is off by default.
    fn silence_timeout(&self) -> Option<Duration> {
        None
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        let ReplyTo([binary, opcode, ..]) = refusal.reply_to;
        Some(if binary == 0 {
            format!("SERVER_ERROR {}\r\n", refusal.sentence()).into_bytes()
        } else {
            binary_error(opcode, &refusal.sentence())
        })
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        let version = LineExchange {
            say: Cow::Borrowed(b"version\r\n"),
            // A server that requires a login answers CLIENT_ERROR.
            judge: |line| match line {
                _ if begins_with(line, "VERSION") || begins_with(line, "CLIENT_ERROR") => ProbeReply::Good,
                _ => ProbeReply::Bad,
            },
        };
        Some(LineProbe::boxed(None, Some(version), b"quit\r\n"))
    }
}

const BINARY_REQUEST: u8 = 0x80;

/// A text command begins with a letter; a binary one with 0x80 and the opcode.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    match bytes {
        [] | [BINARY_REQUEST] => FirstMessageVerdict::Incomplete,
        [BINARY_REQUEST, opcode, ..] => FirstMessageVerdict::Speaks(ReplyTo([1, *opcode, 0, 0, 0, 0, 0, 0])),
        [first, ..] if first.is_ascii_alphabetic() => FirstMessageVerdict::Speaks(ReplyTo::default()),
        _ => FirstMessageVerdict::Foreign("the client's first bytes are not memcached's"),
    }
}

/// Status 0x0085, temporary failure, with the sentence as its value.
fn binary_error(opcode: u8, sentence: &str) -> Vec<u8> {
    let length = u32::try_from(sentence.len()).unwrap_or_default().to_be_bytes();
    let mut response = vec![0x81, opcode, 0, 0, 0, 0, 0x00, 0x85];
    response.extend(length);
    response.extend([0; 12]);
    response.extend_from_slice(sentence.as_bytes());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RefusalKind;
    use crate::protocol::lines::tests::probe;

    #[test]
    fn all_three_dialects_are_known_by_their_first_bytes() {
        for (bytes, speaks) in [
            (&b"get a\r\n"[..], true),
            (b"mg a v\r\n", true),
            (&[0x80, 0x0b], true),
            (b"\x00\x01", false),
            (b"*1\r\n", false),
        ] {
            assert_eq!(matches!(judge(bytes), FirstMessageVerdict::Speaks(_)), speaks, "{bytes:?}");
        }
    }

    #[test]
    fn a_refusal_is_in_the_clients_dialect() {
        let refusal =
            |reply_to| Refusal { server: None, kind: RefusalKind::Full, reason: "r", session: "s", reply_to };
        let text = Memcached.refusal(&refusal(ReplyTo::default())).unwrap();
        assert_eq!(text, b"SERVER_ERROR ambassador: r [session s]\r\n");
        let binary = Memcached.refusal(&refusal(ReplyTo([1, 0x0b, 0, 0, 0, 0, 0, 0]))).unwrap();
        assert_eq!((binary[0], binary[1], binary.len()), (0x81, 0x0b, 24 + usize::from(binary[11])));
    }

    #[test]
    fn a_probe_asks_for_the_version() {
        let (said, verdict) = probe(Memcached.probe(false).unwrap(), &["VERSION 1.6.18\r\n"]);
        assert_eq!((said, verdict), (vec!["version\r\n".into()], Ok("quit\r\n".into())));
        assert!(probe(Memcached.probe(false).unwrap(), &["CLIENT_ERROR unauthenticated\r\n"]).1.is_ok());
        assert!(probe(Memcached.probe(false).unwrap(), &["HTTP/1.1 400\r\n"]).1.is_err());
    }
}
