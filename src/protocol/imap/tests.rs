//! Exchanges as Dovecot has them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};

fn upgrade() -> Box<dyn Upgrade> {
    Imap.upgrade().expect("IMAP has one")
}

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] Dovecot ready.\r\n";
const GO: &str = "* 3 EXISTS\r\namb1 OK Begin TLS negotiation now.\r\n";

#[test]
fn what_the_server_says_in_plaintext_is_forgotten() {
    let welcome = leads_to_tls(upgrade, GREETING, &[GO], &["amb1 STARTTLS\r\n"]);
    assert_eq!(welcome, "* OK IMAP4rev1 ambassador\r\n");
}

/// A line with a literal is one line, whatever the literal contains (RFC 9051 §4.3); it used to fail the upgrade.
#[test]
fn a_literal_is_part_of_its_line() {
    for literal in ["{13}\r\namb1 BAD\r\n{3}", "{0}\r\n", "{9+}\r\n* BYE\r\n{1"] {
        let answer = format!("* 1 FETCH (BODY {literal} X {{3}}\r\nabc)\r\n{GO}");
        leads_to_tls(upgrade, GREETING, &[&answer], &["amb1 STARTTLS\r\n"]);
    }
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, GREETING, &[GO]);
    for (greeting, answers, words) in [
        ("* PREAUTH welcome back\r\n", &[][..], "PREAUTH"),
        ("* BYE overloaded\r\n", &[], "turned the connection away (IMAP BYE: overloaded)"),
        (GREETING, &["amb1 NO not now\r\n"], "refusal"),
        (GREETING, &["amb1 BAD what\r\n"], "refusal"),
        (GREETING, &["amb2 OK wrong tag\r\n"], "not IMAP"),
        (GREETING, &["* 1 FETCH (BODY {13}\r\n\r\namb1 OK x\r\n)\r\namb1 NO\r\n"], "refusal"),
        (GREETING, &["* 1 FETCH (BODY {99999999999999999999999}\r\namb1 OK\r\nx"], "sent plaintext"),
        (GREETING, &["* 1 FETCH (BODY {18446744073709551615}\r\namb1 OK\r\nx"], "closed"),
        (GREETING, &["* BYE\r\n"], "BYE"),
    ] {
        let error = fails(upgrade, greeting, answers).to_string();
        assert!(error.contains(words), "{greeting:?} {answers:?}: {error}");
    }
}

#[test]
fn a_probe_does_nothing_and_logs_out() {
    let (said, verdict) = probe(Imap.probe(true).unwrap(), &["* 1 EXISTS\r\namb1 OK\r\n"]);
    assert_eq!((said, verdict), (vec!["amb1 NOOP\r\n".into()], Ok("amb2 LOGOUT\r\n".into())));
    assert!(probe(Imap.probe(false).unwrap(), &["* OK hi\r\n", "amb1 OK\r\n"]).1.is_ok());
    assert!(probe(Imap.probe(false).unwrap(), &["* BYE full\r\n"]).1.is_err());
}
