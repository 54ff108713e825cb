//! Our bind, and what results mean.

use super::*;
use zeroize::Zeroizing;

use crate::protocol::ldap::bind::{SASL, SIMPLE, VERSION};
use crate::protocol::ldap::own_binds::response;
use crate::protocol::ldap::{BIND_REQUEST, ENUMERATED, OCTET_STRING, encoded, integer};
use crate::protocol::login::Secret;

const OWN: &str = "cn=app,dc=test";

fn login(opening: &[u8]) -> BindLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    BindLogin::new(LoginContext {
        credentials: LoginCredentials { user: OWN.into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening,
        is_greeted: false,
        channel_binding: None,
        nonce: [0; 18],
    })
}

fn bind(id: u32, name: &str, choice: u8, proof: &[u8]) -> Vec<u8> {
    let parts = [VERSION.to_vec(), encoded(OCTET_STRING, name.as_bytes()), encoded(choice, proof)].concat();
    encoded(SEQUENCE, &[integer(id), encoded(BIND_REQUEST, &parts)].concat())
}

fn answer(id: u32, tag: u8, code: u8, words: &str) -> Vec<u8> {
    let result =
        [encoded(ENUMERATED, &[code]), encoded(OCTET_STRING, b""), encoded(OCTET_STRING, words.as_bytes())];
    encoded(SEQUENCE, &[integer(id), encoded(tag, &result.concat())].concat())
}

fn search(id: u32) -> Vec<u8> {
    encoded(SEQUENCE, &[integer(id), encoded(0x63, b"whatever")].concat())
}

#[test]
fn the_bind_is_a_simple_one_of_our_name() {
    match login(b"").begin() {
        Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, bind(OWN_ID, OWN, SIMPLE, b"pencil")),
        other => panic!("{other:?}"),
    }
    let long = "p".repeat(300);
    let secret = Secret::new(SecretKind::Password, Zeroizing::new(long.clone()));
    let mut login = login(b"");
    login.credentials.secret = secret;
    match login.begin() {
        Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, bind(OWN_ID, OWN, SIMPLE, long.as_bytes())),
        other => panic!("{other:?}"),
    }
    // It would be anonymous, and succeed.
    login.credentials.secret = Secret::new(SecretKind::Password, Zeroizing::default());
    assert!(login.begin().is_err());
}

/// SASL EXTERNAL, with the name that `as` has as the identity to be.
#[test]
fn a_certificate_binds_by_external() {
    for (user, identity) in [(OWN, "dn:cn=app,dc=test"), ("dn:cn=x", "dn:cn=x"), ("u:app", "u:app")] {
        let secret = Secret::new(SecretKind::Certificate, Zeroizing::new("digest".into()));
        let mut login = login(b"");
        login.credentials = LoginCredentials { user: user.into(), secret };
        let sasl = [encoded(OCTET_STRING, b"EXTERNAL"), encoded(OCTET_STRING, identity.as_bytes())].concat();
        match login.begin() {
            Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, bind(OWN_ID, "", SASL, &sasl)),
            other => panic!("{other:?}"),
        }
    }
}

/// The rest is in the tests of [`OwnBinds`].
#[test]
fn what_the_client_began_with_and_what_the_server_said_go_on() {
    let opening = [bind(1, OWN, SIMPLE, b"x"), search(2)].concat();
    let behind = answer(0, EXTENDED_RESPONSE, 52, "stopping");
    let mut login = login(&opening);
    login.begin().unwrap();
    let answers = [answer(OWN_ID, BIND_RESPONSE, 0, ""), behind.clone()].concat();
    let Ok(LoginStep::SignedIn(signed_in)) = login.receive(&answers) else { panic!("it is signed in") };
    assert_eq!(signed_in.to_client, [response(1, 0, ""), behind].concat());
    assert_eq!(signed_in.to_server, search(2));
    assert!(signed_in.dialogue.is_some());
}

#[test]
fn each_result_has_its_own_meaning() {
    for (code, expected) in [
        (49, Some(true)),
        (48, Some(true)),
        (53, Some(true)),
        (50, Some(true)),
        (71, Some(true)),
        (123, Some(true)),
        (32, Some(true)),
        (34, Some(false)),
        (8, Some(false)),
        (13, Some(false)),
        (51, None),
        (52, None),
        (1, None),
        (80, None),
    ] {
        let bytes = answer(OWN_ID, BIND_RESPONSE, code, "why");
        let mut login = login(b"");
        assert!(matches!(login.receive(&bytes[..5]), Ok(LoginStep::Read)));
        match (login.receive(&bytes[5..]).unwrap_err(), expected) {
            (LoginError::Rejected { user, by, is_of_secret }, Some(expected)) => {
                assert_eq!((user.as_str(), is_of_secret), (OWN, expected), "{code}");
                assert_eq!((by.code, by.words.as_str()), (Some(code.into()), "why"));
            }
            (LoginError::TurnedAway(by), None) => assert!(by.is_through_tls, "{code}"),
            (error, _) => panic!("{code}: {error:?}"),
        }
    }
    let silent = login(b"").receive(&answer(OWN_ID, BIND_RESPONSE, 49, "")).unwrap_err();
    assert!(silent.to_string().ends_with("LDAP result 49: invalid credentials)"), "{silent}");
    let notice = login(b"").receive(&answer(0, EXTENDED_RESPONSE, 52, "stopping")).unwrap_err();
    assert!(matches!(notice, LoginError::TurnedAway(_)), "{notice}");
    for foreign in [
        answer(1, BIND_RESPONSE, 0, ""),
        answer(0, EXTENDED_RESPONSE, 0, ""),
        search(OWN_ID),
        b"HTTP".to_vec(),
    ] {
        assert_eq!(login(b"").receive(&foreign).unwrap_err(), MALFORMED, "{foreign:?}");
    }
    assert_eq!(login(b"").receive(b"").unwrap_err(), LoginError::Closed);
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(11);
    let client = [bind(1, OWN, SIMPLE, b"x"), bind(2, "", SIMPLE, b"")].concat();
    for _ in 0..20_000 {
        let mut spoilt = [client.clone(), answer(OWN_ID, BIND_RESPONSE, 49, "why")];
        for bytes in &mut spoilt {
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
        }
        let mut login = login(&spoilt[0]);
        for part in spoilt[1].chunks(rng.usize(1..40)) {
            if login.receive(part).is_err() {
                break;
            }
        }
    }
}
