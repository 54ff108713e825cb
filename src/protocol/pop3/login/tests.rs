//! Logins as Dovecot, Gmail and Exchange have them.

use crate::protocol::line_login::tests::{Case, bears_any_client, client_says};
use crate::protocol::pop3::Pop3;
use crate::protocol::{LoginError, SignedIn};

const PLAIN: &str = "AHRpbQB0YW5zdGFhZnRhbnN0YWFm";
const CAPA: (&str, &str) = ("", "CAPA\r\n");

fn greeted() -> Case<'static> {
    Case { is_greeted: true, ..Case::password(&Pop3) }
}

fn usual() -> SignedIn {
    let said = format!("AUTH PLAIN {PLAIN}\r\n");
    let list = "+OK\r\nCAPA\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nSTLS\r\nUTF8\r\nUSER\r\nSASL PLAIN\r\n.\r\n";
    greeted().talk(&[CAPA, (list, &said), ("+OK Logged in.\r\n", "")]).expect("a login")
}

#[test]
fn what_the_server_offers_decides() {
    for (list, said) in [
        ("+OK\r\nSASL PLAIN LOGIN\r\nUSER\r\n.\r\n", format!("AUTH PLAIN {PLAIN}\r\n")),
        ("+OK\r\nsasl login\r\n.\r\n", "AUTH LOGIN\r\n".into()),
        (
            "+OK\r\nSASL PLAIN SCRAM-SHA-256\r\n.\r\n",
            "AUTH SCRAM-SHA-256 biwsbj10aW0scj1Cd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0g=\r\n".into(),
        ),
        ("+OK\r\nUSER\r\nSASL CRAM-MD5\r\n.\r\n", "USER tim\r\n".into()),
        ("+OK\r\nUSER\r\n.\r\n", "USER tim\r\n".into()),
        ("-ERR what\r\n", "USER tim\r\n".into()),
    ] {
        let error = greeted().fails(&[CAPA, (list, &*said), ("-ERR [SYS/TEMP] later\r\n", "")]);
        assert!(matches!(error, LoginError::TurnedAway(_)), "{list}: {error}");
    }
    let token = || Case { is_greeted: true, ..Case::token(&Pop3) };
    for (case, list) in [
        (greeted(), "+OK\r\nTOP\r\n.\r\n"),
        (greeted(), "+OK\r\nSASL XOAUTH2\r\n.\r\n"),
        (token(), "+OK\r\nUSER\r\nSASL PLAIN\r\n.\r\n"),
        (token(), "-ERR\r\n"),
        (Case { secret: "two\r\nDELE 1", ..greeted() }, "-ERR\r\n"),
    ] {
        assert!(matches!(case.fails(&[CAPA, (list, "")]), LoginError::NoMechanism { .. }), "{list}");
    }
}

/// USER and PASS carry the password as the mechanism LOGIN does.
#[test]
fn user_and_pass_are_sent_where_login_is_allowed() {
    for (list, offered) in [
        ("+OK\r\nSASL PLAIN LOGIN\r\nUSER\r\n.\r\n", "PLAIN, LOGIN, the commands USER and PASS"),
        ("-ERR\r\n", "the commands USER and PASS"),
        ("+OK\r\nSASL PLAIN\r\n.\r\n", "PLAIN"),
    ] {
        let error =
            Case { mechanisms: &["SCRAM-SHA-256"], ..greeted() }.fails(&[CAPA, (list, "")]).to_string();
        assert!(error.ends_with(&format!("`mechanisms` (SCRAM-SHA-256): {offered}")), "{error}");
    }
    let turns =
        [CAPA, ("+OK\r\nSASL PLAIN\r\nUSER\r\n.\r\n", "USER tim\r\n"), ("-ERR [SYS/TEMP] later\r\n", "")];
    let error = Case { mechanisms: &["LOGIN"], ..greeted() }.fails(&turns);
    assert!(matches!(error, LoginError::TurnedAway(_)), "{error}");
}

#[test]
fn each_way_to_authenticate_has_its_turns() {
    let login = [
        CAPA,
        ("+OK\r\nSASL LOGIN\r\n.\r\n", "AUTH LOGIN\r\n"),
        ("+ VXNlcm5hbWU6\r\n", "dGlt\r\n"),
        ("+ UGFzc3dvcmQ6\r\n", "dGFuc3RhYWZ0YW5zdGFhZg==\r\n"),
        ("+OK\r\n", ""),
    ];
    assert!(greeted().talk(&login).is_ok());
    let user =
        [CAPA, ("-ERR\r\n", "USER tim\r\n"), ("+OK\r\n", "PASS tanstaaftanstaaf\r\n"), ("+OK\r\n", "")];
    assert!(greeted().talk(&user).is_ok());
    // RFC 5034 §4: what does not fit the line follows it. A token does not.
    let long = "t".repeat(300);
    let case = Case { secret: &long, is_greeted: true, ..Case::token(&Pop3) };
    let first = format!(
        "{}\r\n",
        data_encoding::BASE64.encode(format!("user=tim\x01auth=Bearer {long}\x01\x01").as_bytes())
    );
    let turns = [
        CAPA,
        ("+OK\r\nSASL PLAIN XOAUTH2\r\n.\r\n", "AUTH XOAUTH2\r\n"),
        ("+ \r\n", &*first),
        ("+ eyJzdGF0dXMiOiI0MDAifQ==\r\n", "\r\n"),
        ("-ERR [AUTH] no\r\n", ""),
    ];
    assert!(matches!(case.fails(&turns), LoginError::Rejected { is_of_secret: true, .. }));
    assert!(case.talk(&[turns[0], turns[1], turns[2], ("+OK\r\n", "")]).is_ok());
    for line in ["+ not base64!\r\n", "hello\r\n", "* OK\r\n"] {
        let error = greeted().talk(&[login[0], login[1], (line, "")]).expect_err(line);
        assert!(matches!(error, LoginError::Malformed { .. }), "{line}: {error}");
    }
}

#[test]
fn each_refusal_has_its_own_meaning() {
    let begin = [CAPA, ("-ERR\r\n", "USER tim\r\n"), ("+OK\r\n", "PASS tanstaaftanstaaf\r\n")];
    for (answer, is_rejected) in [
        ("-ERR [AUTH] Authentication failed.\r\n", true),
        ("-ERR Logon failure: unknown user name or bad password.\r\n", true),
        ("-ERR\r\n", true),
        ("-ERR [SYS/TEMP] Temporary authentication failure.\r\n", false),
        ("-ERR [SYS/PERM] ask your administrator\r\n", false),
        ("-ERR [in-use] locked\r\n", false),
        ("-ERR [LOGIN-DELAY] wait\r\n", false),
    ] {
        match (greeted().fails(&[begin[0], begin[1], begin[2], (answer, "")]), is_rejected) {
            (LoginError::Rejected { by, is_of_secret: true, .. }, true) => assert!(by.is_through_tls),
            (LoginError::TurnedAway(by), false) => assert!(by.is_through_tls),
            (error, _) => panic!("{answer}: {error:?}"),
        }
    }
    let early = greeted().fails(&[begin[0], begin[1], ("-ERR no such user\r\n", "")]);
    assert!(matches!(early, LoginError::Rejected { is_of_secret: false, .. }));
}

#[test]
fn a_greeting_behind_tls_is_ours_to_read_and_to_give() {
    for (greeting, ours) in [
        ("+OK Dovecot ready. <1.2@mx.test>\r\n", "+OK ambassador ready <1.2@mx.test>\r\n"),
        ("+OK\r\n", "+OK ambassador ready\r\n"),
    ] {
        let said = format!("AUTH PLAIN {PLAIN}\r\n");
        let turns = [(greeting, "CAPA\r\n"), ("+OK\r\nSASL PLAIN\r\n.\r\n", &*said), ("+OK\r\n", "")];
        let signed_in = Case::password(&Pop3).talk(&turns).expect("a login");
        assert_eq!(String::from_utf8_lossy(&signed_in.to_client), ours);
    }
    let full = Case::password(&Pop3).fails(&[("-ERR full\r\n", "")]);
    assert!(matches!(full, LoginError::TurnedAway(_)));
}

#[test]
fn the_client_is_taken_at_its_word() {
    const OK: &str = "+OK Logged in\r\n";
    for (said, answered) in [
        ("USER x\r\nPASS y z\r\n", format!("+OK\r\n{OK}")),
        ("apop x 0123\r\n", OK.into()),
        ("AUTH PLAIN AHgAeQ==\r\n", OK.into()),
        ("AUTH plain\r\nAHgAeQ==\r\n", format!("+ \r\n{OK}")),
        ("AUTH LOGIN\r\neA==\r\neQ==\r\n", format!("+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n{OK}")),
        (
            "AUTH\r\nAUTH CRAM-MD5\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN ?\r\nPASS x\r\n",
            format!(
                "+OK\r\nPLAIN\r\nLOGIN\r\n.\r\n-ERR only PLAIN and LOGIN are offered\r\n+ \r\n-ERR cancelled\r\n\
                 -ERR no base64\r\n{OK}"
            ),
        ),
        (
            "CAPA\r\nSTLS\r\nUTF8\r\nPASS x\r\n",
            format!(
                "+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\nCAPA\r\nTOP\r\nUIDL\r\nRESP-CODES\r\n.\r\n\
                 -ERR not offered here\r\n-ERR not offered here\r\n{OK}"
            ),
        ),
    ] {
        assert_eq!(client_says(usual, said), (answered.clone(), String::new(), true), "{said:?}");
        let (told, passed, _) = client_says(usual, &format!("{said}STAT\r\n"));
        assert_eq!((told, &*passed), (answered, "STAT\r\n"), "{said:?}");
    }
}

#[test]
fn a_client_may_skip_its_login() {
    for said in ["STAT\r\n", "QUIT\r\n", "LIST 1\r\n", "\r\n", "nonsense-without-any-end"] {
        assert_eq!(client_says(usual, said), (String::new(), said.into(), true), "{said:?}");
    }
    for part in ["U", "USER", "USER x", "PASS y"] {
        assert_eq!(client_says(usual, part), (String::new(), String::new(), false), "{part:?}");
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let lines = "+OK hi <a@b>\r\n+OK\r\nSASL SCRAM-SHA-256 LOGIN XOAUTH2\r\nUSER\r\n.\r\n+ abcd\r\n+ \r\n+OK\r\n-ERR [X]\r\n";
    Case::password(&Pop3).bears_any_server(lines);
    Case::token(&Pop3).bears_any_server(lines);
    greeted().bears_any_server(lines);
    bears_any_client(
        usual,
        "CAPA\r\nAUTH PLAIN\r\n=\r\nAUTH LOGIN eA==\r\n*\r\nUSER x\r\nPASS y\r\nSTAT\r\n",
    );
}

/// The client is held to `printer` and `tray 2`.
fn held() -> SignedIn {
    let said = format!("AUTH PLAIN {PLAIN}\r\n");
    let turns =
        [("+OK hi <1.2@mx.test>\r\n", "CAPA\r\n"), ("+OK\r\nSASL PLAIN\r\n.\r\n", &*said), ("+OK\r\n", "")];
    let signed_in = Case { is_held: true, ..Case::password(&Pop3) }.talk(&turns).expect("a login");
    assert_eq!(signed_in.to_client, b"+OK ambassador ready\r\n", "without APOP");
    signed_in
}

#[test]
fn a_client_that_is_held_to_its_login_gets_nothing_to_the_server_before() {
    const FAILED: &str = "-ERR [AUTH] Authentication failed\r\n";
    const FIRST: &str = "-ERR Log in first\r\n";
    for (said, told) in [
        ("USER printer\r\nPASS tray 3\r\n", format!("+OK\r\n{FAILED}")),
        ("USER root\r\nPASS tray 2\r\n", format!("+OK\r\n{FAILED}")),
        ("PASS tray 2\r\n", FAILED.into()),
        ("USER printer\r\nPASS\r\n", format!("+OK\r\n{FAILED}")),
        ("AUTH PLAIN AHByaW50ZXIAdHJheSAz\r\n", FAILED.into()),
        ("AUTH PLAIN\r\n=\r\n", format!("+ \r\n{FAILED}")),
        ("APOP printer 0123\r\n", "-ERR APOP is not offered, but USER and AUTH\r\n".into()),
        ("STAT\r\n", FIRST.into()),
        ("\r\n", FIRST.into()),
        ("QUIT now\r\n", FIRST.into()),
        ("a-word-that-is-no-command-of-pop3\r\n", FIRST.into()),
    ] {
        assert_eq!(client_says(held, said), (told.clone(), String::new(), false), "{said:?}");
        for (right, answers) in [
            ("USER printer\r\nPASS tray 2\r\n", "+OK\r\n+OK Logged in\r\n"),
            ("AUTH PLAIN AHByaW50ZXIAdHJheSAy\r\n", "+OK Logged in\r\n"),
        ] {
            let (heard, passed, is_over) = client_says(held, &format!("{said}{right}STAT\r\n"));
            assert_eq!(heard, format!("{told}{answers}"), "{said:?}");
            assert_eq!((&*passed, is_over), ("STAT\r\n", true));
        }
    }
    assert_eq!(client_says(held, "quit\r\nSTAT\r\n"), (String::new(), "QUIT\r\n".into(), false));
}

#[test]
fn no_bytes_whatever_get_past_the_login() {
    bears_any_client(held, "STAT\r\nAUTH PLAIN\r\n=\r\nAUTH LOGIN eA==\r\n*\r\nUSER x\r\nPASS y\r\nQUIT\r\n");
}
