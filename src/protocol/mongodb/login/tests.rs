//! SCRAM in OP_MSG with a server that knows the password.

use data_encoding::BASE64;

use super::*;
use crate::protocol::login::{Secret, SecretKind};

fn login(opening: &[u8], database: Option<&str>) -> SaslLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    SaslLogin::new(LoginContext {
        credentials: LoginCredentials { user: "user".into(), secret },
        mechanisms: Default::default(),
        database,
        client: None,
        opening,
        is_greeted: false,
        channel_binding: None,
        nonce: [7; 18],
    })
}

fn reply(elements: &[Vec<u8>]) -> Vec<u8> {
    message([0; 4], OP_MSG, &[&[0; BODY_HEAD][..], &document(elements)].concat())
}

fn step(payload: &[u8], is_done: bool) -> Vec<u8> {
    reply(&[
        element(0x10, "conversationId", &9_u32.to_le_bytes()),
        element(0x08, "done", &[u8::from(is_done)]),
        binary("payload", payload),
        element(0x01, "ok", &1.0_f64.to_le_bytes()),
        // As the members of a replica set add.
        element(0x03, "$clusterTime", &document(&[element(0x11, "clusterTime", &[1; 8])])),
        element(0x11, "operationTime", &[1; 8]),
    ])
}

fn error(code: u32, words: &str) -> Vec<u8> {
    reply(&[
        element(0x01, "ok", &0.0_f64.to_le_bytes()),
        string("errmsg", words),
        element(0x10, "code", &code.to_le_bytes()),
        string("codeName", "X"),
    ])
}

/// The document that is sent, and its payload.
fn sent(step: Result<LoginStep, LoginError>) -> (Vec<u8>, Vec<u8>) {
    let bytes = match step {
        Ok(LoginStep::Send(bytes)) => bytes.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(le_u32(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
    let document = bytes[HEAD + BODY_HEAD..].to_vec();
    let payload = answer(&document).unwrap().payload.to_vec();
    (document, payload)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A server that knows the password; returns its final message.
fn server_final(first: &str, last: &str) -> String {
    use aws_lc_rs::{hmac, pbkdf2};
    let mut salted = [0; 32];
    let rounds = 4096.try_into().unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salty", b"pencil", &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let server_key = sign(&salted, b"Server Key");
    let (without_proof, _) = last.rsplit_once(",p=").unwrap();
    let bare = first.strip_prefix("n,,").unwrap();
    let nonce = without_proof.split_once(",r=").unwrap().1;
    let signed = format!("{bare},r={nonce},s={},i=4096,{without_proof}", BASE64.encode(b"salty"));
    format!("v={}", BASE64.encode(sign(server_key.as_ref(), signed.as_bytes()).as_ref()))
}

#[test]
fn a_login_goes_ahead_of_the_clients_first_message() {
    for (is_done_at_once, database) in [(true, None), (false, Some("accounts"))] {
        let mut login = login(b"the client's hello", database);
        let (start, first) = sent(login.begin());
        let first = String::from_utf8(first).unwrap();
        assert!(first.starts_with("n,,n=user,r="));
        assert!(contains(&start, b"SCRAM-SHA-256\0") && contains(&start, b"skipEmptyExchange\0\x01"));
        assert!(contains(&start, &string("$db", database.unwrap_or("admin"))));
        let nonce = first.rsplit_once("r=").unwrap().1;
        let server_first = format!("r={nonce}more,s={},i=4096", BASE64.encode(b"salty"));
        let answer = step(server_first.as_bytes(), false);
        assert!(matches!(login.receive(&answer[..20]), Ok(LoginStep::Read)));
        let (go_on, last) = sent(login.receive(&answer[20..]));
        assert!(contains(&go_on, &element(0x10, "conversationId", &9_u32.to_le_bytes())));
        let proof = server_final(&first, &String::from_utf8(last).unwrap());
        let mut signed_in = login.receive(&step(proof.as_bytes(), is_done_at_once));
        if !is_done_at_once {
            let (_, empty) = sent(signed_in);
            assert!(empty.is_empty());
            signed_in = login.receive(&step(b"", true));
        }
        match signed_in {
            Ok(LoginStep::SignedIn(signed_in)) => assert_eq!(signed_in.to_server, b"the client's hello"),
            other => panic!("{other:?}"),
        }
    }
}

/// As drivers of MongoDB send it; the server takes the subject for the name if there is none.
#[test]
fn a_certificate_signs_in_by_x509() {
    let subject = "CN=app,OU=Tests";
    for user in ["", subject] {
        let secret = Secret::new(SecretKind::Certificate, Zeroizing::new("7".into()));
        let begun = || {
            let mut login = SaslLogin::new(LoginContext {
                credentials: LoginCredentials { user: user.into(), secret: secret.clone() },
                mechanisms: Default::default(),
                client: None,
                database: None,
                opening: b"the client's hello",
                is_greeted: false,
                channel_binding: None,
                nonce: [7; 18],
            });
            let (command, _) = sent(login.begin());
            (login, command)
        };
        let (mut login, command) = begun();
        let mut expected = vec![
            element(0x10, "authenticate", &1_u32.to_le_bytes()),
            string("mechanism", "MONGODB-X509"),
            string("user", subject),
            string("$db", "$external"),
        ];
        if user.is_empty() {
            expected.remove(2);
        }
        assert_eq!(command, document(&expected));
        let accepted = reply(&[
            string("dbname", "$external"),
            string("user", subject),
            element(0x01, "ok", &1.0_f64.to_le_bytes()),
        ]);
        match login.receive(&accepted) {
            Ok(LoginStep::SignedIn(signed_in)) => assert_eq!(signed_in.to_server, b"the client's hello"),
            other => panic!("{other:?}"),
        }
        let rejected = begun().0.receive(&error(18, "Authentication failed.")).unwrap_err();
        assert!(matches!(rejected, LoginError::Rejected { is_of_secret: true, .. }), "{rejected}");
        let other = begun().0.receive(&error(334, "disabled")).unwrap_err();
        assert!(other.to_string().ends_with("suits a client certificate: no MONGODB-X509"), "{other}");
    }
}

#[test]
fn each_error_has_its_own_meaning() {
    let mut late = login(b"", None);
    let (_, first) = sent(late.begin());
    let nonce = String::from_utf8(first).unwrap().rsplit_once("r=").unwrap().1.to_owned();
    sent(late.receive(&step(format!("r={nonce}x,s=c2FsdHk=,i=4096").as_bytes(), false)));
    let no = late.receive(&error(18, "Authentication failed.")).unwrap_err();
    let LoginError::Rejected { user, by, is_of_secret: true } = no else { panic!("{no}") };
    assert_eq!((user.as_str(), by.code, by.words.as_str()), ("user", Some(18), "Authentication failed."));
    let begun = |answer: &[u8]| login(b"", None).receive(answer).unwrap_err();
    // MongoDB says so of a user that it does not know, in answer to the first message.
    assert!(matches!(begun(&error(18, "no")), LoginError::Rejected { is_of_secret: false, .. }));
    assert!(matches!(begun(&error(334, "no")), LoginError::NoMechanism { .. }));
    for code in [18, 91] {
        let words = begun(&error(code, "user:pencil")).to_string();
        assert!(words.contains("repeat the secret") && !words.contains("pencil"), "{words}");
    }
    assert!(matches!(begun(&error(91, "stopping")), LoginError::TurnedAway(_)));
    assert_eq!(begun(b""), LoginError::Closed);
    for foreign in [&b"HTTP/1.1 400 Bad"[..], b"\x05\0\0\0", &[&step(b"", true)[..], b"x"].concat()] {
        assert!(matches!(begun(foreign), LoginError::Malformed { .. }), "{foreign:?}");
    }
    let mut lying = login(b"", None);
    let (_, first) = sent(lying.begin());
    let nonce = String::from_utf8(first).unwrap().rsplit_once("r=").unwrap().1.to_owned();
    sent(lying.receive(&step(format!("r={nonce}x,s=c2FsdHk=,i=4096").as_bytes(), false)));
    assert!(matches!(lying.receive(&step(b"v=AAAA", true)).unwrap_err(), LoginError::Unproven(_)));
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(19);
    for _ in 0..20_000 {
        let mut bytes = if rng.bool() { step(b"r=x,s=c2FsdHk=,i=1", false) } else { error(18, "no") };
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(4..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let mut login = login(b"", None);
        for part in bytes.chunks(rng.usize(1..80)) {
            if login.receive(part).is_err() {
                break;
            }
        }
    }
}
