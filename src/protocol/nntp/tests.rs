//! Exchanges as RFC 4642 shows them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};

fn upgrade() -> Box<dyn Upgrade> {
    Nntp.upgrade().expect("NNTP has one")
}

#[test]
fn the_greetings_code_is_kept_and_its_text_is_not() {
    for (greeting, welcome) in [
        ("200 news.test\r\n", "200 ambassador ready\r\n"),
        ("201 no posting\r\n", "201 ambassador ready\r\n"),
    ] {
        assert_eq!(leads_to_tls(upgrade, greeting, &["382 go\r\n"], &["STARTTLS\r\n"]), welcome);
    }
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, "200 hi\r\n", &["382 go\r\n"]);
    assert_eq!(fails(upgrade, "502 go away\r\n", &[]), TurnedAway::new("NNTP", Some(502), b"go away").into());
    assert_eq!(fails(upgrade, "200 hi\r\n", &["580 cannot\r\n"]), UpgradeError::Declined);
}

#[test]
fn a_probe_asks_for_the_date() {
    let (said, verdict) = probe(Nntp.probe(true).unwrap(), &["480 log in first\r\n"]);
    assert_eq!((said, verdict), (vec!["DATE\r\n".into()], Ok("QUIT\r\n".into())));
    assert!(probe(Nntp.probe(false).unwrap(), &["400 full\r\n"]).1.is_err());
}
