//! Tables over the dialogue's listener edges: byte sequences as PostgreSQL 15 and 18 and libpq send them.

mod probe;
mod scram;

use super::opening::*;
use super::startup::*;
use super::*;
use crate::protocol::{
    CancelKey, ClientOpening, Dialogue, OpeningError, OpeningReply, OpeningState, Outbox, ProbeError,
    ProbeStep,
};
use proptest::prelude::*;

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut packet = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

const LIBPQ: Postgres = Postgres { scram_plus: ScramPlus::Auto, server_is_verified: true };

fn opening() -> StartupOpening {
    StartupOpening::new(LIBPQ)
}

#[track_caller]
fn opened(said: Result<OpeningState, OpeningError>) -> ClientOpening {
    match said {
        Ok(OpeningState::Opened(opened)) => opened,
        other => panic!("expected an opening, got {other:?}"),
    }
}

#[track_caller]
fn is_declined(said: &Result<OpeningState, OpeningError>) {
    assert!(matches!(said, Ok(OpeningState::Answer(answer)) if **answer == *b"N"), "{said:?}");
}

#[test]
fn requests_for_encryption_are_declined_once_each_in_either_order() {
    let packet = startup(&[("user", "u"), ("database", "d")]);
    for order in [[SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]] {
        let mut opening = opening();
        for request in order {
            is_declined(&opening.receive(&request));
        }
        let opened = opened(opening.receive(&packet));
        assert_eq!(opened.bytes, packet);
        assert!(opened.cancels.is_none() && !opened.may_half_close);
    }
    let mut opening = opening();
    is_declined(&opening.receive(&SSL_REQUEST));
    assert!(opening.receive(&SSL_REQUEST).is_err(), "a second SSLRequest");
}

#[test]
fn a_startup_packet_may_come_byte_by_byte() {
    let packet = startup(&[("user", "u")]);
    let mut opening = opening();
    let (last, first) = packet.split_last().unwrap();
    for byte in first {
        assert!(matches!(opening.receive(&[*byte]), Ok(OpeningState::Incomplete)));
    }
    assert_eq!(opened(opening.receive(&[*last])).bytes, packet);
}

/// Whether PLUS is removed from the offer to a client with these parameters.
fn strips(protocol: Postgres, parameters: &[(&str, &str)]) -> bool {
    let opened = opened(StartupOpening::new(protocol).receive(&startup(parameters)));
    let mut dialogue = opened.dialogue.expect("a session has a dialogue");
    let offered = offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let mut out = Outbox::default();
    dialogue.on_upstream(&offered, &mut out).unwrap();
    out.to_downstream != offered
}

#[test]
fn npgsql_is_known_by_the_order_of_its_parameters() {
    for (parameters, expected) in [
        (&[("user", "u"), ("client_encoding", "UTF8"), ("database", "d")][..], false),
        (&[("user", "u"), ("database", "d"), ("client_encoding", "UTF8")], true),
        (&[("client_encoding", "UTF8"), ("user", "u")], true),
        (&[("user", "client_encoding")], true),
        (&[], true),
    ] {
        assert_eq!(strips(LIBPQ, parameters), expected, "{parameters:?}");
    }
}

#[test]
fn cancel_requests_of_both_protocol_versions_open() {
    for key in [4, 5, 32, 255, 256] {
        let mut packet = u32::try_from(12 + key).unwrap().to_be_bytes().to_vec();
        packet.extend(CANCEL_REQUEST_CODE.to_be_bytes());
        packet.extend(7_u32.to_be_bytes());
        packet.extend(std::iter::repeat_n(0xAA, key));
        let opened = opened(opening().receive(&packet));
        assert_eq!(opened.cancels, Some(CancelKey { process: 7, secret: vec![0xAA; key].into() }));
        assert!(opened.dialogue.is_none());
        assert_eq!(opened.bytes, packet);
    }
    for key in [0, 257] {
        let mut packet = u32::try_from(12 + key).unwrap().to_be_bytes().to_vec();
        packet.extend(CANCEL_REQUEST_CODE.to_be_bytes());
        packet.extend(vec![0xAA; 4 + key]);
        assert!(opening().receive(&packet).is_err(), "a key of {key} bytes");
    }
}

#[test]
fn what_is_not_a_first_packet_is_answered() {
    let stuffed = [SSL_REQUEST.as_slice(), b"x"].concat();
    let old = [0, 0, 0, 8, 0, 2, 0, 0];
    for (bytes, answer) in [
        (&b"\x16\x03\x01\x02\x00"[..], OpeningReply::TlsAlert),
        (b"\x16", OpeningReply::TlsAlert),
        (b"GET / HTTP/1.1\r\n\r\n", OpeningReply::InProtocol),
        (b"\x00\x00\x00\x04", OpeningReply::InProtocol),
        (b"\x00\x00\x27\x15", OpeningReply::InProtocol),
        (&old, OpeningReply::InProtocol),
        (&stuffed, OpeningReply::InProtocol),
    ] {
        assert_eq!(opening().receive(bytes).unwrap_err().answer, answer, "{bytes:?}");
    }
}

#[test]
fn only_a_lone_s_leads_to_tls() {
    assert!(matches!(SslRequest.receive(b"S"), Ok(UpgradeStep::Upgrade(_))));
    for (answer, expected) in [
        (&b""[..], UpgradeError::Closed),
        (b"N", UpgradeError::Declined),
        (b"E", UpgradeError::ErrorAnswer),
        (b"SX", UpgradeError::PlaintextAfterUpgrade),
        (b"H", UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: b'H' }),
    ] {
        assert_eq!(SslRequest.receive(answer).unwrap_err(), expected, "{answer:?}");
    }
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";

fn offer(names: &[&str]) -> Vec<u8> {
    let mut body = AUTHENTICATION_SASL.to_be_bytes().to_vec();
    for name in names {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = vec![b'R'];
    message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend(body);
    message
}

#[test]
fn the_cancel_key_is_learnt_whatever_its_length_and_before_the_session_is_ready() {
    for length in [4, 5, 32, 255, 256] {
        let mut message = b"K".to_vec();
        message.extend(u32::try_from(8 + length).unwrap().to_be_bytes());
        message.extend(77_u32.to_be_bytes());
        message.extend(vec![9; length]);
        let server = [OK, &message].concat();
        let (mut startup, mut out) = (Startup::new(false), Outbox::default());
        for byte in &server {
            assert_eq!(startup.cancel_key(), None);
            startup.on_upstream(&[*byte], &mut out).unwrap();
        }
        assert_eq!(out.to_downstream, server);
        assert_eq!(startup.cancel_key(), Some(CancelKey { process: 77, secret: vec![9; length].into() }));
        assert_eq!(startup.cancel_key(), None, "told once");
        assert!(!startup.is_finished(), "a trigger on login may still keep the client waiting");
        startup.on_upstream(READY, &mut out).unwrap();
        assert!(startup.is_finished());
    }
}

#[test]
fn a_cancel_key_of_an_impossible_length_goes_through_unlearnt() {
    for length in [3, 257] {
        let mut message = b"K".to_vec();
        message.extend(u32::try_from(8 + length).unwrap().to_be_bytes());
        message.extend(vec![9; 4 + length]);
        let (mut startup, mut out) = (Startup::new(false), Outbox::default());
        startup.on_upstream(&[&message, READY].concat(), &mut out).unwrap();
        assert_eq!(out.to_downstream, [&message, READY].concat());
        assert!(startup.is_finished() && startup.cancel_key().is_none());
    }
}

/// The server negotiates a minor version that it does not know (NegotiateProtocolVersion), or refuses it; that is not
/// our decision.
#[test]
fn every_minor_version_of_protocol_3_passes() {
    for minor in [0, 1, 2, 9999, 0xffff] {
        let mut packet = startup(&[("user", "u"), ("_pq_.test_protocol_negotiation", "")]);
        packet[4..8].copy_from_slice(&((3_u32 << 16) | minor).to_be_bytes());
        assert_eq!(opened(opening().receive(&packet)).bytes, packet);
    }
    // PostgreSQL 15's answer to 3.2.
    let negotiated = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0";
    let (mut startup, mut out) = (Startup::new(true), Outbox::default());
    startup.on_upstream(&[negotiated, OK, READY].concat(), &mut out).unwrap();
    assert_eq!(out.to_downstream, [negotiated, OK, READY].concat());
    assert!(startup.is_finished());
}

#[test]
fn impossible_lengths_are_errors() {
    for message in [&b"R\0\0\0\x04"[..], b"R\xff\xff\xff\xff", b"E\0\0\0\x03", b"R\0\x01\0\x01"] {
        assert!(Startup::new(true).on_upstream(message, &mut Outbox::default()).is_err(), "{message:?}");
    }
}

#[test]
fn a_refusal_is_a_well_formed_error_response() {
    let refusal = Refusal {
        server: None,
        kind: RefusalKind::Full,
        reason: "no\0room",
        session: "00ff",
        reply_to: ReplyTo::default(),
    };
    let message = error_response(&refusal);
    assert_eq!(message[0], b'E');
    assert_eq!(be_u32(&message, 1).unwrap() as usize + 1, message.len());
    let fields: Vec<_> = message[5..].split(|byte| *byte == 0).collect();
    assert_eq!(fields[2], b"C53300");
    assert_eq!(fields[3], b"Mambassador: no room [session 00ff]");
    assert!(fields[4].is_empty());
    assert!(
        error_response(&Refusal { reply_to: CANCELS, ..refusal }).is_empty(),
        "a cancel is answered by the end"
    );
}

proptest! {
    #[test]
    fn no_client_bytes_panic_or_are_held_without_bound(bytes: Vec<u8>, chunk in 1_usize..64) {
        let mut opening = opening();
        for part in bytes.chunks(chunk) {
            match opening.receive(part) {
                Ok(OpeningState::Incomplete | OpeningState::Answer(_)) => prop_assert!(opening.held.len() < OPENING_MAX + chunk),
                Ok(OpeningState::Opened(_)) | Err(_) => break,
            }
        }
    }

    #[test]
    fn how_the_server_splits_its_bytes_changes_nothing(bytes: Vec<u8>, chunk in 1_usize..64) {
        let run = |chunk: usize| {
            let (mut startup, mut out) = (Startup::new(true), Outbox::default());
            let ended = bytes.chunks(chunk).try_for_each(|part| startup.on_upstream(part, &mut out));
            (ended, out.to_downstream, startup.is_finished())
        };
        prop_assert_eq!(run(chunk), run(bytes.len().max(1)));
    }

    #[test]
    fn no_login_panics_or_is_held_without_bound(bytes: Vec<u8>, chunk in 1_usize..64) {
        let (mut startup, mut out) = (Startup::new(true), Outbox::default());
        startup.on_upstream(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &mut out).unwrap();
        for part in bytes.chunks(chunk) {
            prop_assert!(startup.on_downstream(part, &mut out).is_ok() || bytes.starts_with(b"p"));
            if let Client::Answering(held) = &startup.client {
                prop_assert!(held.len() < 128 + chunk);
            }
        }
    }
}

/// Only a complete error in place of an answer to the login that means "not now".
#[test]
fn a_server_turns_sessions_away_by_two_errors() {
    let error = |kind: u8, sqlstate: &str| {
        let body = format!("SFATAL\0VFATAL\0C{sqlstate}\0Msorry\0\0");
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body.as_bytes()].concat()
    };
    let shown = |first: &[u8]| LIBPQ.parse_refusal_behind_tls(first).map(|by| by.to_string());
    assert_eq!(shown(&error(b'E', "53300")).as_deref(), Some("PostgreSQL error 53300: sorry"));
    assert_eq!(shown(&error(b'E', "57P03")).as_deref(), Some("PostgreSQL error 57P03: sorry"));
    for other in ["28P01", "57P01", "5330", ""] {
        assert_eq!(shown(&error(b'E', other)), None, "{other}");
    }
    let whole = error(b'E', "53300");
    assert!((0..whole.len()).all(|length| shown(&whole[..length]).is_none()), "a part of it");
    assert_eq!(shown(&error(b'R', "53300")), None);
    let behind = |first: &[u8]| shown(&[first, &whole].concat());
    for first in [&b"R\0\0\0\x08\0\0\0\0"[..], &error(b'N', "00000"), b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0"] {
        assert!(behind(first).is_some(), "in one flight: {first:?}");
    }
    assert_eq!(behind(b"R\0\0\0\x08\0\0\0\x03"), None, "it asks for a password");
    for length in [0_u32, 4, u32::MAX] {
        assert_eq!(shown(&[&b"E"[..], &length.to_be_bytes(), b"C53300\0"].concat()), None, "{length}");
    }
}
