//! Tables: the proofs by known vectors, and logins as MariaDB 10.11 and MySQL 9.7 have them.

use zeroize::Zeroizing;

use super::super::tests::{CAPABILITIES, SCRAMBLED, greeting, response};
use super::super::{CLIENT_PROTOCOL_41, MySql, Protocol as _, UpgradeStep, nul};
use super::*;
use crate::protocol::Outbox;
use crate::protocol::login::{Secret, SignedIn};

const PASSWORD: &str = "correct horse";
const NONCE: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyzABCDEF";

fn secret(kind: SecretKind, text: &str) -> Secret {
    Secret::new(kind, Zeroizing::new(text.into()))
}

fn password() -> Secret {
    secret(SecretKind::Password, PASSWORD)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first two as PyMySQL 1.0.2 makes them; the third by RFC 8032's arithmetic, whose public key for `secret` is that of
/// MariaDB's documentation (`ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY`).
#[test]
fn proofs_are_those_of_the_plugins() {
    for (plugin, challenge, expected) in [
        (NATIVE, &SCRAMBLED[..], "f818c19fe633b29679484354514737c5394f4954"),
        (CACHING_SHA2, SCRAMBLED, "9eabc426d7dd6ecb6209bc003cb14acd5ef6538f68ad9868137da9325a5e6928"),
        (
            b"client_ed25519",
            NONCE,
            "512d4fc3684a56b7bf6c6306d4a63842b159974d52471ef214e6cc85319549e9\
             82de82d292139ad1a31e498e1db07d94c2bd7069868599779f37fb411a8e9a04",
        ),
        (b"sha256_password", b"", "636f727265637420686f72736500"),
        (b"mysql_clear_password", b"", "636f727265637420686f72736500"),
        (b"parsec", NONCE, ""),
    ] {
        let proof = proof(plugin, challenge, &password()).expect("a known plugin").expect("a proof");
        assert_eq!(hex(&proof), expected, "{}", String::from_utf8_lossy(plugin));
    }
    let empty = secret(SecretKind::Password, "");
    for plugin in [NATIVE, CACHING_SHA2] {
        assert!(proof(plugin, SCRAMBLED, &empty).unwrap().unwrap().is_empty());
        assert!(proof(plugin, b"short", &empty).unwrap().is_err());
    }
    assert!(proof(b"client_ed25519", SCRAMBLED, &empty).unwrap().is_err());
    assert!(proof(b"dialog", NONCE, &empty).is_none());
}

#[test]
fn parsec_signs_both_nonces_by_a_key_that_is_derived_once() {
    let secret = password();
    let salt = b"P\x010123456789abcdefgh";
    for _ in 0..2 {
        let proof = parsec_proof(NONCE, salt, &[7; 18], &secret).unwrap();
        assert_eq!(
            hex(&proof),
            "72ac9e2171edcd9c5beeba488500911ed97efe89a7fede166b7cb924ce872662\
             b28a01f8fc28ebdd186728ead014b08fc717d8c292e9e44c90eb00688df76249\
             36153a616bd44705ad71d22baab71adaa101a701fe80208d5f20f52050afb804"
        );
    }
    for bad in [&b"P\x040123456789abcdefgh"[..], b"P\x01short", b"Q\x010123456789abcdefgh", b"P", b""] {
        assert!(parsec_proof(NONCE, bad, &[7; 18], &secret).is_err(), "{bad:?}");
    }
}

fn context(secret: Secret, opening: &[u8]) -> LoginContext<'_> {
    LoginContext {
        credentials: LoginCredentials { user: "ours".into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening,
        is_greeted: true,
        channel_binding: None,
        nonce: [7; 18],
    }
}

/// What the upgrade hands over for that answer to a greeting with that plugin, and its request for TLS.
fn handed_over(plugin: &str, response: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let protocol = MySql { key: None, signs_in: true };
    let Ok(UpgradeStep::AwaitClientReply(mut met)) = protocol.upgrade().unwrap().receive(&greeting(plugin))
    else {
        panic!("the client should be met")
    };
    let introduced = met.client_reply.receive(&packet(1, response)).unwrap().expect("a whole packet");
    (introduced.upgraded.first, introduced.request)
}

fn sign_in(secret: Secret, plugin: &str, response: &[u8]) -> SignIn {
    SignIn::new(context(secret, &handed_over(plugin, response).0), Some(RsaKey::shared()))
}

#[track_caller]
fn sent(step: Result<LoginStep, LoginError>) -> Vec<u8> {
    match step {
        Ok(LoginStep::Send(bytes)) => bytes.to_vec(),
        other => panic!("nothing is sent: {other:?}"),
    }
}

/// Feeds the server's packets; returns what was sent, and how it ended.
fn run(login: &mut SignIn, server: &[Vec<u8>]) -> (Vec<Vec<u8>>, Result<Option<SignedIn>, LoginError>) {
    let mut all = vec![sent(login.begin())];
    for bytes in server {
        match login.receive(bytes) {
            Ok(LoginStep::Send(bytes)) => all.push(bytes.to_vec()),
            Ok(LoginStep::Read) => {}
            Ok(LoginStep::SignedIn(signed_in)) => return (all, Ok(Some(signed_in))),
            Err(error) => return (all, Err(error)),
        }
    }
    (all, Ok(None))
}

fn switch(plugin: &[u8], challenge: &[u8]) -> Vec<u8> {
    packet(3, &[b"\xfe", plugin, b"\0", challenge, b"\0"].concat())
}

const OK_PACKET: &[u8] = b"\0\0\0\x02\0\0\0";
const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied for user 'ours'@'localhost'";

#[test]
fn a_clients_login_becomes_ours_and_keeps_the_rest() {
    let attributes = b"\x0a\x04_pid\x047777";
    let more = CLIENT_CONNECT_ATTRS | CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS;
    for of_client in [
        CAPABILITIES | more,
        CAPABILITIES & !CLIENT_CONNECT_WITH_DB | more,
        CAPABILITIES & !CLIENT_PLUGIN_AUTH | more,
        CAPABILITIES | CLIENT_PLUGIN_AUTH_LENENC | more,
    ] {
        let mut client = response(of_client, b"placeholder", "mysql_native_password");
        if of_client & CLIENT_CONNECT_WITH_DB == 0 {
            let at = client.windows(7).position(|window| window == b"orders\0").unwrap();
            client.drain(at..at + 7);
        }
        if of_client & CLIENT_PLUGIN_AUTH == 0 {
            client.truncate(client.len() - b"mysql_native_password\0".len());
        }
        client.extend_from_slice(attributes);
        let (opening, request) = handed_over("mysql_native_password", &client);
        let login = sent(SignIn::new(context(password(), &opening), None).begin());
        assert_eq!(login[3], 2);
        let login = &login[HEAD..];
        assert_eq!(login[..FIXED], request[HEAD..], "the server goes by the capabilities of the SSLRequest");
        let ours = super::super::le_u32(login).unwrap();
        let own = CLIENT_PLUGIN_AUTH
            | CLIENT_PLUGIN_AUTH_LENENC
            | CLIENT_CONNECT_WITH_DB
            | CLIENT_SSL
            | CLIENT_SECURE_CONNECTION;
        assert_eq!(ours, (of_client | own) & !CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS);
        let proof = proof(NATIVE, SCRAMBLED, &password()).unwrap().unwrap();
        let database = if of_client & CLIENT_CONNECT_WITH_DB == 0 { &b""[..] } else { b"orders" };
        let expected =
            [&client[4..FIXED], b"ours\0\x14", &proof, database, b"\0mysql_native_password\0", attributes]
                .concat();
        assert_eq!(login[4..], expected, "{of_client:x}");
    }
}

#[test]
fn every_plugin_that_the_server_goes_by_is_answered() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let clear = b"correct horse\0";
    let ed25519 = proof(b"client_ed25519", NONCE, &password()).unwrap().unwrap();
    let sha2 = proof(CACHING_SHA2, SCRAMBLED, &password()).unwrap().unwrap();
    let salt = b"P\x010123456789abcdefgh";
    let parsec = parsec_proof(NONCE, salt, &[7; 18], &password()).unwrap();
    for (server, answers) in [
        (vec![], vec![]),
        (vec![switch(b"client_ed25519", NONCE)], vec![packet(4, &ed25519)]),
        (vec![switch(b"sha256_password", SCRAMBLED)], vec![packet(4, clear)]),
        (vec![switch(b"mysql_clear_password", b"")], vec![packet(4, clear)]),
        (vec![switch(CACHING_SHA2, SCRAMBLED), packet(5, &[1, 3])], vec![packet(4, &sha2)]),
        (vec![switch(CACHING_SHA2, SCRAMBLED), packet(5, &[1, 4])], vec![packet(4, &sha2), packet(6, clear)]),
        (vec![switch(b"parsec", NONCE), packet(5, salt)], vec![packet(4, b""), packet(6, &parsec)]),
        (
            vec![switch(b"parsec", NONCE), packet(5, &[&[1], &salt[..]].concat())],
            vec![packet(4, b""), packet(6, &parsec)],
        ),
    ] {
        let mut login = sign_in(password(), "mysql_native_password", &client);
        let (said, ended) = run(&mut login, &[server, vec![packet(9, OK_PACKET)]].concat());
        assert_eq!(said[1..], answers);
        let signed_in = ended.unwrap().expect("signed in");
        assert_eq!(signed_in.to_client, packet(2, OK_PACKET));
        assert!(signed_in.dialogue.is_none() && signed_in.to_server.is_empty());
    }
    // The server's own plugin in the first packet, and two packets at once.
    let mut login = sign_in(password(), "caching_sha2_password", &client);
    let first = sent(login.begin());
    assert!(first.windows(32).any(|window| window == &**sha2));
    let LoginStep::SignedIn(_) = login.receive(&[packet(3, &[1, 3]), packet(4, OK_PACKET)].concat()).unwrap()
    else {
        panic!("not signed in")
    };
}

#[test]
fn a_token_goes_in_the_clear_in_the_first_packet() {
    let token = "t".repeat(1500);
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let mut login = sign_in(secret(SecretKind::PasswordToken, &token), "caching_sha2_password", &client);
    let first = sent(login.begin());
    let field = [b"ours\0\xfc\xdd\x05", token.as_bytes(), b"\0orders\0mysql_clear_password\0"].concat();
    assert_eq!(first[HEAD + FIXED..], field);
    assert!(!format!("{login:?}").contains("ttt"));
}

#[test]
fn without_a_greeting_the_server_is_made_to_ask() {
    let nobody = super::super::probe::login_of_nobody(true);
    let mut context = context(password(), &[]);
    let opening = packet(2, &nobody);
    context.opening = &opening;
    context.database = Some("orders");
    let first = sent(SignIn::new(context, None).begin());
    assert!(first.ends_with(b"ours\0\0orders\0none\0"), "{first:?}");
    assert_eq!(first[..4], packet(2, &vec![0; first.len() - HEAD])[..4]);
}

#[test]
fn errors_are_told_apart() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let error =
        |number: u16, words: &str| packet(3, &[&[ERR][..], &number.to_le_bytes(), words.as_bytes()].concat());
    let ended = |bytes: Vec<u8>| run(&mut sign_in(password(), "mysql_native_password", &client), &[bytes]).1;
    for number in OF_USER {
        let Err(LoginError::Rejected { user, by, is_of_secret: true }) =
            ended(error(number, "#HY000Access denied"))
        else {
            panic!("{number}")
        };
        assert_eq!((user.as_str(), by.code, by.words.as_str()), ("ours", Some(number), "Access denied"));
    }
    assert!(matches!(ended(error(4999, "#28000no")), Err(LoginError::Rejected { .. })));
    for number in NOT_NOW {
        assert!(matches!(ended(error(number, "#HY000no")), Err(LoginError::TurnedAway(_))), "{number}");
    }
    assert!(matches!(ended(error(1251, "#08004old")), Err(LoginError::NoMechanism { .. })));
    assert!(matches!(ended(error(1043, "#08S01Bad handshake")), Err(LoginError::Malformed { .. })));
    // What the client asked for.
    for number in [1049, 1044, 1115] {
        let signed_in = ended(error(number, "#42000Unknown database 'x'")).unwrap().unwrap();
        assert_eq!(
            signed_in.to_client,
            packet(2, &error(number, "#42000Unknown database 'x'")[HEAD..]),
            "{number}"
        );
    }
    // Before a proof the server has not judged the secret.
    let rejected = run(&mut sign_in(password(), "unknown", &client), &[packet(3, DENIED)]).1;
    assert!(matches!(rejected, Err(LoginError::Rejected { is_of_secret: false, .. })));
}

/// A login that ends in the middle would count against this host.
#[test]
fn a_login_that_cannot_be_ours_is_carried_through_before_it_is_reported() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    for (question, answer, offered) in [
        (switch(b"dialog", b"\x04Password: "), packet(4, &[0]), "dialog"),
        (switch(b"auth_gssapi_client", b"x"), packet(4, &[]), "auth_gssapi_client"),
        (packet(3, &[AUTH_SWITCH]), packet(4, &[0; 20]), "mysql_old_password"),
        (packet(3, &[NEXT_FACTOR, b'x', 0]), packet(4, &[0; 20]), "a second factor"),
    ] {
        let mut login = sign_in(password(), "mysql_native_password", &client);
        let (said, ended) = run(&mut login, &[question, packet(5, DENIED)]);
        assert_eq!(said[1..], [answer], "{offered}");
        let (kind, allowed) = (SecretKind::Password, AllowedMechanisms::default());
        let expected = LoginError::NoMechanism { kind, allowed, offered: offered.into(), is_counted: true };
        assert!(expected.rejection().is_some(), "the server has counted it");
        assert_eq!(ended.unwrap_err(), expected);
    }
    // The client's own login is malformed, or asks for another database.
    let mut malformed = response(CAPABILITIES & !CLIENT_CONNECT_WITH_DB, b"x", "");
    malformed[FIXED + 4] = 200;
    let (opening, _) = handed_over("mysql_native_password", &malformed);
    let mut context = context(password(), &opening);
    context.database = Some("shop");
    let other = handed_over("mysql_native_password", &client).0;
    for (opening, words) in [(&opening, "malformed"), (&other, "another database")] {
        let mut login = SignIn::new(LoginContext { opening, ..context.clone() }, None);
        let (said, ended) = run(&mut login, &[switch(NATIVE, SCRAMBLED), packet(5, DENIED)]);
        assert!(said[0].windows(NOBODY.len()).any(|window| window == NOBODY));
        assert_eq!(said[1], packet(4, &[0; 20]));
        assert!(ended.unwrap_err().to_string().contains(words));
    }
}

/// Neither the greeting nor a switch makes the secret go by a plugin that is not allowed.
#[test]
fn a_plugin_that_is_not_allowed_gets_no_proof() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let secrets = [password(), secret(SecretKind::PasswordToken, PASSWORD)];
    for allowed in PLUGINS {
        for plugin in PLUGINS.iter().chain(&["dialog"]) {
            for (secret, greeted) in
                secrets.iter().flat_map(|secret| PLUGINS.iter().map(move |greeted| (secret, *greeted)))
            {
                let (opening, _) = handed_over(greeted, &client);
                let mechanisms = AllowedMechanisms::only(&[allowed]);
                let mut login =
                    SignIn::new(LoginContext { mechanisms, ..context(secret.clone(), &opening) }, None);
                let server = [switch(plugin.as_bytes(), NONCE), packet(5, DENIED)];
                let (said, ended) = run(&mut login, &server);
                let first = &said[0];
                assert_eq!(
                    !first.ends_with(b"none\0"),
                    login.has_proved && first.ends_with(&[allowed.as_bytes(), b"\0"].concat()),
                    "{allowed} {greeted}"
                );
                match plugin == allowed {
                    true => assert_eq!(
                        *said[1],
                        *packet(4, &proof(plugin.as_bytes(), NONCE, secret).unwrap().unwrap())
                    ),
                    false => {
                        let words = ended.unwrap_err().to_string();
                        assert!(words.ends_with(&format!("`mechanisms` ({allowed}): {plugin}")), "{words}");
                        let shown = |bytes: &Vec<u8>| {
                            bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes())
                        };
                        assert!(!shown(&said[1]) && (*allowed == "mysql_clear_password" || !shown(first)));
                        assert_eq!(
                            said[1],
                            LoginOfNobody::rest(
                                Packets::default(),
                                plugin.as_bytes().to_vec(),
                                Some((3, &server[0][HEAD..]))
                            )
                            .begin()
                        );
                    }
                }
            }
        }
    }
    // A server that is older than plugins knows one alone.
    let mut old = handed_over("mysql_native_password", &client).0.split_off(HEAD + client.len());
    let end_of_version = HEAD + 1 + nul(&old[HEAD + 1..]).unwrap();
    old[end_of_version + 1 + 18] &= !(CLIENT_PLUGIN_AUTH >> 16) as u8;
    let of_old_client = response(CAPABILITIES & !CLIENT_PLUGIN_AUTH, b"", "");
    let opening = [packet(1, &of_old_client), old].concat();
    let mechanisms = AllowedMechanisms::only(&["client_ed25519"]);
    let mut login = SignIn::new(LoginContext { mechanisms, ..context(password(), &opening) }, None);
    let (said, ended) = run(&mut login, &[packet(3, DENIED)]);
    assert!(said[0].windows(NOBODY.len()).any(|window| window == NOBODY));
    assert!(ended.unwrap_err().to_string().ends_with("(client_ed25519): mysql_native_password"));
}

/// Scenario: a proxy in front of the server quoted the whole login in its error, which the client then got.
#[test]
fn an_error_that_repeats_the_password_is_told_without_its_words() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let told = |error: &[u8]| {
        let (_, ended) = run(&mut sign_in(password(), "unknown", &client), &[packet(3, error)]);
        ended.unwrap().expect("it is the client's own error").to_client
    };
    let clean = b"\xff\x19\x04#42000its words repeat the secret";
    assert_eq!(told(b"\xff\x19\x04#42000no 'ours:correct horse'"), packet(2, clean));
    assert_eq!(
        told(b"\xff\x19\x04no 'ours:correct horse'"),
        packet(2, b"\xff\x19\x04its words repeat the secret")
    );
    assert_eq!(told(b"\xff\x19\x04#42000no"), packet(2, b"\xff\x19\x04#42000no"));
}

/// Signs in, and plays the rest with the client: its answer to what it was asked, if it was.
fn welcomed(greeted: &str, client: &[u8], answer: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut login = sign_in(password(), greeted, client);
    let signed_in = run(&mut login, &[packet(3, OK_PACKET)]).1.unwrap().expect("signed in");
    let said = signed_in.dialogue.map(|mut dialogue| {
        let mut out = Outbox::default();
        for byte in [packet(3, answer), packet(0, b"\x03select 1")].concat() {
            dialogue.on_downstream(&[byte], &mut out).unwrap();
        }
        assert!(dialogue.is_finished());
        assert_eq!(out.to_upstream, packet(0, b"\x03select 1"));
        out.to_downstream
    });
    (signed_in.to_client, said)
}

#[test]
fn each_client_gets_what_its_plugin_waits_for() {
    let (native, sha2) = ("mysql_native_password", "caching_sha2_password");
    let ok = packet(2, OK_PACKET);
    let fast = [packet(2, &[1, 3]), packet(3, OK_PACKET)].concat();
    for (greeted, preferred, proof, expected) in [
        (native, native, &[][..], &ok),
        (native, native, &[9; 20], &ok),
        (sha2, native, &[9; 20], &ok),
        (sha2, sha2, &[9; 32], &fast),
        (native, sha2, &[9; 32], &fast),
        (sha2, sha2, &[0], &ok),
        (sha2, sha2, &[], &ok),
        (native, "mysql_clear_password", b"x\0", &ok),
        ("sha256_password", "sha256_password", &[0], &ok),
        ("sha256_password", "sha256_password", &[9; 200], &ok),
    ] {
        let client = response(CAPABILITIES, proof, preferred);
        let told = welcomed(greeted, &client, b"");
        assert_eq!(told, (expected.clone(), None), "{greeted} {preferred} {proof:?}");
    }
    // A client that is older than plugins.
    let mut old = response(CAPABILITIES & !CLIENT_PLUGIN_AUTH, &[9; 20], "");
    old.pop();
    assert_eq!(welcomed(sha2, &old, b""), (ok, None));
    // Those that wait for a question.
    for (greeted, preferred, asked) in [
        (native, sha2, sha2),
        (sha2, native, native),
        (native, "client_ed25519", native),
        (sha2, "authentication_ldap_sasl_client", sha2),
        ("dialog", "dialog", native),
        ("unknown", "parsec", native),
    ] {
        let client = response(CAPABILITIES, b"", preferred);
        for answer in [&b""[..], &[9; 20], &[9; 32]] {
            let (question, told) = welcomed(greeted, &client, answer);
            let start = [b"\xfe", asked.as_bytes(), b"\0"].concat();
            assert!(question[HEAD..].starts_with(&start) && question[3] == 2, "{greeted} {preferred}");
            assert_eq!(question.len(), HEAD + start.len() + 21);
            assert!(question[HEAD + start.len()..question.len() - 1].iter().all(u8::is_ascii_graphic));
            let expected = match (asked == sha2, answer.len()) {
                (true, 32) => [packet(4, &[1, 3]), packet(5, OK_PACKET)].concat(),
                _ => packet(4, OK_PACKET),
            };
            assert_eq!(told, Some(expected));
        }
    }
    let client = response(CAPABILITIES, &[1], "sha256_password");
    let (key, told) = welcomed("sha256_password", &client, &[7; 256]);
    assert!(key[HEAD..].starts_with(b"\x01-----BEGIN PUBLIC KEY"));
    assert_eq!(told, Some(packet(4, OK_PACKET)));
}

#[test]
fn what_the_server_says_in_between_comes_behind_ok() {
    let client = response(CAPABILITIES, b"", "dialog");
    let mut login = sign_in(password(), "mysql_native_password", &client);
    let signed_in = run(&mut login, &[packet(3, OK_PACKET)]).1.unwrap().expect("signed in");
    let (mut dialogue, mut out) = (signed_in.dialogue.unwrap(), Outbox::default());
    let shutdown = packet(0, b"\xff\x1d\x04#08S01Server shutdown");
    dialogue.on_upstream(&shutdown, &mut out).unwrap();
    assert!(out.to_downstream.is_empty());
    assert_eq!(dialogue.rest().expect("the client may leave").begin(), super::super::probe::QUIT);
    dialogue.on_downstream(&packet(3, b""), &mut out).unwrap();
    assert_eq!(out.to_downstream, [packet(4, OK_PACKET), shutdown].concat());
    assert!(dialogue.rest().is_none());
    assert!(dialogue.on_upstream(&[0; 100], &mut out).is_ok());
    let mut endless =
        run(&mut sign_in(password(), "x", &client), &[packet(3, OK_PACKET)]).1.unwrap().unwrap();
    let dialogue = endless.dialogue.as_mut().unwrap();
    assert!(dialogue.on_upstream(&vec![0; super::super::PACKET_MAX + 1], &mut out).is_err());
    assert!(dialogue.on_downstream(b"\xff\xff\xff\x03", &mut out).is_err());
}

#[test]
fn answers_without_an_end_and_without_sense_are_refused() {
    let client = response(CAPABILITIES, b"", "mysql_native_password");
    let ended =
        |server: &[Vec<u8>]| run(&mut sign_in(password(), "mysql_native_password", &client), server).1;
    assert_eq!(ended(&[vec![]]).unwrap_err(), LoginError::Closed);
    assert!(ended(&[b"\xff\xff\xff\x03".to_vec()]).is_err());
    assert!(ended(&[packet(3, b"\x0a8.0")]).is_err());
    assert!(ended(&[packet(3, b"")]).is_err());
    assert!(ended(&[switch(NATIVE, b"short")]).is_err());
    assert!(ended(&vec![switch(NATIVE, SCRAMBLED); 20]).is_err());
    assert!(SignIn::new(context(password(), b""), None).begin().is_err());
    assert_eq!(CLIENT_PROTOCOL_41 & CAPABILITIES, CLIENT_PROTOCOL_41);
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(17);
    let parts = [
        switch(b"parsec", NONCE),
        packet(5, b"P\x000123456789abcdefgh"),
        switch(CACHING_SHA2, SCRAMBLED),
        packet(5, &[1, 4]),
        switch(b"dialog", b"x"),
        packet(3, DENIED),
        packet(7, OK_PACKET),
    ];
    let damage = |rng: &mut fastrand::Rng, bytes: &mut Vec<u8>| {
        for _ in 0..rng.usize(..4) {
            if let Some(byte) = rng.choice(&mut *bytes) {
                *byte = rng_byte(*byte);
            }
        }
        bytes.truncate(rng.usize(..=bytes.len()));
    };
    let secret = password();
    for _ in 0..5_000 {
        let mut opening = handed_over("caching_sha2_password", &response(CAPABILITIES, b"", "dialog")).0;
        damage(&mut rng, &mut opening);
        let mut login = SignIn::new(context(secret.clone(), &opening), None);
        if login.begin().is_err() {
            continue;
        }
        for _ in 0..4 {
            let mut bytes = parts[rng.usize(..parts.len())].clone();
            damage(&mut rng, &mut bytes);
            match login.receive(&bytes) {
                Ok(LoginStep::SignedIn(SignedIn { dialogue: Some(mut dialogue), .. })) => {
                    let _ = dialogue.on_downstream(&bytes, &mut Outbox::default());
                    break;
                }
                Ok(LoginStep::Send(_) | LoginStep::Read) => {}
                Ok(LoginStep::SignedIn(_)) | Err(_) => break,
            }
        }
    }
}

const fn rng_byte(byte: u8) -> u8 {
    byte.wrapping_mul(167).wrapping_add(13)
}
