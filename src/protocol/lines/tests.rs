//! What every upgrade made of lines must handle, driven through a script of both sides.

use super::*;
use proptest::prelude::*;

/// Plays a server: its greeting, and its answer to each message. Answers are delivered in portions of that size.
/// Returns what the dialogue sent, and how it ended.
pub(in crate::protocol) fn play(
    mut upgrade: Box<dyn Upgrade>,
    greeting: &str,
    answers: &[&str],
    portion: usize,
) -> (Vec<String>, Result<Upgraded, UpgradeError>) {
    let mut said = Vec::new();
    let mut pending: VecDeque<u8> = greeting.bytes().collect();
    let mut answers = answers.iter();
    let mut step = upgrade.begin();
    loop {
        step = match step {
            UpgradeStep::Send(bytes) => {
                said.push(String::from_utf8(bytes.into_owned()).expect("text"));
                pending.extend(answers.next().copied().unwrap_or_default().bytes());
                upgrade.note_sent()
            }
            UpgradeStep::ReadAtMost(most) => {
                let count = most.min(portion).min(pending.len());
                let now: Vec<u8> = pending.drain(..count).collect();
                match upgrade.receive(&now) {
                    Ok(step) => step,
                    Err(error) => return (said, Err(error)),
                }
            }
            // The driver's check: bytes that have not been read.
            UpgradeStep::Upgrade(_) if !pending.is_empty() => {
                return (said, Err(UpgradeError::PlaintextAfterUpgrade));
            }
            UpgradeStep::Upgrade(upgraded) => return (said, Ok(upgraded)),
            UpgradeStep::AwaitClientReply(_) => panic!("no upgrade made of lines needs the client"),
        };
    }
}

/// The portion sizes of a table: single bytes, odd sizes, and all at once.
pub(in crate::protocol) const PORTIONS: [usize; 4] = [1, 2, 7, 512];

/// Runs a conversation that leads to TLS in all portion sizes, and returns the welcome.
#[track_caller]
pub(in crate::protocol) fn leads_to_tls(
    make: impl Fn() -> Box<dyn Upgrade>,
    greeting: &str,
    answers: &[&str],
    expected: &[&str],
) -> String {
    let mut welcome = None;
    for portion in PORTIONS {
        let (said, ended) = play(make(), greeting, answers, portion);
        assert_eq!(said, expected, "in portions of {portion}");
        let upgraded = ended.unwrap_or_else(|error| panic!("{error} in portions of {portion}"));
        welcome = Some(String::from_utf8(upgraded.welcome).expect("text"));
    }
    welcome.expect("there were portions")
}

/// Runs one that does not lead to TLS, and returns the error.
#[track_caller]
pub(in crate::protocol) fn fails(
    make: impl Fn() -> Box<dyn Upgrade>,
    greeting: &str,
    answers: &[&str],
) -> UpgradeError {
    let errors: Vec<_> =
        PORTIONS.map(|portion| play(make(), greeting, answers, portion).1.expect_err("an error")).into();
    errors.into_iter().next_back().expect("there were portions")
}

/// What each protocol must refuse, given a conversation that works.
#[track_caller]
pub(in crate::protocol) fn bears_hostile_servers(
    make: impl Fn() -> Box<dyn Upgrade>,
    greeting: &str,
    answers: &[&str],
) {
    // Plaintext after the last answer.
    let (last, others) = answers.split_last().expect("an answer");
    let stuffed = format!("{last}* OK forged\r\n");
    let stuffed: Vec<&str> = others.iter().copied().chain([&*stuffed]).collect();
    assert_eq!(fails(&make, greeting, &stuffed), UpgradeError::PlaintextAfterUpgrade);
    // The server closes at every step.
    for cut in 0..greeting.len() {
        assert_eq!(fails(&make, &greeting[..cut], &[]), UpgradeError::Closed);
    }
    for count in 0..answers.len() {
        assert_eq!(fails(&make, greeting, &answers[..count]), UpgradeError::Closed);
    }
    // Bytes of other protocols, and an endless answer.
    for garbage in ["\u{0}\u{1}\u{2}\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", "\r\n", "SSH-2.0-x\r\n"] {
        play(make(), garbage, answers, 512).1.expect_err("garbage leads nowhere");
    }
    let endless = "x".repeat(SAID_MAX + PORTION);
    assert_eq!(play(make(), &endless, &[], 512).1.expect_err("no end"), UpgradeError::Endless(SAID_MAX));
}

/// Runs a probe against answers. Returns what it sent, and its verdict.
pub(in crate::protocol) fn probe(
    mut probe: Box<dyn Probe>,
    server: &[&str],
) -> (Vec<String>, Result<String, ProbeError>) {
    let mut said = vec![String::from_utf8(probe.begin()).expect("text")];
    for answer in server.iter().chain([&""]) {
        match probe.receive(answer.as_bytes()) {
            Ok(ProbeStep::Incomplete) => {}
            Ok(ProbeStep::Send(bytes)) => said.push(String::from_utf8(bytes).expect("text")),
            Ok(ProbeStep::Serves { goodbye }) => {
                return (said, Ok(String::from_utf8(goodbye).expect("text")));
            }
            Err(error) => return (said, Err(error)),
        }
    }
    panic!("a probe goes on behind the server's end");
}

#[test]
fn replies_have_a_code_and_an_end() {
    for (line, expected) in [
        (&b"220 ready"[..], Some((220, true))),
        (b"250-SIZE", Some((250, false))),
        (b"250", Some((250, true))),
        (b"22", None),
        (b"2200 x", None),
        (b"abc x", None),
        (b"+22 x", None),
    ] {
        assert_eq!(reply(line), expected);
    }
}

#[test]
fn words_end_where_they_end() {
    assert!(begins_with(b"STARTTLS", "starttls") && begins_with(b"ok \"x\"", "OK"));
    assert!(!begins_with(b"STARTTLSX", "STARTTLS") && !begins_with(b"START", "STARTTLS"));
}

proptest! {
    #[test]
    fn lines_are_the_same_however_they_come(
        text in r"(\{[0-9]{1,2}\+?\}|[0-9]{3}[- ]|220[- ]|\r?\n|[ -~]|\u{fc}){0,60}".prop_map(String::into_bytes),
        portion in 1_usize..40,
    ) {
        for framing in [Framing::Lines, Framing::Literals, Framing::Replies] {
        let all = |portion: usize| {
            let (mut lines, mut out) = (Lines::framed(framing), Vec::new());
            for bytes in text.chunks(portion) {
                prop_assert!(lines.push(bytes));
                while let Some(line) = lines.next() {
                    out.push(line);
                }
            }
            Ok((out, lines.rest().to_vec()))
        };
        prop_assert_eq!(all(portion)?, all(text.len().max(1))?);
        }
    }
}
