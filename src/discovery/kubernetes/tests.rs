//! Answers as API servers write them, and what is asked next.

use std::sync::Arc;

use hyper::header::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::cluster::ToTarget;
use crate::cluster::{Address, Host};

fn query(adjust: impl FnOnce(&mut EndpointChoice)) -> KubernetesQuery {
    let to_target: ToTarget = Arc::new(|host, port, weight| {
        let host = host.parse().map_or_else(|_| Host::Name(host.into()), Host::Ip);
        if host == Host::Name("bad".into()) {
            return Err("is no name".into());
        }
        let address = Address { host, port };
        Ok(Target { address, weight, priority: 0, server_name: std::net::Ipv4Addr::LOCALHOST.into() })
    });
    let mut choice = EndpointChoice { port: PortChoice::Only, zone: None, to_target };
    adjust(&mut choice);
    KubernetesQuery::new(KubernetesSettings { namespace: "shop".into(), service: "orders".into(), choice })
}

/// As an item of a list: without kind.
fn slice(name: &str, kind: &str, ports: &Value, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {
            "name": name, "generateName": "orders-", "namespace": "shop", "resourceVersion": "7", "generation": 2,
            "labels": { "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "orders" },
            "managedFields": [{ "manager": "kube-controller-manager", "fieldsV1": { "f:endpoints": {} } }],
        },
        "addressType": kind, "endpoints": endpoints, "ports": ports,
    })
}

fn pg() -> Value {
    json!([{ "name": "pg", "protocol": "TCP", "port": 5432 }])
}

fn ready(address: &str) -> Value {
    json!({
        "addresses": [address], "conditions": { "ready": true, "serving": true, "terminating": false },
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": "orders-0", "uid": format!("pod of {address}") },
        "nodeName": "node-1", "zone": "a",
    })
}

fn with(address: &str, key: &str, value: Value) -> Value {
    let mut endpoint = ready(address);
    endpoint[key] = value;
    endpoint
}

fn page(version: &str, next: &str, items: &[Value]) -> String {
    json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "resourceVersion": version, "continue": next }, "items": items })
    .to_string()
}

fn event(kind: &str, version: &str, mut slice: Value) -> String {
    slice["metadata"]["resourceVersion"] = json!(version);
    (slice["kind"], slice["apiVersion"]) = (json!("EndpointSlice"), json!("discovery.k8s.io/v1"));
    json!({ "type": kind, "object": slice }).to_string()
}

fn answer(query: &mut KubernetesQuery, status: u16, body: &str) -> Result<RemoteProgress, String> {
    query.request(Some("secret"));
    query.take(&RemoteAnswer { status, headers: &HeaderMap::new(), body: body.as_bytes() })
}

/// Addresses with their priorities.
fn found(progress: Result<RemoteProgress, String>) -> Result<Vec<String>, String> {
    match progress? {
        RemoteProgress::Targets(targets) => {
            let shown = targets.iter().map(|target| format!("{}/{}", target.address, target.priority));
            Ok(shown.map(|shown| shown.trim_end_matches("/0").to_owned()).collect())
        }
        other @ (RemoteProgress::Unchanged
        | RemoteProgress::NotYet
        | RemoteProgress::Anew
        | RemoteProgress::Unusable(_)
        | RemoteProgress::Partly(..)) => Err(format!("{other:?}")),
    }
}

fn listed(choose: impl FnOnce(&mut EndpointChoice), slices: &[Value]) -> Result<Vec<String>, String> {
    found(answer(&mut query(choose), 200, &page("7", "", slices)))
}

fn addressed(endpoints: &[Value]) -> Vec<String> {
    listed(|choice| choice.zone = Some("a".into()), &[slice("orders-1", "IPv4", &pg(), endpoints)]).unwrap()
}

#[test]
fn conditions_say_what_is_used() {
    let conditions = |ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>| json!({ "ready": ready, "serving": serving, "terminating": terminating });
    let (yes, no) = (Some(true), Some(false));
    // What is used beside an endpoint that is ready, and what is used where none is.
    for (ready_, serving, terminating, beside, alone) in [
        (yes, yes, no, true, true),
        (None, None, None, true, true),
        (yes, None, None, true, true),
        (no, no, no, false, false),
        (no, yes, no, false, false),
        (no, None, None, false, false),
        (no, yes, yes, false, true),
        (no, None, yes, false, true),
        (no, no, yes, false, false),
        // `publishNotReadyAddresses`.
        (yes, no, no, true, true),
        (yes, no, yes, false, true),
        (yes, yes, yes, false, true),
    ] {
        let one = with("10.0.0.2", "conditions", conditions(ready_, serving, terminating));
        let case = format!("{ready_:?} {serving:?} {terminating:?}");
        let expected: &[_] = if beside { &["10.0.0.1:5432", "10.0.0.2:5432"] } else { &["10.0.0.1:5432"] };
        assert_eq!(addressed(&[ready("10.0.0.1"), one.clone()]), expected, "{case}");
        assert_eq!(addressed(&[one]).len(), usize::from(alone), "{case}");
    }
    let mut bare = ready("10.0.0.1");
    bare.as_object_mut().unwrap().remove("conditions");
    assert_eq!(addressed(&[bare]), ["10.0.0.1:5432"]);
    assert!(addressed(&[]).is_empty() && addressed(&[with("x", "addresses", json!([]))]).is_empty());
}

#[test]
fn the_port_is_found_by_name_or_number_and_asked_for_where_it_is_not_clear() {
    let several = json!([{ "name": "metrics", "port": 9187 }, { "name": "pg", "protocol": "TCP", "port": 5432 },
        { "name": "dns", "protocol": "UDP", "port": 53 }]);
    let old = json!([{ "name": "pg", "protocol": "TCP", "port": 6432 }]);
    let (udp, all, nameless) = (
        json!([{ "name": "dns", "protocol": "UDP", "port": 53 }]),
        json!([{ "name": "", "protocol": "TCP", "port": null }]),
        json!([{ "name": "", "protocol": "TCP", "port": 5432 }]),
    );
    let (name, number) = (|name: &str| PortChoice::Named(name.into()), PortChoice::Number);
    for (choice, ports, expected) in [
        (PortChoice::Only, vec![&nameless], Ok(&[5432][..])),
        (PortChoice::Only, vec![&old, &old], Ok(&[6432, 6432])),
        (
            PortChoice::Only,
            vec![&several],
            Err("the service has TCP port metrics 9187, pg 5432: `port` says which"),
        ),
        (PortChoice::Only, vec![&old, &nameless], Err("`port` says which")),
        (PortChoice::Only, vec![&udp], Err("has no TCP port, and no number of one")),
        (PortChoice::Only, vec![&all], Err("no number of one")),
        (PortChoice::Only, vec![&Value::Null], Err("no TCP port")),
        (name("pg"), vec![&several, &old], Ok(&[5432, 6432])),
        (name("pg"), vec![&several, &udp], Ok(&[5432])),
        (
            name("dns"),
            vec![&several],
            Err("no port is named dns: the service has TCP port metrics 9187, pg 5432"),
        ),
        (name("pg"), vec![&all], Err("no port is named pg: the service has TCP port any")),
        (number(5432), vec![&several, &old], Ok(&[5432])),
        (
            number(53),
            vec![&several],
            Err("its pods have no port 53 (the number is theirs, not the Service's)"),
        ),
        (number(7), vec![&all], Ok(&[7])),
        (number(7), vec![&Value::Null, &json!([])], Ok(&[7, 7])),
    ] {
        let slices = ports.iter().enumerate().map(|(index, ports)| {
            slice(&format!("orders-{index}"), "IPv4", ports, &[ready(&format!("10.0.0.{index}"))])
        });
        let slices: Vec<_> = slices.collect();
        let found = listed(|terms| terms.port = choice.clone(), &slices);
        match (&found, expected) {
            (Ok(found), Ok(expected)) => {
                let ports: Vec<u16> =
                    found.iter().map(|one| one.split_once(':').unwrap().1.parse().unwrap()).collect();
                assert_eq!(ports, expected, "{choice:?} {ports:?}");
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{expected}: {error}"),
            (found, expected) => panic!("{choice:?} {ports:?}: {found:?}, not {expected:?}"),
        }
    }
    // A Service without pods has a slice without ports.
    assert_eq!(listed(|_| {}, &[slice("orders-1", "IPv4", &Value::Null, &[])]), Ok(vec![]));
    assert_eq!(listed(|choice| choice.port = PortChoice::Number(7), &[]), Ok(vec![]));
}

#[test]
fn addresses_are_of_three_types_and_each_endpoint_is_one() {
    let both = with("fd00::1", "targetRef", json!({ "uid": "pod of 10.0.0.1" }));
    let slices = [
        slice("orders-2", "IPv6", &pg(), &[both, ready("fd00::9")]),
        slice(
            "orders-1",
            "IPv4",
            &pg(),
            &[ready("10.0.0.1"), with("10.0.0.2", "addresses", json!(["10.0.0.2", "10.0.0.77"]))],
        ),
        slice("orders-3", "FQDN", &pg(), &[ready("db.example.com")]),
        slice("orders-4", "Carrier pigeon", &pg(), &[ready("loft")]),
        // It moves from one slice to another.
        slice(
            "orders-5",
            "IPv4",
            &pg(),
            &[with(
                "10.0.0.2",
                "conditions",
                json!({ "ready": false, "serving": true, "terminating": true }),
            )],
        ),
    ];
    assert_eq!(
        listed(|_| {}, &slices).unwrap(),
        ["10.0.0.1:5432", "10.0.0.2:5432", "db.example.com:5432", "[fd00::9]:5432"]
    );
}

#[test]
fn hints_for_our_zone_count_where_all_have_some() {
    let hinted = |address: &str, zones: &[&str]| {
        let zones: Vec<_> = zones.iter().map(|zone| json!({ "name": zone })).collect();
        with(address, "hints", json!({ "forZones": zones }))
    };
    let (ours, theirs, both) =
        (hinted("10.0.0.1", &["a"]), hinted("10.0.0.2", &["b"]), hinted("10.0.0.3", &["b", "a"]));
    let gone = json!({ "ready": false, "serving": true, "terminating": true });
    let mut ending = ours.clone();
    ending["conditions"] = gone.clone();
    let unready = with("10.0.0.4", "conditions", json!({ "ready": false, "serving": false }));
    for (endpoints, expected) in [
        (
            vec![ours.clone(), theirs.clone(), both],
            &["10.0.0.1:5432", "10.0.0.2:5432/1", "10.0.0.3:5432"][..],
        ),
        (vec![ours.clone(), theirs.clone(), unready], &["10.0.0.1:5432", "10.0.0.2:5432/1"]),
        (
            vec![ours.clone(), theirs.clone(), ready("10.0.0.5")],
            &["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.5:5432"],
        ),
        (vec![theirs.clone()], &["10.0.0.2:5432"]),
        (vec![ending, with("10.0.0.2", "conditions", gone)], &["10.0.0.1:5432", "10.0.0.2:5432"]),
    ] {
        assert_eq!(addressed(&endpoints), expected);
    }
    let without = listed(|_| {}, &[slice("orders-1", "IPv4", &pg(), &[ours, theirs])]);
    assert_eq!(without.unwrap(), ["10.0.0.1:5432", "10.0.0.2:5432"], "no zone is ours");
}

#[test]
fn a_list_comes_in_pages_and_a_watch_goes_on_from_its_version() {
    let mut asked = query(|_| {});
    let first = asked.request(Some("secret"));
    assert_eq!(
        (first.target.as_str(), first.reads),
        (
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dorders&limit=32",
            RemoteReads::Whole
        )
    );
    assert!(
        first
            .headers
            .iter()
            .any(|HttpField(name, value)| name == "authorization" && value.as_str() == "Bearer secret")
    );
    assert!(!asked.request(None).headers.iter().any(|HttpField(name, _)| name == "authorization"));
    let one = slice("orders-1", "IPv4", &pg(), &[ready("10.0.0.1")]);
    let two = slice("orders-2", "IPv4", &pg(), &[ready("10.0.0.2")]);
    assert_eq!(answer(&mut asked, 200, &page("40", "a b+/=", &[one])), Ok(RemoteProgress::NotYet));
    assert!(asked.request(None).target.ends_with("&limit=32&continue=a%20b%2B%2F%3D"));
    assert_eq!(found(answer(&mut asked, 200, &page("40", "", std::slice::from_ref(&two)))).unwrap().len(), 2);
    let watch = asked.request(None);
    assert!(
        watch
            .target
            .ends_with("Dorders&watch=1&resourceVersion=40&allowWatchBookmarks=true&timeoutSeconds=240"),
        "{}",
        watch.target
    );
    assert_eq!(watch.reads, RemoteReads::Lines);
    assert!(watch.patience > WATCH);
    let deleted = event("DELETED", "41", slice("orders-1", "IPv4", &pg(), &[ready("10.0.0.1")]));
    assert_eq!(found(answer(&mut asked, 200, &deleted)).unwrap(), ["10.0.0.2:5432"]);
    let more = slice("orders-2", "IPv4", &pg(), &[ready("10.0.0.2"), ready("10.0.0.3")]);
    assert_eq!(found(answer(&mut asked, 200, &event("MODIFIED", "43", more.clone()))).unwrap().len(), 2);
    assert_eq!(answer(&mut asked, 200, &event("MODIFIED", "44", more)), Ok(RemoteProgress::Unchanged));
    let added = event("ADDED", "45", slice("orders-9", "IPv4", &pg(), &[ready("10.0.0.4")]));
    assert_eq!(found(answer(&mut asked, 200, &added)).unwrap().len(), 3);
    // As it is recorded.
    let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1",
        "metadata":{"resourceVersion":"60","creationTimestamp":null},"addressType":"","endpoints":null,"ports":null}}"#;
    assert_eq!(answer(&mut asked, 200, bookmark), Ok(RemoteProgress::Unchanged));
    assert!(asked.request(None).target.contains("resourceVersion=60&"));
    asked.reset();
    assert_eq!(asked.request(None).target, first.target);
    assert_eq!(
        found(answer(&mut asked, 200, &page("61", "", &[two]))).unwrap(),
        ["10.0.0.2:5432"],
        "told again"
    );
}

#[test]
fn a_slice_as_a_server_wrote_it_is_read() {
    // Recorded from a cluster.
    const LINE: &str = r#"{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"externalnode-proxy-l28pc","generateName":"externalnode-proxy-","namespace":"kube-system","uid":"19c23c9e-58c6-4676-ab46-ce85c96ce2d9","resourceVersion":"5493506153","generation":2,"creationTimestamp":"2023-11-06T08:58:24Z","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"externalnode-proxy"},"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2023-11-06T08:58:42Z"},"ownerReferences":[{"apiVersion":"v1","kind":"Service","name":"externalnode-proxy","uid":"28540fa8-22cc-4f07-8393-81bacc1ee305","controller":true,"blockOwnerDeletion":true}]},"addressType":"IPv4","endpoints":[{"addresses":["172.24.0.7"],"conditions":{"ready":true,"serving":true,"terminating":false},"targetRef":{"kind":"Pod","namespace":"kube-system","name":"externalnode-proxy-56c4d977d8-zxknh","uid":"4d8cffb5-5c4c-4604-9395-b4efe905ddf0"},"nodeName":"10.0.0.29","zone":"540001"}],"ports":[{"name":"tcp-80","protocol":"TCP","port":80},{"name":"tcp-443","protocol":"TCP","port":443}]}}"#;
    let mut asked = query(|choice| choice.port = PortChoice::Named("tcp-443".into()));
    found(answer(&mut asked, 200, &page("1", "", &[]))).unwrap();
    assert_eq!(found(answer(&mut asked, 200, LINE)).unwrap(), ["172.24.0.7:443"]);
    assert!(asked.request(None).target.contains("resourceVersion=5493506153&"));
}

const EXPIRED: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"The provided continue parameter is too old to display a consistent list result.","reason":"Expired","code":410}"#;

#[test]
fn what_the_server_has_forgotten_is_listed_again() {
    let gone = format!(r#"{{"type":"ERROR","object":{EXPIRED}}}"#);
    let one = [slice("orders-1", "IPv4", &pg(), &[ready("10.0.0.1")])];
    for (status, body) in [(200, &*gone), (410, EXPIRED)] {
        let mut asked = query(|_| {});
        found(answer(&mut asked, 200, &page("40", "", &one))).unwrap();
        assert_eq!(answer(&mut asked, status, body), Ok(RemoteProgress::Anew));
        assert!(asked.request(None).target.ends_with("&limit=32"));
        assert_eq!(answer(&mut asked, 200, &page("50", "", &one)), Ok(RemoteProgress::Unchanged));
    }
    let mut asked = query(|_| {});
    for _ in 0..RESTARTS_MAX {
        assert_eq!(answer(&mut asked, 200, &page("40", "more", &one)), Ok(RemoteProgress::NotYet));
        assert_eq!(answer(&mut asked, 410, EXPIRED), Ok(RemoteProgress::Anew));
    }
    answer(&mut asked, 200, &page("40", "more", &one)).unwrap();
    assert!(answer(&mut asked, 410, EXPIRED).unwrap_err().contains("sooner than they can be read"));
    asked.reset();
    let listed = found(answer(&mut asked, 200, &page("41", "", &[])));
    assert_eq!(listed.unwrap().len(), 0, "what was read of the other lists is forgotten, too");
    assert_eq!(answer(&mut asked, 410, EXPIRED), Ok(RemoteProgress::Anew));
}

fn status(code: u16, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code })
        .to_string()
}

#[test]
fn a_refused_token_may_have_been_replaced_and_is_an_error_the_second_time() {
    let unauthorized = status(401, "Unauthorized");
    let mut asked = query(|_| {});
    found(answer(&mut asked, 200, &page("40", "", &[]))).unwrap();
    assert_eq!(answer(&mut asked, 401, &unauthorized), Ok(RemoteProgress::Anew));
    assert!(asked.request(None).target.contains("resourceVersion=40&"), "the watch goes on where it was");
    for _ in 0..2 {
        let error = answer(&mut asked, 401, &unauthorized).unwrap_err();
        assert_eq!(error, "the token is not accepted (HTTP 401: Unauthorized)");
        asked.reset();
    }
    let one = slice("orders-1", "IPv4", &pg(), &[ready("10.0.0.1")]);
    assert!(answer(&mut asked, 200, &event("ADDED", "41", one)).is_ok());
    assert_eq!(answer(&mut asked, 401, &unauthorized), Ok(RemoteProgress::Anew));
}

#[test]
fn a_role_without_watch_does_not_list_for_ever() {
    let mut asked = query(|_| {});
    found(answer(&mut asked, 200, &page("40", "", &[]))).unwrap();
    let error = answer(&mut asked, 403, &status(403, "no")).unwrap_err();
    assert!(error.contains("may not watch endpointslices in namespace shop (HTTP 403: no)"), "{error}");
    asked.reset();
    assert!(asked.request(None).target.contains("&watch=1&resourceVersion=40&"));
    // What ends otherwise is listed again.
    asked.reset();
    assert!(asked.request(None).target.ends_with("&limit=32"));
}

/// The version that a watch began at was asked for again and again, whatever the server had against it.
#[test]
fn a_watch_that_fails_for_another_reason_is_listed_anew() {
    for code in [400, 404, 429, 500, 503] {
        let mut asked = query(|_| {});
        found(answer(&mut asked, 200, &page("40", "", &[]))).unwrap();
        answer(&mut asked, code, &status(code, "no")).unwrap_err();
        asked.reset();
        assert!(asked.request(None).target.ends_with("&limit=32"), "{code}");
    }
}

/// A role that got the verb back: the error stayed until something changed, which in a quiet service may take days.
#[test]
fn a_watch_that_is_let_in_again_is_a_good_answer() {
    let mut asked = query(|_| {});
    let one = slice("orders-1", "IPv4", &pg(), &[ready("10.0.0.1")]);
    found(answer(&mut asked, 200, &page("40", "", &[one]))).unwrap();
    assert_eq!(asked.begin_lines(), RemoteProgress::Unchanged, "the first watch tells nothing new");
    answer(&mut asked, 403, &status(403, "no")).unwrap_err();
    asked.reset();
    assert_eq!(found(Ok(asked.begin_lines())).unwrap(), ["10.0.0.1:5432"]);
}

#[test]
fn one_bad_endpoint_is_told_and_the_others_are_used() {
    let mut asked = query(|_| {});
    let of = |endpoints: &[Value]| slice("orders-1", "IPv4", &pg(), endpoints);
    let partly = answer(&mut asked, 200, &page("40", "", &[of(&[ready("10.0.0.1"), ready("bad")])]));
    let Ok(RemoteProgress::Partly(targets, complaint)) = partly else { panic!("{partly:?}") };
    assert_eq!((targets.len(), complaint == "endpoint bad: is no name"), (1, true), "{complaint}");
    let good = answer(&mut asked, 200, &event("MODIFIED", "41", of(&[ready("10.0.0.1")])));
    assert_eq!(found(good).unwrap(), ["10.0.0.1:5432"]);
    let none = answer(&mut asked, 200, &event("MODIFIED", "42", of(&[ready("bad")])));
    assert!(matches!(none, Ok(RemoteProgress::Unusable(_))), "that is no empty service: {none:?}");
}

#[test]
fn refusals_are_told_in_words() {
    let forbidden = status(
        403,
        r#"endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:shop:default" cannot list resource "endpointslices" in API group "discovery.k8s.io" in the namespace "shop""#,
    );
    let nameless = page("1", "", &[json!({ "addressType": "IPv4" })]);
    let long = page(&"9".repeat(OPAQUE_MAX + 1), "", &[]);
    for (token, code, body, expected) in [
        (
            Some("t"),
            403,
            &*forbidden,
            "the token may not list endpointslices in namespace shop (HTTP 403: endpointslices.discovery",
        ),
        (
            Some("t"),
            403,
            &forbidden,
            "it needs a Role with the verbs list and watch for endpointslices of discovery.k8s.io",
        ),
        (None, 403, &forbidden, "it wants a token (HTTP 403: "),
        (None, 401, "", "it wants a token (HTTP 401)"),
        (
            Some("t"),
            404,
            "404 page not found\n",
            "which Kubernetes has since 1.21 (HTTP 404: 404 page not found)",
        ),
        (Some("t"), 429, "Too many requests, please try again later.", "HTTP 429: Too many requests"),
        (Some("t"), 200, "<html>", "no list of EndpointSlices"),
        (Some("t"), 200, r#"{"kind":"PodList","items":[]}"#, "that is no Kubernetes"),
        (Some("t"), 200, &page("", "", &[]), "no resourceVersion"),
        (Some("t"), 200, &nameless, "without a name"),
        (Some("t"), 200, &long, "more than 16384 bytes"),
    ] {
        let mut asked = query(|_| {});
        asked.request(token);
        let taken =
            asked.take(&RemoteAnswer { status: code, headers: &HeaderMap::new(), body: body.as_bytes() });
        let error = taken.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let mut watching = query(|_| {});
    found(answer(&mut watching, 200, &page("40", "", &[]))).unwrap();
    for (line, expected) in [
        (
            r#"{"type":"ERROR","object":{"kind":"Status","message":"etcd\u001b[31m\nfailed","code":500}}"#,
            "it ended the watch: etcd",
        ),
        (r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"addressType":"IPv4"}}"#, "no resourceVersion"),
        (r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"41"}}}"#, "without a name"),
        ("{}", "no event of a watch"),
        ("{\"type\":\"ADD", "no event of a watch"),
    ] {
        let error = answer(&mut watching, 200, line).unwrap_err();
        assert!(error.contains(expected) && !error.contains(['\u{1b}', '\n']), "{expected}: {error}");
    }
}

#[test]
fn pages_and_what_is_held_have_an_end() {
    let padding = "x".repeat(15 << 20);
    let large = |name: &str| {
        let mut one = slice(name, "IPv4", &pg(), &[ready("10.0.0.1")]);
        one["metadata"]["annotations"] = json!({ "padding": padding });
        event("ADDED", "2", one)
    };
    let mut asked = query(|_| {});
    answer(&mut asked, 200, &page("1", "", &[])).unwrap();
    // The same one, again and again, and others until it is too much.
    for name in ["a", "a", "a", "a", "a", "b", "c", "d"] {
        assert!(answer(&mut asked, 200, &large(name)).is_ok());
    }
    assert!(
        answer(&mut asked, 200, &large("e"))
            .unwrap_err()
            .contains("more than 4096 EndpointSlices, or 64 MiB")
    );

    let mut asked = query(|_| {});
    for _ in 1..PAGES_MAX {
        assert_eq!(answer(&mut asked, 200, &page("1", "more", &[])), Ok(RemoteProgress::NotYet));
    }
    assert!(answer(&mut asked, 200, &page("1", "more", &[])).unwrap_err().contains("more than 1024 pages"));
}
