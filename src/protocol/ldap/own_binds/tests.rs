//! Which binds are answered by whom, and who the connection is of after each.

use zeroize::Zeroizing;

use super::*;
use crate::protocol::login::{Secret, SecretKind};

const OWN: &str = "cn=app,dc=test";

fn credentials() -> LoginCredentials {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    LoginCredentials { user: OWN.into(), secret }
}

fn bind(id: u32, name: &str, choice: u8, proof: &[u8]) -> Vec<u8> {
    let parts =
        [encoded(INTEGER, &[3]), encoded(OCTET_STRING, name.as_bytes()), encoded(choice, proof)].concat();
    encoded(SEQUENCE, &[integer(id), encoded(BIND_REQUEST, &parts)].concat())
}

fn search(id: u32, length: usize) -> Vec<u8> {
    encoded(SEQUENCE, &[integer(id), encoded(0x63, &vec![7; length])].concat())
}

/// Whether the client says it, what is said, and what comes out for client and server.
type Turn = (bool, Vec<u8>, Vec<u8>, Vec<u8>);

/// A session with a script: who says what, and what comes out for client and server.
fn runs(script: &[Turn]) {
    for size in [1, 7, 100_000] {
        let mut binds = OwnBinds::new(credentials());
        for (number, (is_client, bytes, to_client, to_server)) in script.iter().enumerate() {
            let mut out = Outbox::default();
            for part in bytes.chunks(size) {
                match is_client {
                    true => binds.on_downstream(part, &mut out).unwrap(),
                    false => binds.on_upstream(part, &mut out).unwrap(),
                }
            }
            assert_eq!((&out.to_downstream, &out.to_upstream), (to_client, to_server), "{number} by {size}");
        }
        assert!(!binds.is_finished());
    }
}

const CLIENT: bool = true;
const SERVER: bool = false;

fn passes_up(bytes: Vec<u8>) -> Turn {
    (CLIENT, bytes.clone(), Vec::new(), bytes)
}

fn passes_down(bytes: Vec<u8>) -> Turn {
    (SERVER, bytes.clone(), bytes, Vec::new())
}

fn answered(id: u32, name: &str) -> Turn {
    (CLIENT, bind(id, name, SIMPLE, b"placeholder"), response(id, 0, ""), Vec::new())
}

fn replaced(id: u32, name: &str) -> Turn {
    (CLIENT, bind(id, name, SIMPLE, b"placeholder"), Vec::new(), bind_message(id, &credentials()).to_vec())
}

/// Scenario: a program searched as us and then bound as us once more, as pools do: its placeholder went to the server,
/// which counted it against the account.
#[test]
fn binds_as_us_are_answered_wherever_they_come() {
    runs(&[
        answered(1, OWN),
        passes_up(search(2, 100)),
        passes_down(search(2, 70_000)),
        answered(3, OWN),
        answered(4, "CN=App, DC = test"),
        answered(5, ""),
        passes_up(search(300, 70_000)),
        answered(301, OWN),
    ]);
}

#[test]
fn after_a_bind_of_another_name_ours_takes_the_place_of_the_clients() {
    let alice = bind(2, "cn=alice,dc=test", SIMPLE, b"x");
    let sasl = bind(8, "", 0xa3, &encoded(OCTET_STRING, b"EXTERNAL"));
    runs(&[
        passes_up(alice.clone()),
        passes_down(response(2, 49, "no")),
        replaced(3, OWN),
        passes_down(response(3, 0, "")),
        answered(4, OWN),
        passes_up(sasl),
        passes_down(response(8, 14, "")),
        replaced(9, ""),
        // A client has to wait.
        (CLIENT, bind(10, OWN, SIMPLE, b"x"), response(10, BUSY, "a bind is under way"), Vec::new()),
        passes_up(alice.clone()),
        passes_down(response(9, 0, "")),
        passes_down(response(2, 0, "")),
        // The connection is of alice.
        replaced(11, OWN),
        // Not now.
        passes_down(response(11, 52, "")),
        replaced(12, OWN),
        // The next one that is answered is not ours.
        passes_up(search(13, 5)),
        passes_down(response(12, 0, "")),
        answered(14, OWN),
    ]);
}

#[test]
fn a_rejected_bind_of_ours_is_not_repeated() {
    let alice = bind(2, "cn=alice,dc=test", SIMPLE, b"x");
    let no = || response(4, 49, "its words repeat the secret");
    runs(&[
        passes_up(alice.clone()),
        passes_down(response(2, 0, "")),
        replaced(4, OWN),
        (SERVER, response(4, 49, "not pencil"), no(), Vec::new()),
        (CLIENT, bind(4, OWN, SIMPLE, b"y"), no(), Vec::new()),
        (CLIENT, bind(4, "", SIMPLE, b""), no(), Vec::new()),
        passes_up(alice),
        passes_down(response(2, 0, "")),
        (CLIENT, bind(4, OWN, SIMPLE, b"z"), no(), Vec::new()),
    ]);
}

#[test]
fn what_is_no_message_passes_and_ends_it() {
    for foreign in
        [&b"GET / HTTP/1.0\r\n"[..], b"\x30\x02\x02\x01\x01\x60", b"\x30\x85\0\0\0\0\0", b"\0\0\0\x09"]
    {
        let mut binds = OwnBinds::new(credentials());
        let mut out = Outbox::default();
        binds.on_downstream(&search(1, 3), &mut out).unwrap();
        binds.on_upstream(&[SEQUENCE], &mut out).unwrap();
        binds.on_downstream(foreign, &mut out).unwrap();
        assert!(binds.is_finished(), "{foreign:?}");
        assert_eq!(out.to_upstream, [&search(1, 3)[..], foreign].concat());
        assert_eq!(out.to_downstream, [SEQUENCE], "what was held of the server");
    }
    let mut binds = OwnBinds::new(credentials());
    let long = bind(7, OWN, SIMPLE, &vec![b'x'; ELEMENT_MAX]);
    let error = binds.on_downstream(&long, &mut Outbox::default()).unwrap_err();
    assert_eq!(error.reply_to, ReplyTo([1, BIND_REQUEST, 0, 0, 0, 7, 0, 0]));
    assert!(binds.client.held.len() <= long.len());
}

#[test]
fn codes_are_written_as_they_are_read() {
    for code in [0, 49, 123, 128, 4096] {
        let message = response(1, code, "x");
        assert_eq!(bind_result(&message).map(|(id, result)| (id, result.code)), Some((1, code)));
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(23);
    let alice = bind(2, "cn=alice,dc=test", SIMPLE, b"x");
    let client = [bind(1, OWN, SIMPLE, b"x"), alice, bind(3, OWN, SIMPLE, b"x"), search(4, 9)].concat();
    let server = [response(2, 0, ""), response(3, 49, "no"), search(4, 9)].concat();
    for _ in 0..20_000 {
        let mut spoilt = [client.clone(), server.clone()];
        for bytes in &mut spoilt {
            for _ in 0..rng.usize(0..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
        }
        let mut binds = OwnBinds::new(credentials());
        let mut out = Outbox::default();
        for part in spoilt[0].chunks(rng.usize(1..80)) {
            if binds.on_downstream(part, &mut out).is_err() {
                break;
            }
        }
        for part in spoilt[1].chunks(rng.usize(1..80)) {
            binds.on_upstream(part, &mut out).unwrap();
        }
    }
}
