//! Exchanges as Postfix 3.7 and Dovecot 2.3 have them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};
use proptest::prelude::*;

fn smtp() -> Smtp {
    Smtp { dialect: Dialect::Smtp, name: EhloName::Given("app.test".into()) }
}

fn upgrade() -> Box<dyn Upgrade> {
    smtp().upgrade().expect("SMTP has one")
}

const GREETING: &str = "220-postscreen teaser\r\n220 mx.test ESMTP Postfix\r\n";
const EHLO: &str = "250-mx.test\r\n250-PIPELINING\r\n250-starttls\r\n250 SMTPUTF8\r\n";
const GO: &str = "220 2.0.0 Ready to start TLS\r\n";

#[test]
fn starttls_is_asked_for_alone_and_the_servers_own_greeting_is_forgotten() {
    let welcome = leads_to_tls(upgrade, GREETING, &[EHLO, GO], &["EHLO app.test\r\n", "STARTTLS\r\n"]);
    assert_eq!(welcome, "220 app.test ESMTP ambassador\r\n");
    let lmtp =
        || Smtp { dialect: Dialect::Lmtp, name: EhloName::Given("app.test".into()) }.upgrade().unwrap();
    let welcome = leads_to_tls(
        lmtp,
        "220 dovecot ready\r\n",
        &["250-x\r\n250 STARTTLS\r\n", GO],
        &["LHLO app.test\r\n", "STARTTLS\r\n"],
    );
    assert_eq!(welcome, "220 app.test LMTP ambassador\r\n");
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, GREETING, &[EHLO, GO]);
    assert_eq!(fails(upgrade, "554 no\r\n", &[]), TurnedAway::new("SMTP", Some(554), b"no").into());
    assert_eq!(fails(upgrade, "421 busy\r\n", &[]), TurnedAway::new("SMTP", Some(421), b"busy").into());
    assert_eq!(
        fails(upgrade, GREETING, &["250-mx\r\n250 STARTTLSX\r\n"]),
        UpgradeError::NotOffered("STARTTLS")
    );
    assert_eq!(fails(upgrade, GREETING, &[EHLO, "454 not now\r\n"]), UpgradeError::Declined);
    // A forged go-ahead after the capabilities, in one segment: it came before our request.
    let forged = format!("{EHLO}{GO}");
    let (_, ended) = crate::protocol::lines::tests::play(upgrade(), GREETING, &[&forged], 512);
    assert!(matches!(ended, Err(UpgradeError::Unsuitable(_))));
}

/// Exim answered `EHLO web_1` with a 501, and the log said that the server does not offer TLS. Now its answer is shown,
/// made printable.
#[test]
fn another_answer_to_ehlo_is_told_as_it_is() {
    let answer = "501-Syntactically invalid\r\n501 EHLO argument(s)\u{1b}[2J\r\n";
    let error = fails(upgrade, GREETING, &[answer]).to_string();
    assert_eq!(error, "the server answered EHLO app.test with \"501 EHLO argument(s)[2J\"");
    let error = fails(upgrade, GREETING, &["450 4.7.1 greylisted\r\n"]).to_string();
    assert_eq!(error, "the server turned the connection away (SMTP 450: 4.7.1 greylisted)");
    let error = fails(upgrade, GREETING, &["250 mx.test\r\n"]);
    assert_eq!(error, UpgradeError::NotOffered("STARTTLS"));
}

/// A host with an invalid name used it all the same, towards servers and in probes.
#[test]
fn who_has_no_full_name_goes_by_the_address_it_comes_from() {
    let nameless = || {
        let name = EhloName::Address(std::net::Ipv4Addr::LOCALHOST.into());
        Smtp { dialect: Dialect::Smtp, name }
    };
    let from = || "10.0.0.7".parse().unwrap();
    let make = || {
        let mut upgrade = nameless().upgrade().unwrap();
        upgrade.comes_from(from());
        upgrade
    };
    let welcome = leads_to_tls(make, GREETING, &[EHLO, GO], &["EHLO [10.0.0.7]\r\n", "STARTTLS\r\n"]);
    assert_eq!(welcome, "220 [10.0.0.7] ESMTP ambassador\r\n");
    let mut hello = nameless().probe(true).unwrap();
    hello.comes_from(from());
    assert_eq!(probe(hello, &["250 mx\r\n"]).0, ["EHLO [10.0.0.7]\r\n"]);
}

fn filtered(reply: &str, portion: usize) -> String {
    let mut filter = FirstReply::default();
    let mut out = Outbox::default();
    for bytes in reply.as_bytes().chunks(portion) {
        filter.on_upstream(bytes, &mut out).unwrap();
    }
    String::from_utf8(out.to_downstream).unwrap()
}

#[test]
fn the_first_reply_loses_what_the_clients_hop_cannot_keep() {
    for (reply, expected) in [
        ("250-mx\r\n250-STARTTLS\r\n250 DSN\r\n", "250-mx\r\n250 DSN\r\n"),
        ("250-mx\r\n250-DSN\r\n250 REQUIRETLS\r\n", "250-mx\r\n250 DSN\r\n"),
        ("250-mx\r\n250-REQUIRETLS\r\n250 STARTTLS\r\n", "250 mx\r\n"),
        ("250 mx\r\n", "250 mx\r\n"),
        ("502 5.5.1 no EHLO\r\n250 STARTTLS\r\n", "502 5.5.1 no EHLO\r\n250 STARTTLS\r\n"),
        ("nonsense\r\n250 STARTTLS\r\n", "nonsense\r\n250 STARTTLS\r\n"),
    ] {
        for portion in [1, 3, 100] {
            assert_eq!(filtered(reply, portion), expected, "in portions of {portion}");
        }
    }
    let long = "2".repeat(LINE_MAX + 10);
    assert_eq!(filtered(&long, 100), long);
}

/// Scenario: msmtp answers a 421 to EHLO by HELO and shows the reply to that: with a single 421 it said "the server sent
/// an empty reply". A client that was not greeted reads one reply and no more.
#[test]
fn a_refusal_behind_our_greeting_is_said_twice_and_any_other_once() {
    for (reply_to, times) in [(ReplyTo::WELCOMED, 2), (ReplyTo::default(), 1)] {
        for kind in [RefusalKind::Unreachable, RefusalKind::Full, RefusalKind::Denied] {
            let refusal = Refusal { server: None, kind, reason: "r", session: "s", reply_to };
            let text = String::from_utf8(smtp().refusal(&refusal).unwrap()).unwrap();
            let lines: Vec<_> = text.split_inclusive("\r\n").collect();
            assert_eq!(lines.len(), times, "{text}");
            assert!(lines.iter().all(|line| *line == lines[0]), "{text}");
            assert!(
                lines[0].starts_with("421 ") && lines[0].ends_with("ambassador: r [session s]\r\n"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_probe_says_hello_and_quits() {
    let (said, verdict) = probe(smtp().probe(true).unwrap(), &["250-mx\r\n", "250 DSN\r\n"]);
    assert_eq!((said, verdict), (vec!["EHLO app.test\r\n".into()], Ok("QUIT\r\n".into())));
    let (said, verdict) = probe(smtp().probe(false).unwrap(), &["220 mx\r\n", "250 mx\r\n"]);
    assert_eq!((said, verdict), (vec![String::new(), "EHLO app.test\r\n".into()], Ok("QUIT\r\n".into())));
    let (_, verdict) = probe(smtp().probe(true).unwrap(), &["421 4.3.2 going down\r\n"]);
    assert!(verdict.unwrap_err().0.contains("421 4.3.2 going down"));
}

proptest! {
    #[test]
    fn no_reply_panics_or_grows(reply: Vec<u8>, portion in 1_usize..50) {
        let run = |portion: usize| {
            let (mut filter, mut out) = (FirstReply::default(), Outbox::default());
            for bytes in reply.chunks(portion) {
                filter.on_upstream(bytes, &mut out).unwrap();
                prop_assert!(filter.line.len() + filter.held.len() <= 2 * LINE_MAX + 2);
            }
            Ok(out.to_downstream)
        };
        let out = run(portion)?;
        prop_assert!(out.len() <= reply.len());
        prop_assert_eq!(out, run(reply.len().max(1))?);
    }
}
