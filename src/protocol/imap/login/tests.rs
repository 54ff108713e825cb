//! Logins as Dovecot, Gmail and Exchange have them.

use crate::protocol::imap::Imap;
use crate::protocol::line_login::tests::{Case, SECRET, bears_any_client, client_says};
use crate::protocol::{LoginError, LoginStep, Outbox, SignedIn};

const PLAIN: &str = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";

fn greeted() -> Case<'static> {
    Case { is_greeted: true, ..Case::password(&Imap) }
}

/// Signed in, with these capabilities before and after the login.
fn signed_in(before: &str, after: &str) -> SignedIn {
    let ask = format!("* CAPABILITY {before} AUTH=PLAIN\r\namb2 OK\r\n");
    let welcome = format!("amb3 OK {after}in\r\n");
    let said = match before.contains("SASL-IR") {
        true => vec![
            ("", "amb2 CAPABILITY\r\n".to_owned()),
            (&*ask, format!("amb3 AUTHENTICATE PLAIN {PLAIN}\r\n")),
        ],
        false => vec![
            ("", "amb2 CAPABILITY\r\n".to_owned()),
            (&*ask, "amb3 AUTHENTICATE PLAIN\r\n".to_owned()),
            ("+ \r\n", format!("{PLAIN}\r\n")),
        ],
    };
    let mut turns: Vec<(&str, &str)> = said.iter().map(|(said, answer)| (*said, &**answer)).collect();
    turns.push((&welcome, ""));
    greeted().talk(&turns).expect("a login that succeeds")
}

fn usual() -> SignedIn {
    signed_in(
        "IMAP4rev1 SASL-IR LOGIN-REFERRALS STARTTLS LOGINDISABLED",
        "[CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID IDLE LITERAL+ AUTH=PLAIN] ",
    )
}

#[test]
fn what_the_server_offers_decides() {
    let ask = ("", "amb2 CAPABILITY\r\n");
    for (offer, said) in [
        ("IMAP4rev1 SASL-IR AUTH=LOGIN AUTH=PLAIN", format!("amb3 AUTHENTICATE PLAIN {PLAIN}\r\n")),
        ("imap4rev1 sasl-ir auth=plain", format!("amb3 AUTHENTICATE PLAIN {PLAIN}\r\n")),
        ("IMAP4rev1 AUTH=PLAIN", "amb3 AUTHENTICATE PLAIN\r\n".into()),
        ("IMAP4rev1 SASL-IR AUTH=LOGIN", "amb3 AUTHENTICATE LOGIN\r\n".into()),
        (
            "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=SCRAM-SHA-256",
            "amb3 AUTHENTICATE SCRAM-SHA-256 biwsbj10aW0scj1Cd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0g=\r\n".into(),
        ),
        ("IMAP4rev1", format!("amb3 LOGIN \"tim\" \"{SECRET}\"\r\n")),
        ("IMAP4rev1 AUTH=CRAM-MD5", format!("amb3 LOGIN \"tim\" \"{SECRET}\"\r\n")),
    ] {
        let answer = format!("* CAPABILITY {offer}\r\namb2 OK done\r\n");
        let turns = [ask, (&*answer, &*said), ("* BYE later\r\n", "")];
        assert!(matches!(greeted().fails(&turns), LoginError::TurnedAway(_)), "{offer}");
    }
    for (case, offer) in [
        (greeted(), "IMAP4rev1 LOGINDISABLED"),
        (Case { is_greeted: true, ..Case::token(&Imap) }, "IMAP4rev1 AUTH=PLAIN AUTH=LOGIN"),
    ] {
        let answer = format!("* CAPABILITY {offer}\r\namb2 OK done\r\n");
        assert!(matches!(case.fails(&[ask, (&answer, "")]), LoginError::NoMechanism { .. }), "{offer}");
    }
}

/// The command LOGIN carries the password as the mechanism of that name does.
#[test]
fn the_command_login_is_sent_where_login_is_allowed() {
    let ask = ("", "amb2 CAPABILITY\r\n");
    let answer = |offer: &str| format!("* CAPABILITY {offer}\r\namb2 OK done\r\n");
    for (allowed, offer, offered) in [
        (&["SCRAM-SHA-256"][..], "IMAP4rev1 AUTH=PLAIN AUTH=LOGIN", "PLAIN, LOGIN, the command LOGIN"),
        (&["PLAIN"], "IMAP4rev1", "the command LOGIN"),
        (&["PLAIN"], "IMAP4rev1 LOGINDISABLED AUTH=LOGIN", "LOGIN"),
    ] {
        let case = Case { mechanisms: allowed, ..greeted() };
        let error = case.fails(&[ask, (&answer(offer), "")]).to_string();
        assert!(error.ends_with(&format!("`mechanisms` ({}): {offered}", allowed.join(", "))), "{error}");
    }
    let said = format!("amb3 LOGIN \"tim\" \"{SECRET}\"\r\n");
    let turns = [ask, (&*answer("IMAP4rev1 AUTH=PLAIN"), &*said), ("* BYE later\r\n", "")];
    let case = Case { mechanisms: &["LOGIN"], ..greeted() };
    assert!(matches!(case.fails(&turns), LoginError::TurnedAway(_)));
}

#[test]
fn each_way_to_authenticate_has_its_turns() {
    let login = [
        ("", "amb2 CAPABILITY\r\n"),
        ("* CAPABILITY IMAP4rev1 AUTH=LOGIN\r\namb2 OK\r\n", "amb3 AUTHENTICATE LOGIN\r\n"),
        ("+ VXNlcm5hbWU6\r\n", "dGlt\r\n"),
        ("+ UGFzc3dvcmQ6\r\n", "dGFuc3RhYWZ0YW5zdGFhZg==\r\n"),
        ("* CAPABILITY IMAP4rev1\r\namb3 OK in\r\n", ""),
    ];
    assert!(greeted().talk(&login).is_ok());
    // RFC 7628 §4.3: the error, our answer, and the refusal.
    let token = Case { is_greeted: true, ..Case::token(&Imap) };
    let refused = [
        ("", "amb2 CAPABILITY\r\n"),
        (
            "* CAPABILITY IMAP4rev1 SASL-IR AUTH=OAUTHBEARER AUTH=XOAUTH2\r\namb2 OK\r\n",
            "amb3 AUTHENTICATE OAUTHBEARER bixhPXRpbSwBYXV0aD1CZWFyZXIgdGFuc3RhYWZ0YW5zdGFhZgEB\r\n",
        ),
        ("+ eyJzdGF0dXMiOiI0MDEifQ==\r\n", "AQ==\r\n"),
        ("amb3 NO [AUTHENTICATIONFAILED] no\r\n", ""),
    ];
    assert!(matches!(token.fails(&refused), LoginError::Rejected { is_of_secret: true, .. }));
    // Without a signature of the server.
    let scram = [
        ("", "amb2 CAPABILITY\r\n"),
        (
            "* CAPABILITY SASL-IR AUTH=SCRAM-SHA-256\r\namb2 OK\r\n",
            "amb3 AUTHENTICATE SCRAM-SHA-256 biwsbj10aW0scj1Cd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0g=\r\n",
        ),
        ("amb3 OK in\r\n", ""),
    ];
    assert!(matches!(greeted().fails(&scram), LoginError::Unproven(_)));
    for line in ["+ not base64!\r\n", "amb2 OK\r\n", "hello\r\n", "amb3 WHAT\r\n"] {
        let turns = [login[0], login[1], (line, "")];
        let error = greeted().talk(&turns).expect_err(line);
        assert!(
            matches!(error, LoginError::Malformed { .. } | LoginError::Rejected { .. }),
            "{line}: {error}"
        );
    }
}

#[test]
fn a_long_first_message_is_sent_on_its_own() {
    let long = "t".repeat(9000);
    let case = Case { secret: &long, is_greeted: true, ..Case::token(&Imap) };
    let first = case.talk(&[
        ("", "amb2 CAPABILITY\r\n"),
        ("* CAPABILITY SASL-IR AUTH=XOAUTH2\r\namb2 OK\r\n", "amb3 AUTHENTICATE XOAUTH2\r\n"),
        ("* BYE\r\n", ""),
    ]);
    assert!(matches!(first, Err(LoginError::TurnedAway(_))));
}

#[test]
fn login_quotes_or_takes_literals() {
    for (secret, quoted) in [("a\"b\\c d", "\"a\\\"b\\\\c d\""), ("", "\"\"")] {
        let case = Case { secret, ..greeted() };
        let said = format!("amb3 LOGIN \"tim\" {quoted}\r\n");
        let turns = [
            ("", "amb2 CAPABILITY\r\n"),
            ("* CAPABILITY IMAP4rev1\r\namb2 OK\r\n", &*said),
            ("amb3 OK\r\n", ""),
        ];
        assert!(case.talk(&turns).is_ok());
    }
    let case = Case { secret: "grün", ..greeted() };
    let turns = [
        ("", "amb2 CAPABILITY\r\n"),
        ("* CAPABILITY IMAP4rev1\r\namb2 OK\r\n", "amb3 LOGIN \"tim\" {5}\r\n"),
        ("+ go on\r\n", "grün\r\n"),
        ("amb3 NO bad\r\n", ""),
    ];
    assert!(matches!(case.fails(&turns), LoginError::Rejected { is_of_secret: true, .. }));
    let early = [turns[0], turns[1], ("amb3 NO bad user\r\n", "")];
    assert!(matches!(case.fails(&early), LoginError::Rejected { is_of_secret: false, .. }));
    assert!(matches!(case.fails(&[turns[0], turns[1], ("amb3 OK\r\n", "")]), LoginError::Malformed { .. }));
}

#[test]
fn each_refusal_has_its_own_meaning() {
    let begin = [
        ("", "amb2 CAPABILITY\r\n"),
        ("* CAPABILITY IMAP4rev1\r\namb2 OK\r\n", "amb3 LOGIN \"tim\" \"tanstaaftanstaaf\"\r\n"),
    ];
    for (answer, is_rejected) in [
        ("amb3 NO [AUTHENTICATIONFAILED] Authentication failed.\r\n", true),
        ("amb3 NO [ALERT] Application-specific password required\r\n", true),
        ("amb3 NO AUTHENTICATE failed.\r\n", true),
        ("amb3 BAD what\r\n", true),
        ("amb3 NO [UNAVAILABLE] Temporary authentication failure.\r\n", false),
        ("amb3 NO [INUSE] locked\r\n", false),
        ("amb3 NO [LIMIT] Maximum number of connections\r\n", false),
        ("* BYE shutting down\r\n", false),
    ] {
        match (greeted().fails(&[begin[0], begin[1], (answer, "")]), is_rejected) {
            (LoginError::Rejected { user, by, is_of_secret: true }, true) => {
                assert_eq!(user, "tim");
                assert!(by.is_through_tls && answer.contains(&by.words), "{by:?}");
            }
            (LoginError::TurnedAway(by), false) => assert!(by.is_through_tls, "{by:?}"),
            (error, _) => panic!("{answer}: {error:?}"),
        }
    }
}

#[test]
fn a_greeting_behind_tls_is_ours_to_read_and_to_give() {
    let ours = "* OK IMAP4rev1 ambassador\r\n";
    let said = format!("amb3 AUTHENTICATE PLAIN {PLAIN}\r\n");
    for turns in [
        vec![("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n", &*said), ("amb3 OK in\r\n", "")],
        vec![
            ("* OK hi\r\n", "amb2 CAPABILITY\r\n"),
            ("* CAPABILITY SASL-IR AUTH=PLAIN\r\namb2 OK\r\n", &said),
            ("amb3 OK in\r\n", ""),
        ],
        vec![("* PREAUTH [CAPABILITY IMAP4rev1 IDLE] hi tim\r\n", "")],
    ] {
        let signed_in = Case::password(&Imap).talk(&turns).expect("a login");
        assert_eq!(String::from_utf8_lossy(&signed_in.to_client), ours);
    }
    let full = Case::password(&Imap).fails(&[("* BYE [UNAVAILABLE] full\r\n", "")]);
    assert!(matches!(full, LoginError::TurnedAway(_)));
    let other = Case::password(&Imap).fails(&[("220 mx ESMTP\r\n", "")]);
    assert!(matches!(other, LoginError::Malformed { .. }));
}

#[test]
fn the_client_is_taken_at_its_word() {
    const OK: &str = "OK [CAPABILITY IMAP4rev1 SASL-IR ID IDLE LITERAL+] Logged in\r\n";
    for (said, answered) in [
        ("a LOGIN x y\r\n", format!("a {OK}")),
        ("a login \"x y\" \"\\\"\"\r\n", format!("a {OK}")),
        ("a1 LOGIN {3}\r\nx y {2}\r\nab\r\n", format!("+ go on\r\n+ go on\r\na1 {OK}")),
        ("a1 LOGIN {3+}\r\n\r\na {2+}\r\nab\r\n", format!("a1 {OK}")),
        ("a AUTHENTICATE PLAIN AHgAeQ==\r\n", format!("a {OK}")),
        ("a AUTHENTICATE plain =\r\n", format!("a {OK}")),
        ("a AUTHENTICATE PLAIN\r\nAHgAeQ==\r\n", format!("+ \r\na {OK}")),
        ("a AUTHENTICATE LOGIN\r\neA==\r\n\r\n", format!("+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\na {OK}")),
        ("a AUTHENTICATE LOGIN eA==\r\neQ==\r\n", format!("+ UGFzc3dvcmQ6\r\na {OK}")),
        (
            "a AUTHENTICATE PLAIN\r\n*\r\nb AUTHENTICATE CRAM-MD5\r\nc LOGIN x y\r\n",
            format!("+ \r\na BAD AUTHENTICATE cancelled\r\nb NO only PLAIN and LOGIN are offered\r\nc {OK}"),
        ),
        (
            "1 CAPABILITY\r\n2 NOOP\r\n3 ID (\"name\" \"x\")\r\n4 STARTTLS\r\n5 LOGIN x y\r\n",
            format!(
                "* CAPABILITY IMAP4rev1 ID IDLE LITERAL+ SASL-IR AUTH=PLAIN AUTH=LOGIN\r\n1 OK CAPABILITY completed\r\n\
                 2 OK NOOP completed\r\n* ID NIL\r\n3 OK ID completed\r\n4 BAD there is no TLS on this connection\r\n5 {OK}"
            ),
        ),
    ] {
        assert_eq!(client_says(usual, said), (answered.clone(), String::new(), true), "{said:?}");
        let (told, passed, _) = client_says(usual, &format!("{said}z SELECT INBOX\r\n"));
        assert_eq!((told, &*passed), (answered, "z SELECT INBOX\r\n"), "{said:?}");
    }
}

/// The OK has none that the server has not told after the login, so that clients ask.
#[test]
fn capabilities_are_the_servers() {
    let silent = || signed_in("IMAP4rev1 LOGINDISABLED UIDPLUS", "");
    let (told, ..) = client_says(silent, "1 CAPABILITY\r\n2 LOGIN x y\r\n");
    assert_eq!(
        told,
        "* CAPABILITY IMAP4rev1 UIDPLUS SASL-IR AUTH=PLAIN AUTH=LOGIN\r\n1 OK CAPABILITY completed\r\n2 OK Logged in\r\n"
    );
    let untagged = || signed_in("IMAP4rev1", "in\r\n");
    assert!(client_says(untagged, "2 LOGIN x y\r\n").0.ends_with("2 OK Logged in\r\n"));
}

#[test]
fn a_client_may_skip_its_login() {
    for said in [
        "a SELECT INBOX\r\n",
        "a LOGOUT\r\n",
        "a APPEND INBOX {3}\r\n",
        "nonsense\r\n",
        "\r\n",
        "a\r\n",
        " LOGIN x y\r\n",
    ] {
        assert_eq!(client_says(usual, said), (String::new(), said.into(), true), "{said:?}");
    }
    for part in ["a", "a ", "a LOG", "a LOGIN x", "a LOGIN {5+}\r\nab"] {
        assert_eq!(client_says(usual, part), (String::new(), String::new(), false), "{part:?}");
    }
}

#[test]
fn lines_of_the_server_stay_whole() {
    let mut login = greeted().login();
    let _ = login.begin();
    let _ = login.receive(b"* CAPABILITY SASL-IR AUTH=PLAIN\r\namb2 OK\r\n");
    let LoginStep::SignedIn(signed_in) = login.receive(b"amb3 OK in\r\n* 3 EXISTS\r\n* BY").unwrap() else {
        panic!("not signed in")
    };
    assert_eq!(signed_in.to_client, b"* 3 EXISTS\r\n");
    let (mut dialogue, mut out) = (signed_in.dialogue.unwrap(), Outbox::default());
    dialogue.on_downstream(b"a NOOP\r\n", &mut out).unwrap();
    dialogue.on_upstream(b"E idle\r\nx", &mut out).unwrap();
    assert_eq!(out.to_downstream, b"a OK NOOP completed\r\n* BYE idle\r\n");
    dialogue.on_downstream(b"b LOGIN x y\r\n", &mut out).unwrap();
    assert!(dialogue.is_finished() && out.to_downstream.ends_with(b"b OK Logged in\r\nx"));
    let mut endless = usual().dialogue.unwrap();
    assert!(endless.on_upstream(&[b'x'; 20_000], &mut Outbox::default()).is_err());
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let lines = "* OK [CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-256 AUTH=LOGIN AUTH=XOAUTH2] hi\r\n+ abcd\r\n+ {3}\r\n\
                 * CAPABILITY X\r\namb2 OK [X] y\r\namb3 NO [UNAVAILABLE] {12}\r\nabc\r\namb3 OK x\r\n* BYE\r\n";
    Case::password(&Imap).bears_any_server(lines);
    Case::token(&Imap).bears_any_server(lines);
    greeted().bears_any_server(lines);
    let client = "a LOGIN {3}\r\nabc {2+}\r\nxy\r\nb AUTHENTICATE PLAIN\r\n=\r\nc NOOP\r\nd ID NIL\r\ne CAPABILITY\r\n";
    bears_any_client(usual, client);
}

/// The client is held to `printer` and `tray 2`.
fn held() -> SignedIn {
    let ask = "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\namb2 OK\r\n";
    let said = format!("amb3 AUTHENTICATE PLAIN {PLAIN}\r\n");
    let turns = [("", "amb2 CAPABILITY\r\n"), (ask, &*said), ("amb3 OK in\r\n", "")];
    Case { is_held: true, ..greeted() }.talk(&turns).expect("a login that succeeds")
}

#[test]
fn a_client_that_is_held_to_its_login_gets_nothing_to_the_server_before() {
    const FAILED: &str = "a NO [AUTHENTICATIONFAILED] Authentication failed\r\n";
    for (said, told) in [
        ("a LOGIN printer wrong\r\n", FAILED.to_owned()),
        ("a LOGIN printer \"tray 3\"\r\n", FAILED.into()),
        ("a LOGIN \"\" \"\"\r\n", FAILED.into()),
        ("a LOGIN printer {6+}\r\ntray 3\r\n", FAILED.into()),
        ("a LOGIN printer\r\n", "a BAD LOGIN has a user and a password\r\n".into()),
        ("a LOGIN printer \"tray 2\" x\r\n", "a BAD LOGIN has a user and a password\r\n".into()),
        ("a LOGIN printer \"tray 2\r\n", "a BAD LOGIN has a user and a password\r\n".into()),
        ("a AUTHENTICATE PLAIN AHByaW50ZXIAdHJheSAz\r\n", FAILED.into()),
        ("a AUTHENTICATE PLAIN =\r\n", FAILED.into()),
        (
            "a AUTHENTICATE LOGIN\r\ncHJpbnRlcg==\r\ndHJheSAz\r\n",
            format!("+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n{FAILED}"),
        ),
        ("a SELECT INBOX\r\n", "a BAD Please log in first\r\n".into()),
        ("a APPEND INBOX {10}\r\n", "a BAD Please log in first\r\n".into()),
        // What follows unasked belongs to the command, and is not read as another.
        ("a APPEND INBOX {12+}\r\nb SELECT x\r\n\r\n", "a BAD Please log in first\r\n".into()),
        ("a LOGOUT now\r\n", "a BAD Please log in first\r\n".into()),
        ("nonsense\r\n", "nonsense BAD Please log in first\r\n".into()),
        (" x\r\n", "* BAD Please log in first\r\n".into()),
        ("\r\n", "* BAD Please log in first\r\n".into()),
        ("a\rb SELECT x\r\n", "* BAD Please log in first\r\n".into()),
        ("a STARTTLS\r\n", "a BAD there is no TLS on this connection\r\n".into()),
    ] {
        assert_eq!(client_says(held, said), (told.clone(), String::new(), false), "{said:?}");
        for right in [
            "z LOGIN printer \"tray 2\"\r\n",
            "z LOGIN {7+}\r\nprinter {6+}\r\ntray 2\r\n",
            "z AUTHENTICATE PLAIN AHByaW50ZXIAdHJheSAy\r\n",
        ] {
            let (answers, passed, is_over) = client_says(held, &format!("{said}{right}x SELECT INBOX\r\n"));
            assert_eq!(answers, format!("{told}z OK Logged in\r\n"), "{said:?}");
            assert_eq!((&*passed, is_over), ("x SELECT INBOX\r\n", true));
        }
    }
    let mut dialogue = held().dialogue.unwrap();
    let mut out = Outbox::default();
    dialogue.on_downstream(b"a LOGOUT\r\nb SELECT x\r\n", &mut out).unwrap();
    dialogue.on_upstream(b"* BYE\r\na OK\r\n", &mut out).unwrap();
    assert_eq!(out.to_upstream, b"a LOGOUT\r\n");
    assert!(out.to_downstream.starts_with(b"* BYE\r\n") && dialogue.denied().is_some());
}

#[test]
fn no_bytes_whatever_get_past_the_login() {
    bears_any_client(
        held,
        "a LOGIN {3+}\r\nabc {2+}\r\nxy\r\nb AUTHENTICATE PLAIN\r\n=\r\nc SELECT x\r\nd APPEND y {3+}\r\nabc\r\ne LOGOUT\r\n",
    );
}
