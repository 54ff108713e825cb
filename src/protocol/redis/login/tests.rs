//! Whose answer is whose, and what errors mean.

use zeroize::Zeroizing;

use super::super::resp::MalformedReply;
use super::*;
use crate::protocol::login::{Secret, SecretKind};

fn login(user: &str, opening: &[u8]) -> AuthLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    AuthLogin::new(LoginContext {
        credentials: LoginCredentials { user: user.into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening,
        is_greeted: false,
        channel_binding: None,
        nonce: [0; 18],
    })
}

fn signed_in(opening: &[u8]) -> SignedIn {
    let mut login = login("app", opening);
    assert!(matches!(login.begin(), Ok(LoginStep::Send(_))));
    assert!(matches!(login.receive(b"+O"), Ok(LoginStep::Read)));
    match login.receive(b"K\r\n") {
        Ok(LoginStep::SignedIn(signed_in)) => signed_in,
        other => panic!("{other:?}"),
    }
}

fn command_of(words: &[&str]) -> Vec<u8> {
    array(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
}

#[test]
fn a_name_is_sent_unless_it_is_that_of_everybody() {
    for (user, expected) in [
        ("app", &b"*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$6\r\npencil\r\n"[..]),
        ("default", b"*2\r\n$4\r\nAUTH\r\n$6\r\npencil\r\n"),
    ] {
        match login(user, b"").begin() {
            Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, expected, "{user}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Of these, WRONGPASS was seen (redis-server 7.0); the others are from memory of older servers and are not measured.
#[test]
fn each_error_has_its_own_meaning() {
    for (words, expected) in [
        ("-WRONGPASS invalid username-password pair or user is disabled.", Some(true)),
        ("-ERR invalid password", Some(true)),
        ("-NOAUTH Authentication required.", Some(true)),
        ("-ERR AUTH <password> called without any password configured for the default user.", Some(false)),
        ("-ERR Client sent AUTH, but no password is set", Some(false)),
        ("-ERR wrong number of arguments for 'auth' command", Some(false)),
        ("-ERR max number of clients reached", None),
        ("-LOADING Redis is loading the dataset in memory", None),
        ("-MASTERDOWN Link with MASTER is down", None),
        ("-DENIED Redis is running in protected mode", None),
    ] {
        let mut login = login("app", b"");
        match (login.receive(format!("{words}\r\n").as_bytes()).unwrap_err(), expected) {
            (LoginError::Rejected { user, by, is_of_secret }, Some(expected)) => {
                assert_eq!((user.as_str(), is_of_secret), ("app", expected), "{words}");
                assert!(by.is_through_tls && words.contains(&by.words), "{by:?}");
            }
            (LoginError::TurnedAway(by), None) => assert!(by.is_through_tls, "{words}"),
            (error, _) => panic!("{words}: {error:?}"),
        }
    }
    assert_eq!(login("app", b"").receive(b"").unwrap_err(), LoginError::Closed);
    for foreign in [&b"HTTP/1.1 400\r\n"[..], b"+OK\r\n+OK\r\n", b"\r\n"] {
        assert!(matches!(login("app", b"").receive(foreign).unwrap_err(), LoginError::Malformed { .. }));
    }
    let endless = login("app", b"").receive(&[b'x'; ANSWER_MAX + 1]).unwrap_err();
    assert_eq!(endless, LoginError::Endless(ANSWER_MAX));
}

/// What each opening becomes: our answers, the server's part, and whether more may come that is ours.
#[test]
fn the_clients_own_login_is_answered_and_all_else_goes_on() {
    let get = command_of(&["GET", "a"]);
    for (opening, to_client, to_server, is_over) in [
        (get.clone(), &b""[..], get.clone(), true),
        (command_of(&["AUTH", "x"]), OK, b"".to_vec(), false),
        (command_of(&["auth", "x", "y"]), OK, b"".to_vec(), false),
        (b"AUTH x\r\nPING\r\n".to_vec(), OK, b"PING\r\n".to_vec(), true),
        (b"\r\n*0\r\nAUTH \"x y\" z\r\n".to_vec(), OK, b"".to_vec(), false),
        ([command_of(&["AUTH", "x"]), get.clone()].concat(), OK, get.clone(), true),
        (command_of(&["AUTH"]), b"", command_of(&["AUTH"]), false),
        (command_of(&["AUTH", "a", "b", "c"]), b"", command_of(&["AUTH", "a", "b", "c"]), false),
        (command_of(&["HELLO"]), b"", command_of(&["HELLO"]), false),
        (
            command_of(&["HELLO", "3", "AUTH", "u", "p", "SETNAME", "AUTH"]),
            b"",
            command_of(&["HELLO", "3", "SETNAME", "AUTH"]),
            false,
        ),
        (
            command_of(&["HELLO", "3", "SETNAME", "AUTH", "auth", "u", "p"]),
            b"",
            command_of(&["HELLO", "3", "SETNAME", "AUTH"]),
            false,
        ),
        (b"hello 3 AUTH u 'p q' SETNAME x\r\n".to_vec(), b"", b"hello 3 SETNAME x\r\n".to_vec(), false),
        (command_of(&["HELLO", "3", "AUTH", "u"]), b"", command_of(&["HELLO", "3", "AUTH", "u"]), false),
        (b"*1\r\n$1000000\r\n".to_vec(), b"", b"*1\r\n$1000000\r\n".to_vec(), true),
        (b"*".to_vec(), b"", b"".to_vec(), false),
    ] {
        let signed_in = signed_in(&opening);
        let shown = String::from_utf8_lossy(&opening).into_owned();
        assert_eq!(signed_in.to_client, to_client, "{shown}");
        assert_eq!(signed_in.to_server, to_server, "{shown}");
        assert_eq!(signed_in.dialogue.is_none(), is_over, "{shown}");
    }
}

/// HELLO's answer in RESP3, with a list in it, a push message ahead of it, and an attribute.
const ANSWERS: &[u8] = b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:3\r\n\
    %2\r\n$6\r\nserver\r\n$5\r\nre\r\ns\r\n$7\r\nmodules\r\n*0\r\n";

#[test]
fn answers_keep_the_order_of_the_commands() {
    let opening = [
        command_of(&["HELLO", "3"]),
        command_of(&["AUTH", "x"]),
        command_of(&["AUTH", "y"]),
        command_of(&["HELLO", "9"]),
        command_of(&["AUTH", "z"]),
        b"PING\r\n".to_vec(),
    ]
    .concat();
    let from_server = [ANSWERS, b"-NOPROTO unsupported\r\n", b"+PONG\r\n"].concat();
    let expected = [ANSWERS, OK, OK, b"-NOPROTO unsupported\r\n", OK, b"+PONG\r\n"].concat();
    for (said, answered) in [(1, 1), (7, 3), (1000, 1000)] {
        let mut answers = OwnAnswers::default();
        let mut out = Outbox::default();
        for part in opening.chunks(said) {
            answers.on_downstream(part, &mut out).unwrap();
        }
        assert!(out.to_downstream.is_empty() && !answers.is_finished());
        for part in from_server.chunks(answered) {
            answers.on_upstream(part, &mut out).unwrap();
        }
        assert!(answers.is_finished());
        assert_eq!(String::from_utf8_lossy(&out.to_downstream), String::from_utf8_lossy(&expected));
        assert!(out.to_upstream.ends_with(b"PING\r\n"));
    }
}

/// A client that waits for each answer.
#[test]
fn a_login_behind_an_answered_hello_is_answered_at_once() {
    let mut answers = OwnAnswers::default();
    let mut out = Outbox::default();
    answers.on_downstream(&command_of(&["HELLO", "3", "AUTH", "u", "p"]), &mut out).unwrap();
    answers.on_upstream(ANSWERS, &mut out).unwrap();
    answers.on_downstream(&command_of(&["AUTH", "p"]), &mut out).unwrap();
    assert_eq!(out.to_downstream, [ANSWERS, OK].concat());
    assert!(!answers.is_finished());
    answers.on_downstream(b"*1\r\n$4\r\nPI", &mut out).unwrap();
    assert!(answers.is_finished() == out.to_upstream.ends_with(b"PI"));
}

#[test]
fn what_is_no_reply_and_what_has_no_end_is_refused() {
    for foreign in [&b"HTTP/1.1 200\r\n"[..], b"$x\r\n", b"*?\r\n", b"\r\n"] {
        assert_eq!(Replies::default().next(foreign), Err(MalformedReply), "{foreign:?}");
    }
    let mut answers = OwnAnswers::default();
    let hello = command_of(&["HELLO", "3"]).repeat(EXPECTED_MAX + 1);
    assert!(answers.on_downstream(&hello, &mut Outbox::default()).is_err());
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(7);
    let client = [
        command_of(&["HELLO", "3", "AUTH", "u", "p"]),
        b"HELLO 2 AUTH 'a' \"b\"\r\n".to_vec(),
        command_of(&["AUTH", "u", "p"]),
    ]
    .concat();
    let server = [ANSWERS, b"+OK\r\n-ERR x\r\n$3\r\nabc\r\n"].concat();
    for _ in 0..20_000 {
        let spoil = |bytes: &[u8], rng: &mut fastrand::Rng| {
            let mut bytes = bytes.to_vec();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = *rng.choice(b"*$\r\n-10+|>%:x9\xff".iter()).unwrap();
            }
            bytes
        };
        let (client, server) = (spoil(&client, &mut rng), spoil(&server, &mut rng));
        let mut answers = OwnAnswers::default();
        let mut out = Outbox::default();
        let size = rng.usize(1..40);
        for (said, answered) in client.chunks(size).zip(server.chunks(size)) {
            if answers.on_downstream(said, &mut out).is_err()
                || answers.on_upstream(answered, &mut out).is_err()
            {
                break;
            }
        }
        let _ = login("app", &client).receive(&server);
    }
}
