//! Answers as Consul writes them, and what is asked next.

use std::sync::Arc;

use hyper::header::HeaderValue;

use super::*;
use crate::cluster::{Address, Host};

fn query(adjust: impl FnOnce(&mut ConsulSettings)) -> ConsulQuery {
    let to_target: ToTarget = Arc::new(|host, port, weight| {
        let ip = host.parse().map_err(|_| format!("{host} is odd"))?;
        let address = Address { host: Host::Ip(ip), port };
        Ok(Target { address, weight, priority: 0, server_name: std::net::Ipv4Addr::LOCALHOST.into() })
    });
    let mut settings = ConsulSettings {
        service: "orders".into(),
        tags: Vec::new(),
        datacenter: None,
        namespace: None,
        partition: None,
        includes_warning: false,
        is_stale: true,
        to_target,
    };
    adjust(&mut settings);
    ConsulQuery::new(settings)
}

fn entry(id: &str, address: &str, port: u32, more: &str) -> String {
    format!(
        r#"{{"Node":{{"Node":"n1","Address":"10.0.0.1","Datacenter":"dc1"}},
            "Service":{{"ID":"{id}","Service":"orders","Tags":null,"Address":"{address}","Port":{port}{more}}},"#
    )
}

fn checks(statuses: &[&str]) -> String {
    let all: Vec<_> =
        statuses.iter().map(|status| format!(r#"{{"CheckID":"c","Status":"{status}"}}"#)).collect();
    format!(r#""Checks":[{}]}}"#, all.join(","))
}

fn answer(
    query: &mut ConsulQuery,
    status: u16,
    fields: &[(&'static str, &str)],
    body: &str,
) -> Result<RemoteProgress, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    query.take(&RemoteAnswer { status, headers: &headers, body: body.as_bytes() })
}

fn list(query: &mut ConsulQuery, index: &str, entries: &[String]) -> Result<Vec<(String, u32)>, String> {
    let body = format!("[{}]", entries.join(","));
    match answer(query, 200, &[("x-consul-index", index)], &body)? {
        RemoteProgress::Targets(targets) => {
            Ok(targets.iter().map(|target| (target.address.to_string(), target.weight)).collect())
        }
        other @ (RemoteProgress::Unchanged
        | RemoteProgress::NotYet
        | RemoteProgress::Anew
        | RemoteProgress::Unusable(_)
        | RemoteProgress::Partly(..)) => Err(format!("{other:?}")),
    }
}

#[test]
fn only_what_is_healthy_is_used_with_its_weight_and_address() {
    let weights =
        |passing: i64, warning: i64| format!(r#","Weights":{{"Passing":{passing},"Warning":{warning}}}"#);
    let entries = [
        entry("e", "10.0.0.5", 1, &weights(7, 2)) + &checks(&["passing", "warning"]),
        entry("d", "10.0.0.4", 1, &weights(99_999, 1)) + &checks(&["passing"]),
        entry("c", "10.0.0.3", 1, &weights(1, 1)) + &checks(&["passing", "critical"]),
        entry("b", "10.0.0.2", 1, "") + &checks(&[]),
        entry("a", "", 1, &weights(10, 1)) + &checks(&["passing"]),
        entry("f", "10.0.0.6", 1, &weights(1, 0)) + &checks(&["warning"]),
    ];
    let found = list(&mut query(|_| {}), "5", &entries).unwrap();
    let names = |found: &[(String, u32)]| {
        found.iter().map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>()
    };
    assert_eq!(names(&found), ["10.0.0.1:1=10", "10.0.0.2:1=1", "10.0.0.4:1=65535"]);
    let found = list(&mut query(|settings| settings.includes_warning = true), "5", &entries).unwrap();
    assert_eq!(names(&found), ["10.0.0.1:1=10", "10.0.0.2:1=1", "10.0.0.4:1=65535", "10.0.0.5:1=2"]);
}

#[test]
fn what_is_asked_says_where_the_last_answer_was() {
    let mut asked = query(|settings| {
        settings.service = "a/b c".into();
        settings.tags = vec!["x".into(), "y&z".into()];
        settings.datacenter = Some("dc2".into());
        settings.namespace = Some("n".into());
        settings.partition = Some("p".into());
    });
    let first = asked.request(Some("secret"));
    assert_eq!(
        first.target,
        "/v1/health/service/a%2Fb%20c?passing&stale&tag=x&tag=y%26z&dc=dc2&ns=n&partition=p"
    );
    assert!(
        first
            .headers
            .iter()
            .any(|HttpField(name, value)| name == "x-consul-token" && value.as_str() == "secret")
    );
    assert!(first.patience < Duration::from_secs(60));
    list(&mut asked, "17", &[]).unwrap();
    let next = asked.request(None);
    assert!(next.target.ends_with("&index=17&wait=300s"), "{}", next.target);
    assert!(next.patience > WAIT + WAIT / 16, "Consul adds up to a sixteenth");
    assert!(!next.headers.iter().any(|HttpField(name, _)| name == "x-consul-token"));
    let described = asked.settings.describe();
    assert_eq!(described, "a/b c (datacenter dc2, namespace n, partition p, tags x y&z)");
    assert_eq!(query(|_| {}).settings.describe(), "orders");
    let plain =
        query(|settings| (settings.is_stale, settings.includes_warning) = (false, true)).request(None);
    assert_eq!(plain.target, "/v1/health/service/orders?");
}

#[test]
fn an_index_that_goes_back_begins_anew_and_zero_is_none() {
    let mut asked = query(|_| {});
    let one = [entry("a", "10.0.0.1", 1, "") + &checks(&[])];
    assert_eq!(list(&mut asked, "0", &one).unwrap().len(), 1);
    assert!(asked.request(None).target.contains("index=1&"), "a query with 0 would not wait");
    assert_eq!(list(&mut asked, "40", &one), Err("Unchanged".into()), "other services changed");
    assert!(asked.request(None).target.contains("index=40&"));
    assert_eq!(list(&mut asked, "3", &[]).unwrap().len(), 0);
    assert!(!asked.request(None).target.contains("index"));
    list(&mut asked, "4", &one).unwrap();
    asked.reset();
    assert!(!asked.request(None).target.contains("index"));
    assert_eq!(list(&mut asked, "4", &one).unwrap().len(), 1, "after an error they are told again");
}

#[test]
fn refusals_are_told_in_words() {
    let indexed = |fields: &[(&'static str, &'static str)]| [&[("x-consul-index", "5")], fields].concat();
    let hidden = indexed(&[("x-consul-results-filtered-by-acls", "true")]);
    let leaderless = indexed(&[("x-consul-knownleader", "false")]);
    let portless = format!("[{}{}]", entry("a", "10.0.0.1", 0, ""), checks(&[]));
    let large = format!("[{}{}]", entry("a", "10.0.0.1", 70_000, ""), checks(&[]));
    let negative = large.replace("70000", "-4");
    let odd = format!("[{}{}]", entry("a", "b c", 1, ""), checks(&[]));
    for (token, status, fields, body, expected) in [
        (None, 403, vec![], "Permission denied", "it wants a token (HTTP 403: Permission denied)"),
        (
            Some("t"),
            403,
            vec![],
            "ACL not found",
            "the token may not read it (HTTP 403: ACL not found); it needs service:read and node:read",
        ),
        (None, 500, vec![], "No cluster leader\n", "HTTP 500: No cluster leader"),
        (None, 429, vec![], "", "HTTP 429"),
        (None, 200, vec![], "[]", "that is no Consul"),
        (None, 200, hidden.clone(), "[]", "a token, which is missing, needs service:read"),
        (Some("t"), 200, hidden, "[]", "the token needs service:read"),
        (None, 200, leaderless, "[]", "has no leader"),
        (None, 200, indexed(&[]), "{}", "no list of services"),
        (None, 200, indexed(&[]), "[{\"Node\":3}]", "service  of node  makes no sense"),
        (None, 200, indexed(&[]), &negative, "service a of node n1: -4 is no port"),
        (None, 200, indexed(&[]), &large, "service a of node n1: 70000 is no port"),
        (None, 200, indexed(&[]), &portless, "service a of node n1: it is registered without a port"),
        (None, 200, indexed(&[]), &odd, "service a of node n1: b c is odd"),
    ] {
        let mut asked = query(|_| {});
        asked.request(token);
        let error = answer(&mut asked, status, &fields, body).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let escaping = answer(&mut query(|_| {}), 500, &[], "\u{1b}[31m\nx").unwrap_err();
    assert!(!escaping.contains(['\u{1b}', '\n']), "{escaping:?}");
}

/// One instance that was registered badly froze the list of all.
#[test]
fn what_makes_no_sense_is_left_out_and_told() {
    let mut asked = query(|_| {});
    let entries = [
        entry("a", "10.0.0.1", 1, "") + &checks(&[]),
        entry("b", "10.0.0.2", 0, "") + &checks(&[]),
        entry("c", "10.0.0.3", 1, "").replace("10.0.0.3", "odd") + &checks(&[]),
        entry("d", "10.0.0.4", 1, r#","Weights":{"Passing":"heavy"}"#) + &checks(&[]),
        entry("e", "10.0.0.5", 1, r#","Weights":{"Passing":99999999999}"#) + r#""Checks":null}"#,
    ];
    let body = format!("[{}]", entries.join(","));
    let said = answer(&mut asked, 200, &[("x-consul-index", "1")], &body).unwrap();
    let RemoteProgress::Partly(targets, complaint) = said else { panic!("{said:?}") };
    let named: Vec<_> = targets.iter().map(|target| (target.address.to_string(), target.weight)).collect();
    assert_eq!(named, [("10.0.0.1:1".into(), 1), ("10.0.0.5:1".into(), 65_535)]);
    assert!(
        complaint.starts_with("service d of node n1 makes no sense: ") && complaint.ends_with("; and 2 more"),
        "{complaint}"
    );
    let again = answer(&mut asked, 200, &[("x-consul-index", "2")], &body);
    assert_eq!(again, Ok(RemoteProgress::Unchanged));
    let long = format!("[{}{}]", entry(&"x".repeat(1_000_000), "10.0.0.1", 0, ""), checks(&[]));
    let error = answer(&mut asked, 200, &[("x-consul-index", "3")], &long).unwrap_err();
    assert!(error.len() < 1000, "{} bytes", error.len());
}
