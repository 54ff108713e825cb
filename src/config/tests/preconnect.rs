//! `connect.preconnect`: which clusters may have it.

use std::time::Duration;

use super::refused::check;
use super::{accept, least};
use crate::cluster::PreconnectSettings;
use crate::protocol::LABELS;

fn with_protocol(protocol: &str, lines: &str) -> String {
    least("", "", lines).replace("protocol: tcp", &format!("protocol: {protocol}"))
}

#[test]
fn it_arrives_with_the_age_that_the_protocols_servers_bear() {
    let text = with_protocol("postgres", "connect: { preconnect: 4 }\ntls: {}");
    let expected = PreconnectSettings { count: 4, max_age: Duration::from_secs(45) };
    assert_eq!(accept(&text).clusters[0].dial.preconnect, Some(expected));
}

#[test]
fn a_protocol_whose_server_speaks_first_or_perhaps_does_is_refused_with_the_reason() {
    let waits = ["postgres", "ldap", "redis", "memcached", "mongodb", "cassandra", "kafka", "amqp"];
    for protocol in LABELS {
        let text = with_protocol(protocol, "connect: { preconnect: 1 }");
        if waits.contains(protocol) {
            accept(&text);
            continue;
        }
        let greets = ["mysql", "smtp", "lmtp", "imap", "pop3", "sieve", "nntp", "nats", "ftp-control"];
        let why = if greets.contains(protocol) {
            "its servers speak first"
        } else {
            "nothing is known of who speaks first"
        };
        let part = format!("protocol {protocol} cannot be dialled ahead: {why}");
        check(&text, &[("10:28", "clusters.up.connect.preconnect", &part)]);
    }
}

#[test]
fn it_has_to_fit_into_the_limits_that_count_it() {
    for most in [4, 5] {
        let limits = format!("connect: {{ preconnect: 5 }}\nlimits: {{ max_connections: {most} }}");
        let part = format!("leaves no room for a session: `limits.max_connections` ({most})");
        check(&with_protocol("redis", &limits), &[("10:28", "clusters.up.connect.preconnect", &part)]);
    }
    accept(&with_protocol("redis", "connect: { preconnect: 5 }\nlimits: { max_connections: 6 }"));
}

/// Five connections were kept that no session might use, and filled the cluster: every session was
/// refused.
#[test]
fn it_is_not_for_sessions_that_belong_to_one_endpoint() {
    let text = with_protocol("redis", "connect: { preconnect: 1 }\nbalance: source_hash");
    check(&text, &[("10:28", "clusters.up.connect.preconnect", "source_hash")]);
}

#[test]
fn nobody_is_announced_on_a_connection_that_is_nobodys_yet() {
    let text = with_protocol("redis", "connect: { preconnect: 1 }\nsend_proxy: v2");
    let part = "does not go with `send_proxy`";
    check(&text, &[("10:28", "clusters.up.connect.preconnect", part)]);
}
