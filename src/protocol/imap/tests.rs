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

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, GREETING, &[GO]);
    for (greeting, answers, words) in [
        ("* PREAUTH welcome back\r\n", &[][..], "PREAUTH"),
        ("* BYE overloaded\r\n", &[], "turned the connection away (IMAP BYE: overloaded)"),
        (GREETING, &["amb1 NO not now\r\n"], "refusal"),
        (GREETING, &["amb1 BAD what\r\n"], "refusal"),
        (GREETING, &["amb2 OK wrong tag\r\n"], "not IMAP"),
        (GREETING, &["* 1 FETCH (BODY {10}\r\n0123456789)\r\namb1 OK\r\n"], "literal"),
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
