//! Limits of a cluster: sessions over them are refused at once, cost the upstream nothing, and are accepted again when
//! there is room; or they wait for room, if configured.

use rustix::process::Signal;

use std::time::Duration;

use crate::harness::{Ambassador, Config, Conn, End, Pki, ServerTls, Upstream, pgwire, roles, until};

/// Scenario: the pools of a host start, with 300 connections at once to a server whose handshake takes a quarter of a
/// second. With defaults 44 of them were `cluster_full`, although the server had room.
#[test]
fn a_burst_of_300_connections_is_served_with_defaults() {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["srv.test"])).build();
    let upstream = Upstream::plain(move |conn: Conn| {
        let tls = tls.clone();
        async move {
            // The server's handshake time; the test itself does not wait for it.
            tokio::time::sleep(Duration::from_millis(250)).await;
            if let Some(conn) = conn.start_tls(tls).await {
                roles::echo(conn).await;
            }
        }
    });
    let tls = format!("tls: {{ ca: {}, server_name: srv.test }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &tls));
    let mut burst: Vec<_> = (0..300).map(|_| ambassador.connect()).collect();
    for client in &mut burst {
        client.send("ping");
    }
    for client in &mut burst {
        client.expect("ping");
    }
    assert_eq!(upstream.active(), 300, "all at once");
    drop(burst);
    ambassador.wait_active(0);
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "completed")]), 300.0);
}

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
        "tls: {{ ca: {} }}\nlimits: {{ max_pending: 2, queue_timeout: 0s }}\nconnect: {{ handshake_timeout: 20s, deadline: 25s }}",
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
    let cluster = "balance: round_robin\nlimits: { max_connections_per_endpoint: 2, queue_timeout: 0s }";
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

/// Far over its limit a listener still answers, counts and then forgets each connection.
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

/// Scenario: of 120 connections over the limit only 64 may be answered at once. /history counted only those 64.
#[test]
fn history_counts_those_far_over_the_cap_too() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 1";
    let config =
        Config::new().listener("app", body).cluster("up", &[&upstream.address()], "protocol: postgres");
    let ambassador = Ambassador::start(&config);
    let held = ambassador.connect();
    ambassador.wait_active(1);
    let over: Vec<_> = (0..120).map(|_| ambassador.connect()).collect();
    let refused = |outcome: &[(&str, &str)]| ambassador.metrics().sum("connections_total", outcome);
    until("all of them were refused", || (refused(&[("outcome", "listener_full")]) >= 120.0).then_some(()));
    let history = ambassador.get("/history").json();
    let now = history["samples"].as_array().and_then(|samples| samples.last()).expect("the present");
    assert_eq!(now["refused"], 120, "{now}");
    drop((held, over));
}

#[track_caller]
fn wait_waiting(ambassador: &Ambassador, count: u64) {
    until(format!("{count} wait"), || (ambassador.status()["clusters"][0]["waiting"] == count).then_some(()));
    until(format!("the gauge shows {count}"), || {
        let shown = ambassador.metrics().sum("waiting_sessions", &[("cluster", "up")]);
        (shown == count as f64).then_some(())
    });
}

#[test]
fn sessions_wait_for_room_and_are_served_one_by_one_in_their_order() {
    let upstream = Upstream::plain(roles::echo);
    let cluster = "limits: { max_connections: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], cluster));
    let mut one = ambassador.connect();
    one.echo("one");
    let mut two = ambassador.connect();
    wait_waiting(&ambassador, 1);
    let mut three = ambassador.connect();
    wait_waiting(&ambassador, 2);
    drop(one);
    two.echo("two");
    wait_waiting(&ambassador, 1);
    assert_eq!(upstream.accepted(), 2, "the cap holds");
    drop(two);
    three.echo("three");
    wait_waiting(&ambassador, 0);
    assert_eq!(ambassador.metrics().sum("wait_duration_seconds_count", &[("cluster", "up")]), 2.0);
    drop(three);
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
}

#[test]
fn whoever_waits_in_vain_is_refused_and_hears_how_long_it_waited() {
    let upstream = Upstream::plain(roles::echo);
    for times in
        ["queue_timeout: 200ms }", "queue_timeout: 1m }\nconnect: { timeout: 200ms, deadline: 200ms }"]
    {
        let cluster = format!("limits: {{ max_connections: 1, {times}");
        let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
        let mut one = ambassador.connect();
        one.echo("one");
        assert_eq!(ambassador.connect().ending(), End::Reset);
        let record = ambassador.record_of("cluster_full");
        let words = record["error"].as_str().expect("an error");
        assert!(words.contains("max_connections (1), and that did not change in the "), "{record}");
        assert!(words.contains("that it waited (limits.queue_timeout)"), "{record}");
        wait_waiting(&ambassador, 0);
        one.echo("as well as before");
    }
}

#[test]
fn whoever_leaves_while_it_waits_leaves_its_place_to_the_next() {
    let upstream = Upstream::plain(roles::echo);
    let cluster = "limits: { max_connections_per_endpoint: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], cluster));
    let mut one = ambassador.connect();
    one.echo("one");
    let two = ambassador.connect();
    wait_waiting(&ambassador, 1);
    let mut three = ambassador.connect();
    wait_waiting(&ambassador, 2);
    two.reset();
    ambassador.record_of("downstream_gone");
    wait_waiting(&ambassador, 1);
    drop(one);
    three.echo("three");
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn a_queue_that_is_full_refuses_at_once() {
    let upstream = Upstream::plain(roles::echo);
    let cluster =
        "limits: { max_connections: 1, max_pending: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], cluster));
    let mut one = ambassador.connect();
    one.echo("one");
    let mut two = ambassador.connect();
    wait_waiting(&ambassador, 1);
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("cluster_full");
    let words = record["error"].as_str().expect("an error");
    assert!(words.contains("max_connections (1), and 1 sessions wait already"), "{record}");
    drop(one);
    two.echo("two");
}

#[test]
fn who_waits_for_room_goes_on_waiting_when_the_breaker_opens() {
    let pki = Pki::new();
    let upstream = Upstream::plain(roles::silent);
    let cluster = format!(
        "tls: {{ ca: {} }}\nlimits: {{ max_pending: 1, queue_timeout: 3s }}\n\
         connect: {{ handshake_timeout: 1s, attempts: 1, deadline: 1m }}\n\
         circuit_breaker: {{ consecutive_failures: 1, open_for: 1m }}",
        pki.ca().display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut one = ambassador.connect();
    upstream.wait_active(1);
    let mut two = ambassador.connect();
    wait_waiting(&ambassador, 1);
    assert_eq!(one.ending(), End::Reset);
    ambassador.wait_line("breaker open");
    wait_waiting(&ambassador, 1);
    assert_eq!(two.ending(), End::Reset);
    // The refusal names the limit that the session waited for last.
    let record = ambassador.record_where("a refusal", |record| record["attempts"] == 0);
    assert!(
        ["breaker_open", "cluster_full"].contains(&record["outcome"].as_str().expect("a word")),
        "{record}"
    );
    wait_waiting(&ambassador, 0);
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_reload_that_makes_room_serves_those_who_wait() {
    let upstream = Upstream::plain(roles::echo);
    let config = |most: u32| {
        let cluster =
            format!("limits: {{ max_connections: {most}, queue_timeout: 1m }}\nconnect: {{ deadline: 1m }}");
        Config::app(&[&upstream.address()], &cluster)
    };
    let ambassador = Ambassador::start(&config(1));
    let mut one = ambassador.connect();
    one.echo("one");
    let (mut two, mut three) = (ambassador.connect(), ambassador.connect());
    wait_waiting(&ambassador, 2);
    ambassador.rewrite(&config(3));
    ambassador.signal(Signal::HUP);
    two.echo("two");
    three.echo("three");
    one.echo("one is as well as before");
}
