//! The offer of SASL mechanisms and its answer: where channel binding is taken out, and what the client is told then.

use super::*;

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
            startup.on_upstream(bytes, &mut out).unwrap();
        }
        assert_eq!(out.to_downstream, expected, "in chunks of {chunk}");
        assert!(!startup.is_finished(), "a client that has not answered yet may still bind");
        out = Outbox::default();
        let answer = initial_response(b'n');
        startup.on_downstream(&answer, &mut out).unwrap();
        assert_eq!(out.to_upstream, answer);
        assert!(startup.is_finished());
    }
    // The exact bytes that PostgreSQL 15.18 and 18.6 send, and the form that libpq accepts.
    assert_eq!(offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])[..5], *b"R\0\0\0\x2a");
    assert_eq!(without_plus(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])).unwrap()[..5], *b"R\0\0\0\x17");
}

/// A SASLInitialResponse with that gs2 flag.
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
        // Nothing was removed, so the server cannot bind either, and `y` is correct.
        (&["SCRAM-SHA-256"], b'y', false),
    ] {
        for chunk in [1, 5, 100] {
            let (mut startup, mut out) = (Startup::new(true), Outbox::default());
            startup.on_upstream(&offer(names), &mut out).unwrap();
            let answer = initial_response(flag);
            let said = answer.chunks(chunk).try_for_each(|part| startup.on_downstream(part, &mut out));
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

/// Answers without a gs2 flag: buffered until they are complete and no longer, or client and server would wait for
/// ever.
#[test]
fn an_answer_without_a_flag_is_passed_on_once_it_is_whole() {
    let message = |body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&b"p"[..], &length, body].concat()
    };
    for answer in [
        // A mechanism other than SCRAM, and one without initial data (RFC 4422 lets a client wait for an empty
        // challenge).
        message(b"OAUTHBEARER\0\0\0\0\x04n,,\x01"),
        message(b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
        // A client that sent its first message before the offer came continues with the second.
        message(b"c=biws,r=abc,p=xyz"),
        message(b""),
        message(b"SCRAM-SHA-256"),
        message(&[b'x'; 200]),
        b"X\0\0\0\x04".to_vec(),
    ] {
        for chunk in [1, 6, 1000] {
            let (mut startup, mut out) = (Startup::new(true), Outbox::default());
            startup.on_upstream(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &mut out).unwrap();
            for part in answer.chunks(chunk) {
                startup.on_downstream(part, &mut out).unwrap();
            }
            assert_eq!(out.to_upstream, answer, "in portions of {chunk}");
            startup.on_upstream(&[OK, READY].concat(), &mut out).unwrap();
            assert!(startup.is_finished());
        }
    }
    // Bytes after the message are not part of it.
    let (mut startup, mut out) = (Startup::new(true), Outbox::default());
    startup.on_upstream(&offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &mut out).unwrap();
    let pipelined = [message(b"SCRAM-SHA-256\0\xff\xff\xff\xff"), b"yyyy".to_vec()].concat();
    startup.on_downstream(&pipelined, &mut out).unwrap();
    assert_eq!(out.to_upstream, pipelined);
}

#[test]
fn an_offer_of_plus_alone_is_an_error_in_words() {
    let error = Startup::new(true).on_upstream(&offer(&["SCRAM-SHA-256-PLUS"]), &mut Outbox::default());
    assert!(error.unwrap_err().reason.contains("SCRAM-SHA-256-PLUS"));
}

/// Found by fuzzing: a list without its terminators was completed on the way, and so grew.
#[test]
fn a_malformed_offer_is_an_error_and_not_mended() {
    for names in [&b""[..], b"A", b"A\0", b"\0\0", b"A\0\0\0", b"A\0\0B\0\0"] {
        let mut message = b"R\0\0\0\0".to_vec();
        message.extend(AUTHENTICATION_SASL.to_be_bytes());
        message.extend(names);
        message[4] = u8::try_from(message.len() - 1).unwrap();
        let answer = Startup::new(true).on_upstream(&message, &mut Outbox::default());
        assert!(answer.is_err(), "{names:?}");
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
