//! Exchanges as vsftpd and RFC 4217 have them.

use super::*;
use crate::protocol::lines::tests::{bears_hostile_servers, fails, leads_to_tls, probe};

fn upgrade() -> Box<dyn Upgrade> {
    FtpControl.upgrade().expect("FTP has one")
}

#[test]
fn auth_tls_leads_to_tls_also_behind_a_long_greeting() {
    for greeting in ["220 (vsFTPd 3.0.3)\r\n", "120 wait\r\n220-hi\r\n220 there\r\n"] {
        let welcome = leads_to_tls(upgrade, greeting, &["234 Proceed.\r\n"], &["AUTH TLS\r\n"]);
        assert_eq!(welcome, "220 ambassador (control connection only)\r\n");
    }
}

/// The banner of RFC 959 §4.2: text between its lines was taken for replies of their own.
#[test]
fn what_stands_within_a_reply_is_text() {
    for greeting in [
        "220-Welcome\r\nSecond line\r\n220 ready\r\n",
        "220-First\r\n  234 A line beginning with numbers\r\n421 is a number\r\n220-again\r\n220 Last\r\n",
        "120-wait\r\n220 is not yet\r\n120 a minute\r\n220 hi\r\n",
    ] {
        let answer = "234-AUTH\r\n530 is what others say\r\n\r\n234 go\r\n";
        leads_to_tls(upgrade, greeting, &[answer], &["AUTH TLS\r\n"]);
    }
    assert_eq!(
        fails(upgrade, "220-hi\r\n220\r\n", &["530-no\r\n234 go\r\n530 no\r\n"]),
        UpgradeError::Declined
    );
    let probed = probe(
        FtpControl.probe(false).unwrap(),
        &["220-hi\r\n421 of us\r\n220 x\r\n", "200-\r\nwell\r\n200 ok\r\n"],
    );
    assert!(probed.1.is_ok(), "{probed:?}");
    // A reply without an end is bounded in total.
    let endless = format!("220-hi\r\n{}", "x\r\n".repeat(30_000));
    assert!(matches!(fails(upgrade, &endless, &[]), UpgradeError::Endless(_)));
}

#[test]
fn hostile_servers_lead_nowhere() {
    bears_hostile_servers(upgrade, "220 hi\r\n", &["234 go\r\n"]);
    assert_eq!(fails(upgrade, "421 full\r\n", &[]), TurnedAway::new("FTP", Some(421), b"full").into());
    assert_eq!(fails(upgrade, "220 hi\r\n", &["530 no\r\n"]), UpgradeError::Declined);
}

#[test]
fn commands_that_need_a_data_connection_are_answered_here() {
    for portion in [1, 3, 100] {
        let (mut commands, mut out) = (Commands::default(), Outbox::default());
        let client = b"USER a\r\nepsv\r\nPASV\r\nPASVX\r\nPWD\r\n";
        for bytes in client.chunks(portion) {
            commands.on_downstream(bytes, &mut out).unwrap();
        }
        assert_eq!(out.to_upstream, b"USER a\r\nPASVX\r\nPWD\r\n");
        assert_eq!(String::from_utf8(out.to_downstream).unwrap(), DATA.repeat(2));
        assert!(!commands.is_finished());
    }
    let endless = vec![b'x'; COMMAND_MAX + 1];
    assert!(Commands::default().on_downstream(&endless, &mut Outbox::default()).is_err());
}

#[test]
fn a_probe_needs_no_login() {
    let (said, verdict) = probe(FtpControl.probe(true).unwrap(), &["530 Please login\r\n"]);
    assert_eq!((said, verdict), (vec!["NOOP\r\n".into()], Ok("QUIT\r\n".into())));
    assert!(probe(FtpControl.probe(false).unwrap(), &["421 full\r\n"]).1.is_err());
}
