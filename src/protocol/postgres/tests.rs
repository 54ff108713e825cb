//! Tables over the dialogue's entry points: byte sequences as PostgreSQL 15 and 18 and libpq send them.

use super::*;
use crate::protocol::Answer;
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

fn opening() -> Opening {
    Opening::new(LIBPQ)
}

#[track_caller]
fn opened(said: Result<Said, OpeningError>) -> Opened {
    match said {
        Ok(Said::Opened(opened)) => opened,
        other => panic!("expected an opening, got {other:?}"),
    }
}

#[track_caller]
fn is_declined(said: &Result<Said, OpeningError>) {
    assert!(matches!(said, Ok(Said::Answer(answer)) if **answer == *b"N"), "{said:?}");
}

#[test]
fn requests_for_encryption_are_declined_once_each_in_either_order() {
    let packet = startup(&[("user", "u"), ("database", "d")]);
    for order in [[SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]] {
        let mut opening = opening();
        for request in order {
            is_declined(&opening.received(&request));
        }
        let opened = opened(opening.received(&packet));
        assert_eq!(opened.bytes, packet);
        assert!(opened.cancels.is_none() && !opened.may_half_close);
    }
    let mut opening = opening();
    is_declined(&opening.received(&SSL_REQUEST));
    assert!(opening.received(&SSL_REQUEST).is_err(), "a second SSLRequest");
}

#[test]
fn a_startup_packet_may_come_byte_by_byte() {
    let packet = startup(&[("user", "u")]);
    let mut opening = opening();
    let (last, first) = packet.split_last().unwrap();
    for byte in first {
        assert!(matches!(opening.received(&[*byte]), Ok(Said::Incomplete)));
    }
    assert_eq!(opened(opening.received(&[*last])).bytes, packet);
}

/// Whether PLUS is taken out of the offer to a client with these parameters.
fn strips(protocol: Postgres, parameters: &[(&str, &str)]) -> bool {
    let opened = opened(Opening::new(protocol).received(&startup(parameters)));
    let mut dialogue = opened.dialogue.expect("a session has a dialogue");
    let offered = offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let mut out = Outbox::default();
    dialogue.upstream_said(&offered, &mut out).unwrap();
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
    for key in [4, 32, 256] {
        let mut packet = u32::try_from(12 + key).unwrap().to_be_bytes().to_vec();
        packet.extend(CANCEL_REQUEST_CODE.to_be_bytes());
        packet.extend(7_u32.to_be_bytes());
        packet.extend(std::iter::repeat_n(0xAA, key));
        let opened = opened(opening().received(&packet));
        assert_eq!(opened.cancels, Some(CancelKey { process: 7, secret: vec![0xAA; key].into() }));
        assert!(opened.dialogue.is_none());
        assert_eq!(opened.bytes, packet);
    }
}

#[test]
fn what_is_not_a_first_packet_is_answered() {
    let stuffed = [SSL_REQUEST.as_slice(), b"x"].concat();
    let old = [0, 0, 0, 8, 0, 2, 0, 0];
    for (bytes, answer) in [
        (&b"\x16\x03\x01\x02\x00"[..], Answer::TlsAlert),
        (b"\x16", Answer::TlsAlert),
        (b"GET / HTTP/1.1\r\n\r\n", Answer::InProtocol),
        (b"\x00\x00\x00\x04", Answer::InProtocol),
        (b"\x00\x00\x27\x15", Answer::InProtocol),
        (&old, Answer::InProtocol),
        (&stuffed, Answer::InProtocol),
    ] {
        assert_eq!(opening().received(bytes).unwrap_err().answer, answer, "{bytes:?}");
    }
}

#[test]
fn only_a_lone_s_leads_to_tls() {
    assert!(matches!(SslRequest.received(b"S"), Ok(Step::Upgrade(_))));
    for (answer, expected) in [
        (&b""[..], UpgradeError::Closed),
        (b"N", UpgradeError::Declined),
        (b"E", UpgradeError::ErrorAnswer),
        (b"SX", UpgradeError::PlaintextAfterUpgrade),
        (b"H", UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: b'H' }),
    ] {
        assert_eq!(SslRequest.received(answer).unwrap_err(), expected, "{answer:?}");
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
fn plus_is_taken_out_of_the_offer_and_nothing_else_changes() {
    let parts = [b"N\0\0\0\x06hi".to_vec(), offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), OK.to_vec()];
    let expected =
        [b"N\0\0\0\x06hi".to_vec(), offer(&["SCRAM-SHA-256"]), OK.to_vec(), READY.to_vec()].concat();
    let server = [parts.concat(), READY.to_vec()].concat();
    for chunk in [1, 2, 3, 7, 1000] {
        let mut startup = Startup::new(true);
        let mut out = Outbox::default();
        for bytes in server.chunks(chunk) {
            startup.upstream_said(bytes, &mut out).unwrap();
        }
        assert_eq!(out.to_downstream, expected, "in chunks of {chunk}");
        assert!(!startup.is_finished(), "a client that has not answered yet may still bind");
        out = Outbox::default();
        let answer = initial_response(b'n');
        startup.downstream_said(&answer, &mut out).unwrap();
        assert_eq!(out.to_upstream, answer);
        assert!(startup.is_finished());
    }
    // The exact bytes seen from PostgreSQL 15.18 and 18.6, and what libpq accepts.
    assert_eq!(offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])[..5], *b"R\0\0\0\x2a");
    assert_eq!(without_plus(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])).unwrap()[..5], *b"R\0\0\0\x17");
}

/// SASLInitialResponse with that gs2 flag.
fn initial_response(flag: u8) -> Vec<u8> {
    let data = [&[flag][..], b",,n=,r=abc"].concat();
    let mut body = b"SCRAM-SHA-256\0".to_vec();
    body.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    body.extend(data);
    let mut message = vec![b'p'];
    message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend(body);
    message
}

#[test]
fn a_client_that_could_bind_is_told_what_to_set_once_plus_was_taken_away() {
    for (names, flag, is_refused) in [
        (&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..], b'y', true),
        (&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], b'n', false),
        // Nothing was taken away, so the server cannot bind either, and a `y` is fine with it.
        (&["SCRAM-SHA-256"], b'y', false),
    ] {
        for chunk in [1, 5, 100] {
            let (mut startup, mut out) = (Startup::new(true), Outbox::default());
            startup.upstream_said(&offer(names), &mut out).unwrap();
            let answer = initial_response(flag);
            let said = answer.chunks(chunk).try_for_each(|part| startup.downstream_said(part, &mut out));
            assert_eq!(said.is_err(), is_refused, "{names:?} {flag}");
            match said {
                Err(error) => {
                    assert_eq!(error.side, crate::outcome::Side::Downstream);
                    assert!(error.reason.contains("scram_plus: keep"));
                    assert!(out.to_upstream.is_empty(), "the server never hears of it");
                }
                Ok(()) => assert_eq!(out.to_upstream, answer),
            }
        }
    }
}

#[test]
fn the_cancel_key_is_learnt_whatever_its_length() {
    for length in [4, 32, 256] {
        let mut message = b"K".to_vec();
        message.extend(u32::try_from(8 + length).unwrap().to_be_bytes());
        message.extend(77_u32.to_be_bytes());
        message.extend(vec![9; length]);
        let server = [OK, &message, READY].concat();
        let (mut startup, mut out) = (Startup::new(false), Outbox::default());
        for byte in &server {
            startup.upstream_said(&[*byte], &mut out).unwrap();
        }
        assert_eq!(out.to_downstream, server);
        assert!(startup.is_finished());
        assert_eq!(startup.cancel_key(), Some(CancelKey { process: 77, secret: vec![9; length].into() }));
    }
}

#[test]
fn an_offer_of_plus_alone_is_an_error_in_words() {
    let error = Startup::new(true).upstream_said(&offer(&["SCRAM-SHA-256-PLUS"]), &mut Outbox::default());
    assert!(error.unwrap_err().reason.contains("SCRAM-SHA-256-PLUS"));
}

/// A fuzzer found that a list without its terminators was mended on the way, and so grew.
#[test]
fn a_malformed_offer_is_an_error_and_not_mended() {
    for names in [&b""[..], b"A", b"A\0", b"\0\0", b"A\0\0\0", b"A\0\0B\0\0"] {
        let mut message = b"R\0\0\0\0".to_vec();
        message.extend(AUTHENTICATION_SASL.to_be_bytes());
        message.extend(names);
        message[4] = u8::try_from(message.len() - 1).unwrap();
        let answer = Startup::new(true).upstream_said(&message, &mut Outbox::default());
        assert!(answer.is_err(), "{names:?}");
    }
}

#[test]
fn impossible_lengths_are_errors() {
    for message in [&b"R\0\0\0\x04"[..], b"R\xff\xff\xff\xff", b"E\0\0\0\x03", b"R\0\x01\0\x01"] {
        assert!(Startup::new(true).upstream_said(message, &mut Outbox::default()).is_err(), "{message:?}");
    }
}

#[test]
fn scram_plus_decides_by_setting_client_and_verification() {
    let libpq = &[("user", "u"), ("database", "d")][..];
    let npgsql = &[("user", "u"), ("client_encoding", "UTF8")][..];
    for (scram_plus, client, server_is_verified, expected) in [
        (ScramPlus::Auto, libpq, true, true),
        (ScramPlus::Auto, npgsql, true, false),
        (ScramPlus::Strip, npgsql, true, true),
        (ScramPlus::Keep, libpq, true, false),
        (ScramPlus::Auto, libpq, false, false),
    ] {
        let stripped = strips(Postgres { scram_plus, server_is_verified }, client);
        assert_eq!(stripped, expected, "{scram_plus:?} {client:?} verified: {server_is_verified}");
    }
}

#[test]
fn a_refusal_is_a_well_formed_error_response() {
    let refusal = Refusal {
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

#[test]
fn a_probe_is_content_with_any_first_word_but_not_ready() {
    let error = |code: &str| {
        let body = format!("SFATAL\0C{code}\0Mwords\0\0");
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [b"E", &length[..], body.as_bytes()].concat()
    };
    for (answer, serves) in [
        (offer(&["SCRAM-SHA-256"]), true),
        (error("28000"), true),
        (error("53300"), true),
        (error("57P03"), false),
        (b"HTTP/1.1 400".to_vec(), false),
        (b"E\xff\xff\xff\xff".to_vec(), false),
    ] {
        for portion in [1, 1000] {
            let mut knock = Knock { held: Vec::new() };
            let verdict = answer
                .chunks(portion)
                .map(|bytes| knock.received(bytes))
                .find(|told| *told != Ok(Probed::Incomplete));
            assert_eq!(matches!(verdict, Some(Ok(Probed::Serves { .. }))), serves, "{answer:?}: {verdict:?}");
        }
    }
    assert!(Knock { held: Vec::new() }.received(b"").is_err());
}

proptest! {
    #[test]
    fn no_client_bytes_panic_or_are_held_without_bound(bytes: Vec<u8>, chunk in 1_usize..64) {
        let mut opening = opening();
        for part in bytes.chunks(chunk) {
            match opening.received(part) {
                Ok(Said::Incomplete | Said::Answer(_)) => prop_assert!(opening.held.len() < OPENING_MAX + chunk),
                Ok(Said::Opened(_)) | Err(_) => break,
            }
        }
    }

    #[test]
    fn how_the_server_splits_its_bytes_changes_nothing(bytes: Vec<u8>, chunk in 1_usize..64) {
        let run = |chunk: usize| {
            let (mut startup, mut out) = (Startup::new(true), Outbox::default());
            let ended = bytes.chunks(chunk).try_for_each(|part| startup.upstream_said(part, &mut out));
            (ended, out.to_downstream, startup.is_finished())
        };
        prop_assert_eq!(run(chunk), run(bytes.len().max(1)));
    }

    #[test]
    fn no_login_panics_or_is_held_without_bound(bytes: Vec<u8>, chunk in 1_usize..64) {
        let (mut startup, mut out) = (Startup::new(true), Outbox::default());
        startup.upstream_said(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &mut out).unwrap();
        for part in bytes.chunks(chunk) {
            prop_assert!(startup.downstream_said(part, &mut out).is_ok() || bytes.starts_with(b"p"));
            if let Client::Answering(held) = &startup.client {
                prop_assert!(held.len() < 128 + chunk);
            }
        }
    }
}
