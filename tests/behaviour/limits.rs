//! Caps of a cluster: what is over them is refused at once, costs the upstream nothing, and is let in again
//! when there is room.

use crate::harness::{Ambassador, Config, End, Pki, Upstream, pgwire, roles};

#[test]
fn a_cluster_at_max_connections_refuses_and_admits_again() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador =
        Ambassador::start(&Config::app(&[&upstream.address()], "limits: { max_connections: 2 }"));
    let (mut one, mut two) = (ambassador.connect(), ambassador.connect());
    one.echo("one");
    two.echo("two");
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("cluster_full");
    assert_eq!((record["closed_by"].as_str(), record["attempts"].as_u64()), (Some("ambassador"), Some(0)));
    assert!(record["error"].as_str().expect("an error").contains("max_connections"), "{record}");
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "cluster_full")]), 1.0);
    assert_eq!(upstream.accepted(), 2);
    drop(one);
    ambassador.wait_active(1);
    ambassador.connect().echo("three");
    two.echo("two is as well as before");
}

#[test]
fn dials_over_max_pending_are_refused_while_the_others_hang() {
    let pki = Pki::new();
    let upstream = Upstream::plain(roles::silent);
    let cluster = format!(
        "tls: {{ ca: {} }}\nlimits: {{ max_pending: 2 }}\nconnect: {{ handshake_timeout: 20s, deadline: 25s }}",
        pki.ca().display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let held = [ambassador.connect(), ambassador.connect()];
    upstream.wait_active(2);
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("cluster_full");
    assert!(record["error"].as_str().expect("an error").contains("max_pending"), "{record}");
    assert_eq!(upstream.accepted(), 2);
    drop(held);
}

#[test]
fn a_full_endpoint_is_passed_over_until_all_are_full() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let cluster = "balance: round_robin\nlimits: { max_connections_per_endpoint: 2 }";
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], cluster));
    let held = [(); 4].map(|()| {
        let mut client = ambassador.connect();
        client.echo("held");
        client
    });
    assert_eq!((one.active(), two.active()), (2, 2));
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("cluster_full");
    assert!(record["error"].as_str().expect("an error").contains("max_connections_per_endpoint"), "{record}");
    drop(held);
}

#[test]
fn a_full_postgres_cluster_says_so_in_postgres_words() {
    let upstream = Upstream::plain(roles::silent);
    let config = Config::postgres(&[&upstream.address()], "limits: { max_connections: 1 }");
    let ambassador = Ambassador::start(&config);
    let mut one = ambassador.connect();
    one.send(pgwire::app_startup());
    upstream.wait_active(1);
    let mut two = ambassador.connect();
    two.send(pgwire::app_startup());
    let refusal = pgwire::read_refusal(&mut two);
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("FATAL", "53300"), "{refusal:?}");
    assert_eq!(ambassador.record_of("cluster_full")["session"], refusal.session());
}

/// Far over its cap a listener still answers each connection, counts each, and forgets each.
#[test]
fn a_flood_over_the_cap_is_counted_to_the_last_connection() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 5";
    let ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    let mut held = [(); 5].map(|()| ambassador.connect());
    for client in &mut held {
        client.echo("held");
    }
    let flood: Vec<_> = (0..300).map(|_| ambassador.connect()).collect();
    for mut client in flood {
        assert_eq!(client.ending(), End::Reset);
    }
    for client in &mut held {
        client.echo("still held");
    }
    drop(held);
    ambassador.wait_active(0);
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("accepted_total", &[]), 305.0);
    assert_eq!(metrics.sum("connections_total", &[("outcome", "listener_full")]), 300.0);
    assert_eq!(metrics.sum("connections_total", &[]), 305.0);
    assert_eq!(upstream.accepted(), 5);
    ambassador.connect().echo("and there is room again");
}
