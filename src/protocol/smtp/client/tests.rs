//! Clients as smtplib, msmtp, swaks and devices are, by their lines.

use super::*;
use crate::protocol::client_login::ClientLogin;
use crate::protocol::line_login::tests::{Held, bears_any_client};
use crate::protocol::{Dialogue, Outbox, SignedIn};

const ASK_USER: &str = "334 VXNlcm5hbWU6\r\n";
const ASK_PASSWORD: &str = "334 UGFzc3dvcmQ6\r\n";

struct Talking {
    auth: ClientLogin,
    out: Outbox,
}

impl Default for Talking {
    fn default() -> Self {
        Self::with(ClientCheck::default())
    }
}

impl Talking {
    fn with(check: ClientCheck) -> Self {
        Self { auth: ClientLogin::new(Box::new(SmtpClient::new(check)), &[]), out: Outbox::default() }
    }

    /// A client that is held to its login.
    fn held() -> Self {
        Self::with(ClientCheck::new(Some(Held::credentials())))
    }

    /// What goes to the server and to the client.
    fn take(&mut self) -> (String, String) {
        let Outbox { to_downstream, to_upstream } = std::mem::take(&mut self.out);
        (String::from_utf8(to_upstream).unwrap(), String::from_utf8(to_downstream).unwrap())
    }

    fn client(&mut self, text: &str, portion: usize) -> (String, String) {
        for bytes in text.as_bytes().chunks(portion) {
            self.auth.on_downstream(bytes, &mut self.out).unwrap();
        }
        self.take()
    }

    fn server(&mut self, text: &str, portion: usize) -> (String, String) {
        for bytes in text.as_bytes().chunks(portion) {
            self.auth.on_upstream(bytes, &mut self.out).unwrap();
        }
        self.take()
    }

    #[track_caller]
    fn is_answered(&mut self, text: &str, expected: &str) {
        let (to_server, to_client) = self.client(text, 1000);
        assert_eq!((to_server.as_str(), to_client.as_str()), ("", expected), "{text}");
    }
}

const MAIL: &str = "MAIL FROM:<a@app.test>\r\n";

#[test]
fn a_client_without_auth_begins_at_once() {
    for portion in [1, 1000] {
        for begin in
            [MAIL, "QUIT\r\n", "STARTTLS\r\n", "VRFY x\r\nAUTH PLAIN x\r\n", "XFORWARD NAME=x\r\n", "\r\n"]
        {
            let mut talking = Talking::default();
            assert_eq!(talking.client(begin, portion), (begin.into(), String::new()));
            assert!(talking.auth.is_finished(), "{begin:?}");
            assert_eq!(talking.server("250 ok\r\n250-STARTTLS\r\n", 1).1, "250 ok\r\n250-STARTTLS\r\n");
        }
    }
}

#[test]
fn the_reply_to_ehlo_offers_what_we_answer() {
    for (hello, reply, expected) in [
        (
            "EHLO x\r\n",
            "250-mx\r\n250-STARTTLS\r\n250-AUTH SCRAM-SHA-256 XOAUTH2\r\n250-AUTH=LOGIN\r\n250 DSN\r\n",
            "250-mx\r\n250-DSN\r\n250 AUTH PLAIN LOGIN\r\n",
        ),
        ("ehlo x\r\n", "250 mx\r\n", "250-mx\r\n250 AUTH PLAIN LOGIN\r\n"),
        ("LHLO x\r\n", "250-mx\r\n250 REQUIRETLS\r\n", "250-mx\r\n250 AUTH PLAIN LOGIN\r\n"),
        // The first line is a name.
        (
            "EHLO x\r\n",
            "250-auth hello\r\n250 8BITMIME\r\n",
            "250-auth hello\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n",
        ),
        ("EHLO x\r\n", "250\r\n", "250-\r\n250 AUTH PLAIN LOGIN\r\n"),
        ("EHLO x\r\n", "502-5.5.1 no\r\n502 AUTH\r\n", "502-5.5.1 no\r\n502 AUTH\r\n"),
        ("HELO x\r\n", "250 mx\r\n", "250 mx\r\n"),
        ("NOOP\r\n", "250-AUTH\r\n250 2.0.0 Ok\r\n", "250-AUTH\r\n250 2.0.0 Ok\r\n"),
        ("RSET\r\n", "250 2.0.0 Ok\r\n", "250 2.0.0 Ok\r\n"),
    ] {
        for portion in [1, 3, 1000] {
            let mut talking = Talking::default();
            assert_eq!(talking.client(hello, portion), (hello.into(), String::new()));
            assert_eq!(talking.server(reply, portion), (String::new(), expected.into()), "{hello}");
            assert!(!talking.auth.is_finished());
            // What it says unasked is passed on.
            assert_eq!(talking.server("421 AUTH\r\n", portion).1, "421 AUTH\r\n");
            assert_eq!(talking.client(MAIL, portion).0, MAIL);
            assert!(talking.auth.is_finished());
        }
    }
}

#[test]
fn auth_is_taken_at_its_word() {
    const DONE: &str = "235 2.7.0 Authentication successful\r\n";
    for dialogue in [
        vec![("AUTH PLAIN AHgAeQ==\r\n", DONE)],
        vec![("auth plain =\r\n", DONE)],
        vec![("AUTH PLAIN\r\n", "334 \r\n"), ("AHgAeQ==\r\n", DONE)],
        vec![("AUTH LOGIN\r\n", ASK_USER), ("eA==\r\n", ASK_PASSWORD), ("\r\n", DONE)],
        vec![("AUTH Login eA==\n", ASK_PASSWORD), ("eQ==\n", DONE)],
        vec![
            ("AUTH CRAM-MD5\r\n", "504 5.5.4 Only PLAIN and LOGIN are offered\r\n"),
            ("AUTH\r\n", "501 5.5.4 Syntax: AUTH mechanism\r\n"),
            ("AUTH LOGIN\r\n", ASK_USER),
            ("*\r\n", "501 5.7.0 Authentication cancelled\r\n"),
            ("AUTH LOGIN eA==\r\n", ASK_PASSWORD),
            ("*\r\n", "501 5.7.0 Authentication cancelled\r\n"),
            ("AUTH PLAIN\r\n", "334 \r\n"),
            ("?\r\n", "501 5.5.2 That is not base64\r\n"),
            ("AUTH PLAIN AHgAeQ==\r\n", DONE),
        ],
    ] {
        let mut talking = Talking::default();
        for (said, answer) in &dialogue {
            talking.is_answered(said, answer);
        }
        talking.is_answered("AUTH PLAIN AHgAeQ==\r\n", "503 5.5.1 Already authenticated\r\n");
        assert!(!talking.auth.is_finished());
        assert_eq!(talking.client(MAIL, 1).0, MAIL);
        assert!(talking.auth.is_finished());
        // All at once, and byte by byte.
        let said: String = dialogue.iter().map(|(said, _)| *said).collect();
        let answers: String = dialogue.iter().map(|(_, answer)| *answer).collect();
        for portion in [1, 1000] {
            let mut talking = Talking::default();
            assert_eq!(talking.client(&said, portion), (String::new(), answers.clone()));
        }
    }
}

/// Scenario: a client sends RSET and AUTH at once, as RFC 4954 §4.1 permits; an answer to AUTH ahead of the one to RSET would be
/// taken for that.
#[test]
fn no_answer_of_ours_overtakes_the_servers() {
    for portion in [1, 1000] {
        let mut talking = Talking::default();
        let said = "EHLO x\r\nRSET\r\nAUTH LOGIN\r\neA==\r\neQ==\r\nNOOP\r\nMAIL FROM:<>\r\nRCPT";
        assert_eq!(talking.client(said, portion), ("EHLO x\r\n".into(), String::new()));
        let (to_server, to_client) = talking.server("250 mx\r\n", portion);
        assert_eq!(
            (to_server.as_str(), to_client.as_str()),
            ("RSET\r\n", "250-mx\r\n250 AUTH PLAIN LOGIN\r\n")
        );
        let (to_server, to_client) = talking.server("250 reset\r\n", portion);
        assert_eq!(to_server, "NOOP\r\n");
        assert_eq!(
            to_client,
            format!("250 reset\r\n{ASK_USER}{ASK_PASSWORD}235 2.7.0 Authentication successful\r\n")
        );
        assert!(!talking.auth.is_finished(), "a reply is under way");
        let (to_server, to_client) = talking.server("250 noop\r\n", portion);
        assert_eq!((to_server.as_str(), to_client.as_str()), ("MAIL FROM:<>\r\nRCPT", "250 noop\r\n"));
        assert!(talking.auth.is_finished());
        assert_eq!(talking.client(" TO:<b>\r\n", portion).0, " TO:<b>\r\n");
        assert_eq!(talking.server("250 ok\r\n", portion).1, "250 ok\r\n");
    }
}

#[test]
fn lines_and_commands_are_bounded() {
    let fails = |bytes: &[u8]| Talking::default().auth.on_downstream(bytes, &mut Outbox::default());
    assert!(fails(format!("AUTH PLAIN {}", "A".repeat(AUTH_LINE_MAX)).as_bytes()).is_err());
    assert!(fails(format!("AUTH LOGIN\r\n{}", "A".repeat(AUTH_LINE_MAX + 1)).as_bytes()).is_err());
    assert!(fails("AUTH\r\n".repeat(65).as_bytes()).is_err());
    assert!(fails("NOOP\r\n".repeat(64 * 1024 / 6 + 3).as_bytes()).is_err());
    let mut talking = Talking::default();
    let longest = format!("AUTH PLAIN {}\r\n", "A".repeat(AUTH_LINE_MAX - 16));
    assert!(longest.len() > AUTH_LINE_MAX - 8 && longest.len() <= AUTH_LINE_MAX);
    assert!(talking.client(&longest, 7).1.starts_with("235 "));
    let long = "X".repeat(LINE_MAX + 1);
    assert_eq!(talking.client(&long, 100).0, long);
    assert!(talking.auth.is_finished());
    // A server that sends no line of a reply, or none at all.
    let mut talking = Talking::default();
    talking.client("EHLO x\r\nAUTH PLAIN", 1000);
    assert_eq!(talking.server("nonsense\r\n", 100), ("AUTH PLAIN".into(), "nonsense\r\n".into()));
    assert!(talking.auth.is_finished());
    let mut endless = Talking::default();
    endless.client("EHLO x\r\n", 1000);
    assert!(endless.auth.on_upstream(&[b'2'; 17_000], &mut Outbox::default()).is_err());
}

#[test]
fn what_the_client_sends_is_not_shown() {
    let mut talking = Talking::default();
    talking.client("AUTH PLAIN\r\nAHgAcGVuY2ls", 1000);
    assert!(
        !format!("{:?}", talking.auth).contains("pencil") && !format!("{:?}", talking.auth).contains("AHgA")
    );
}

#[test]
fn no_bytes_panic_and_none_are_lost() {
    let mut random = fastrand::Rng::with_seed(2554);
    let pieces = [
        "EHLO x\r\n",
        "AUTH ",
        "PLAIN",
        "LOGIN",
        " ",
        "\r\n",
        "AA==",
        "*\r\n",
        "NOOP\r\n",
        "250-",
        "250 ",
        "AUTH=X",
        "\n",
        "M",
    ];
    for _ in 0..20_000 {
        let Talking { mut auth, mut out } = Talking::default();
        let mut from_client = 0;
        for _ in 0..random.usize(..20) {
            let bytes = match random.u8(..6) {
                0 => (0..random.usize(1..9)).map(|_| random.u8(..)).collect(),
                _ => random.choice(&pieces).unwrap().as_bytes().to_vec(),
            };
            let done = match random.bool() {
                true => {
                    from_client += bytes.len();
                    auth.on_downstream(&bytes, &mut out)
                }
                false => auth.on_upstream(&bytes, &mut out),
            };
            done.unwrap();
        }
        assert!(out.to_upstream.len() <= from_client);
    }
}

/// `tray 2` for `printer`, and something else.
const RIGHT: &str = "AUTH PLAIN AHByaW50ZXIAdHJheSAy\r\n";
const WRONG: &str = "AUTH PLAIN AHByaW50ZXIAdHJheSAz\r\n";
const INVALID: &str = "535 5.7.8 Authentication credentials invalid\r\n";
const REQUIRED: &str = "530 5.7.0 Authentication required\r\n";

#[test]
fn a_client_that_is_held_to_its_login_gets_nothing_to_the_server_before() {
    for portion in [1, 1000] {
        let mut talking = Talking::held();
        assert_eq!(talking.client("EHLO x\r\n", portion).0, "EHLO x\r\n", "it asks what is offered");
        assert_eq!(talking.server("250 mx\r\n", portion).1, "250-mx\r\n250 AUTH PLAIN LOGIN\r\n");
        for (said, told) in [
            (MAIL, REQUIRED),
            ("MAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\n", &REQUIRED.repeat(3)),
            ("VRFY root\r\n", REQUIRED),
            ("STARTTLS\r\n", REQUIRED),
            ("XCLIENT LOGIN=root\r\n", REQUIRED),
            ("\r\n", REQUIRED),
            ("QUIT now\r\n", REQUIRED),
            ("NOOP\r\nRSET\r\n", "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"),
            ("EHLO x\rMAIL FROM:<>\r\n", "501 5.5.2 That has control characters\r\n"),
            (WRONG, INVALID),
            ("AUTH PLAIN =\r\n", INVALID),
            ("AUTH LOGIN\r\ncHJpbnRlcg==\r\ndHJheSAz\r\n", &[ASK_USER, ASK_PASSWORD, INVALID].concat()),
        ] {
            assert_eq!(talking.client(said, portion), (String::new(), told.into()), "{said:?}");
            assert!(!talking.auth.is_finished() && talking.auth.denied().is_some(), "{said:?}");
        }
        let answers = [ASK_USER, ASK_PASSWORD, "235 2.7.0 Authentication successful\r\n"].concat();
        talking.is_answered("AUTH LOGIN\r\ncHJpbnRlcg==\r\ndHJheSAy\r\n", &answers);
        assert_eq!(talking.auth.denied(), None);
        assert_eq!(talking.client(MAIL, portion).0, MAIL);
        assert!(talking.auth.is_finished());
    }
}

#[test]
fn five_wrong_logins_are_the_end() {
    let mut talking = Talking::held();
    for _ in 0..4 {
        talking.is_answered(WRONG, INVALID);
    }
    let mut out = Outbox::default();
    let ended = talking.auth.on_downstream(format!("{WRONG}{RIGHT}{MAIL}").as_bytes(), &mut out);
    assert_eq!(ended.unwrap_err().reason, "the client has sent five wrong logins");
    assert_eq!((&*out.to_downstream, out.to_upstream.len()), (INVALID.as_bytes(), 0));
    assert!(talking.auth.denied().is_some());
}

/// Scenario: a mail that follows BDAT unasked would be read as commands; and a server whose reply is not understood must not
/// open the way.
#[test]
fn what_is_not_understood_opens_no_way() {
    let bdat = "BDAT 20 LAST\r\nMAIL FROM:<a@b>\r\n";
    assert!(Talking::held().auth.on_downstream(bdat.as_bytes(), &mut Outbox::default()).is_err());
    let mut talking = Talking::held();
    talking.client("EHLO x\r\n", 1000);
    assert!(talking.auth.on_upstream(b"nonsense\r\n", &mut Outbox::default()).is_err());
    let mut quit = Talking::held();
    assert_eq!(quit.client("quit\r\nMAIL FROM:<>\r\n", 1).0, "quit\r\n");
    assert_eq!(quit.server("221 bye\r\n", 1), (String::new(), format!("221 bye\r\n{REQUIRED}")));
}

#[test]
fn no_bytes_whatever_get_past_the_login() {
    let held = || {
        let dialogue: Box<dyn Dialogue> = Box::new(Talking::held().auth);
        SignedIn { dialogue: Some(dialogue), ..SignedIn::default() }
    };
    bears_any_client(held, &format!("{WRONG}{MAIL}AUTH LOGIN\r\n=\r\n=\r\nQUIT\r\nRCPT TO:<b>\r\n"));
}
