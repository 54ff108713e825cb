//! Balancing: round robin, least connections, weights.

use crate::harness::{Ambassador, Client, Config, Upstream, roles};

fn weighted(upstream: &Upstream, weight: u32) -> String {
    format!("{{ address: \"{}\", weight: {weight} }}", upstream.address())
}

/// Opens `count` sessions that have reached an upstream, and keeps them open.
fn hold(ambassador: &Ambassador, count: usize) -> Vec<Client> {
    let open = |_| {
        let mut client = ambassador.connect();
        client.echo("held");
        client
    };
    (0..count).map(open).collect()
}

#[test]
fn round_robin_takes_endpoints_in_turn() {
    let upstreams = [(); 3].map(|()| Upstream::plain(roles::echo));
    let addresses = upstreams.each_ref().map(Upstream::address);
    let config = Config::app(&addresses.each_ref().map(String::as_str), "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    for _ in 0..9 {
        ambassador.connect().echo("turn");
    }
    assert_eq!(upstreams.each_ref().map(Upstream::accepted), [3, 3, 3]);
}

#[test]
fn round_robin_follows_weights_without_bursts() {
    let (heavy, light) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let config = Config::app(&[&weighted(&heavy, 3), &weighted(&light, 1)], "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    for _ in 0..4 {
        drop(hold(&ambassador, 4));
        assert_eq!(heavy.accepted(), 3 * light.accepted(), "in each four, three and one");
    }
}

#[test]
fn least_connections_is_the_default_and_levels_live_sessions() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], ""));
    let held = hold(&ambassador, 6);
    assert_eq!((one.active(), two.active()), (3, 3));
    assert_eq!(ambassador.status()["clusters"][0]["balance"], "least_connections");
    drop(held);
}

#[test]
fn least_connections_goes_where_sessions_ended() {
    let (one, two) = (Upstream::plain(roles::greet("one")), Upstream::plain(roles::greet("two")));
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], ""));
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut client = ambassador.connect();
        let name = client.receive(3);
        held.push((name, client));
    }
    held.retain(|(name, _)| name == b"two");
    one.wait_active(0);
    ambassador.wait_active(3);
    for _ in 0..3 {
        let mut client = ambassador.connect();
        client.expect("one");
        held.push((b"one".to_vec(), client));
    }
    assert_eq!((one.active(), two.active()), (3, 3));
}

#[test]
fn least_connections_counts_load_by_weight() {
    let (heavy, light) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let config = Config::app(&[&weighted(&heavy, 2), &weighted(&light, 1)], "balance: least_connections");
    let ambassador = Ambassador::start(&config);
    let held = hold(&ambassador, 9);
    assert_eq!((heavy.active(), light.active()), (6, 3));
    drop(held);
}

/// Hanging dials count as load. If only established sessions counted, a hanging endpoint would look idle and get all
/// of them.
#[test]
fn least_connections_counts_dials_in_flight() {
    let pki = crate::harness::Pki::new();
    let (one, two) = (Upstream::plain(roles::silent), Upstream::plain(roles::silent));
    let tls = format!(
        "tls: {{ ca: {} }}\nconnect: {{ handshake_timeout: 20s, deadline: 30s }}",
        pki.ca().display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], &tls));
    let held: Vec<Client> = (0..6).map(|_| ambassador.connect()).collect();
    one.wait_active(3);
    two.wait_active(3);
    assert_eq!(ambassador.status()["clusters"][0]["pending_dials"], 6);
    assert_eq!(ambassador.metrics().sum("pending_dials", &[("cluster", "up")]), 6.0);
    drop(held);
}

#[test]
fn status_counts_sessions_of_each_endpoint() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], ""));
    let held = hold(&ambassador, 4);
    let status = ambassador.status();
    let cluster = &status["clusters"][0];
    assert_eq!((cluster["name"].as_str(), cluster["sessions"].as_u64()), (Some("up"), Some(4)));
    for (endpoint, upstream) in cluster["endpoints"].as_array().expect("endpoints").iter().zip([&one, &two]) {
        assert_eq!(endpoint["name"], upstream.address());
        assert_eq!(endpoint["sessions"], 2);
        let labels = [("cluster", "up"), ("endpoint", &upstream.address())];
        assert_eq!(ambassador.metrics().sum("endpoint_sessions", &labels), 2.0);
    }
    drop(held);
}
