//! Logins as Postfix 3.7 with Dovecot 2.3, Exchange Online and Gmail have them.

use super::*;
use crate::protocol::SignedIn;
use crate::protocol::login::{LoginCredentials, Secret, SecretKind};

const EHLO: &str = "250-mx.test\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250 SMTPUTF8\r\n";

fn login_with(kind: SecretKind, secret: &str, is_greeted: bool) -> MailLogin {
    let secret = Secret::new(kind, Zeroizing::new(secret.into()));
    let context = LoginContext {
        credentials: LoginCredentials { user: "app".into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening: &[],
        is_greeted,
        channel_binding: None,
        nonce: [7; 18],
    };
    MailLogin::new(Dialect::Smtp, EhloName::Given("app.test".into()), context)
}

fn login() -> MailLogin {
    login_with(SecretKind::Password, "pencil", true)
}

/// Plays the server's replies, each in portions of that size; returns what was sent, and how it ended.
fn play(
    mut login: MailLogin,
    replies: &[&str],
    portion: usize,
) -> (Vec<String>, Result<Option<SignedIn>, LoginError>) {
    let mut sent = Vec::new();
    let mut note = |step| match step {
        LoginStep::Send(bytes) => {
            sent.push(String::from_utf8(bytes.to_vec()).unwrap());
            None
        }
        LoginStep::Read => None,
        LoginStep::SignedIn(signed_in) => Some(signed_in),
    };
    note(login.begin().unwrap());
    for reply in replies {
        for bytes in reply.as_bytes().chunks(portion) {
            match login.receive(bytes).map(&mut note) {
                Ok(None) => {}
                ended => return (sent, ended),
            }
        }
    }
    (sent, Ok(None))
}

#[track_caller]
fn fails(login: MailLogin, replies: &[&str]) -> LoginError {
    play(login, replies, 1000).1.unwrap_err()
}

const PLAIN: &str = "AUTH PLAIN AGFwcABwZW5jaWw=\r\n";
const OK: &str = "235 2.7.0 Authentication successful\r\n";

#[test]
fn each_mechanism_signs_in() {
    let bearer = |token: &str| login_with(SecretKind::BearerToken, token, true);
    let hello = "EHLO app.test\r\n";
    for (login, replies, expected) in [
        (login as fn() -> MailLogin, vec![EHLO, OK], vec![PLAIN]),
        (login, vec!["250-mx\r\n250 AUTH=LOGIN PLAIN\r\n", OK], vec![PLAIN]),
        (
            login,
            vec![
                "250-mx\r\n250-AUTH=LOGIN\r\n250 AUTH LOGIN\r\n",
                "334 VXNlcm5hbWU6\r\n",
                "334 UGFzc3dvcmQ6\r\n",
                OK,
            ],
            vec!["AUTH LOGIN\r\n", "YXBw\r\n", "cGVuY2ls\r\n"],
        ),
        // Questions in plain text, and none at all.
        (
            login,
            vec!["250-mx\r\n250 auth login\r\n", "334 Username:\r\n", "334\r\n", OK],
            vec!["AUTH LOGIN\r\n", "YXBw\r\n", "cGVuY2ls\r\n"],
        ),
    ] {
        for portion in [1, 7, 1000] {
            let (sent, ended) = play(login(), &replies, portion);
            assert_eq!(sent[0], hello);
            assert_eq!(sent[1..], expected, "{replies:?}");
            let signed_in = ended.unwrap().expect("the end");
            assert!(signed_in.to_client.is_empty() && signed_in.dialogue.is_some());
        }
    }
    let (sent, ended) = play(bearer("t"), &["250-mx\r\n250 AUTH LOGIN XOAUTH2\r\n", OK], 1000);
    assert_eq!(sent[1], "AUTH XOAUTH2 dXNlcj1hcHABYXV0aD1CZWFyZXIgdAEB\r\n");
    assert!(ended.unwrap().is_some());
    let (sent, _) = play(bearer("t"), &["250-mx\r\n250 AUTH XOAUTH2 OAUTHBEARER\r\n", OK], 1000);
    assert_eq!(sent[1], "AUTH OAUTHBEARER bixhPWFwcCwBYXV0aD1CZWFyZXIgdAEB\r\n");
}

/// RFC 4954 §4: an initial response that does not fit a command of 512 octets waits for the challenge. Tokens of Entra have
/// 1,500 and more.
#[test]
fn a_long_initial_response_follows_the_challenge() {
    let ehlo = "250-mx\r\n250 AUTH XOAUTH2\r\n";
    // `AUTH XOAUTH2 `, the response and CRLF: 4 characters for each 3 bytes of it, which are 23 more than the token.
    for (token, is_split) in [(349, false), (350, true), (4000, true)] {
        let login = login_with(SecretKind::BearerToken, &"t".repeat(token), true);
        let (sent, ended) = play(login, &[ehlo, if is_split { "334 \r\n" } else { OK }, OK], 1000);
        assert!(ended.unwrap().is_some());
        assert!(sent[1].len() <= COMMAND_MAX);
        match is_split {
            true => assert_eq!((sent[1].as_str(), sent.len()), ("AUTH XOAUTH2\r\n", 3)),
            false => assert_eq!((sent[1].len() > 500, sent.len()), (true, 2)),
        }
        let last = sent.last().unwrap().trim_end().rsplit(' ').next().unwrap().as_bytes();
        assert!(from_base64(last).unwrap().ends_with(b"tt\x01\x01"), "{last:?}");
    }
}

#[test]
fn a_refused_token_costs_a_round_trip_and_is_told_in_the_servers_words() {
    for (mechanism, answer) in [("XOAUTH2", "\r\n"), ("OAUTHBEARER", "AQ==\r\n")] {
        let login = login_with(SecretKind::BearerToken, "ya29.token", true);
        let ehlo = format!("250-mx\r\n250 AUTH {mechanism}\r\n");
        let refused = "535-5.7.8 Username and Password not accepted. For more information, go to\r\n535 5.7.8 https://x\r\n";
        let (sent, ended) = play(login, &[&ehlo, "334 eyJzdGF0dXMiOiI0MDEifQ==\r\n", refused], 9);
        assert_eq!(sent[2], answer);
        let error = ended.unwrap_err();
        assert!(error.rejection().is_some(), "{error}");
        assert_eq!(
            error.to_string(),
            "the server rejected the login as app (SMTP 535: 5.7.8 Username and Password not accepted. For more \
             information, go to 5.7.8 https://x)"
        );
    }
}

#[test]
fn scram_goes_on_until_the_server_has_proved_itself() {
    let first = "250-mx\r\n250 AUTH PLAIN SCRAM-SHA-256\r\n";
    let (sent, _) = play(login(), &[first], 1000);
    let own = sent[1].strip_prefix("AUTH SCRAM-SHA-256 ").unwrap().trim_end();
    let own = String::from_utf8(from_base64(own.as_bytes()).unwrap()).unwrap();
    let nonce = own.strip_prefix("n,,n=app,r=").unwrap();
    let challenge =
        |text: &str| format!("334 {}\r\n", String::from_utf8(base64(text.as_bytes()).to_vec()).unwrap());
    let server_first = challenge(&format!("r={nonce}more,s=c2FsdA==,i=4096"));
    let (sent, ended) = play(login(), &[first, &server_first], 1000);
    assert!(matches!(ended, Ok(None)));
    let proof = String::from_utf8(from_base64(sent[2].trim_end().as_bytes()).unwrap()).unwrap();
    assert!(proof.starts_with("c=biws,r=") && proof.contains(",p="), "{proof}");
    for lie in [OK.to_owned(), challenge("v=bm8=")] {
        let error = fails(login(), &[first, &server_first, &lie]);
        assert!(matches!(error, LoginError::Unproven(_)), "{error}");
    }
    // A wrong password: Dovecot says so in place of its signature.
    let error = fails(login(), &[first, &server_first, "535 5.7.8 Error: authentication failed\r\n"]);
    assert!(error.rejection().is_some());
    let error = fails(login(), &[first, "535 5.7.8 no such user\r\n"]);
    assert!(matches!(error, LoginError::Rejected { is_of_secret: false, .. }));
}

#[test]
fn what_the_server_says_instead() {
    for code in [500, 504, 530, 534, 535, 538, 550] {
        let said = format!("{code} 5.7.0 no\r\n");
        let error = fails(login(), &[EHLO, &said]);
        assert!(matches!(&error, LoginError::Rejected { is_of_secret: true, .. }), "{error}");
        assert!(!error.is_of_endpoint());
        let login_only = "250-mx\r\n250 AUTH LOGIN\r\n";
        let error = fails(login(), &[login_only, "334 VXNlcm5hbWU6\r\n", &said]);
        assert!(matches!(&error, LoginError::Rejected { is_of_secret: false, .. }), "{error}");
        let long = login_with(SecretKind::BearerToken, &"t".repeat(1000), true);
        let error = fails(long, &["250-mx\r\n250 AUTH XOAUTH2\r\n", &said]);
        assert!(matches!(&error, LoginError::Rejected { is_of_secret: false, .. }), "{error}");
    }
    for (replies, expected) in [
        (
            vec![EHLO, "454 4.7.0 Temporary authentication failure\r\n"],
            (454, "4.7.0 Temporary authentication failure"),
        ),
        (vec![EHLO, "421 4.7.0 too many\r\n"], (421, "4.7.0 too many")),
        (vec!["450 4.7.1 greylisted\r\n"], (450, "4.7.1 greylisted")),
    ] {
        let error = fails(login(), &replies);
        let LoginError::TurnedAway(by) = &error else { panic!("{error}") };
        assert_eq!((by.code.unwrap(), by.words.as_str()), expected);
    }
    for code in [454, 535] {
        for words in ["bad password pencil", "cannot read AGFwcABwZW5jaWw="] {
            let error =
                fails(login(), &[EHLO, &format!("{code}-5.5.4 no:\r\n{code} {words}\r\n")]).to_string();
            assert!(error.contains("its words repeat the secret") && !error.contains(words), "{error}");
        }
    }
    let nothing = fails(login(), &["250-mx\r\n250 PIPELINING\r\n"]);
    assert_eq!(nothing.to_string(), "the server offers no login that suits a password: none");
    // The host's name is no capability.
    assert_eq!(fails(login(), &["250-auth.test\r\n250 PIPELINING\r\n"]), nothing);
    let others = fails(login(), &["250-mx\r\n250 AUTH XOAUTH2 NTLM\r\n"]);
    assert_eq!(others.to_string(), "the server offers no login that suits a password: XOAUTH2, NTLM");
    let token = login_with(SecretKind::BearerToken, "t", true);
    assert!(matches!(fails(token, &[EHLO]), LoginError::NoMechanism { .. }));
    let hello = fails(login(), &["504 5.5.2 <app>: Helo command rejected\r\n"]);
    assert!(matches!(hello, LoginError::Rejected { is_of_secret: false, .. }));
    for replies in [
        vec!["* OK IMAP4rev1\r\n"],
        vec![EHLO, "250 what?\r\n"],
        vec![EHLO, "334 more\r\n"],
        vec!["220 again\r\n"],
    ] {
        assert!(matches!(fails(login(), &replies), LoginError::Malformed { .. }), "{replies:?}");
    }
    assert_eq!(login().receive(b"").unwrap_err(), LoginError::Closed);
}

#[test]
fn with_direct_tls_the_client_gets_the_servers_greeting() {
    let direct = || login_with(SecretKind::Password, "pencil", false);
    assert!(matches!(direct().begin(), Ok(LoginStep::Read)));
    let greeting = "220-postscreen teaser\r\n220 mx.test ESMTP Postfix\r\n";
    for portion in [1, 5, 1000] {
        let (sent, ended) = play(direct(), &[greeting, EHLO, OK], portion);
        assert_eq!(sent, ["EHLO app.test\r\n", PLAIN]);
        assert_eq!(ended.unwrap().unwrap().to_client, greeting.as_bytes());
    }
    for refusal in ["554 5.3.2 no\r\n", "421 4.3.2 busy\r\n"] {
        assert!(matches!(fails(direct(), &[refusal]), LoginError::TurnedAway(_)));
    }
    assert!(matches!(fails(direct(), &["250 mx\r\n"]), LoginError::Malformed { .. }));
}

#[test]
fn lmtp_and_a_nameless_host_have_their_own_hello() {
    let mut lmtp = login();
    (lmtp.dialect, lmtp.name) = (Dialect::Lmtp, EhloName::Address(std::net::Ipv4Addr::LOCALHOST.into()));
    lmtp.comes_from("10.0.0.7".parse().unwrap());
    let (sent, ended) = play(lmtp, &[EHLO, OK], 1000);
    assert_eq!(sent[0], "LHLO [10.0.0.7]\r\n");
    assert!(ended.unwrap().is_some());
}

#[test]
fn no_secret_is_shown() {
    let mut running = login();
    running.begin().unwrap();
    running.receive(EHLO.as_bytes()).unwrap();
    let shown = format!("{running:?}");
    assert!(!shown.contains("pencil") && !shown.contains("AGFwc"), "{shown}");
}

#[test]
fn no_bytes_panic_or_are_kept_without_end() {
    let mut random = fastrand::Rng::with_seed(4954);
    let pieces = [
        "250-",
        "250 ",
        "AUTH PLAIN",
        "334 ",
        "235 2",
        "\r\n",
        "220 x\r\n",
        EHLO,
        "\n",
        "r=,s=,i=9",
        "535 ",
        "=",
    ];
    for round in 0..20_000 {
        let kind = *random.choice(&[SecretKind::Password, SecretKind::BearerToken]).unwrap();
        let mut login = login_with(kind, "pencil", random.bool());
        login.begin().unwrap();
        for _ in 0..random.usize(..12) {
            let bytes = match random.u8(..4) {
                0 => (0..random.usize(1..9)).map(|_| random.u8(..)).collect(),
                _ => random.choice(&pieces).unwrap().as_bytes().to_vec(),
            };
            if login.receive(&bytes).is_err() {
                break;
            }
        }
        assert!(login.greeting.len() + login.said.len() < 10_000, "{round}");
    }
    let mut endless = login();
    let ended = (0..100_000).find_map(|_| endless.receive(b"250-mx\r\n").err());
    assert_eq!(ended, Some(LoginError::Endless(SAID_MAX)));
}
