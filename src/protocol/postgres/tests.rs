//! Tables over the dialogue's entry points: byte sequences as PostgreSQL 15 and 18 and libpq send them.

use super::*;
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

fn opened(said: Said) -> (Vec<u8>, Hello) {
    let Said::Opened { bytes, hello: AnyHello::Postgres(hello) } = said else {
        panic!("expected an opening, got {said:?}");
    };
    (bytes, hello)
}

#[test]
fn requests_for_encryption_are_declined_once_each_in_either_order() {
    let packet = startup(&[("user", "u"), ("database", "d")]);
    for order in [[SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]] {
        let mut opening = Opening::default();
        for request in order {
            assert_eq!(opening.received(&request), Ok(Said::Answer(b"N")));
        }
        let (bytes, hello) = opened(opening.received(&packet).unwrap());
        assert_eq!(bytes, packet);
        assert_eq!(hello, Hello { is_cancel: false, looks_like_npgsql: false });
    }
    let mut opening = Opening::default();
    opening.received(&SSL_REQUEST).unwrap();
    assert!(opening.received(&SSL_REQUEST).is_err(), "a second SSLRequest");
}

#[test]
fn a_startup_packet_may_come_byte_by_byte() {
    let packet = startup(&[("user", "u")]);
    let mut opening = Opening::default();
    let (last, first) = packet.split_last().unwrap();
    for byte in first {
        assert_eq!(opening.received(&[*byte]), Ok(Said::Incomplete));
    }
    assert_eq!(opened(opening.received(&[*last]).unwrap()).0, packet);
}

#[test]
fn npgsql_is_known_by_the_order_of_its_parameters() {
    for (parameters, expected) in [
        (&[("user", "u"), ("client_encoding", "UTF8"), ("database", "d")][..], true),
        (&[("user", "u"), ("database", "d"), ("client_encoding", "UTF8")], false),
        (&[("client_encoding", "UTF8"), ("user", "u")], false),
        (&[("user", "client_encoding")], false),
        (&[], false),
    ] {
        let said = Opening::default().received(&startup(parameters)).unwrap();
        assert_eq!(opened(said).1.looks_like_npgsql, expected, "{parameters:?}");
    }
}

#[test]
fn cancel_requests_of_both_protocol_versions_open() {
    for key in [4, 32, 256] {
        let mut packet = u32::try_from(12 + key).unwrap().to_be_bytes().to_vec();
        packet.extend(CANCEL_REQUEST_CODE.to_be_bytes());
        packet.extend(7_u32.to_be_bytes());
        packet.extend(std::iter::repeat_n(0xAA, key));
        let (bytes, hello) = opened(Opening::default().received(&packet).unwrap());
        assert!(hello.is_cancel);
        assert_eq!(bytes, packet);
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
        assert_eq!(Opening::default().received(bytes).unwrap_err().answer, answer, "{bytes:?}");
    }
}

#[test]
fn only_a_lone_s_leads_to_tls() {
    assert!(matches!(SslRequest::new().received(b"S"), Ok(Step::Upgrade(_))));
    for (answer, expected) in [
        (&b""[..], UpgradeError::Closed),
        (b"N", UpgradeError::Declined),
        (b"E", UpgradeError::ErrorAnswer),
        (b"SX", UpgradeError::PlaintextAfterUpgrade),
        (b"H", UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: b'H' }),
    ] {
        assert_eq!(SslRequest::new().received(answer).unwrap_err(), expected, "{answer:?}");
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
        let mut authentication = Authentication::default();
        let mut out = Vec::new();
        for bytes in server.chunks(chunk) {
            authentication.upstream_said(bytes, &mut out).unwrap();
        }
        assert_eq!(out, expected, "in chunks of {chunk}");
        assert!(authentication.is_finished());
    }
    // The exact bytes seen from PostgreSQL 15.18 and 18.6, and what libpq accepts.
    assert_eq!(offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])[..5], *b"R\0\0\0\x2a");
    assert_eq!(without_plus(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])).unwrap()[..5], *b"R\0\0\0\x17");
}

#[test]
fn an_offer_of_plus_alone_is_an_error_in_words() {
    let error = Authentication::default().upstream_said(&offer(&["SCRAM-SHA-256-PLUS"]), &mut Vec::new());
    assert!(error.unwrap_err().0.contains("SCRAM-SHA-256-PLUS"));
}

/// A fuzzer found that a list without its terminators was mended on the way, and so grew.
#[test]
fn a_malformed_offer_is_an_error_and_not_mended() {
    for names in [&b""[..], b"A", b"A\0", b"\0\0", b"A\0\0\0", b"A\0\0B\0\0"] {
        let mut message = b"R\0\0\0\0".to_vec();
        message.extend(AUTHENTICATION_SASL.to_be_bytes());
        message.extend(names);
        message[4] = u8::try_from(message.len() - 1).unwrap();
        let answer = Authentication::default().upstream_said(&message, &mut Vec::new());
        assert!(answer.is_err(), "{names:?}");
    }
}

#[test]
fn impossible_lengths_are_errors() {
    for message in [&b"R\0\0\0\x04"[..], b"R\xff\xff\xff\xff", b"E\0\0\0\x03", b"R\0\x01\0\x01"] {
        assert!(Authentication::default().upstream_said(message, &mut Vec::new()).is_err(), "{message:?}");
    }
}

#[test]
fn scram_plus_decides_by_setting_client_and_verification() {
    let libpq = Hello { is_cancel: false, looks_like_npgsql: false };
    let npgsql = Hello { looks_like_npgsql: true, ..libpq };
    for (scram_plus, hello, verified, strips) in [
        (ScramPlus::Auto, libpq, true, true),
        (ScramPlus::Auto, npgsql, true, false),
        (ScramPlus::Strip, npgsql, true, true),
        (ScramPlus::Keep, libpq, true, false),
        (ScramPlus::Auto, libpq, false, false),
        (ScramPlus::Auto, Hello { is_cancel: true, ..libpq }, true, false),
    ] {
        let made = Settings { scram_plus }.authentication(hello, verified).is_some();
        assert_eq!(made, strips, "{scram_plus:?} {hello:?} verified: {verified}");
    }
}

#[test]
fn a_refusal_is_a_well_formed_error_response() {
    let refusal = Refusal { kind: RefusalKind::Full, reason: "no\0room", session: "00ff" };
    let message = error_response(&refusal);
    assert_eq!(message[0], b'E');
    assert_eq!(be_u32(&message, 1).unwrap() as usize + 1, message.len());
    let fields: Vec<_> = message[5..].split(|byte| *byte == 0).collect();
    assert_eq!(fields[2], b"C53300");
    assert_eq!(fields[3], b"Mambassador: noroom [session 00ff]");
    assert!(fields[4].is_empty());
}

proptest! {
    #[test]
    fn no_client_bytes_panic_or_are_held_without_bound(bytes: Vec<u8>, chunk in 1_usize..64) {
        let mut opening = Opening::default();
        for part in bytes.chunks(chunk) {
            match opening.received(part) {
                Ok(Said::Incomplete | Said::Answer(_)) => prop_assert!(opening.held.len() < OPENING_MAX + chunk),
                Ok(Said::Opened { .. }) | Err(_) => break,
            }
        }
    }

    #[test]
    fn how_the_server_splits_its_bytes_changes_nothing(bytes: Vec<u8>, chunk in 1_usize..64) {
        let run = |chunk: usize| {
            let (mut authentication, mut out) = (Authentication::default(), Vec::new());
            let ended = bytes.chunks(chunk).try_for_each(|part| authentication.upstream_said(part, &mut out));
            (ended, out, authentication.is_finished())
        };
        prop_assert_eq!(run(chunk), run(bytes.len().max(1)));
    }
}
