//! Answers as etcd's gateway writes them, and what is asked next.

use hyper::header::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::cluster::{Address, Host};

/// Values of these tests are ports, with commas in between.
fn query(user: Option<&str>) -> EtcdQuery {
    let parse: ParseValue = Arc::new(|key, value| {
        let text = std::str::from_utf8(value).unwrap();
        let ports = text.split(',').filter(|port| !port.is_empty());
        let targets = ports.map(|port| {
            let port = port.parse().map_err(|_| format!("{key}:1:1: {port} is odd"))?;
            let address = Address { host: Host::Ip([127, 0, 0, 1].into()), port };
            Ok(Target { address, weight: 1, priority: 0, server_name: std::net::Ipv4Addr::LOCALHOST.into() })
        });
        targets.collect()
    });
    EtcdQuery::new(EtcdSettings { prefix: "/s/".into(), user: user.map(ToOwned::to_owned), parse })
}

/// The path of the next request and its body.
fn asks(query: &mut EtcdQuery) -> (String, Value) {
    let RemoteRequest { method, target, body, .. } = query.request(Some("pass\"word"));
    assert_eq!(method, Method::POST);
    (target, serde_json::from_slice(&body).unwrap())
}

/// The path and body of a range.
fn range() -> (String, Value) {
    ("/v3/kv/range".into(), json!({ "key": "L3Mv", "range_end": "L3Mw", "limit": "4096" }))
}

fn watch(from: &str) -> (String, Value) {
    let create =
        json!({ "key": "L3Mv", "range_end": "L3Mw", "start_revision": from, "progress_notify": true });
    ("/v3/watch".into(), json!({ "create_request": create }))
}

fn header(revision: &str) -> Value {
    json!({ "cluster_id": "14841639068965178418", "member_id": "1", "revision": revision, "raft_term": "2" })
}

fn pair(key: &str, value: &str, revision: &str) -> Value {
    json!({ "key": BASE64.encode(key.as_bytes()), "value": BASE64.encode(value.as_bytes()),
        "create_revision": "1", "mod_revision": revision, "version": "1" })
}

fn answer(query: &mut EtcdQuery, status: u16, body: &Value) -> Result<RemoteProgress, String> {
    let body = body.to_string();
    query.take(&RemoteAnswer { status, headers: &HeaderMap::new(), body: body.as_bytes() })
}

/// The ports of an answer that has endpoints, or what else it was.
fn told(progress: Result<RemoteProgress, String>) -> Result<Vec<u16>, String> {
    match progress? {
        RemoteProgress::Targets(targets) => Ok(targets.iter().map(|target| target.address.port).collect()),
        other @ (RemoteProgress::Unchanged
        | RemoteProgress::Unusable(_)
        | RemoteProgress::NotYet
        | RemoteProgress::Anew
        | RemoteProgress::Partly(..)) => Err(format!("{other:?}")),
    }
}

fn list(query: &mut EtcdQuery, revision: &str, pairs: &[Value]) -> Result<Vec<u16>, String> {
    assert_eq!(asks(query), range());
    let body = json!({ "header": header(revision), "kvs": pairs, "count": pairs.len().to_string() });
    let told = told(answer(query, 200, &body));
    assert!(query.continues(), "the watch begins at once");
    told
}

fn line(query: &mut EtcdQuery, revision: &str, more: &Value) -> Result<RemoteProgress, String> {
    let mut result = json!({ "header": header(revision) });
    result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    answer(query, 200, &json!({ "result": result }))
}

fn created(query: &mut EtcdQuery, revision: &str) -> Result<Vec<u16>, String> {
    told(line(query, revision, &json!({ "created": true })))
}

fn events(query: &mut EtcdQuery, revision: &str, events: &[Value]) -> Result<Vec<u16>, String> {
    told(line(query, revision, &json!({ "events": events })))
}

fn watching(keys: &[Value]) -> EtcdQuery {
    let mut query = query(None);
    list(&mut query, "7", keys).unwrap();
    assert_eq!(asks(&mut query), watch("8"));
    created(&mut query, "7").unwrap();
    query
}

#[test]
fn the_set_is_the_union_of_all_keys_in_their_order_and_follows_their_changes() {
    let mut query = query(None);
    let found = list(&mut query, "7", &[pair("/s/b", "3", "5"), pair("/s/a", "1,2", "6")]).unwrap();
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(asks(&mut query), watch("8"));
    assert_eq!(created(&mut query, "9"), Ok(vec![1, 2, 3]));
    let deleted = json!({ "type": "DELETE", "kv": { "key": "L3MvYQ==", "mod_revision": "9" } });
    let put = json!({ "kv": pair("/s/c", "4", "8") });
    assert_eq!(events(&mut query, "20", &[put.clone(), deleted]), Ok(vec![3, 4]));
    // The header was ahead of what was sent.
    assert_eq!(asks(&mut query), watch("10"));
    assert_eq!(line(&mut query, "30", &json!({})), Ok(RemoteProgress::Unchanged));
    assert_eq!(asks(&mut query), watch("31"));
    let odd = json!({ "type": "EXPIRE", "kv": { "key": "L3MvYQ==", "mod_revision": "32" } });
    assert!(events(&mut query, "32", &[odd]).unwrap_err().contains("EXPIRE"));
    let mut empty = self::query(None);
    assert_eq!(list(&mut empty, "1", &[]), Ok(vec![]));
}

#[test]
fn a_value_that_is_wrong_names_its_key_and_the_watch_goes_on() {
    let mut query = query(None);
    let wrong =
        list(&mut query, "7", &[pair("/s/a", "x", "5"), pair("/s/b", "y", "5"), pair("/s/c", "1", "5")]);
    assert_eq!(wrong.unwrap_err(), r#"Unusable("/s/a:1:1: x is odd; and 1 more")"#);
    assert_eq!(asks(&mut query), watch("8"));
    let of_b = created(&mut query, "8").unwrap_err();
    assert!(of_b.starts_with("Unusable"), "{of_b}");
    let of_b = events(&mut query, "8", &[json!({ "kv": pair("/s/a", "2", "8") })]).unwrap_err();
    assert_eq!(of_b, r#"Unusable("/s/b:1:1: y is odd")"#);
    let deleted = json!({ "type": "DELETE", "kv": { "key": "L3MvYg==", "mod_revision": "9" } });
    assert_eq!(events(&mut query, "9", &[deleted]), Ok(vec![2, 1]));
}

#[test]
fn what_is_beyond_the_bounds_is_an_error_and_not_cut() {
    let mut query = query(None);
    asks(&mut query);
    let cut =
        json!({ "header": header("7"), "kvs": [pair("/s/a", "1", "5")], "more": true, "count": "5000" });
    assert!(answer(&mut query, 200, &cut).unwrap_err().contains("more than 4096 keys begin with /s/"));
    assert_eq!(asks(&mut query), range());
    let many = ["1"; 4000].join(",");
    let mut query = watching(&[pair("/s/a", &many, "5")]);
    let too_many = events(&mut query, "8", &[json!({ "kv": pair("/s/b", &many, "8") })]).unwrap_err();
    assert!(too_many.contains("Unusable(\"/s/ has 8000 endpoints"), "{too_many}");
    let more: Vec<_> = (0..4096).map(|n| json!({ "kv": pair(&format!("/s/n{n}"), "1", "9") })).collect();
    assert!(events(&mut query, "9", &more).unwrap_err().contains("more than 4096 keys"));
    assert_eq!(asks(&mut query), range());
}

#[test]
fn a_watch_that_breaks_goes_on_from_where_it_was_and_begins_anew_where_that_does_not_help() {
    let mut query = watching(&[pair("/s/a", "1", "5")]);
    events(&mut query, "8", &[json!({ "kv": pair("/s/a", "2", "8") })]).unwrap();
    for _ in 0..3 {
        query.reset();
        assert_eq!(asks(&mut query), watch("9"));
        // What is known is told again: an error was told in between.
        assert_eq!(created(&mut query, "8"), Ok(vec![2]));
    }
    query.reset();
    assert_eq!(asks(&mut query), range());
    let mut query = watching(&[pair("/s/a", "1", "5")]);
    for revision in 8..20 {
        query.reset();
        line(&mut query, &revision.to_string(), &json!({})).unwrap();
        assert_eq!(asks(&mut query), watch(&(revision + 1).to_string()), "it brought something each time");
    }
    let error = json!({ "error": { "grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader" } });
    assert!(answer(&mut query, 200, &error).unwrap_err().contains("this member has no leader"));
    assert_eq!(asks(&mut query), watch("20"));
}

#[test]
fn the_list_is_read_again_where_the_history_is_gone_or_another_one() {
    for (what, more) in [
        ("compacted", json!({ "canceled": true, "compact_revision": "12" })),
        ("gone back", json!({ "created": true, "header": header("6") })),
        (
            "another store",
            json!({ "created": true, "header": { "cluster_id": "2", "revision": "99", "raft_term": "2" } }),
        ),
        (
            "restored",
            json!({ "created": true, "header": { "cluster_id": "14841639068965178418", "revision": "99", "raft_term": "1" } }),
        ),
    ] {
        let mut query = watching(&[pair("/s/a", "1", "5")]);
        assert_eq!(line(&mut query, "7", &more), Ok(RemoteProgress::Anew), "{what}");
        assert_eq!(list(&mut query, "2", &[pair("/s/a", "9", "2")]), Ok(vec![9]), "{what}");
        assert_eq!(asks(&mut query), watch("3"), "{what}");
    }
}

fn log_in(query: &mut EtcdQuery, token: &str) {
    let credentials = json!({ "name": "app", "password": "pass\"word" });
    assert_eq!(asks(query), ("/v3/auth/authenticate".into(), credentials));
    let progress = answer(query, 200, &json!({ "header": header("7"), "token": token }));
    assert_eq!((progress, query.continues()), (Ok(RemoteProgress::NotYet), true));
    let sent = query.request(Some("x")).headers;
    let field = sent.iter().find(|HttpField(name, _)| *name == AUTHORIZATION).unwrap();
    assert_eq!(&*field.1, token);
    let leader = sent.iter().find(|HttpField(name, _)| name.as_str() == "grpc-metadata-hasleader").unwrap();
    assert_eq!(&*leader.1, "true");
}

fn says(message: &str) -> Value {
    json!({ "error": message, "message": message, "code": 3 })
}

#[test]
fn a_user_logs_in_and_again_when_the_token_has_ended() {
    let mut query = query(Some("app"));
    log_in(&mut query, "one.7");
    let refused = answer(&mut query, 401, &says("etcdserver: invalid auth token"));
    assert!(refused.unwrap_err().contains("does not take the token that it gave to user app"));
    log_in(&mut query, "two.7");
    list(&mut query, "7", &[pair("/s/a", "1", "5")]).unwrap();
    asks(&mut query);
    let ended = json!({ "created": true, "canceled": true, "watch_id": "-1",
        "cancel_reason": "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token" });
    assert_eq!(line(&mut query, "7", &ended), Ok(RemoteProgress::Anew));
    log_in(&mut query, "three.7");
    list(&mut query, "7", &[pair("/s/a", "1", "5")]).unwrap();
    asks(&mut query);
    // A watch that is refused although the same could be read.
    assert!(line(&mut query, "7", &ended).unwrap_err().contains("the watch was ended"));
    created(&mut query, "7").unwrap();
    assert_eq!(line(&mut query, "7", &ended), Ok(RemoteProgress::Anew));
    log_in(&mut query, "four.7");
    list(&mut query, "7", &[]).unwrap();
    query.known = None;
    asks(&mut query);
    let old = answer(&mut query, 400, &says("etcdserver: revision of auth store is old"));
    assert_eq!((old, query.continues()), (Ok(RemoteProgress::Anew), false));
    log_in(&mut query, "five.7");
}

#[test]
fn refusals_are_told_in_words() {
    for (user, is_in, status, message, expected) in [
        (
            None,
            true,
            400,
            "etcdserver: user name is empty",
            "it wants a user and a password (HTTP 400: etcdserver:",
        ),
        (
            Some("app"),
            false,
            400,
            "etcdserver: authentication failed, invalid user ID or password",
            "it does not let user app in (HTTP 400: etcdserver: authentication failed",
        ),
        (Some("app"), true, 403, "etcdserver: permission denied", "user app may not read /s/ (HTTP 403"),
        (None, true, 404, "Not Found", "there is no etcd with a JSON gateway"),
        (None, true, 503, "etcdserver: no leader", "this member has no leader (HTTP 503"),
        (
            None,
            true,
            504,
            "etcdserver: request timed\u{7} out",
            "HTTP 504: etcdserver: request timed\\u0007 out",
        ),
    ] {
        let mut query = query(user);
        if user.is_some() && is_in {
            log_in(&mut query, "one.1");
        }
        asks(&mut query);
        let told = answer(&mut query, status, &says(message)).unwrap_err();
        assert!(told.starts_with(expected) && !told.contains("pass\"word"), "{told}");
    }
    // gRPC gateway 2, which etcd 3.6 has.
    let mut newer = query(None);
    asks(&mut newer);
    let told =
        answer(&mut newer, 503, &json!({ "code": 14, "message": "etcdserver: no leader", "details": [] }));
    assert!(told.unwrap_err().contains("has no leader (HTTP 503: etcdserver: no leader)"));
}

#[test]
fn a_store_without_users_is_read_without_a_token() {
    let mut query = query(Some("app"));
    asks(&mut query);
    let off = answer(&mut query, 412, &says("etcdserver: authentication is not enabled"));
    assert_eq!((off, query.continues()), (Ok(RemoteProgress::NotYet), true));
    assert!(query.request(Some("x")).headers.iter().all(|HttpField(name, _)| *name != AUTHORIZATION));
    assert_eq!(list(&mut query, "7", &[pair("/s/a", "1", "5")]), Ok(vec![1]));
    // And as a user once it has some.
    query.known = None;
    asks(&mut query);
    let wanted = answer(&mut query, 400, &says("etcdserver: user name is empty"));
    assert_eq!(wanted, Ok(RemoteProgress::Anew));
    log_in(&mut query, "one.1");
}

#[test]
fn nonsense_is_an_error() {
    for body in [
        "",
        "[]",
        "{",
        "<html>",
        r#"{"header":{"revision":"x"}}"#,
        r#"{"kvs":[]}"#,
        r#"{"header":{"revision":"3"},"kvs":[{"key":"?"}]}"#,
    ] {
        let mut query = query(None);
        asks(&mut query);
        let answer = RemoteAnswer { status: 200, headers: &HeaderMap::new(), body: body.as_bytes() };
        assert!(query.take(&answer).is_err(), "{body}");
        let mut query = watching(&[]);
        let answer = RemoteAnswer { status: 200, headers: &HeaderMap::new(), body: body.as_bytes() };
        let taken = query.take(&answer);
        assert!(taken.is_err(), "{body}: {taken:?}");
    }
    let mut query = query(Some("app"));
    asks(&mut query);
    assert!(answer(&mut query, 200, &json!({})).unwrap_err().contains("that is no etcd"));
}
