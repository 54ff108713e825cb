//! Exchanges as Dovecot's Pigeonhole has them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};
use crate::protocol::{RefusalKind, ReplyTo};

fn upgrade() -> Box<dyn Upgrade> {
    Sieve.upgrade().expect("ManageSieve has one")
}

const GREETING: &str = "\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"STARTTLS\"\r\nOK \"ready\"\r\n";

#[test]
fn the_client_is_greeted_by_the_server_itself() {
    assert_eq!(leads_to_tls(upgrade, GREETING, &["OK \"Begin TLS\"\r\n"], &["STARTTLS\r\n"]), "");
}

/// Capabilities and answers in literals (RFC 5804 §4) failed the upgrade.
#[test]
fn a_literal_is_part_of_its_line() {
    let greeting = "\"IMPLEMENTATION\" {6}\r\nOK\r\nno\r\n\"STARTTLS\"\r\nOK {7}\r\nNO\r\nyes\r\n";
    leads_to_tls(upgrade, greeting, &["OK {2}\r\ngo\r\n"], &["STARTTLS\r\n"]);
    let probed = probe(Sieve.probe(true).unwrap(), &["\"X\" {5}\r\nBYE\r\n\r\n", "OK\r\n"]);
    assert!(probed.1.is_ok(), "{probed:?}");
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, GREETING, &["OK\r\n"]);
    assert_eq!(fails(upgrade, "\"SASL\" \"\"\r\nOK\r\n", &[]), UpgradeError::NotOffered("STARTTLS"));
    assert_eq!(fails(upgrade, GREETING, &["NO \"no\"\r\n"]), UpgradeError::Declined);
    assert!(matches!(fails(upgrade, "BYE \"full\"\r\n", &[]), UpgradeError::TurnedAway(_)));
    // A text of several lines is a literal (RFC 5804 §4).
    let bye = "BYE {22}\r\ntoo many\r\nconnections\r\n\r\n";
    assert!(matches!(fails(upgrade, bye, &[]), UpgradeError::TurnedAway(_)));
}

#[test]
fn a_probe_waits_for_the_capabilities() {
    let (said, verdict) = probe(Sieve.probe(true).unwrap(), &["\"SASL\" \"PLAIN\"\r\n", "OK\r\n"]);
    assert_eq!((said, verdict), (vec![String::new()], Ok("LOGOUT\r\n".into())));
    assert!(probe(Sieve.probe(true).unwrap(), &["BYE\r\n"]).1.is_err());
}

#[test]
fn a_refusal_is_one_quoted_string() {
    let refusal = Refusal {
        server: None,
        kind: RefusalKind::Full,
        reason: "a \"b\" \\c",
        session: "00ff",
        reply_to: ReplyTo::default(),
    };
    let words = String::from_utf8(Sieve.refusal(&refusal).unwrap()).unwrap();
    let (greeting, answer) = words.split_once("OK \"ambassador\"\r\n").expect("a greeting");
    assert!(greeting.contains("\"SIEVE\" \"\"\r\n"), "{greeting}");
    let quoted = "(TRYLATER) \"ambassador: a \\\"b\\\" \\\\c [session 00ff]\"\r\n";
    assert_eq!(answer, format!("NO {quoted}BYE {quoted}"));
}
