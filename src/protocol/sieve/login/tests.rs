//! Logins as Dovecot's Pigeonhole has them.

use crate::protocol::line_login::tests::{Case, bears_any_client, client_says};
use crate::protocol::sieve::Sieve;
use crate::protocol::{LoginError, SignedIn};

const PLAIN: &str = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";
const BEGIN: (&str, &str) = ("", "");

fn greeting(mechanisms: &str) -> String {
    format!(
        "\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"SIEVE\" {{8}}\r\nfileinto\r\n\"SASL\" \"{mechanisms}\"\r\n\
         \"STARTTLS\"\r\n\"VERSION\" \"1.0\"\r\nOK {{6}}\r\nready.\r\n"
    )
}

fn usual() -> SignedIn {
    let (greeting, said) = (greeting("PLAIN LOGIN"), format!("AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n"));
    let turns = [BEGIN, (&*greeting, &*said), ("OK \"Logged in.\"\r\n", "")];
    Case { is_greeted: true, ..Case::password(&Sieve) }.talk(&turns).expect("a login")
}

#[test]
fn the_greeting_is_the_servers_with_our_mechanisms() {
    let given = String::from_utf8(usual().to_client).unwrap();
    assert_eq!(
        given,
        "\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"SIEVE\" {8}\r\nfileinto\r\n\"VERSION\" \"1.0\"\r\n\
         \"SASL\" \"PLAIN LOGIN\"\r\nOK \"ambassador ready.\"\r\n"
    );
}

#[test]
fn each_way_to_authenticate_has_its_turns() {
    let (login, scram) = (greeting("LOGIN"), greeting("SCRAM-SHA-256"));
    let first = "AUTHENTICATE \"SCRAM-SHA-256\" \"biwsbj10aW0scj1Cd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0g=\"\r\n";
    for (user, password) in
        [("\"VXNlcm5hbWU6\"\r\n", "\"UGFzc3dvcmQ6\"\r\n"), ("{12}\r\nVXNlcm5hbWU6\r\n", "{0}\r\n\r\n")]
    {
        let turns = [
            BEGIN,
            (&*login, "AUTHENTICATE \"LOGIN\"\r\n"),
            (user, "\"dGlt\"\r\n"),
            (password, "\"dGFuc3RhYWZ0YW5zdGFhZg==\"\r\n"),
            ("OK\r\n", ""),
        ];
        assert!(Case::password(&Sieve).talk(&turns).is_ok());
    }
    for (last, words) in [
        ("OK\r\n", "it let us in without its signature"),
        ("OK (SASL \"dj1hYmM=\") \"in\"\r\n", "a final message before its time"),
        ("OK (SASL \"?\")\r\n", "data that is no base64"),
        ("OK (SASL\r\n", "a bad code"),
    ] {
        let case = Case::password(&Sieve);
        let error = case.fails(&[BEGIN, (&*scram, first), (last, "")]).to_string();
        assert!(error.contains(words), "{last}: {error}");
    }
    let long = "t".repeat(1000);
    let case = Case { secret: &long, ..Case::token(&Sieve) };
    let message = data_encoding::BASE64.encode(format!("user=tim\x01auth=Bearer {long}\x01\x01").as_bytes());
    let said = format!("AUTHENTICATE \"XOAUTH2\" {{{}+}}\r\n{message}\r\n", message.len());
    let offer = greeting("PLAIN XOAUTH2");
    assert!(case.talk(&[BEGIN, (&*offer, &*said), ("OK\r\n", "")]).is_ok());
    let none = Case::token(&Sieve).fails(&[BEGIN, (&*login, "")]);
    assert!(matches!(none, LoginError::NoMechanism { .. }), "{none}");
}

#[test]
fn each_refusal_has_its_own_meaning() {
    let (greeting, said) = (greeting("PLAIN"), format!("AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n"));
    for (answer, words, is_rejected) in [
        ("NO \"Authentication failed.\"\r\n", "Authentication failed.", true),
        ("NO {6}\r\nfailed\r\n", "failed", true),
        ("NO (AUTH-TOO-WEAK) \"no\"\r\n", "no", true),
        (
            "NO (TRYLATER) \"Temporary authentication failure.\"\r\n",
            "Temporary authentication failure.",
            false,
        ),
        ("BYE \"down\"\r\n", "down", false),
        ("BYE (TRYLATER) {4}\r\ndown\r\n", "down", false),
    ] {
        match (Case::password(&Sieve).fails(&[BEGIN, (&*greeting, &*said), (answer, "")]), is_rejected) {
            (LoginError::Rejected { by, is_of_secret: true, .. }, true) => assert_eq!(by.words, words),
            (LoginError::TurnedAway(by), false) => assert_eq!(by.words, words),
            (error, _) => panic!("{answer}: {error:?}"),
        }
    }
    for early in ["BYE \"full\"\r\n", "NO \"full\"\r\n"] {
        assert!(matches!(Case::password(&Sieve).fails(&[(early, "")]), LoginError::TurnedAway(_)), "{early}");
    }
    for foreign in ["* OK IMAP\r\n", "\"SASL\r\n", "220 x\r\n"] {
        assert!(
            matches!(Case::password(&Sieve).fails(&[(foreign, "")]), LoginError::Malformed { .. }),
            "{foreign}"
        );
    }
}

#[test]
fn the_client_is_taken_at_its_word() {
    const OK: &str = "OK \"Logged in.\"\r\n";
    let capabilities = String::from_utf8(usual().to_client).unwrap();
    for (said, answered) in [
        ("AUTHENTICATE \"PLAIN\" \"AHgAeQ==\"\r\n", OK.into()),
        ("authenticate \"plain\" {8+}\r\nAHgAeQ==\r\n", OK.into()),
        ("AUTHENTICATE {5+}\r\nPLAIN {8+}\r\nAHgAeQ==\r\n", OK.into()),
        ("AUTHENTICATE \"PLAIN\"\r\n\"AHgAeQ==\"\r\n", format!("\"\"\r\n{OK}")),
        (
            "AUTHENTICATE \"LOGIN\"\r\n{4+}\r\neA==\r\n\"eQ==\"\r\n",
            format!("\"VXNlcm5hbWU6\"\r\n\"UGFzc3dvcmQ6\"\r\n{OK}"),
        ),
        (
            "AUTHENTICATE \"LOGIN\"\r\n\"*\"\r\nAUTHENTICATE \"CRAM-MD5\"\r\nSTARTTLS\r\nAUTHENTICATE \"PLAIN\" ?\r\n\
             AUTHENTICATE \"PLAIN\"\r\nx\r\nNOOP\r\nNOOP \"a\"\r\nCAPABILITY\r\nAUTHENTICATE \"PLAIN\" \"\"\r\n",
            format!(
                "\"VXNlcm5hbWU6\"\r\nNO \"Cancelled.\"\r\nNO \"Only PLAIN and LOGIN are offered.\"\r\n\
                 NO \"There is no TLS on this connection.\"\r\nNO \"A string is expected.\"\r\n\"\"\r\nNO \"No base64.\"\r\n\
                 OK \"Done.\"\r\nOK (TAG \"a\") \"Done.\"\r\n{capabilities}{OK}"
            ),
        ),
    ] {
        assert_eq!(client_says(usual, said), (answered.clone(), String::new(), true), "{said:?}");
        let (told, passed, _) = client_says(usual, &format!("{said}LISTSCRIPTS\r\n"));
        assert_eq!((told, &*passed), (answered, "LISTSCRIPTS\r\n"), "{said:?}");
    }
}

#[test]
fn a_client_may_skip_its_login() {
    for said in
        ["LISTSCRIPTS\r\n", "LOGOUT\r\n", "PUTSCRIPT \"x\" {9+}\r\nkeep;", "\r\n", "nonsense-without-any-end"]
    {
        assert_eq!(client_says(usual, said), (String::new(), said.into(), true), "{said:?}");
    }
    for part in ["A", "AUTHENTICATE \"PLAIN", "AUTHENTICATE \"PLAIN\" {8+}\r\nAHg"] {
        assert_eq!(client_says(usual, part), (String::new(), String::new(), false), "{part:?}");
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let lines = format!(
        "{}\"abcd\"\r\n{{4}}\r\nabcd\r\nOK (SASL \"dj1h\") \"x\"\r\nNO (TRYLATER) {{3}}\r\nabc\r\nBYE\r\n",
        greeting("LOGIN SCRAM-SHA-256 XOAUTH2")
    );
    Case::password(&Sieve).bears_any_server(&lines);
    Case::token(&Sieve).bears_any_server(&lines);
    let client =
        "NOOP\r\nCAPABILITY\r\nAUTHENTICATE \"PLAIN\"\r\n\"=\"\r\nAUTHENTICATE {5+}\r\nLOGIN {2+}\r\nab\r\n";
    bears_any_client(usual, client);
}

/// The client is held to `printer` and `tray 2`.
fn held() -> SignedIn {
    let (greeting, said) = (greeting("PLAIN LOGIN"), format!("AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n"));
    let turns = [BEGIN, (&*greeting, &*said), ("OK \"Logged in.\"\r\n", "")];
    Case { is_held: true, is_greeted: true, ..Case::password(&Sieve) }.talk(&turns).expect("a login")
}

#[test]
fn a_client_that_is_held_to_its_login_gets_nothing_to_the_server_before() {
    const FAILED: &str = "NO \"Authentication failed.\"\r\n";
    const FIRST: &str = "NO \"Log in first.\"\r\n";
    for (said, told) in [
        ("AUTHENTICATE \"PLAIN\" \"AHByaW50ZXIAdHJheSAz\"\r\n", FAILED),
        ("AUTHENTICATE \"PLAIN\" {1+}\r\n=\r\n", FAILED),
        ("LISTSCRIPTS\r\n", FIRST),
        ("PUTSCRIPT \"s\" {13+}\r\nLISTSCRIPTS\r\n\r\n", FIRST),
        ("LOGOUT now\r\n", FIRST),
        ("\r\n", FIRST),
        ("a-word-that-is-no-command\r\n", FIRST),
    ] {
        assert_eq!(client_says(held, said), (told.into(), String::new(), false), "{said:?}");
        let right = "AUTHENTICATE \"PLAIN\" \"AHByaW50ZXIAdHJheSAy\"\r\nLISTSCRIPTS\r\n";
        let (heard, passed, is_over) = client_says(held, &format!("{said}{right}"));
        assert_eq!(heard, format!("{told}OK \"Logged in.\"\r\n"), "{said:?}");
        assert_eq!((&*passed, is_over), ("LISTSCRIPTS\r\n", true));
    }
    assert_eq!(client_says(held, "LOGOUT\r\nLISTSCRIPTS\r\n"), (String::new(), "LOGOUT\r\n".into(), false));
}

#[test]
fn no_bytes_whatever_get_past_the_login() {
    bears_any_client(
        held,
        "LISTSCRIPTS\r\nAUTHENTICATE \"PLAIN\" {1+}\r\n=\r\nPUTSCRIPT \"s\" {3+}\r\nabc\r\nLOGOUT\r\n",
    );
}
