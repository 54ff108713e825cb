//! CONNECT of every version with our login, and what codes mean.

use super::*;
use crate::protocol::login::{Secret, SecretKind};

fn login(opening: &[u8]) -> ConnectLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    ConnectLogin::new(LoginContext {
        credentials: LoginCredentials { user: "app".into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening,
        is_greeted: false,
        channel_binding: None,
        nonce: [0; 18],
    })
}

/// A CONNECT of that name and level, and what follows the level.
fn connect(name: &[u8], level: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap().to_be_bytes();
    let body = [&length, name, &[level], rest].concat();
    [&[CONNECT], &variable_integer(body.len())[..], &body].concat()
}

const CREDENTIALS: &[u8] = b"\0\x03app\0\x06pencil";

/// Scenario: a broker explained a refusal of version 5 by the whole CONNECT, and the client got that.
#[test]
fn a_reason_that_repeats_the_password_does_not_reach_the_client() {
    let refused = |reason: &[u8]| {
        let mut login = login(&connect(b"MQTT", 5, b"\x02\0\x3c\0\0\0"));
        assert!(login.begin().is_ok());
        let length = u8::try_from(reason.len()).unwrap();
        let properties = [&[0x1f, 0, length][..], reason].concat();
        let body = [&[0, 0x97, length + 3][..], &properties].concat();
        login.receive(&[&[CONNACK, length + 6][..], &body].concat())
    };
    assert!(matches!(refused(b"quota"), Ok(LoginStep::SignedIn(SignedIn { is_refused: true, .. }))));
    let error = refused(b"app:pencil").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server turned the login away (MQTT CONNACK 151: its words repeat the secret)"
    );
}

#[test]
fn every_connect_gets_our_user_and_password_and_keeps_the_rest() {
    let will = [&b"\0\x3c\0\x02id\0\x01t\0\x01w"[..]].concat();
    let properties_5 = b"\0\x3c\x05\x11\0\0\0\x3c\0\x02id";
    let will_5 = b"\0\x3c\0\0\x02id\x05\x18\0\0\0\x01\0\x01t\0\x01w";
    let long = [&b"\0\x3c\0\xc8"[..], &[b'i'; 200]].concat();
    for (name, level, flags, kept, own) in [
        // Mosquitto's clients without a user.
        (&b"MQTT"[..], 4, 0x02, &b"\0\x3c\0\0"[..], &b""[..]),
        (b"MQTT", 4, 0xc2, b"\0\x3c\0\0", b"\0\x01u\0\x02pw"),
        (b"MQTT", 4, 0x82, b"\0\x3c\0\x02id", b"\0\x01u"),
        (b"MQTT", 4, 0xc6, &will, b"\0\x01u\0\0"),
        (b"MQIsdp", 3, 0x02, b"\0\x3c\0\x02id", b""),
        (b"MQTT", 0x84, 0x02, b"\0\x3c\0\x02id", b""),
        (b"MQTT", 5, 0x02, properties_5, b""),
        (b"MQTT", 5, 0x46, will_5, b"\0\x02pw"),
        (b"MQTT", 4, 0x02, &long, b""),
    ] {
        let opening = connect(name, level, &[&[flags], kept, own].concat());
        let expected = connect(name, level, &[&[flags | 0xc0], kept, CREDENTIALS].concat());
        let with_more = [&opening[..], b"\x82\x08\0\x01\0\x03abc\0"].concat();
        let mut login = login(&with_more);
        match login.begin() {
            Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, expected, "{opening:?}"),
            other => panic!("{opening:?}: {other:?}"),
        }
        assert_eq!(login.behind, b"\x82\x08\0\x01\0\x03abc\0");
        for cut in 0..opening.len() {
            assert!(matches!(judge_whole(&opening[..cut]), FirstMessageVerdict::Incomplete), "{cut}");
        }
        assert!(matches!(judge_whole(&opening), FirstMessageVerdict::Speaks(_)));
    }
    match login(b"").begin() {
        Ok(LoginStep::Send(bytes)) => {
            assert_eq!(*bytes, connect(b"MQTT", 4, &[b"\xc2\0\x3c\0\0", CREDENTIALS].concat()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connect_that_is_none_is_refused() {
    for rest in [&b"\x02\0\x3c\0\x09id"[..], b"\x02\0\x3c", b"\xc2\0\x3c\0\0\0\x01u", b"\x02\0\x3c\0\0more"] {
        let error = login(&connect(b"MQTT", 4, rest)).begin().unwrap_err();
        assert_eq!(error, LoginError::Client("its first packet (CONNECT) is malformed"), "{rest:?}");
    }
    let endless = b"\x10\xff\xff\xff\x7f\0\x04MQTT\x04\x02";
    assert!(matches!(judge_whole(endless), FirstMessageVerdict::Foreign(_)));
    assert!(login(&endless[..]).begin().is_err());
}

#[test]
fn each_code_has_its_own_meaning() {
    for (level, code, expected) in [
        (4, 4, Some(true)),
        (4, 5, Some(true)),
        (3, 5, Some(true)),
        (4, 3, Some(false)),
        (4, 0, None),
        // The version, and the client's id: its own affair.
        (4, 1, None),
        (4, 2, None),
        (5, 0x86, Some(true)),
        (5, 0x87, Some(true)),
        (5, 0x88, Some(false)),
        (5, 0x89, Some(false)),
        (5, 0x9f, Some(false)),
        (5, 0x85, None),
        (5, 0, None),
        (5, 0x8a, None),
    ] {
        let (rest, answer) = match level {
            5 => (&b"\x02\0\x3c\0\0\0"[..], vec![CONNACK, 3, 0, code, 0]),
            _ => (&b"\x02\0\x3c\0\0"[..], vec![CONNACK, 2, 0, code]),
        };
        let mut login = login(&[&connect(b"MQTT", level, rest)[..], b"behind"].concat());
        login.begin().unwrap();
        let (first, last) = answer.split_at(answer.len() - 1);
        assert!(matches!(login.receive(first), Ok(LoginStep::Read)));
        match (login.receive(&[last, b"more"].concat()), expected) {
            (Err(LoginError::Rejected { user, is_of_secret, .. }), Some(true)) => {
                assert!(user == "app" && is_of_secret, "{level} {code}");
            }
            (Err(LoginError::TurnedAway(_)), Some(false)) => {}
            (Ok(LoginStep::SignedIn(signed_in)), None) => {
                assert_eq!(signed_in.to_client, [&answer[..], b"more"].concat());
                assert_eq!(signed_in.to_server, b"behind");
                assert!(signed_in.dialogue.is_none());
            }
            (other, _) => panic!("{level} {code}: {other:?}"),
        }
    }
    let mut own = login(&connect(b"MQTT", 5, b"\x02\0\x3c\0\0\0"));
    own.begin().unwrap();
    assert!(matches!(own.receive(b"\xf0\x02\x18\0"), Err(LoginError::Client(_))));
    for foreign in [&b"HTTP"[..], b"\x20\x01\0", b"\x20\xff\xff\xff\xff", b"\xf0\0"] {
        assert!(matches!(login(b"").receive(foreign), Err(LoginError::Malformed { .. })), "{foreign:?}");
    }
    assert_eq!(login(b"").receive(b"").unwrap_err(), LoginError::Closed);
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(3);
    let whole = connect(b"MQTT", 5, b"\xc6\0\x3c\0\0\x02id\x05\x18\0\0\0\x01\0\x01t\0\x01w\0\x01u\0\x02pw");
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(rng.usize(..=bytes.len()));
        let _ = login(&bytes).begin();
        let mut answer = [CONNACK, 3, 0, 0x87, 0];
        let at = rng.usize(..answer.len());
        answer[at] = rng.u8(..);
        let mut login = login(b"");
        for part in answer.chunks(rng.usize(1..6)) {
            let _ = login.receive(part);
        }
    }
}
