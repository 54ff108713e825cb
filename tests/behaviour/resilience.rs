//! Endpoints and clusters that fail: ejection, the breaker, the retry budget, priorities; what clients notice of it, and
//! what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Ambassador, ClosedPort, Config, End, Pki, Upstream, roles, until};

fn endpoint(ambassador: &Ambassador, place: usize) -> Value {
    ambassador.status()["clusters"][0]["endpoints"][place].clone()
}

fn attempts(ambassador: &Ambassador, address: &str) -> f64 {
    ambassador.metrics().sum("connect_attempts_total", &[("endpoint", address)])
}

fn serve(ambassador: &Ambassador, sessions: usize) {
    (0..sessions).for_each(|_| ambassador.connect().echo("served"));
}

/// Refused sessions, one after the other.
fn fail(ambassador: &Ambassador, sessions: usize) {
    (0..sessions).for_each(|_| assert_eq!(ambassador.connect().ending(), End::Reset));
}

#[test]
fn a_dead_endpoint_is_ejected_after_three_failures_and_no_client_notices() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&dead.address(), &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 1m }",
    );
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 100);
    assert!(ambassador.wait_records(100).iter().all(|record| record["outcome"] == "completed"));
    assert_eq!(attempts(&ambassador, &dead.address()), 3.0);
    let ejected = endpoint(&ambassador, 0);
    assert_eq!(ejected["ejected"]["fault"], "connect", "{ejected}");
    assert!(
        (1.0..60.0).contains(&ejected["ejected"]["seconds_left"].as_f64().expect("a number")),
        "{ejected}"
    );
    assert!(endpoint(&ambassador, 1)["ejected"].is_null());
    let metrics = ambassador.metrics();
    let labels = [("cluster", "up"), ("endpoint", &*dead.address())];
    assert_eq!(metrics.sum("endpoint_ejected", &labels), 1.0);
    assert_eq!(metrics.sum("endpoint_ejected", &[]), 1.0);
    assert_eq!(metrics.sum("ejections_total", &[("fault", "connect")]), 1.0);
    ambassador.wait_line("endpoint ejected");
}

#[test]
fn an_endpoint_that_works_again_returns_by_one_dial() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let address = dead.address();
    let config = Config::app(
        &[&address, &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 100ms, max_ejection_time: 100ms }",
    );
    let ambassador = Ambassador::start(&config);
    until("it was ejected", || {
        serve(&ambassador, 1);
        (!endpoint(&ambassador, 0)["ejected"].is_null()).then_some(())
    });
    drop(dead);
    let back = Upstream::plain_at(&address, roles::echo);
    until("it returned", || {
        serve(&ambassador, 1);
        endpoint(&ambassador, 0)["ejected"].is_null().then_some(())
    });
    ambassador.wait_line("endpoint returned");
    assert_eq!(ambassador.metrics().sum("endpoint_ejected", &[]), 0.0);
    assert_eq!(back.accepted(), 1, "the dial on trial, and the session that it was for");
}

#[test]
fn the_only_endpoint_is_never_ejected() {
    let dead = ClosedPort::new();
    let config = Config::app(
        &[&dead.address()],
        "connect: { attempts: 1 }\ncircuit_breaker: { consecutive_failures: 0 }",
    );
    let ambassador = Ambassador::start(&config);
    fail(&ambassador, 10);
    assert_eq!(attempts(&ambassador, &dead.address()), 10.0);
    assert!(endpoint(&ambassador, 0)["ejected"].is_null());
    let status = ambassador.status();
    assert!(status["clusters"][0]["breaker"].is_null(), "0 is never: {status}");
}

#[test]
fn an_open_breaker_refuses_at_once_and_dials_nobody() {
    let dead = ClosedPort::new();
    let config =
        Config::app(&[&dead.address()], "connect: { attempts: 1 }\ncircuit_breaker: { open_for: 1m }");
    let ambassador = Ambassador::start(&config);
    fail(&ambassador, 25);
    let records = ambassador.wait_records(25);
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].as_str().expect("a word")).collect();
    assert_eq!(outcomes[..5], ["connect_failed"; 5]);
    assert_eq!(outcomes[5..], ["breaker_open"; 20]);
    assert_eq!(attempts(&ambassador, &dead.address()), 5.0);
    let refused = &records[24];
    assert_eq!((refused["attempts"].as_u64(), refused["closed_by"].as_str()), (Some(0), Some("ambassador")));
    assert!(refused["error"].as_str().expect("an error").contains("circuit_breaker"), "{refused}");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("breaker_state", &[("cluster", "up")]), 2.0);
    assert_eq!(metrics.sum("breaker_transitions_total", &[("cluster", "up"), ("to", "open")]), 1.0);
    assert_eq!(metrics.sum("connections_total", &[("outcome", "breaker_open")]), 20.0);
    let cluster = &ambassador.status()["clusters"][0];
    assert_eq!(cluster["breaker"], "open");
    assert!(cluster["breaker_seconds_left"].as_f64().expect("a number") > 30.0, "{cluster}");
    ambassador.wait_line("breaker open");
}

#[test]
fn a_half_open_breaker_makes_exactly_one_dial() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = format!(
        "tls: {{ ca: {} }}\nconnect: {{ handshake_timeout: 1s, attempts: 1 }}\n\
         circuit_breaker: {{ consecutive_failures: 1, open_for: 200ms }}",
        pki.ca().display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&hanging.address()], &cluster));
    fail(&ambassador, 1);
    until("its time was over", || {
        (ambassador.status()["clusters"][0]["breaker_seconds_left"] == 0.0).then_some(())
    });
    let mut trying = ambassador.connect();
    hanging.wait_accepted(2);
    assert_eq!(ambassador.status()["clusters"][0]["breaker"], "half_open");
    fail(&ambassador, 10);
    assert_eq!(hanging.accepted(), 2);
    let refused = ambassador.record_of("breaker_open");
    assert!(refused["error"].as_str().expect("an error").contains("being tried"), "{refused}");
    assert_eq!(trying.ending(), End::Reset);
    assert_eq!(ambassador.status()["clusters"][0]["breaker"], "open");
}

#[test]
fn a_breaker_closes_when_a_dial_succeeds() {
    let dead = ClosedPort::new();
    let address = dead.address();
    let cluster = "connect: { attempts: 1 }\ncircuit_breaker: { consecutive_failures: 1, open_for: 50ms }";
    let ambassador = Ambassador::start(&Config::app(&[&address], cluster));
    fail(&ambassador, 1);
    drop(dead);
    let _back = Upstream::plain_at(&address, roles::echo);
    until("the breaker closed", || ambassador.connect().try_echo("x").then_some(()));
    assert_eq!(ambassador.status()["clusters"][0]["breaker"], "closed");
    assert_eq!(ambassador.metrics().sum("breaker_state", &[]), 0.0);
    ambassador.wait_line("breaker closed");
}

#[test]
fn retries_stop_when_their_budget_is_used_up() {
    let dead = [(); 2].map(|()| ClosedPort::new());
    let addresses = dead.each_ref().map(ClosedPort::address);
    let config = Config::app(
        &addresses.each_ref().map(String::as_str),
        "connect: { attempts: 2, retry_budget: { ratio: 0, min_per_second: 0 } }\n\
         circuit_breaker: { consecutive_failures: 0 }\noutlier_detection: { consecutive_failures: 0 }",
    );
    let ambassador = Ambassador::start(&config);
    fail(&ambassador, 12);
    let records = ambassador.wait_records(12);
    let attempts: Vec<_> =
        records.iter().map(|record| record["attempts"].as_u64().expect("a number")).collect();
    assert_eq!(attempts, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1], "ten are there to begin with");
    let error = records[11]["error"].as_str().expect("an error");
    assert!(error.contains("refused") && error.contains("retry_budget is used up"), "{error}");
    assert_eq!(ambassador.metrics().sum("retry_budget_exhausted_total", &[("cluster", "up")]), 2.0);
}

#[test]
fn sessions_spill_over_to_the_next_priority_and_return() {
    let (mut primary, standby) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let address = primary.address();
    let second = format!("{{ address: \"{}\", priority: 1 }}", standby.address());
    let config = Config::app(
        &[&address, &second],
        "outlier_detection: { base_ejection_time: 100ms, max_ejection_time: 100ms }",
    );
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 5);
    assert_eq!((primary.accepted(), standby.accepted()), (5, 0));
    primary.stop();
    serve(&ambassador, 10);
    assert_eq!(standby.accepted(), 10);
    let back = Upstream::plain_at(&address, roles::echo);
    until("the primary was used again", || {
        serve(&ambassador, 1);
        (back.accepted() > 0).then_some(())
    });
    let before = standby.accepted();
    serve(&ambassador, 5);
    assert_eq!(standby.accepted(), before);
}

#[test]
fn a_server_that_ends_sessions_without_a_word_is_ejected_where_that_is_asked_for() {
    let mute = Upstream::plain(|conn| async move { drop(conn) });
    let upstream = Upstream::plain(|mut conn| async move { drop(conn.write_all(b"220").await) });
    let config = Config::app(
        &[&mute.address(), &upstream.address()],
        "balance: round_robin\noutlier_detection: { early_close: 10s, base_ejection_time: 1m }",
    );
    let ambassador = Ambassador::start(&config);
    for _ in 0..20 {
        drop(ambassador.connect().read_out());
    }
    ambassador.wait_records(20);
    assert_eq!(mute.accepted(), 3);
    assert_eq!(endpoint(&ambassador, 0)["ejected"]["fault"], "early_close");
}

#[test]
fn source_hash_keeps_an_address_on_one_endpoint() {
    let upstreams = [(); 4].map(|()| Upstream::plain(roles::echo));
    let addresses = upstreams.each_ref().map(Upstream::address);
    let config = Config::app(&addresses.each_ref().map(String::as_str), "balance: source_hash");
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 12);
    let mut accepted = upstreams.each_ref().map(Upstream::accepted);
    accepted.sort_unstable();
    assert_eq!(accepted, [0, 0, 0, 12]);
}

#[test]
fn first_goes_down_the_list() {
    let (dead, one, two) = (ClosedPort::new(), Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let config = Config::app(&[&dead.address(), &one.address(), &two.address()], "balance: first");
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 10);
    assert_eq!((one.accepted(), two.accepted()), (10, 0));
    assert_eq!(attempts(&ambassador, &dead.address()), 3.0);
}

#[test]
fn status_shows_how_long_dials_take() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], "balance: ewma"));
    assert!(endpoint(&ambassador, 0)["dial_ms"].is_null());
    serve(&ambassador, 1);
    let took = endpoint(&ambassador, 0)["dial_ms"].as_f64().expect("it was dialled");
    assert!((0.0..10_000.0).contains(&took), "{took}");
}

/// Its sessions are ended when probes find it down, and say why.
#[test]
fn on_unhealthy_ends_the_sessions_of_an_endpoint_that_goes_down() {
    let up = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&up);
    let moody = Upstream::plain(move |mut conn| {
        let up = Arc::clone(&asked);
        async move {
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = conn.read(&mut buffer).await {
                let answer = if up.load(Ordering::SeqCst) { &buffer[..read] } else { b"no" };
                if conn.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    });
    let config = Config::app(
        &[&moody.address()],
        "health_check: { type: exchange, interval: 100ms, timeout: 1s, \
         exchange: { send: ping, expect: ping } }\non_unhealthy: close\nclosing_time: 0s",
    );
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.echo("before");
    up.store(false, Ordering::SeqCst);
    client.ending();
    let record = ambassador.record_of("endpoint_down");
    assert_eq!(record["closed_by"], "ambassador");
    up.store(true, Ordering::SeqCst);
    until("it was healthy again", || (endpoint(&ambassador, 0)["health"] == "healthy").then_some(()));
    ambassador.connect().echo("after");
}
