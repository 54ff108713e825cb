//! Endpoints from Consul: a real agent, which is killed, loses its leader, forgets, and asks for tokens.

use std::fs;

use serde_json::json;

use crate::harness::consul::Consul;
use crate::harness::discovery::{
    KeepFolder, check, cluster, echoes, member, members, origin, wait_error, wait_members, wait_well,
};
use crate::harness::secrets::Secrets;
use crate::harness::{Ambassador, Config, Pki, until};

fn source(consul: &Consul, more: &str) -> String {
    format!("{{ consul: {{ service: orders, address: \"{}\"{more} }} }}", consul.url())
}

fn start(consul: &Consul, more: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[&source(consul, more)], ""))
}

#[test]
fn instances_come_and_go_with_their_registration_and_their_checks() {
    let consul = Consul::start(&json!({}));
    let [one, two, other] = echoes();
    consul.register("one", "orders", one.port(), &json!({ "Weights": { "Passing": 5, "Warning": 2 } }));
    consul.register("else", "invoices", other.port(), &json!({}));
    let ambassador = start(&consul, "");
    wait_members(&ambassador, &[&one]);
    assert_eq!(member(&ambassador, &one)["weight"], 5);
    ambassador.connect().echo("found");
    let found = origin(&ambassador);
    assert_eq!(
        (&found["kind"], &found["name"], &found["found"]),
        (&json!("consul"), &json!("orders"), &json!(1))
    );
    consul.register("two", "orders", two.port(), &json!({ "Check": { "TTL": "1h", "Status": "passing" } }));
    wait_members(&ambassador, &[&one, &two]);
    // Sessions of an instance that leaves go on.
    consul.deregister("one");
    wait_members(&ambassador, &[&two]);
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    consul.register("one", "orders", one.port(), &json!({}));
    consul.set_check("two", "warning");
    wait_members(&ambassador, &[&one]);
    lasting.echo("after");
    consul.set_check("two", "passing");
    wait_members(&ambassador, &[&one, &two]);
    consul.set_check("two", "critical");
    wait_members(&ambassador, &[&one]);
    assert!(ambassador.metrics().sum("discovery_total", &[("result", "ok")]) >= 5.0);
}

#[test]
fn tags_select_and_instances_that_warn_count_with_their_weight_for_that() {
    let consul = Consul::start(&json!({}));
    let [one, two, three] = echoes();
    let warned = json!({ "Tags": ["primary", "eu"], "Weights": { "Passing": 9, "Warning": 3 },
        "Check": { "TTL": "1h", "Status": "warning" } });
    consul.register("one", "orders", one.port(), &warned);
    consul.register("two", "orders", two.port(), &json!({ "Tags": ["primary", "eu"] }));
    consul.register("three", "orders", three.port(), &json!({ "Tags": ["primary"] }));
    let ambassador = start(&consul, ", tags: [primary, eu], health: warning");
    wait_members(&ambassador, &[&one, &two]);
    let weights = [&one, &two].map(|upstream| member(&ambassador, upstream)["weight"].clone());
    assert_eq!(weights, [3, 1]);
}

#[test]
fn the_endpoints_stay_while_consul_is_dead_and_when_it_comes_back_empty() {
    let mut consul = Consul::start(&json!({}));
    let [one, two] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let ambassador = start(&consul, "");
    wait_members(&ambassador, &[&one]);
    consul.kill();
    wait_error(&ambassador, &consul.url());
    ambassador.connect().echo("it is dead");
    // Its index begins again, below the one that was seen, and nobody is registered.
    consul.forget();
    consul.begin();
    consul.wait_leader();
    wait_error(&ambassador, "knows no endpoint any more, which is believed only with `empty: accept`");
    ambassador.connect().echo("it knows nobody");
    consul.register("two", "orders", two.port(), &json!({}));
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
    ambassador.connect().echo("another one");
    let failures = ambassador.lines().iter().filter(|line| line.contains("discovery failed")).count();
    assert!((1..=2).contains(&failures), "one line for each change: {failures}");
}

#[test]
fn an_empty_answer_is_believed_where_the_configuration_says_so() {
    let consul = Consul::start(&json!({}));
    let [one] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let ambassador = start(&consul, ", empty: accept");
    wait_members(&ambassador, &[&one]);
    consul.deregister("one");
    wait_members(&ambassador, &[]);
    drop(ambassador.connect().read_out());
    assert_eq!(ambassador.record_of("no_endpoint")["attempts"], 0);
}

#[test]
fn a_host_that_starts_while_consul_is_down_serves_with_what_was_kept() {
    let mut consul = Consul::start(&json!({}));
    let [one, two] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let folder = KeepFolder::new();
    let config =
        |service: &str| folder.of(Config::app(&[&source(&consul, "").replace("orders", service)], ""));
    let with_orders = config("orders");
    let with_invoices = config("invoices");
    folder.fill(&with_orders, &one);
    consul.kill();

    let after = Ambassador::start(&with_orders);
    wait_members(&after, &[&one]);
    after.connect().echo("kept");
    let line = after.wait_line("those that were kept on disk are used");
    assert!(line.contains("\"endpoints\":1") && line.contains("age_seconds"), "{line}");
    let shown = cluster(&after)["discovery"][1].clone();
    assert_eq!((&shown["kind"], &shown["found"]), (&json!("kept"), &json!(1)));
    assert!(shown["age_ms"].as_u64().is_some_and(|age| age < 600_000), "{shown}");
    let since = |ambassador: &Ambassador| ambassador.metrics().sum("discovery_kept_timestamp_seconds", &[]);
    assert!(since(&after) > 1.7e9);
    // What was kept of another service is of no use.
    let other = Ambassador::start(&with_invoices);
    wait_error(&other, &consul.url());
    assert_eq!(members(&other), [""; 0]);
    drop(other);

    consul.begin();
    consul.wait_leader();
    consul.register("two", "orders", two.port(), &json!({}));
    wait_members(&after, &[&one, &two]);
    wait_well(&after);
    until("nothing that was kept is in use", || {
        (cluster(&after)["discovery"].as_array()?.len() == 1).then_some(())
    });
    assert!(!after.metrics().samples().iter().any(|sample| sample.name.contains("discovery_kept")));
    folder.wait_kept(&two);
}

#[test]
fn nothing_is_kept_where_nothing_is_configured_and_systemds_folder_is_the_default() {
    let consul = Consul::start(&json!({}));
    let [one, two] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config::app(&[&source(&consul, "")], "");
    let by_systemd = Ambassador::start_with(&config, |command| {
        command.env("STATE_DIRECTORY", folder.path());
    });
    wait_members(&by_systemd, &[&one]);
    let kept = || fs::read_to_string(folder.path().join("discovery-up.json")).unwrap_or_default();
    until("the endpoints were kept", || kept().contains(&one.address()).then_some(()));
    let unused = tempfile::tempdir().expect("a folder");
    let off = config.top("discovery: { keep: none }");
    let off = Ambassador::start_with(&off, |command| {
        command.env("STATE_DIRECTORY", unused.path());
    });
    wait_members(&off, &[&one]);
    // Both hear of another one; one has written it when the other would have written twice.
    consul.register("two", "orders", two.port(), &json!({}));
    wait_members(&off, &[&one, &two]);
    until("the change was kept", || kept().contains(&two.address()).then_some(()));
    assert_eq!(fs::read_dir(unused.path()).expect("a folder").count(), 0);
}

/// A control plane that has lost its state answers with nothing, at a start of ours as well.
#[test]
fn a_start_against_an_empty_consul_believes_it_only_where_that_is_configured() {
    let consul = Consul::start(&json!({}));
    let [one] = echoes();
    for (empty, serves) in [("keep", true), ("accept", false)] {
        consul.register("one", "orders", one.port(), &json!({}));
        let folder = KeepFolder::new();
        let config = folder.of(Config::app(&[&source(&consul, &format!(", empty: {empty}"))], ""));
        folder.fill(&config, &one);
        consul.deregister("one");
        let after = Ambassador::start(&config);
        if serves {
            after.connect().echo("kept");
            wait_error(&after, "knows no endpoint any more");
            assert_eq!(members(&after), [one.address()]);
        } else {
            after.connect().ending();
            after.record_of("no_endpoint");
            wait_well(&after);
            assert_eq!(members(&after), [""; 0]);
        }
    }
}

#[test]
fn a_token_is_asked_for_in_words_and_read_again_when_it_is_replaced() {
    const MASTER: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";
    const READER: &str = "6a1253d2-1785-24fd-91c2-f8e78c745512";
    const STRANGER: &str = "6a1253d2-1785-24fd-91c2-f8e78c745513";
    let acl =
        json!({ "enabled": true, "default_policy": "deny", "tokens": { "master": MASTER, "agent": MASTER } });
    let consul = Consul::start(&json!({ "acl": acl, "primary_datacenter": "dc1" })).with_token(MASTER);
    let [one] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let rules = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    consul.put("/v1/acl/policy", &json!({ "Name": "reader", "Rules": rules }));
    let policies = json!([{ "Name": "reader" }]);
    consul.put("/v1/acl/token", &json!({ "SecretID": READER, "Policies": policies }));
    consul.put("/v1/acl/token", &json!({ "SecretID": STRANGER }));
    // Consul 1.8 hides what a token may not read without saying so.
    let secrets = Secrets::of("6a1253d2-1785-24fd-91c2-f8e78c745500");
    let ambassador = start(&consul, &format!(", token: {{ file: {} }}", secrets.path().display()));
    wait_error(&ambassador, "the token may not read it (HTTP 403: ACL not found)");
    secrets.write(READER);
    wait_members(&ambassador, &[&one]);
    wait_well(&ambassador);
    ambassador.connect().echo("it may read");
    // The next request has it, once the one under way is answered: an answer without endpoints.
    secrets.write(STRANGER);
    let [two] = echoes();
    consul.register("two", "orders", two.port(), &json!({}));
    wait_error(&ambassador, "knows no endpoint any more");
    ambassador.connect().echo("the endpoints stay");
    let log = ambassador.lines().join("\n");
    assert!(!log.contains(READER) && !log.contains("c745500"), "no token is in the log");
}

#[test]
fn without_a_leader_a_stale_answer_serves_and_another_is_an_error() {
    let [one, mut two, mut three] = Consul::start_three();
    let [upstream] = echoes();
    one.register("one", "orders", upstream.port(), &json!({}));
    let stale = start(&one, "");
    let consistent = start(&one, ", stale: false");
    wait_members(&stale, &[&upstream]);
    wait_members(&consistent, &[&upstream]);
    two.kill();
    three.kill();
    wait_error(&consistent, "HTTP 500");
    consistent.connect().echo("the endpoints stay");
    let late = start(&one, "");
    wait_members(&late, &[&upstream]);
    late.connect().echo("from a server without a leader");
    assert!(origin(&stale)["last_error"].is_null());
    two.begin();
    three.begin();
    wait_well(&consistent);
}

#[test]
fn an_agent_is_reached_over_tls_and_over_its_unix_socket() {
    let pki = Pki::new();
    let leaf = pki.server(&["consul.test", "127.0.0.1"]);
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("consul.sock");
    let https = crate::harness::daemon::free_port();
    let consul = Consul::start(&json!({
        "addresses": { "https": "127.0.0.1", "http": format!("IP unix://{}", socket.display()) },
        "ports": { "dns": -1, "grpc": -1, "serf_wan": -1, "https": https },
        "cert_file": leaf.cert, "key_file": leaf.key,
    }));
    let [one] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    let at = |address: &str, more: &str| {
        let source = format!("{{ consul: {{ service: orders, address: \"{address}\"{more} }} }}");
        Ambassador::start(&Config::app(&[&source], ""))
    };
    let over_socket = at(&format!("unix:{}", socket.display()), "");
    wait_members(&over_socket, &[&one]);
    let url = format!("https://127.0.0.1:{https}");
    let over_tls = at(&url, &format!(", ca: {}", pki.ca().display()));
    wait_members(&over_tls, &[&one]);
    let strangers = Pki::new();
    let unverified = at(&url, &format!(", ca: {}", strangers.ca().display()));
    wait_error(&unverified, "the TLS handshake failed");
    assert_eq!(members(&unverified), [""; 0]);
}

#[test]
fn mistakes_have_their_place_and_check_connect_tells_what_was_found() {
    let consul = Consul::start(&json!({}));
    let [one] = echoes();
    consul.register("one", "orders", one.port(), &json!({}));
    for (endpoints, expected) in [
        ("{ consul: {} }", "service"),
        ("{ consul: { service: \"\" } }", "is empty"),
        ("{ consul: { service: a, address: \"http://consul.test:8500\" } }", "has no TLS"),
        ("{ consul: { service: a, address: \"consul:8500\" } }", "is no URL"),
        ("{ consul: { service: a }, srv: _a._tcp.test }", "`srv` and `consul` do not go together"),
        ("{ consul: { service: a, health: critical } }", "passing"),
        ("{ consul: { service: a, token: secret } }", "token"),
        ("{ konsul: { service: a } }", "consul"),
        ("{}", "write a list, or one of `srv`, `file`, `consul`, `etcd`, `kubernetes` and `xds`"),
    ] {
        let told = check(endpoints, &[]).must_exit(78);
        assert!(told.stderr.contains(expected), "{endpoints}: {}", told.stderr);
    }
    check("{ consul: { service: a, address: \"http://consul.test:8500\", allow_plaintext: true } }", &[])
        .must_succeed();
    let told = check(&source(&consul, ""), &["--connect"]).must_succeed();
    assert!(told.stdout.contains(&format!("clusters.up {}", one.address())), "{}", told.stdout);
    let told = check(&source(&consul, "").replace("8500", "8599"), &["--connect"]).must_exit(1);
    assert!(told.stdout.contains("connecting failed"), "{}", told.stdout);
}
