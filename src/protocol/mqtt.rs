//! MQTT 3.1, 3.1.1 and 5: TLS with the first byte, nothing rewritten unless we sign in.
//!
//! Sources: MQTT 3.1.1 §3.1 (CONNECT), §3.2 (CONNACK); MQTT 5.0 §3.2.2 (reason codes, reason string).

mod login;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    Login, LoginContext, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo,
    SecretKind, Service,
};

#[derive(Debug)]
pub(super) struct Mqtt;

impl Protocol for Mqtt {
    fn label(&self) -> &'static str {
        "mqtt"
    }

    fn service(&self) -> Service {
        Service { names: &["mosquitto"], tls_names: &["mqtts"], ports: &[1883], tls_ports: &[8883] }
    }

    /// Mosquitto takes 516.
    fn proxy_header_max(&self) -> usize {
        512
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        Some(Box::new(FirstMessage::new(judge, SPEAKS_TLS)))
    }

    /// The login is in the packet.
    fn opening_for_login(&self) -> Option<Box<dyn Opening>> {
        Some(Box::new(FirstMessage::up_to(login::CONNECT_MAX, login::judge_whole, SPEAKS_TLS)))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        let ReplyTo([level, ..]) = refusal.reply_to;
        let is_5 = level & !BRIDGE >= 5;
        let old = if refusal.kind == RefusalKind::LoginFailed {
            CONNACK_NOT_AUTHORIZED
        } else {
            CONNACK_UNAVAILABLE
        };
        Some(if is_5 { connack5(refusal) } else { old.to_vec() })
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Connect::default()))
    }

    fn goodbye(&self) -> &'static [u8] {
        &[0xe0, 0]
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::PasswordToken]
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::ConnectLogin::new(context)))
    }
}

const SPEAKS_TLS: &str = "the client speaks TLS to a plaintext port; use mqtt:// instead of mqtts://";

/// A bridge of 3.1 or 3.1.1 sets this bit of the level in addition (mosquitto.conf(5), `try_private`).
const BRIDGE: u8 = 0x80;
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
/// Return code 3, server unavailable: 3.1.1 has no reason string.
const CONNACK_UNAVAILABLE: &[u8] = &[CONNACK, 2, 0, 3];
/// Return code 5.
const CONNACK_NOT_AUTHORIZED: &[u8] = &[CONNACK, 2, 0, 5];

/// The remaining length, one to four bytes of seven bits, and the number of these bytes. `None`: incomplete.
fn remaining_length(bytes: &[u8]) -> Option<Result<(usize, usize), ()>> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(Ok((length, index + 1)));
        }
    }
    (bytes.len() >= 4).then_some(Err(()))
}

/// CONNECT, with the protocol's name and level.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    const FOREIGN: FirstMessageVerdict =
        FirstMessageVerdict::Foreign("the client's first packet is not MQTT's CONNECT");
    let Some((first, rest)) = bytes.split_first() else { return FirstMessageVerdict::Incomplete };
    if *first != CONNECT {
        return FOREIGN;
    }
    let variable = match remaining_length(rest) {
        None => return FirstMessageVerdict::Incomplete,
        Some(Err(())) => return FOREIGN,
        Some(Ok((_, octets))) => &rest[octets..],
    };
    for name in [&b"\0\x04MQTT"[..], b"\0\x06MQIsdp"] {
        match variable.strip_prefix(name) {
            Some([level, ..]) => return FirstMessageVerdict::Speaks(ReplyTo([*level, 0, 0, 0, 0, 0, 0, 0])),
            Some([]) => return FirstMessageVerdict::Incomplete,
            None if name.starts_with(variable) => return FirstMessageVerdict::Incomplete,
            None => {}
        }
    }
    FOREIGN
}

/// CONNACK with a reason string.
fn connack5(refusal: &Refusal<'_>) -> Vec<u8> {
    const REASON_STRING: u8 = 0x1f;
    let reason = match refusal.kind {
        RefusalKind::BadRequest => 0x82,
        RefusalKind::Denied | RefusalKind::LoginFailed => 0x87,
        RefusalKind::Full => 0x97,
        RefusalKind::Unreachable | RefusalKind::ShuttingDown => 0x88,
    };
    let sentence = refusal.sentence();
    // A string has two bytes of length; no sentence is as long as this.
    let sentence = sentence.get(..1000).unwrap_or(&sentence).as_bytes();
    let mut properties = vec![REASON_STRING];
    properties.extend(u16::try_from(sentence.len()).unwrap_or_default().to_be_bytes());
    properties.extend_from_slice(sentence);
    let body = [vec![0, reason], variable_integer(properties.len()), properties].concat();
    [vec![CONNACK], variable_integer(body.len()), body].concat()
}

fn variable_integer(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A clean session with an empty client id, which the broker replaces: a fixed id would end the session of another
/// host's probe (MQTT 3.1.1 §3.1.3.1, §3.1.4).
#[derive(Debug, Default)]
struct Connect {
    held: Vec<u8>,
}

impl Probe for Connect {
    fn begin(&mut self) -> Vec<u8> {
        b"\x10\x0c\0\x04MQTT\x04\x02\0\x0a\0\0".to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the broker closed the connection instead of answering CONNECT".into()));
        }
        self.held.extend_from_slice(bytes);
        match self.held[..] {
            // Any return code but "unavailable" shows that the broker works.
            [CONNACK, 2, _, 3, ..] => Err(ProbeError("the broker is unavailable (CONNACK 3)".into())),
            [CONNACK, 2, _, 0, ..] => Ok(ProbeStep::Serves { goodbye: vec![0xe0, 0] }),
            [CONNACK, 2, _, _, ..] => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            [CONNACK] | [CONNACK, 2] | [CONNACK, 2, _] => Ok(ProbeStep::Incomplete),
            _ => Err(ProbeError("the broker's answer to CONNECT is not CONNACK".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connect_of_every_version_is_known_however_it_comes() {
        for (name, level) in [(&b"\0\x04MQTT"[..], 4), (b"\0\x04MQTT", 5), (b"\0\x06MQIsdp", 3)] {
            let packet = [&[CONNECT, 0x90, 0x01], name, &[level, 2]].concat();
            let known = 3 + name.len() + 1;
            for cut in 0..known {
                assert!(matches!(judge(&packet[..cut]), FirstMessageVerdict::Incomplete), "{cut}");
            }
            let FirstMessageVerdict::Speaks(ReplyTo([heard, ..])) = judge(&packet) else {
                panic!("{packet:?}")
            };
            assert_eq!(heard, level);
        }
        for foreign in [&b"GET /"[..], b"\x10\xff\xff\xff\xff", b"\x10\x0c\0\x04HTTP", b"\x30\x00"] {
            assert!(matches!(judge(foreign), FirstMessageVerdict::Foreign(_)), "{foreign:?}");
        }
    }

    #[test]
    fn a_client_of_version_5_is_told_in_words() {
        let long = "r".repeat(150);
        let refusal = |level| Refusal {
            server: None,
            kind: RefusalKind::Full,
            reason: &long,
            session: "s",
            reply_to: ReplyTo([level, 0, 0, 0, 0, 0, 0, 0]),
        };
        assert_eq!(Mqtt.refusal(&refusal(4)).unwrap(), CONNACK_UNAVAILABLE);
        let packet = Mqtt.refusal(&refusal(5)).unwrap();
        let (length, octets) = remaining_length(&packet[1..]).unwrap().unwrap();
        assert_eq!((packet[0], 1 + octets + length), (CONNACK, packet.len()));
        assert_eq!(packet[1 + octets..3 + octets], [0, 0x97]);
        assert!(packet.ends_with(b" [session s]"));
    }

    /// Mosquitto's bridges set a bit of the level, and were answered by version 5, which they do not understand.
    #[test]
    fn a_bridge_is_answered_in_its_own_version() {
        for (level, is_5) in [(0x83, false), (0x84, false), (0x85, true), (3, false), (6, true)] {
            let refusal = Refusal {
                kind: RefusalKind::Unreachable,
                reason: "r",
                session: "s",
                server: None,
                reply_to: ReplyTo([level, 0, 0, 0, 0, 0, 0, 0]),
            };
            let answer = Mqtt.refusal(&refusal).unwrap();
            assert_eq!(answer != CONNACK_UNAVAILABLE, is_5, "{level:#x}: {answer:?}");
        }
    }

    #[test]
    fn any_code_but_unavailable_is_a_broker_at_work() {
        for (code, serves) in [(0, true), (5, true), (2, true), (3, false)] {
            let mut probe = Connect::default();
            assert!(matches!(probe.receive(&[CONNACK]), Ok(ProbeStep::Incomplete)));
            assert_eq!(probe.receive(&[2, 0, code]).is_ok(), serves, "{code}");
        }
        assert!(Connect::default().receive(b"HTTP").is_err() && Connect::default().receive(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = judge(&bytes);
            let _ = judge(&[&[CONNECT][..], &bytes].concat());
            let _ = Connect::default().receive(&bytes);
        }
    }
}
