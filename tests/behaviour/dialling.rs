//! Dialling: which failures are retried elsewhere, how often, for how long, and what cancels a dial.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Ambassador, BlackHole, ClosedPort, Config, End, Pki, ServerTls, Upstream, roles};

/// A cluster whose TLS handshakes go to servers that never answer them.
fn hanging_tls(pki: &Pki, connect: &str) -> String {
    format!("tls: {{ ca: {} }}\nconnect: {{ {connect} }}", pki.ca().display())
}

#[track_caller]
fn assert_duration(record: &Value, from_ms: f64, below_ms: f64) {
    let took = record["duration_ms"].as_f64().expect("a duration");
    assert!((from_ms..below_ms).contains(&took), "{took} ms, and {from_ms} to {below_ms} were due");
}

#[test]
fn a_dead_endpoint_costs_an_attempt_and_no_session() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(&[&dead.address(), &upstream.address()], "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    for _ in 0..6 {
        ambassador.connect().echo("served");
    }
    let records = ambassador.wait_records(6);
    assert!(records.iter().all(|record| record["outcome"] == "completed"));
    assert!(records.iter().all(|record| record["endpoint"] == upstream.address()));
    assert!(
        records.iter().any(|record| record["attempts"] == 2),
        "round robin begins with the dead one now and then"
    );
}

#[test]
fn attempts_are_bounded_and_each_goes_to_another_endpoint() {
    let dead = [(); 5].map(|()| ClosedPort::new());
    let addresses = dead.each_ref().map(ClosedPort::address);
    let config = Config::app(
        &addresses.each_ref().map(String::as_str),
        "connect: { attempts: 3, backoff: { base: 1ms, max: 2ms } }",
    );
    let ambassador = Ambassador::start(&config);
    assert_eq!(ambassador.connect().ending(), End::Reset, "a refusal for tcp is a reset");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "connect_failed");
    assert_eq!(record["attempts"], 3);
    assert_eq!(record["closed_by"], "ambassador");
    assert!(record["error"].as_str().expect("an error").to_lowercase().contains("refused"));
    let metrics = ambassador.metrics();
    let tried = addresses
        .each_ref()
        .map(|address| metrics.sum("connect_attempts_total", &[("cluster", "up"), ("endpoint", address)]));
    assert_eq!(tried.iter().sum::<f64>(), 3.0);
    assert!(tried.iter().all(|count| *count <= 1.0), "an endpoint was tried twice: {tried:?}");
    assert_eq!(metrics.sum("connections_total", &[("outcome", "connect_failed")]), 1.0);
    assert_eq!(ambassador.status()["clusters"][0]["pending_dials"], 0);
}

#[test]
fn status_shows_the_last_error_of_an_endpoint() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(&[&dead.address(), &upstream.address()], "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    for _ in 0..2 {
        ambassador.connect().echo("served");
    }
    let status = ambassador.status();
    let endpoints = status["clusters"][0]["endpoints"].as_array().expect("endpoints");
    assert!(endpoints[0]["last_error"].as_str().expect("an error").to_lowercase().contains("refused"));
    assert!(endpoints[1]["last_error"].is_null());
}

#[test]
fn one_attempt_means_no_retry() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&dead.address(), &upstream.address()],
        "balance: round_robin\nconnect: { attempts: 1 }",
    );
    let ambassador = Ambassador::start(&config);
    // Round robin: one of two consecutive sessions begins, and then also ends, with the dead endpoint.
    let ends: Vec<bool> = (0..2)
        .map(|_| {
            let mut client = ambassador.connect();
            client.offer("x");
            client.read_out().1 == End::Reset
        })
        .collect();
    assert_eq!(ends.iter().filter(|reset| **reset).count(), 1);
    assert_eq!(ambassador.record_of("connect_failed")["attempts"], 1);
}

#[test]
fn a_connect_that_hangs_ends_after_connect_timeout() {
    let hole = BlackHole::new();
    let config = Config::app(&[&hole.address()], "connect: { timeout: 300ms, attempts: 1 }");
    let ambassador = Ambassador::start(&config);
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "connect_failed");
    assert_duration(&record, 300.0, 3000.0);
}

#[test]
fn a_handshake_that_hangs_ends_after_handshake_timeout_and_goes_on_elsewhere() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let good = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let cluster =
        format!("balance: round_robin\n{}", hanging_tls(&pki, "handshake_timeout: 300ms, hedge_after: none"));
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address(), &good.address()], &cluster));
    for _ in 0..2 {
        ambassador.connect().echo("served");
    }
    let record = ambassador.record_where("two attempts", |record| record["attempts"] == 2);
    assert_eq!(record["outcome"], "completed");
    assert_duration(&record, 300.0, 5000.0);
}

#[test]
fn the_deadline_holds_over_all_attempts() {
    let pki = Pki::new();
    let hanging = [(); 3].map(|()| Upstream::plain(roles::silent));
    let addresses = hanging.each_ref().map(Upstream::address);
    let cluster = hanging_tls(&pki, "handshake_timeout: 20s, attempts: 3, deadline: 500ms");
    let ambassador = Ambassador::start(&Config::app(&addresses.each_ref().map(String::as_str), &cluster));
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "deadline_exceeded");
    assert_duration(&record, 500.0, 4000.0);
    for upstream in &hanging {
        upstream.wait_active(0);
    }
}

/// Scenario: such a dial was counted as cancelled, as if the client had left, the hanging endpoint showed no error,
/// and the session, which relayed nothing, was counted among those that did.
#[test]
fn a_handshake_that_the_deadline_cuts_is_the_endpoints_failure_and_no_session() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = hanging_tls(&pki, "handshake_timeout: 20s, deadline: 500ms");
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address()], &cluster));
    assert_eq!(ambassador.connect().ending(), End::Reset);
    assert_eq!(ambassador.record()["outcome"], "deadline_exceeded");
    let metrics = ambassador.metrics();
    let attempts = |labels: &[(&str, &str)]| metrics.sum("connect_attempts_total", labels);
    assert_eq!(attempts(&[("result", "deadline"), ("endpoint", &hanging.address())]), 1.0);
    assert_eq!(attempts(&[]), 1.0, "one attempt has one result");
    assert_eq!(metrics.sum("connections_total", &[("outcome", "deadline_exceeded")]), 1.0);
    assert_eq!(metrics.sum("session_duration_seconds_count", &[]), 0.0, "no session had an upstream");
    let status = ambassador.status();
    let told = status["clusters"][0]["endpoints"][0]["last_error"].as_str().expect("an error");
    assert!(told.contains("connect.deadline") && told.contains("handshake"), "{told}");
}

/// An upstream that died after it got a byte may have acted on it, so no other endpoint gets that byte.
#[test]
fn nothing_is_retried_once_a_byte_of_the_client_went_upstream() {
    let (one, two) = (Upstream::plain(roles::reset_after(5)), Upstream::plain(roles::reset_after(5)));
    let ambassador = Ambassador::start(&Config::app(&[&one.address(), &two.address()], ""));
    let mut client = ambassador.connect();
    client.send("hello");
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!((record["outcome"].as_str(), record["attempts"].as_u64()), (Some("upstream_reset"), Some(1)));
    assert_eq!(one.accepted() + two.accepted(), 1);
}

#[test]
fn bytes_sent_while_we_dial_arrive_once_and_whole() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let good =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::answer_after_end("thanks"));
    let cluster = format!("balance: round_robin\n{}", hanging_tls(&pki, "handshake_timeout: 300ms"));
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address(), &good.address()], &cluster));
    for _ in 0..2 {
        let mut client = ambassador.connect();
        client.send("early bytes");
        // A half-close after data does not mean that the client left: it still wants the answer.
        client.end_sending();
        assert_eq!(client.read_out(), (b"thanks".to_vec(), End::Orderly));
    }
    assert_eq!(good.notes().iter().filter(|note| *note == "all: early bytes").count(), 2);
    assert!(ambassador.wait_records(2).iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn a_client_that_resets_cancels_the_dial() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = hanging_tls(&pki, "handshake_timeout: 20s, deadline: 25s");
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address()], &cluster));
    let mut client = ambassador.connect();
    client.send("data first, so that only the reset can mean departure");
    hanging.wait_active(1);
    client.reset();
    hanging.wait_active(0);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "downstream_gone");
    assert_eq!(record["closed_by"], "downstream");
    assert_duration(&record, 0.0, 15_000.0);
    assert_eq!(ambassador.status()["clusters"][0]["pending_dials"], 0);
}

#[test]
fn a_client_that_ends_without_a_byte_cancels_the_dial() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = hanging_tls(&pki, "handshake_timeout: 20s, deadline: 25s");
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address()], &cluster));
    let client = ambassador.connect();
    hanging.wait_active(1);
    drop(client);
    hanging.wait_active(0);
    assert_eq!(ambassador.record()["outcome"], "downstream_gone");
}

/// A port scan of a plain listener never reaches the server: a connection that ends without a byte is recognised
/// before anything is dialled.
#[test]
fn a_client_that_is_gone_when_it_is_accepted_costs_the_upstream_nothing() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    // Otherwise the worker may be faster than the client.
    ambassador.frozen(|| drop(ambassador.connect()));
    assert_eq!(ambassador.record()["outcome"], "downstream_gone");
    assert_eq!(upstream.accepted(), 0);
}

/// The first bytes are read before the dial; a half-close behind them is still only a half-close.
#[test]
fn a_client_that_spoke_and_ended_its_side_before_a_plain_dial_is_served() {
    let (hanging, upstream) = (BlackHole::new(), Upstream::plain(roles::answer_after_end("thanks")));
    let cluster = "balance: round_robin\nconnect: { timeout: 300ms }";
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address(), &upstream.address()], cluster));
    for _ in 0..2 {
        let mut client = ambassador.connect();
        client.send("early bytes");
        client.end_sending();
        assert_eq!(client.read_out(), (b"thanks".to_vec(), End::Orderly));
    }
    let records = ambassador.wait_records(2);
    assert!(records.iter().all(|record| record["sent_bytes"] == 11), "{records:?}");
}

/// A cancelled dial counts against no endpoint.
#[test]
fn a_cancelled_dial_leaves_no_error_on_the_endpoint() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = hanging_tls(&pki, "handshake_timeout: 20s, deadline: 25s");
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address()], &cluster));
    let client = ambassador.connect();
    hanging.wait_active(1);
    client.reset();
    ambassador.record_of("downstream_gone");
    assert!(ambassador.status()["clusters"][0]["endpoints"][0]["last_error"].is_null());
}

#[test]
fn localhost_leads_to_this_host_by_whichever_family_answers() {
    // It is ::1 and 127.0.0.1 on most hosts, and only the latter has a listener here.
    let upstream = Upstream::plain(roles::echo);
    let endpoint = format!("localhost:{}", upstream.port());
    let ambassador = Ambassador::start(&Config::app(&[&endpoint], ""));
    ambassador.connect().echo("by name");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "completed");
    assert_eq!(record["endpoint"], upstream.address());
    assert_eq!(ambassador.status()["clusters"][0]["endpoints"][0]["host"], "localhost");
}

#[test]
fn a_name_that_does_not_resolve_fails_the_session_and_says_the_name() {
    // `.invalid` never resolves (RFC 6761); the resolver may take its time to report that.
    let ambassador =
        Ambassador::start(&Config::app(&["nobody.invalid:5432"], "connect: { attempts: 1, deadline: 20s }"));
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "no_endpoint", "a name without an address is no endpoint");
    assert!(record["error"].as_str().expect("an error").contains("nobody.invalid"));
}

#[test]
fn a_server_that_speaks_first_is_dialled_without_waiting_for_the_client() {
    let upstream = Upstream::plain(roles::greet("220 ready\r\n"));
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let mut client = ambassador.connect();
    client.expect("220 ready\r\n");
    client.echo("EHLO");
    drop(client);
    let record = ambassador.record();
    assert!(record["first_byte_ms"].is_number());
    assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (Some(4), Some(15)));
}

#[test]
fn a_record_tells_the_whole_story_of_a_session() {
    let upstream = Upstream::plain(|mut conn| async move {
        let mut five = [0; 5];
        drop(conn.read_exact(&mut five).await);
        drop(conn.write_all(b"twelve bytes").await);
        drop(conn.shutdown().await);
    });
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let mut client = ambassador.connect();
    client.send("hello");
    assert_eq!(client.read_out().0, b"twelve bytes");
    drop(client);
    let record = ambassador.record();
    let fields = [
        "session",
        "listener",
        "cluster",
        "endpoint",
        "attempts",
        "resolve_ms",
        "connect_ms",
        "greeting_ms",
        "handshake_ms",
        "login_as",
        "login_ms",
        "first_byte_ms",
        "duration_ms",
        "sent_bytes",
        "received_bytes",
        "tls",
        "outcome",
        "closed_by",
        "error",
    ];
    for field in fields {
        assert!(record.get(field).is_some(), "the record lacks {field}: {record}");
    }
    assert_eq!(record["session"].as_str().map(str::len), Some(16));
    assert_eq!((record["listener"].as_str(), record["cluster"].as_str()), (Some("app"), Some("up")));
    assert_eq!(record["endpoint"], upstream.address());
    assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (Some(5), Some(12)));
    assert!(record["tls"].is_null() && record["error"].is_null());
    let took = Duration::from_secs_f64(record["duration_ms"].as_f64().expect("a duration") / 1000.0);
    assert!(took < Duration::from_secs(10));
}

#[test]
fn local_address_is_where_the_dial_comes_from() {
    let upstream = Upstream::plain(roles::send_peer_address);
    let config = Config::app(&[&upstream.address()], "connect: { local_address: 127.0.0.7 }");
    let ambassador = Ambassador::start(&config);
    ambassador.connect().expect("127.0.0.7");
}
