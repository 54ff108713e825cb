//! Lines as nats-server 2.9 and nats-py send them.

use super::*;
use crate::protocol::RefusalKind;
use crate::protocol::lines::tests::{PORTIONS, fails, leads_to_tls, probe};
use proptest::prelude::*;

fn upgrade() -> Box<dyn Upgrade> {
    Nats.upgrade().expect("NATS has one")
}

const INFO: &str = "INFO {\"server_id\":\"A\",\"nonce\":\"xyz\",\"tls_required\":true,\"tls_verify\":true,\
                    \"connect_urls\":[\"10.0.0.1:4222\"],\"client_id\":5} \r\n";
const FOR_CLIENT: &str = "INFO {\"server_id\":\"A\",\"client_id\":5,\"nonce\":\"xyz\"} \r\n";

#[test]
fn info_loses_what_leads_past_us_and_keeps_the_nonce() {
    assert_eq!(leads_to_tls(upgrade, INFO, &[], &[]), FOR_CLIENT);
}

/// Keys that lead past us were removed from INFO by their exact names, although clients read names more loosely: an
/// attacker on the path could redirect them. INFO is made anew, so that no name outside the list passes, and no value
/// of another type.
#[test]
fn of_info_nothing_passes_that_is_not_known() {
    for unknown in ["\"Nonce\":\"x\"", "\"new_key\":{}", "\"ldm\":true", "\"host\":\"h\"", "\"\":1"] {
        let greeting = INFO.replace("\"nonce\"", &format!("{unknown},\"nonce\""));
        assert_eq!(leads_to_tls(upgrade, &greeting, &[], &[]), FOR_CLIENT, "{unknown}");
    }
    for (known, other) in
        [("\"client_id\":5", "\"client_id\":[5]"), ("\"nonce\":\"xyz\"", "\"nonce\":{\"a\":1}")]
    {
        let passed = leads_to_tls(upgrade, &INFO.replace(known, other), &[], &[]);
        assert!(!passed.contains(known.split(':').next().unwrap()), "{passed}");
    }
}

/// The server reads keys in any case, and the last of two counts: the option that prevents later INFOs must be the only
/// one.
#[test]
fn connect_asks_for_no_other_info_in_whatever_case() {
    let connect =
        connect_without_async_info(b"CONNECT {\"protocol\":1,\"Protocol\":1,\"name\":\"n\"}\r\n", &[])
            .unwrap();
    assert_eq!(connect, b"CONNECT {\"protocol\":0,\"name\":\"n\"}\r\n");
}

#[test]
fn hostile_servers_lead_nowhere() {
    let stuffed = format!("{INFO}+OK\r\n");
    let endless = format!("INFO {}", "x".repeat(LINE_MAX + 1));
    for (greeting, words) in [
        (&*stuffed, "plaintext after agreeing"),
        ("", "closed"),
        ("INFO {\"tls_required\":true}", "closed"),
        ("INFO {\"server_id\":\"A\"}\r\n", "no tls_required"),
        ("INFO {\"tls_required\":\"true\"}\r\n", "no tls_required"),
        ("INFO nonsense\r\n", "malformed"),
        ("INFO []\r\n", "no tls_required"),
        ("-ERR 'maximum connections exceeded'\r\n", "turned the connection away"),
        ("HTTP/1.1 400\r\n", "not NATS"),
        (&endless, "longer than"),
    ] {
        let error = fails(upgrade, greeting, &[]).to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn connect_asks_for_no_other_info() {
    for portion in PORTIONS {
        let mut dialogue = Nats.dialogue().unwrap();
        let mut out = Outbox::default();
        let server = format!("{INFO}PING\r\n");
        for bytes in server.as_bytes().chunks(portion) {
            dialogue.on_upstream(bytes, &mut out).unwrap();
        }
        assert_eq!(String::from_utf8(out.to_downstream).unwrap(), format!("{FOR_CLIENT}PING\r\n"));
        assert!(!dialogue.is_finished());
        out = Outbox::default();
        let client = b"CONNECT {\"verbose\":false,\"protocol\":1,\"sig\":\"s\"}\r\nPING\r\n";
        for bytes in client.chunks(portion) {
            dialogue.on_downstream(bytes, &mut out).unwrap();
        }
        let sent = String::from_utf8(out.to_upstream).unwrap();
        assert_eq!(sent, "CONNECT {\"verbose\":false,\"protocol\":0,\"sig\":\"s\"}\r\nPING\r\n");
        assert!(dialogue.is_finished());
    }
}

#[test]
fn a_client_that_does_not_connect_first_is_the_servers_matter() {
    for line in ["PING\r\n", "CONNECT nonsense\r\n", "connect\r\n"] {
        let (mut dialogue, mut out) = (Nats.dialogue().unwrap(), Outbox::default());
        dialogue.on_downstream(line.as_bytes(), &mut out).unwrap();
        assert_eq!(out.to_upstream, line.as_bytes());
    }
    let endless = vec![b'x'; LINE_MAX + 1];
    assert!(Nats.dialogue().unwrap().on_downstream(&endless, &mut Outbox::default()).is_err());
    assert!(Nats.dialogue().unwrap().on_upstream(&endless, &mut Outbox::default()).is_err());
    assert!(Nats.dialogue().unwrap().on_upstream(b"-ERR 'x'\r\n", &mut Outbox::default()).is_err());
}

#[test]
fn a_refusal_is_one_error_and_behind_an_info_only_where_the_server_says_it() {
    let refused = |server: Option<&TurnedAway>, reply_to| {
        let refusal = Refusal { server, kind: RefusalKind::Full, reason: "it's", session: "s", reply_to };
        String::from_utf8(Nats.refusal(&refusal).unwrap()).unwrap()
    };
    assert_eq!(refused(None, ReplyTo::default()), "-ERR 'ambassador: it\"s [session s]'\r\n");
    let full = error(b"-ERR 'maximum connections exceeded'");
    let words = refused(Some(&full), ReplyTo::default());
    assert!(words.starts_with("INFO {") && words.contains("\r\n-ERR 'maximum connections exceeded ["));
    assert!(refused(Some(&full), INFORMED).starts_with("-ERR"));
}

#[test]
fn a_probe_needs_no_login() {
    for answer in ["PONG\r\n", "-ERR 'Authorization Violation'\r\n", "INFO {}\r\nPONG\r\n"] {
        assert!(probe(Nats.probe(true).unwrap(), &[answer]).1.is_ok(), "{answer}");
    }
    assert!(probe(Nats.probe(false).unwrap(), &[INFO, "PONG\r\n"]).1.is_ok());
    assert!(probe(Nats.probe(true).unwrap(), &["-ERR 'Stale Connection'\r\n"]).1.is_err());
}

proptest! {
    #[test]
    fn info_has_known_keys_only(keys in prop::collection::vec("[A-Za-z_]{0,14}|nonce|proto", 0..8)) {
        let said: Map<String, Value> = keys.into_iter().map(|key| (key, Value::from("v"))).collect();
        let line = format!("INFO {}", serde_json::to_string(&said).unwrap());
        let passed = info_for_client(line.as_bytes()).unwrap();
        let passed: Map<String, Value> = serde_json::from_slice(&passed[5..]).unwrap();
        prop_assert!(passed.keys().all(|key| PASSED.iter().any(|(known, _)| known == key)));
    }

    #[test]
    fn no_line_panics(bytes: Vec<u8>, text in "[ -~\r\n]{0,80}") {
        let _ = upgrade().receive(&[b"INFO ", &bytes[..]].concat());
        let _ = upgrade().receive(&[b"INFO {", text.as_bytes(), b"}\r\n"].concat());
        let _ = Nats.dialogue().unwrap().on_downstream(&[b"CONNECT {", text.as_bytes(), b"}\r\n"].concat(), &mut Outbox::default());
        let _ = Nats.dialogue().unwrap().on_upstream(&bytes, &mut Outbox::default());
    }
}
