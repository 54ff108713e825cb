//! Tables over PRELOGINs as clients and servers send them.

use super::*;
use proptest::prelude::*;

/// What FreeTDS sends, with that wish.
fn asking(encryption: u8) -> Vec<u8> {
    let table = [0, 0, 21, 0, 6, 1, 0, 27, 0, 1, 2, 0, 28, 0, 1, 3, 0, 29, 0, 4, 0xff];
    packet(PRELOGIN, &[&table[..], &[9, 0, 0, 0, 0, 0, encryption, 0, 1, 2, 3, 4]].concat())
}

fn answering(encryption: u8) -> Vec<u8> {
    packet(RESPONSE, &[0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xff, 16, 0, 4, 0xd6, 0, 0, encryption])
}

fn opened(client: &[u8], portion: usize) -> Result<Opened, OpeningError> {
    let mut opening = ReadPrelogin::default();
    for bytes in client.chunks(portion) {
        if let Said::Opened(opened) = opening.received(bytes)? {
            return Ok(opened);
        }
    }
    panic!("a PRELOGIN is whole, or none")
}

#[test]
fn neither_side_hears_of_encryption() {
    for portion in [1, 7, 1000] {
        for wish in [0, 1, 2, 3] {
            let opened = opened(&asking(wish), portion).unwrap();
            assert_eq!(opened.bytes, asking(NOT_SUPPORTED));
            let (mut dialogue, mut out) = (opened.dialogue.unwrap(), Outbox::default());
            let said = [answering(wish), b"more".to_vec()].concat();
            for bytes in said.chunks(portion) {
                dialogue.upstream_said(bytes, &mut out).unwrap();
            }
            assert_eq!(out.to_downstream, [answering(NOT_SUPPORTED), b"more".to_vec()].concat());
            assert!(dialogue.is_finished());
        }
    }
}

#[test]
fn what_is_not_a_prelogin_is_refused_before_a_dial() {
    let long = [&[PRELOGIN, 1, 0x10, 1][..], &[0; 8]].concat();
    let no_option = packet(PRELOGIN, &[0, 0, 6, 0, 6, END, 0, 0, 0, 0, 0, 0]);
    let outside = packet(PRELOGIN, &[1, 0xff, 0xff, 0, 1, END, 0]);
    let in_parts = [&[PRELOGIN, 0, 0, 20][..], &[0; 16]].concat();
    for bytes in [b"GET / HTTP/1.1\r\n".to_vec(), long, no_option, outside, in_parts, vec![PRELOGIN, 1, 0, 8]]
    {
        let error = opened(&bytes, 1).unwrap_err();
        assert!(error.reason.contains("PRELOGIN"), "{bytes:?}: {error}");
    }
    assert_eq!(opened(b"\x16\x03\x01", 1).unwrap_err().answer, super::super::Answer::TlsAlert);
}

#[test]
fn a_server_that_answers_something_else_is_told() {
    for bytes in
        [&b"HTTP/1.1 400"[..], &[RESPONSE, 1, 0, 8], &[RESPONSE, 1, 0xff, 0xff], &[RESPONSE, 0, 0, 9]]
    {
        let (mut dialogue, mut out) = (Answer::default(), Outbox::default());
        let ended = bytes.chunks(1).try_for_each(|byte| dialogue.upstream_said(byte, &mut out));
        assert_eq!(ended.unwrap_err().reply_to, ASKED);
        assert!(out.to_downstream.is_empty());
        let mut probe = AskPrelogin::default();
        assert!(bytes.chunks(1).any(|byte| probe.received(byte).is_err()));
    }
}

#[test]
fn a_probe_asks_and_is_answered() {
    let mut probe = AskPrelogin::default();
    assert_eq!(opened(&probe.begin(), 1000).unwrap().bytes, probe.begin(), "it asks for no encryption");
    let (last, others) = answering(2).split_last().map(|(last, others)| (*last, others.to_vec())).unwrap();
    assert_eq!(probe.received(&others), Ok(Probed::Incomplete));
    assert_eq!(probe.received(&[last]), Ok(Probed::Serves { goodbye: vec![] }));
    assert!(AskPrelogin::default().received(b"").is_err());
}

#[test]
fn a_refusal_answers_prelogin_and_the_login_behind_it() {
    let refusal = |reply_to| Refusal {
        server: None,
        kind: RefusalKind::Unreachable,
        reason: "connect_failed: no",
        session: "00ff",
        reply_to,
    };
    let said = error(&refusal(ASKED));
    let First::Whole(length) = first(RESPONSE, &said) else { panic!("an answer to PRELOGIN") };
    assert_eq!(said[length - 1], NOT_SUPPORTED);
    let told = &said[length..];
    let First::Whole(length) = first(RESPONSE, told) else { panic!("an answer to the login") };
    assert_eq!((length, told[HEAD]), (told.len(), 0xaa));
    let wide: Vec<u8> = "connect_failed: no".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(told.windows(wide.len()).any(|window| window == wide));
    assert_eq!(error(&refusal(ReplyTo::default())), told);
}

proptest! {
    #[test]
    fn no_packet_panics(mut bytes: Vec<u8>, portion in 1_usize..40) {
        for kind in [PRELOGIN, RESPONSE] {
            if let [first, status, high, ..] = &mut bytes[..] {
                (*first, *status, *high) = (kind, 1, 0);
            }
            let (mut opening, mut dialogue, mut out) = (ReadPrelogin::default(), Answer::default(), Outbox::default());
            let _ = bytes.chunks(portion).try_for_each(|part| opening.received(part).map(drop));
            let _ = bytes.chunks(portion).try_for_each(|part| dialogue.upstream_said(part, &mut out));
        }
    }
}
