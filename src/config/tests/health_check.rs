//! `health_check`: what each type takes, and the messages for anything else.

use std::time::Duration;

use super::refused::{check, check_cluster};
use super::{accept, least};
use crate::cluster::OnEndpointLoss;
use crate::cluster::health_check::{ByteExchange, ProbeKind, Settings};
use crate::policy::health;

const SECOND: Duration = Duration::from_secs(1);

fn settings(lines: &str) -> Settings {
    let config = accept(&least("", "", lines));
    config.clusters[0].health_check.clone().expect("a health check")
}

#[test]
fn there_is_none_unless_it_is_given() {
    assert!(accept(&least("", "", "")).clusters[0].health_check.is_none());
}

#[test]
fn the_defaults_are_those_promised() {
    let Settings { kind, timeout, rhythm } = settings("health_check: {}");
    assert!(matches!(kind, ProbeKind::Tcp), "{kind:?}");
    let expected = health::Settings { interval: 5 * SECOND, healthy_threshold: 2, unhealthy_threshold: 3 };
    assert_eq!((timeout, rhythm), (2 * SECOND, expected));
    let ProbeKind::Http(http) = settings("health_check: { type: http }").kind else { panic!("type http") };
    assert_eq!((http.port, http.path.as_str(), &http.statuses[..]), (8008, "/primary", &[200][..]));
    assert!(http.originator.is_none());
}

#[test]
fn every_value_that_is_given_arrives() {
    let given = settings(
        "health_check:\n  type: http\n  interval: 100ms\n  timeout: 1s\n  healthy_threshold: 1\n  \
         unhealthy_threshold: 9\n  http: { port: 1, path: \"/replica?lag=1MB\", status: [200, 204], tls: true }\n\
         tls: {}",
    );
    let expected = health::Settings {
        interval: Duration::from_millis(100),
        healthy_threshold: 1,
        unhealthy_threshold: 9,
    };
    assert_eq!((given.timeout, given.rhythm), (SECOND, expected));
    let ProbeKind::Http(http) = given.kind else { panic!("type http") };
    assert_eq!((http.port, http.path.as_str(), &http.statuses[..]), (1, "/replica?lag=1MB", &[200, 204][..]));
    assert!(http.originator.is_some());
    let kind = settings("health_check: { type: tls }\ntls: {}").kind;
    assert!(matches!(kind, ProbeKind::Tls), "{kind:?}");
}

#[test]
fn bytes_may_be_escaped_by_yaml_or_by_us() {
    for line in [
        r#"exchange: { send: "PING\r\n", expect: "+PONG" }"#,
        r"exchange: { send: 'PING\x0d\n', expect: +PONG }",
    ] {
        let ProbeKind::Exchange(exchange) =
            settings(&format!("health_check: {{ type: exchange, {line} }}")).kind
        else {
            panic!("type exchange")
        };
        let expected = ByteExchange { send: b"PING\r\n".to_vec(), expect: b"+PONG".to_vec() };
        assert_eq!(exchange, expected, "{line}");
    }
    let ProbeKind::Exchange(greeted) =
        settings("health_check: { type: exchange, exchange: { expect: '220 ' } }").kind
    else {
        panic!("type exchange")
    };
    assert_eq!((&greeted.send[..], &greeted.expect[..]), (&b""[..], &b"220 "[..]));
}

#[test]
fn what_belongs_to_another_type_is_refused() {
    check_cluster(
        "health_check: { http: { port: 1 } }",
        27,
        "health_check.http",
        "`http` is for type http, and this one is tcp",
    );
    check_cluster(
        "health_check: { type: http, exchange: { expect: x } }",
        43,
        "health_check.exchange",
        "`exchange` is for type exchange, and this one is http",
    );
}

#[test]
fn a_type_without_what_it_needs_is_refused() {
    let path = "health_check.type";
    check_cluster("health_check: { type: tls }", 27, path, "type tls needs the cluster's `tls`");
    check_cluster("health_check: { type: exchange }", 27, path, "needs `exchange: { send: …, expect: … }`");
    check_cluster(
        "health_check: { type: protocol }",
        27,
        path,
        "protocol tcp has no conversation that shows a server at work",
    );
    check_cluster(
        "health_check: { type: http, http: { tls: true } }",
        46,
        "health_check.http.tls",
        "`true` needs the cluster's `tls`",
    );
}

#[test]
fn values_are_of_their_kind() {
    let at = |key: &str| format!("health_check.{key}");
    check_cluster("health_check: { type: icmp }", 27, &at("type"), "`icmp` is not known here; there is tcp");
    check_cluster("health_check: { interval: 1ms }", 31, &at("interval"), "at least 100ms");
    check_cluster("health_check: { timeout: 2 }", 30, &at("timeout"), "`2` has no unit");
    check_cluster("health_check: { healthy_threshold: 0 }", 40, &at("healthy_threshold"), "from 1 to 100");
    check_cluster("health_check: { port: 1 }", 21, &at("port"), "it belongs inside `http`");
    let http = |line: &str, column, key, part| {
        check_cluster(&format!("health_check: {{ type: http, http: {{ {line} }} }}"), column, &at(key), part);
    };
    http("path: primary", 47, "http.path", "it begins with `/`");
    http("path: /a b", 47, "http.path", "no spaces");
    http("status: []", 49, "http.status", "no answer would mean healthy");
    http("status: [20]", 50, "http.status[0]", "from 100 to 599");
    http("status: 200", 49, "http.status", "expected a list");
    let exchange = |line: &str, column, key, part| {
        let text = format!("health_check: {{ type: exchange, exchange: {{ {line} }} }}");
        check_cluster(&text, column, &at(key), part);
    };
    exchange("expect: '\\q'", 57, "exchange.expect", "`\\q` is no escape");
    exchange("expect: \"\\xff\"", 57, "exchange.expect", "in single quotes, `\\xHH` stands for any byte");
    exchange("expect: ''", 57, "exchange.expect", "is empty");
    exchange("send: a", 37, "exchange.expect", "`expect` is missing");
}

#[test]
fn a_server_that_would_block_us_for_a_bare_connection_gets_none() {
    for (word, more) in [("tcp", ""), ("tls", ""), ("exchange", ", exchange: { expect: x }")] {
        let text = least("", "", &format!("health_check: {{ type: {word}{more} }}\ntls: {{}}"));
        let part = format!("type {word} would have it block us; use type protocol");
        check(
            &text.replace("protocol: tcp", "protocol: mysql"),
            &[("10:27", "clusters.up.health_check.type", &part)],
        );
    }
    let text = least("", "", "health_check: { type: protocol }\ntls: {}");
    accept(&text.replace("protocol: tcp", "protocol: mysql"));
}

#[test]
fn sessions_end_with_an_endpoint_that_somebody_watches() {
    let lines = "on_unhealthy: close\nhealth_check: {}";
    assert_eq!(accept(&least("", "", lines)).clusters[0].eviction.on_unhealthy, OnEndpointLoss::Close);
    check_cluster(
        "on_unhealthy: close",
        19,
        "on_unhealthy",
        "has no effect: the cluster has no `health_check`",
    );
}
