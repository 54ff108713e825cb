//! Endpoints from a control plane that speaks xDS: a server of grpcio's, which is killed, changes its mind, and refuses.

use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::harness::discovery::{
    KeepFolder, check_with, cluster, echoes, member, members, origin, wait_error, wait_members, wait_well,
};
use crate::harness::secrets::Secrets;
use crate::harness::xds::{ControlPlane, at, with};
use crate::harness::{Ambassador, Config, Pki, ambassador, finish, until};

fn config_of(server: &str, section: &str, endpoints: &str) -> Config {
    Config::app(&[&format!("{{ xds: {{ {endpoints} }} }}")], "")
        .top(&format!("xds: {{ servers: \"{server}\"{section} }}"))
}

fn config(plane: &ControlPlane, endpoints: &str) -> Config {
    config_of(&format!("http://{}", plane.address()), "", endpoints)
}

fn start(plane: &ControlPlane) -> Ambassador {
    Ambassador::start(&config(plane, "service: orders"))
}

#[test]
fn endpoints_come_and_go_as_the_control_plane_says() {
    follow(ControlPlane::start());
}

#[test]
#[ignore = "Debian 12 has no go-control-plane: scripts/test-matrix go-control-plane"]
fn endpoints_come_and_go_as_go_control_plane_says() {
    follow(ControlPlane::start_go());
}

fn follow(mut plane: ControlPlane) {
    let [one, two, three] = echoes();
    plane.set("orders", &[with(&one, "weight", 5), with(&two, "health", "UNHEALTHY")]);
    plane.set("invoices", &[at(&three)]);
    let ambassador = start(&plane);
    wait_members(&ambassador, &[&one]);
    assert_eq!(member(&ambassador, &one)["weight"], 5);
    ambassador.connect().echo("found");
    let found = origin(&ambassador);
    assert_eq!(
        (found["kind"].as_str(), found["name"].as_str(), found["found"].as_u64()),
        (Some("xds"), Some("orders"), Some(1))
    );
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    let states = ["DRAINING", "DEGRADED", "HEALTHY"];
    let all = [&one, &two, &three];
    plane.set("orders", &std::array::from_fn::<_, 3, _>(|index| with(all[index], "health", states[index])));
    wait_members(&ambassador, &[&two, &three]);
    let priority = |upstream| member(&ambassador, upstream)["priority"].clone();
    assert_eq!([priority(&two), priority(&three)], [1, 0], "what is degraded comes last");
    lasting.echo("a session of an endpoint that drains goes on");
    let first = plane.wait_request("that subscribes", |request| request["subscribe"] == json!(["orders"]));
    assert_eq!(first["initial"], json!({}));
    let acks: Vec<_> = plane.requests().into_iter().filter(|request| request["nonce"] != "").collect();
    assert!(acks.iter().all(|ack| ack["error"] == "" && ack["node"] == ""), "{acks:?}");
    assert_eq!(plane.streams().len(), 1);
}

/// The name that the control plane knows is the cluster's own, if no other is said.
#[test]
fn all_clusters_share_one_stream_which_a_reload_does_not_end() {
    let mut plane = ControlPlane::start();
    let [one, two, three] = echoes();
    plane.set("up", &[at(&one)]);
    plane.set("other", &[at(&two)]);
    let secrets = Secrets::of("first");
    let section = format!(
        ", token: {{ file: {} }}, node: {{ id: host-7, zone: a, metadata: [NAMESPACE=shop] }}",
        secrets.path().display()
    );
    let server = format!("http://{}", plane.address());
    let ambassador = Ambassador::start(&config_of(&server, &section, ""));
    wait_members(&ambassador, &[&one]);
    ambassador.rewrite(&config_of(&server, &section, "service: other"));
    assert_eq!(ambassador.post("/reload").status, 200);
    wait_members(&ambassador, &[&two]);
    plane.wait_request("that unsubscribes", |request| request["unsubscribe"] == json!(["up"]));
    plane.set("other", &[at(&two), at(&three)]);
    wait_members(&ambassador, &[&two, &three]);
    assert_eq!(plane.streams(), ["Bearer first"]);
    let first = &plane.requests()[0];
    assert_eq!(
        (&first["node"], &first["zone"], &first["metadata"]),
        (&json!("host-7"), &json!("a"), &json!({ "NAMESPACE": "shop" }))
    );
    assert!(plane.requests()[1..].iter().all(|request| request["node"] == ""), "it says once who it is");
    // The next stream has what the file has then.
    secrets.write("second");
    plane.order(&json!({ "end": true }));
    until("there was another stream", || {
        (plane.streams() == ["Bearer first", "Bearer second"]).then_some(())
    });
    ambassador.connect().echo("meanwhile");
}

#[test]
fn what_is_wrong_is_refused_by_name_and_what_was_known_stays() {
    let mut plane = ControlPlane::start();
    let [one, two] = echoes();
    plane.set("orders", &[at(&one)]);
    let ambassador = start(&plane);
    wait_members(&ambassador, &[&one]);
    plane.set("orders", &[at(&two), json!({ "address": "10.0.0.1", "port": 0 })]);
    wait_error(&ambassador, "its endpoints of orders are refused: endpoint 10.0.0.1: 0 is no port");
    let nack = plane.wait_request("that refuses", |request| request["error"] != "");
    assert_eq!(
        (&nack["error"], &nack["nonce"]),
        (&json!("orders: endpoint 10.0.0.1: 0 is no port"), &json!("2"))
    );
    assert_eq!(members(&ambassador), [one.address()]);
    ambassador.connect().echo("the set stays");
    // A new stream tells the version that was accepted, and hears of the bad one again.
    plane.order(&json!({ "end": true }));
    let again = plane.wait_request("of a new stream", |request| request["initial"] != json!({}));
    assert_eq!(again["initial"], json!({ "orders": "1" }));
    plane.set("orders", &[at(&two)]);
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
}

#[test]
fn a_control_plane_that_dies_takes_nothing_with_it() {
    let mut plane = ControlPlane::start();
    let [one, two] = echoes();
    plane.set("orders", &[at(&one)]);
    let ambassador = start(&plane);
    wait_members(&ambassador, &[&one]);
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    plane.kill();
    wait_error(&ambassador, "failed");
    lasting.echo("after");
    ambassador.connect().echo("a new session, too");
    plane.begin();
    // It has forgotten all: what is removed is believed with `empty: accept` alone.
    wait_error(&ambassador, "knows no endpoint any more");
    ambassador.connect().echo("the set stays");
    plane.set("orders", &[at(&two)]);
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
}

#[test]
fn a_removed_cluster_is_believed_where_that_is_configured() {
    let mut plane = ControlPlane::start();
    let [one] = echoes();
    plane.set("orders", &[at(&one)]);
    let ambassador = Ambassador::start(&config(&plane, "service: orders, empty: accept"));
    wait_members(&ambassador, &[&one]);
    plane.order(&json!({ "remove": ["orders"] }));
    wait_members(&ambassador, &[]);
    wait_well(&ambassador);
}

/// Fifteen seconds, as Envoy's documentation says.
#[test]
fn a_cluster_that_the_control_plane_does_not_know_is_told_in_words() {
    let plane = ControlPlane::start();
    let ambassador = start(&plane);
    plane.wait_request("came", |_| true);
    wait_error(&ambassador, "it says nothing about orders, so there is no such cluster");
    ambassador.connect().ending();
    let error = ambassador.record_of("no_endpoint")["error"].to_string();
    assert!(error.contains("it says nothing about orders"), "{error}");
}

#[test]
fn a_refusal_is_told_in_the_control_planes_words() {
    let mut plane = ControlPlane::start();
    let [one] = echoes();
    plane.set("orders", &[at(&one)]);
    plane.order(&json!({ "refuse": ["PERMISSION_DENIED", "host-7 is not welcome"] }));
    let ambassador = start(&plane);
    wait_error(&ambassador, "PERMISSION_DENIED: host-7 is not welcome");
    plane.order(&json!({ "refuse": null }));
    wait_members(&ambassador, &[&one]);
    wait_well(&ambassador);
    plane.order(&json!({ "refuse": ["UNIMPLEMENTED", ""] }));
    wait_error(&ambassador, "UNIMPLEMENTED");
    ambassador.connect().echo("the set stays");
}

#[test]
fn a_host_that_starts_while_the_control_plane_is_down_serves_with_what_was_kept() {
    let mut plane = ControlPlane::start();
    let [one, two] = echoes();
    plane.set("orders", &[at(&one)]);
    let folder = KeepFolder::new();
    let config = folder.of(config(&plane, "service: orders"));
    folder.fill(&config, &one);
    plane.kill();
    let after = Ambassador::start(&config);
    wait_members(&after, &[&one]);
    assert_eq!(cluster(&after)["discovery"][1]["kind"], "kept");
    after.connect().echo("kept");
    plane.begin();
    plane.set("orders", &[at(&two)]);
    wait_members(&after, &[&two]);
}

#[test]
fn a_control_plane_is_reached_over_tls_and_over_a_unix_socket() {
    let (pki, strangers) = (Pki::new(), Pki::new());
    let [one] = echoes();
    let mut plane = ControlPlane::start_with(&pki.server(&["127.0.0.1"]));
    plane.set("orders", &[at(&one)]);
    let verified = |pki: &Pki| {
        let (server, section) =
            (format!("https://{}", plane.address()), format!(", ca: {}", pki.ca().display()));
        Ambassador::start(&config_of(&server, &section, "service: orders"))
    };
    let good = verified(&pki);
    wait_members(&good, &[&one]);
    let unverified = verified(&strangers);
    wait_error(&unverified, "the TLS handshake failed");
    assert_eq!(members(&unverified), [""; 0]);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("xds.sock").display());
    let mut local = ControlPlane::start_at(socket.clone(), None);
    local.set("orders", &[at(&one)]);
    wait_members(&Ambassador::start(&config_of(&socket, "", "service: orders")), &[&one]);
}

/// The one that is dead is passed over.
#[test]
fn of_several_servers_one_that_lives_is_asked() {
    let mut plane = ControlPlane::start();
    let [one] = echoes();
    plane.set("orders", &[at(&one)]);
    let servers = format!("\"http://127.0.0.1:1\", \"http://{}\", \"http://127.0.0.1:2\"", plane.address());
    let config =
        Config::app(&["{ xds: { service: orders } }"], "").top(&format!("xds: {{ servers: [{servers}] }}"));
    let ambassador = Ambassador::start(&config);
    wait_members(&ambassador, &[&one]);
    wait_well(&ambassador);
}

/// The kernel takes connections for a process that is frozen: it counted as a control plane that works, with nothing to say.
#[test]
fn a_server_that_says_nothing_is_left() {
    let mut plane = ControlPlane::start();
    let [one] = echoes();
    plane.set("orders", &[at(&one)]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let frozen = listener.local_addr().expect("an address");
    let alone = Ambassador::start(&config_of(&format!("http://{frozen}"), "", "service: orders"));
    wait_error(&alone, "has said nothing for 10s: that is no HTTP/2, or it is frozen");
    let servers = format!("\"http://{frozen}\", \"http://{}\"", plane.address());
    let config = Config::app(&["{ xds: { service: orders } }"], "");
    let both = Ambassador::start(&config.top(&format!("xds: {{ servers: [{servers}] }}")));
    wait_members(&both, &[&one]);
    wait_well(&both);
    drop(listener);
}

#[test]
fn a_cluster_that_comes_while_there_is_no_control_plane_is_told_why() {
    let mut plane = ControlPlane::start();
    let [one, two] = echoes();
    plane.set("orders", &[at(&one)]);
    let ambassador = start(&plane);
    wait_members(&ambassador, &[&one]);
    plane.kill();
    wait_error(&ambassador, "failed");
    ambassador.rewrite(&config(&plane, "service: invoices"));
    assert_eq!(ambassador.post("/reload").status, 200);
    wait_error(&ambassador, "failed");
    assert_eq!(origin(&ambassador)["name"], "invoices");
    ambassador.connect().echo("the endpoints of before stay");
    plane.begin();
    plane.set("invoices", &[at(&two)]);
    wait_members(&ambassador, &[&two]);
}

#[test]
fn mistakes_have_their_place_and_check_connect_tells_what_was_found() {
    let mut plane = ControlPlane::start();
    let [one] = echoes();
    plane.set("orders", &[at(&one)]);
    let dir = tempfile::tempdir().expect("a folder");
    let check = |config: &Config, arguments: &[&str]| {
        let file = dir.path().join("listeners.yaml");
        fs::write(&file, config.render(dir.path())).expect("a file");
        finish(ambassador().arg("check").args(arguments).arg("--config").arg(&file))
    };
    for (server, section, endpoints, expected) in [
        ("http://xds.test:1", "", "", &["xds.servers: http://xds.test:1 has no TLS"][..]),
        ("http://127.0.0.1:1", ", ca: webpki", "", &["xds.ca: has no effect"]),
        ("http://127.0.0.1:1", "", "service: \"*\"", &["xds.service: stands for all clusters"]),
        ("http://127.0.0.1:1", "", "service: \"xdstp://a/b\"", &["xds.service: is a name of xDS federation"]),
        (
            "x",
            ", node: { metadata: [a, \"=b\"] }",
            "service: \"\"",
            &[
                "xds.servers: x is no URL",
                "xds.node.metadata: a is not of the form",
                "=b is not",
                "xds.service: is empty",
            ],
        ),
    ] {
        let told = check(&config_of(server, section, endpoints), &[]).must_exit(78);
        for part in expected {
            assert!(told.stderr.contains(part), "{part}: {}", told.stderr);
        }
    }
    let told = check_with("{ xds: {} }", &[], |_| {}).must_exit(78);
    assert!(told.stderr.contains("needs the section `xds` at the top"), "{}", told.stderr);
    let told = check(&config(&plane, "service: orders"), &["--connect"]).must_succeed();
    assert!(told.stdout.contains(&format!("clusters.up {}", one.address())), "{}", told.stdout);
    plane.kill();
    let told = check(&config(&plane, "service: orders"), &["--connect"]).must_exit(1);
    assert!(told.stdout.contains("connecting failed"), "{}", told.stdout);
}
