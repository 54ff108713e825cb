//! Exchanges as Dovecot has them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};

fn upgrade() -> Box<dyn Upgrade> {
    Pop3.upgrade().expect("POP3 has one")
}

#[test]
fn the_apop_timestamp_is_all_that_is_kept_of_the_greeting() {
    for (greeting, welcome) in [
        ("+OK Dovecot ready. <19b.1.65@mx.test>\r\n", "+OK ambassador ready <19b.1.65@mx.test>\r\n"),
        ("+OK\r\n", "+OK ambassador ready\r\n"),
        ("+OK <no-at-sign>\r\n", "+OK ambassador ready\r\n"),
        ("+OK <@b> <a@>\r\n", "+OK ambassador ready\r\n"),
        ("+OK <a b@c>\r\n", "+OK ambassador ready\r\n"),
        ("+OK >a@b<\r\n", "+OK ambassador ready\r\n"),
    ] {
        assert_eq!(leads_to_tls(upgrade, greeting, &["+OK\r\n"], &["STLS\r\n"]), welcome, "{greeting:?}");
    }
    let long = format!("+OK <{}@b>\r\n", "a".repeat(300));
    assert_eq!(leads_to_tls(upgrade, &long, &["+OK\r\n"], &["STLS\r\n"]), "+OK ambassador ready\r\n");
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, "+OK hi <a@b>\r\n", &["+OK go\r\n"]);
    assert_eq!(fails(upgrade, "-ERR full\r\n", &[]), TurnedAway::new("POP3 -ERR", None, b"full").into());
    assert_eq!(fails(upgrade, "+OK\r\n", &["-ERR no\r\n"]), UpgradeError::Declined);
}

#[test]
fn a_probe_asks_for_capabilities_and_quits() {
    let (said, verdict) = probe(Pop3.probe(true).unwrap(), &["+OK\r\nTOP\r\n", ".\r\n"]);
    assert_eq!((said, verdict), (vec!["CAPA\r\n".into()], Ok("QUIT\r\n".into())));
    assert!(probe(Pop3.probe(false).unwrap(), &["+OK\r\n", "-ERR what\r\n"]).1.is_ok());
    assert!(probe(Pop3.probe(false).unwrap(), &["-ERR full\r\n"]).1.is_err());
}
