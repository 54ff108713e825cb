//! Tables over PRELOGINs as clients and servers send them.

use super::super::{TLS_ALERT, UpgradeError, UpgradeStep, Upgraded};
use super::*;
use proptest::prelude::*;

/// FreeTDS's PRELOGIN with that encryption value.
fn asking(encryption: u8) -> Vec<u8> {
    let table = [0, 0, 21, 0, 6, 1, 0, 27, 0, 1, 2, 0, 28, 0, 1, 3, 0, 29, 0, 4, 0xff];
    packet(PRELOGIN, &[&table[..], &[9, 0, 0, 0, 0, 0, encryption, 0, 1, 2, 3, 4]].concat())
}

fn answering(encryption: u8) -> Vec<u8> {
    packet(RESPONSE, &[0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xff, 16, 0, 4, 0xd6, 0, 0, encryption])
}

fn opened(client: &[u8], portion: usize) -> Result<ClientOpening, OpeningError> {
    let mut opening = ReadPrelogin::default();
    for bytes in client.chunks(portion) {
        if let OpeningState::Opened(opened) = opening.receive(bytes)? {
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
                dialogue.on_upstream(bytes, &mut out).unwrap();
            }
            assert_eq!(out.to_downstream, [answering(NOT_SUPPORTED), b"more".to_vec()].concat());
            assert!(dialogue.is_finished());
        }
    }
}

/// Runs an upgrade on a server's bytes, in portions of that size.
fn led(preface: &[u8], server: &[u8], portion: usize) -> Result<Upgraded, UpgradeError> {
    let mut upgrade = MsSql.upgrade_for(preface).unwrap();
    let UpgradeStep::Send(_) = upgrade.begin() else { panic!("it speaks first") };
    let (mut step, mut server) = (upgrade.note_sent(), server);
    loop {
        match step {
            UpgradeStep::ReadAtMost(most) => {
                let (now, later) = server.split_at(most.min(portion).min(server.len()));
                server = later;
                step = upgrade.receive(now)?;
            }
            UpgradeStep::Upgrade(upgraded) => {
                assert!(server.is_empty(), "it reads no further than the answer");
                return Ok(upgraded);
            }
            UpgradeStep::Send(_) | UpgradeStep::AwaitClientReply(_) => panic!("one question, one answer"),
        }
    }
}

/// A PRELOGIN with all options that clients send, and a server's answer to it.
fn in_full(kind: u8, encryption: u8) -> Vec<u8> {
    let options: &[(u8, &[u8])] = &[
        (0, &[15, 0, 16, 172, 0, 0]),
        (1, &[encryption]),
        (2, b"\x01"),
        (3, &[]),
        (4, &[1]),
        (6, &[1]),
        (7, &[7; 32]),
    ];
    prelogin_of(kind, options)
}

#[test]
fn an_upgrade_demands_encryption_in_the_clients_prelogin_and_tells_the_rest_of_the_answer() {
    for wish in [0, 1, 2, 3] {
        let opened = opened(&in_full(PRELOGIN, wish), 1000).unwrap();
        assert_eq!(opened.preface, opened.bytes.len());
        let mut upgrade = MsSql.upgrade_for(&opened.bytes).unwrap();
        let UpgradeStep::Send(sent) = upgrade.begin() else { panic!("it speaks first") };
        assert_eq!(*sent, in_full(PRELOGIN, ON));
        for (consent, portion) in [(ON, 1), (REQUIRED, 9), (ON, 1000)] {
            let upgraded = led(&opened.bytes, &in_full(RESPONSE, consent), portion).unwrap();
            assert!(upgraded.wrapping.is_some() && upgraded.first.is_empty() && upgraded.welcome.is_empty());
            let (mut dialogue, mut out) = (Answer::default(), Outbox::default());
            dialogue.on_upstream(&upgraded.answer.unwrap(), &mut out).unwrap();
            assert_eq!(out.to_downstream, in_full(RESPONSE, NOT_SUPPORTED));
            assert!(dialogue.is_finished());
        }
    }
}

#[test]
fn nothing_unknown_of_a_servers_answer_goes_on() {
    let version: (u8, &[u8]) = (0, &[15, 0, 0, 0, 0, 0]);
    let odd: &[(u8, &[u8])] =
        &[version, (1, &[ON]), (9, b"unknown"), (4, b"too long"), (7, &[1; 32]), (7, &[2; 32])];
    let upgraded = led(&[], &prelogin_of(RESPONSE, odd), 1000).unwrap();
    let known = prelogin_of(RESPONSE, &[version, (1, &[ON]), (7, &[1; 32])]);
    assert_eq!(upgraded.answer.unwrap(), known);
    // As many options as a packet has room for, all with the same value: the result must be small.
    let table = [&[7, 0x0f, 0xd0, 0, 32][..]; 700].concat();
    let mut payload = [&[1, 0x0f, 0xc8, 0, 1][..], &table, &[END]].concat();
    payload.resize(PACKET_MAX - HEAD, ON);
    assert!(led(&[], &packet(RESPONSE, &payload), 1000).unwrap().answer.unwrap().len() < 100);
}

#[test]
fn a_server_that_encrypts_less_than_all_is_left() {
    let error = |server: &[u8]| led(&[], server, 3).unwrap_err();
    for (encryption, word) in
        [(LOGIN_ONLY, "ENCRYPT_OFF"), (NOT_SUPPORTED, "ENCRYPT_NOT_SUP"), (0x20, "nobody")]
    {
        let told = error(&in_full(RESPONSE, encryption)).to_string();
        assert!(told.contains(word), "{told}");
    }
    let silent = prelogin_of(RESPONSE, &[(0, &[15, 0, 0, 0, 0, 0])]);
    assert!(error(&silent).to_string().contains("ENCRYPT_NOT_SUP"));
    assert_eq!(error(b""), UpgradeError::Closed);
    assert_eq!(error(&in_full(RESPONSE, ON)[..20]), UpgradeError::Closed);
    assert_eq!(error(TLS_ALERT), UpgradeError::SpeaksTls);
    assert!(matches!(error(b"HTTP/1.1 400"), UpgradeError::NotTheProtocol { byte: b'H', .. }));
    for malformed in
        [&[RESPONSE, 1, 0, 8, 0, 0, 1, 0][..], &[RESPONSE, 0, 0, 9], &packet(RESPONSE, &[1, 0, 0])]
    {
        assert!(matches!(error(malformed), UpgradeError::Unsuitable(_)), "{malformed:?}");
    }
}

#[test]
fn a_client_of_tds_7_0_logs_in_behind_a_prelogin_of_ours() {
    let login = packet(LOGIN7, b"user and password");
    let opened = opened(&login, 1000).unwrap();
    assert_eq!(opened.bytes[opened.preface..], login);
    assert_eq!(opened.reply_to, ReplyTo::default(), "it has asked for no answer to PRELOGIN");
    let upgraded = led(&opened.bytes[..opened.preface], &in_full(RESPONSE, ON), 1000).unwrap();
    let (mut dialogue, mut out) = (opened.dialogue.unwrap(), Outbox::default());
    dialogue.on_upstream(&upgraded.answer.unwrap(), &mut out).unwrap();
    assert!(dialogue.is_finished() && out.to_downstream.is_empty());
    dialogue.on_upstream(b"loginack", &mut out).unwrap();
    assert_eq!(out.to_downstream, b"loginack");
}

#[test]
fn what_is_neither_a_prelogin_nor_a_login_is_refused_before_a_dial() {
    let long = [&[PRELOGIN, 1, 0x10, 1][..], &[0; 8]].concat();
    let no_option = packet(PRELOGIN, &[0, 0, 6, 0, 6, END, 0, 0, 0, 0, 0, 0]);
    let outside = packet(PRELOGIN, &[1, 0xff, 0xff, 0, 1, END, 0]);
    // Found by fuzzing: writing "not supported" there would have changed the option's own token.
    let in_its_table = packet(PRELOGIN, &[1, 0, 0, 0, 1, END, 0]);
    let in_parts = [&[PRELOGIN, 0, 0, 20][..], &[0; 16]].concat();
    let (short, empty) = (vec![PRELOGIN, 1, 0, 8], vec![LOGIN7, 1, 0, 8]);
    for bytes in
        [b"GET / HTTP/1.1\r\n".to_vec(), long, no_option, outside, in_its_table, in_parts, short, empty]
    {
        let error = opened(&bytes, 1).unwrap_err();
        assert!(error.reason.contains("PRELOGIN"), "{bytes:?}: {error}");
    }
    assert_eq!(opened(b"\x16\x03\x01", 1).unwrap_err().answer, super::super::OpeningReply::TlsAlert);
}

#[test]
fn a_server_that_answers_something_else_is_told() {
    for bytes in
        [&b"HTTP/1.1 400"[..], &[RESPONSE, 1, 0, 8], &[RESPONSE, 1, 0xff, 0xff], &[RESPONSE, 0, 0, 9]]
    {
        let (mut dialogue, mut out) = (Answer::default(), Outbox::default());
        let ended = bytes.chunks(1).try_for_each(|byte| dialogue.on_upstream(byte, &mut out));
        assert_eq!(ended.unwrap_err().reply_to, ASKED);
        assert!(out.to_downstream.is_empty());
        let mut probe = AskPrelogin::default();
        assert!(bytes.chunks(1).any(|byte| probe.receive(byte).is_err()));
    }
}

#[test]
fn a_probe_asks_and_is_answered() {
    let mut probe = AskPrelogin::default();
    assert_eq!(opened(&probe.begin(), 1000).unwrap().bytes, probe.begin(), "it asks for no encryption");
    let (last, others) = answering(2).split_last().map(|(last, others)| (*last, others.to_vec())).unwrap();
    assert_eq!(probe.receive(&others), Ok(ProbeStep::Incomplete));
    assert_eq!(probe.receive(&[last]), Ok(ProbeStep::Serves { goodbye: vec![] }));
    assert!(AskPrelogin::default().receive(b"").is_err());
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
        let _ = led(&[], &bytes, portion);
        for kind in [PRELOGIN, RESPONSE] {
            if let [first, status, high, ..] = &mut bytes[..] {
                (*first, *status, *high) = (kind, 1, 0);
            }
            let (mut opening, mut dialogue, mut out) = (ReadPrelogin::default(), Answer::default(), Outbox::default());
            let _ = bytes.chunks(portion).try_for_each(|part| opening.receive(part).map(drop));
            let _ = bytes.chunks(portion).try_for_each(|part| dialogue.on_upstream(part, &mut out));
            if let Ok(Upgraded { answer: Some(answer), .. }) = led(&[], &bytes, portion) {
                prop_assert!(Answer::default().on_upstream(&answer, &mut out).is_ok());
            }
        }
    }
}
