//! CONNECT of ours and of the client, and what errors mean.

use super::*;
use crate::protocol::Outbox;
use crate::protocol::login::Secret;

fn login(is_greeted: bool) -> ConnectLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pen\"cil\\".into()));
    ConnectLogin::new(LoginContext {
        credentials: LoginCredentials { user: "app".into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening: b"",
        is_greeted,
        channel_binding: None,
        nonce: [0; 18],
    })
}

const CONNECT: &[u8] = b"CONNECT {\"protocol\":0,\"user\":\"app\",\"pass\":\"pen\\\"cil\\\\\"}\r\nPING\r\n";

fn sent(step: Result<LoginStep, LoginError>) -> Vec<u8> {
    match step {
        Ok(LoginStep::Send(bytes)) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_login_follows_info_wherever_that_is_read() {
    let info = b"INFO {\"server_id\":\"A\",\"connect_urls\":[\"10.0.0.1:4222\"]} \r\n";
    for is_greeted in [true, false] {
        for size in [1, 1000] {
            let mut login = login(is_greeted);
            let mut step = login.begin();
            if !is_greeted {
                assert!(matches!(step, Ok(LoginStep::Read)));
                for part in info.chunks(size) {
                    step = login.receive(part);
                }
            }
            assert_eq!(sent(step), CONNECT);
            let mut step = Ok(LoginStep::Read);
            for part in b"+OK\r\nPONG\r\n".chunks(size) {
                assert!(matches!(step, Ok(LoginStep::Read)));
                step = login.receive(part);
            }
            let Ok(LoginStep::SignedIn(signed_in)) = step else { panic!("{step:?}") };
            let expected = if is_greeted { &b""[..] } else { b"INFO {\"server_id\":\"A\"} \r\n" };
            assert_eq!(signed_in.to_client, expected);
        }
    }
}

const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

fn login_with(kind: SecretKind, text: &str) -> ConnectLogin {
    let secret = Secret::new(kind, Zeroizing::new(text.into()));
    ConnectLogin { credentials: LoginCredentials { user: String::new(), secret }, ..login(true) }
}

#[test]
fn each_kind_of_secret_has_its_own_options() {
    let greeting = b"INFO {\"server_id\":\"A\",\"nonce\":\"bm9uY2U\"} \r\n";
    let creds = format!("-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n{SEED}\n");
    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let signature = BASE64URL_NOPAD.encode(&Nkey::parse(SEED).unwrap().sign(b"bm9uY2U"));
    for (kind, text, expected) in [
        (SecretKind::LoneToken, "a\"b", r#","auth_token":"a\"b""#.to_owned()),
        (SecretKind::Certificate, "7", String::new()),
        (SecretKind::Nkey, SEED, format!(r#","nkey":"{public}","sig":"{signature}""#)),
        (SecretKind::Nkey, &creds, format!(r#","jwt":"eyJ0.eyJq.c2ln","sig":"{signature}""#)),
    ] {
        let expected = format!("CONNECT {{\"protocol\":0{expected}}}\r\nPING\r\n");
        let mut greeted = login_with(kind, text);
        greeted.greeted(greeting);
        assert_eq!(String::from_utf8(sent(greeted.begin())).unwrap(), expected);
        // INFO behind TLS.
        let mut waiting = ConnectLogin { expects_info: true, ..login_with(kind, text) };
        assert!(matches!(waiting.begin(), Ok(LoginStep::Read)));
        assert_eq!(String::from_utf8(sent(waiting.receive(greeting))).unwrap(), expected);
    }
    for greeting in [&b""[..], b"INFO {}\r\n", b"INFO {\"nonce\":7}\r\n", b"INFO nonsense\r\n", b"INFO"] {
        let mut without = login_with(SecretKind::Nkey, SEED);
        without.greeted(greeting);
        let error = without.begin().unwrap_err();
        assert!(matches!(error, LoginError::NoMechanism { kind: SecretKind::Nkey, .. }), "{error}");
    }
}

#[test]
fn the_clients_own_credentials_are_taken_out() {
    let mut login = login(true);
    let Ok(LoginStep::SignedIn(signed_in)) = login.receive(b"PONG\r\n") else { panic!("it is signed in") };
    let mut dialogue = signed_in.dialogue.unwrap();
    let mut out = Outbox::default();
    let connect =
        b"CONNECT {\"verbose\":true,\"User\":\"x\",\"pass\":\"y\",\"auth_token\":\"t\",\"jwt\":\"j\",\
        \"nkey\":\"n\",\"sig\":\"s\",\"name\":\"me\",\"protocol\":1}\r\nPING\r\n";
    dialogue.on_downstream(connect, &mut out).unwrap();
    let said = String::from_utf8(out.to_upstream).unwrap();
    assert_eq!(said, "CONNECT {\"verbose\":true,\"name\":\"me\",\"protocol\":0}\r\nPING\r\n");
    assert!(dialogue.is_finished());
}

#[test]
fn each_error_has_its_own_meaning() {
    for (line, is_rejected) in [
        ("-ERR 'Authorization Violation'", true),
        ("-ERR 'Authentication Expired'", true),
        ("-ERR 'Authentication Timeout'", false),
        ("-ERR 'maximum connections exceeded'", false),
        ("-ERR 'maximum account active connections exceeded'", false),
    ] {
        match (login(true).receive(format!("{line}\r\n").as_bytes()).unwrap_err(), is_rejected) {
            (LoginError::Rejected { user, by, is_of_secret }, true) => {
                assert!(user == "app" && is_of_secret && line.contains(&by.words), "{by:?}");
            }
            (LoginError::TurnedAway(by), false) => assert!(by.is_through_tls, "{line}"),
            (error, _) => panic!("{line}: {error:?}"),
        }
    }
    for (is_greeted, line) in [(true, "HTTP/1.1 400\r\n"), (false, "PONG\r\n"), (false, "INFO nonsense\r\n")]
    {
        let error = login(is_greeted).receive(line.as_bytes()).unwrap_err();
        assert!(matches!(error, LoginError::Malformed { .. }), "{line}: {error}");
    }
    assert_eq!(login(true).receive(b"").unwrap_err(), LoginError::Closed);
    assert!(login(true).receive(&vec![b'x'; LINE_MAX + 1]).is_err());
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(13);
    for _ in 0..5_000 {
        let mut bytes =
            b"INFO {\"server_id\":\"A\"} \r\n+OK\r\n-ERR 'Authorization Violation'\r\nPONG\r\n".to_vec();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let mut login = login(rng.bool());
        for part in bytes.chunks(rng.usize(1..40)) {
            if login.receive(part).is_err() {
                break;
            }
        }
    }
}
