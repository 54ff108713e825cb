//! MySQL's X protocol (port 33060): TLS by a capability, nothing rewritten.
//!
//! Sources: MySQL Internals, "X Protocol" (frames, CapabilitiesSet, Notice, Error); Mysqlx.Error in mysqlx.proto.

use std::borrow::Cow;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    NothingBuffered, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo, Upgrade,
    UpgradeError, UpgradeStep, Upgraded,
};

#[derive(Debug)]
pub(super) struct MySqlX;

impl Protocol for MySqlX {
    fn label(&self) -> &'static str {
        "mysqlx"
    }

    /// A notice that the server says hello (Mysqlx.Notice.ServerHello).
    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        first.starts_with(&[5, 0, 0, 0, 11, 8, 5, 26, 0]).then_some("it greets as servers of mysqlx do")
    }

    /// The server sends a notice after accepting, but no client waits for it: clients speak first.
    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; set ssl-mode=DISABLED in the client";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(Capability::default()))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(CapabilitiesGet::default()))
    }
}

const HEAD: usize = 5;
/// Longer than any message before a login.
const FRAME_MAX: usize = 64 * 1024;

const OK: u8 = 0;
const ERROR: u8 = 1;
const CAPABILITIES: u8 = 2;
const NOTICE: u8 = 11;

/// Length (little-endian, with the type), type, payload.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap_or_default().to_le_bytes();
    [&length[..], &[kind], payload].concat()
}

/// A frame of a type that a client may begin with: capabilities, close, a login.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    match bytes {
        [_, _, middle, high, kind, ..] if *middle == 0 && *high == 0 && matches!(kind, 1..=4) => {
            FirstMessageVerdict::Speaks(ReplyTo::default())
        }
        [_, _, _, _, ..] if bytes.len() == 4 && bytes[2..] == [0, 0] => FirstMessageVerdict::Incomplete,
        [_, _, _, _, ..] => {
            FirstMessageVerdict::Foreign("the client's first message is not of MySQL's X protocol")
        }
        _ => FirstMessageVerdict::Incomplete,
    }
}

/// Cuts bytes into frames.
#[derive(Debug, Default)]
struct Frames {
    held: Vec<u8>,
}

/// A frame of an impossible length.
#[derive(Debug)]
struct Malformed;

impl Frames {
    /// The type of the next whole frame.
    fn next(&mut self) -> Result<Option<u8>, Malformed> {
        let Some(&[a, b, c, d, kind]) = self.held.first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if !(1..=FRAME_MAX).contains(&length) {
            return Err(Malformed);
        }
        if self.held.len() < 4 + length {
            return Ok(None);
        }
        self.held.drain(..4 + length);
        Ok(Some(kind))
    }
}

/// CapabilitiesSet { tls: true }.
const SET_TLS: &[u8] = b"\x14\0\0\0\x02\x0a\x11\x0a\x0f\x0a\x03tls\x12\x08\x08\x01\x12\x04\x08\x07\x40\x01";
/// The most that is read at once.
const PORTION: usize = 512;
/// The most notices that may come before the answer.
const NOTICES_MAX: u32 = 16;

/// Asks for the capability. The server's notices came before TLS, so they are dropped.
#[derive(Debug, Default)]
struct Capability {
    frames: Frames,
    notices: u32,
}

impl Upgrade for Capability {
    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::Send(Cow::Borrowed(SET_TLS))
    }

    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        self.frames.held.extend_from_slice(bytes);
        loop {
            match self.frames.next() {
                Ok(None) => return Ok(UpgradeStep::ReadAtMost(PORTION)),
                Ok(Some(OK)) => {
                    return Ok(UpgradeStep::Upgrade(Upgraded::new(NothingBuffered::behind(
                        &self.frames.held,
                    )?)));
                }
                Ok(Some(ERROR)) => return Err(UpgradeError::Declined),
                Ok(Some(NOTICE)) if self.notices < NOTICES_MAX => self.notices += 1,
                Ok(Some(NOTICE)) => {
                    return Err(UpgradeError::Unsuitable("the server sends notices without end"));
                }
                Ok(Some(kind)) => {
                    return Err(UpgradeError::NotTheProtocol { protocol: "MySQL's X protocol", byte: kind });
                }
                Err(Malformed) => {
                    return Err(UpgradeError::Unsuitable("the server's answer is not of MySQL's X protocol"));
                }
            }
        }
    }
}

/// Mysqlx.Error: severity FATAL, code, SQLSTATE, message.
fn error(refusal: &Refusal<'_>) -> Vec<u8> {
    let code: u16 = match refusal.kind {
        RefusalKind::BadRequest => 1043,
        RefusalKind::Denied | RefusalKind::LoginFailed => 1045,
        RefusalKind::Full => 1040,
        RefusalKind::Unreachable => 1105,
        RefusalKind::ShuttingDown => 1053,
    };
    let sentence = refusal.sentence();
    let words = sentence.get(..500).unwrap_or(&sentence).as_bytes();
    let mut payload = vec![0x08, 1, 0x10];
    payload.extend(varint(code));
    payload.push(0x1a);
    payload.extend(varint(u16::try_from(words.len()).unwrap_or_default()));
    payload.extend_from_slice(words);
    payload.extend_from_slice(b"\x22\x0508S01");
    frame(ERROR, &payload)
}

/// A protobuf integer of up to 14 bits.
fn varint(value: u16) -> Vec<u8> {
    let [high, low] = [value >> 7, value & 0x7f].map(|part| u8::try_from(part & 0x7f).unwrap_or_default());
    if high == 0 { vec![low] } else { vec![low | 0x80, high] }
}

/// A probe that needs no login.
#[derive(Debug, Default)]
struct CapabilitiesGet {
    frames: Frames,
}

impl Probe for CapabilitiesGet {
    fn begin(&mut self) -> Vec<u8> {
        frame(1, b"")
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError(
                "the server closed the connection instead of telling its capabilities".into(),
            ));
        }
        self.frames.held.extend_from_slice(bytes);
        loop {
            match self.frames.next() {
                Ok(None) => return Ok(ProbeStep::Incomplete),
                Ok(Some(NOTICE)) => {}
                Ok(Some(CAPABILITIES)) => return Ok(ProbeStep::Serves { goodbye: frame(3, b"") }),
                Ok(Some(_)) | Err(Malformed) => {
                    return Err(ProbeError("the server's answer is not its capabilities".into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"\x05\0\0\0\x0b\x08\x05\x1a\0";

    fn answered(answer: &[u8], portion: usize) -> Result<bool, UpgradeError> {
        let mut upgrade = Capability::default();
        for bytes in answer.chunks(portion) {
            if matches!(upgrade.receive(bytes)?, UpgradeStep::Upgrade(_)) {
                return Ok(true);
            }
        }
        upgrade.receive(b"").map(|_| false)
    }

    #[test]
    fn ok_leads_to_tls_also_behind_a_notice() {
        for answer in [[HELLO, &frame(OK, b"")].concat(), frame(OK, b"")] {
            for portion in [1, 4, 512] {
                assert_eq!(answered(&answer, portion), Ok(true));
            }
        }
    }

    #[test]
    fn hostile_answers_lead_nowhere() {
        for (answer, words) in [
            ([frame(OK, b""), b"x".to_vec()].concat(), "plaintext after agreeing"),
            (frame(ERROR, b"\x10\x89\x27"), "refusal"),
            (frame(7, b""), "not MySQL's X protocol"),
            (HELLO.repeat(20), "without end"),
            (b"\0\0\0\0\0".to_vec(), "not of MySQL's X protocol"),
            (b"\xff\xff\xff\xff\0".to_vec(), "not of MySQL's X protocol"),
            (Vec::new(), "closed"),
        ] {
            let error = answered(&answer, 512).expect_err("an error").to_string();
            assert!(error.contains(words), "{answer:?}: {error}");
        }
    }

    #[test]
    fn the_first_message_is_known() {
        assert!(matches!(judge(&frame(1, b"")), FirstMessageVerdict::Speaks(_)));
        assert!(matches!(judge(SET_TLS), FirstMessageVerdict::Speaks(_)));
        assert!(matches!(judge(b"\x01\0\0\0"), FirstMessageVerdict::Incomplete));
        assert!(matches!(judge(b"\x01\0"), FirstMessageVerdict::Incomplete));
        assert!(matches!(judge(b"GET /"), FirstMessageVerdict::Foreign(_)));
        assert!(matches!(judge(b"\x01\0\0\0\x09"), FirstMessageVerdict::Foreign(_)));
    }

    #[test]
    fn a_refusal_is_an_error_with_words() {
        let refusal = Refusal {
            server: None,
            kind: RefusalKind::Full,
            reason: "r",
            session: "s",
            reply_to: ReplyTo::default(),
        };
        let bytes = error(&refusal);
        assert_eq!(bytes[..9], [40, 0, 0, 0, ERROR, 0x08, 1, 0x10, 0x90]);
        assert_eq!(varint(1040), [0x90, 0x08]);
        assert!(String::from_utf8_lossy(&bytes).contains("ambassador: r [session s]"));
        assert_eq!(usize::from(bytes[0]) + 4, bytes.len());
    }

    #[test]
    fn a_probe_asks_for_capabilities() {
        let mut probe = CapabilitiesGet::default();
        assert!(matches!(probe.receive(HELLO), Ok(ProbeStep::Incomplete)));
        assert!(matches!(probe.receive(&frame(CAPABILITIES, b"x")), Ok(ProbeStep::Serves { .. })));
        assert!(CapabilitiesGet::default().receive(&frame(ERROR, b"")).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, portion in 1_usize..20) {
            let _ = answered(&bytes, portion);
            let _ = judge(&bytes);
            let _ = CapabilitiesGet::default().receive(&bytes);
        }
    }
}
