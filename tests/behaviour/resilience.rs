//! Endpoints and clusters that fail: ejection, breaker, retry budget, priorities; their effect on clients, and their
//! cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Ambassador, BlackHole, ClosedPort, Config, End, Pki, Upstream, roles, until};

fn endpoint(ambassador: &Ambassador, place: usize) -> Value {
    ambassador.status()["clusters"][0]["endpoints"][place].clone()
}

fn attempts(ambassador: &Ambassador, address: &str) -> f64 {
    ambassador.metrics().sum("connect_attempts_total", &[("endpoint", address)])
}

fn serve(ambassador: &Ambassador, sessions: usize) {
    (0..sessions).for_each(|_| ambassador.connect().echo("served"));
}

/// Refused sessions, in sequence.
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
fn an_endpoint_that_works_again_returns_by_a_trial_that_no_client_pays_for() {
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
    let failed = |ambassador: &Ambassador| ambassador.metrics().sum("trials_total", &[("result", "failed")]);
    until("a trial failed", || (failed(&ambassador) > 0.0).then_some(()));
    let attempted = attempts(&ambassador, &address);
    drop(dead);
    let back = Upstream::plain_at(&address, roles::echo);
    until("it returned", || endpoint(&ambassador, 0)["ejected"].is_null().then_some(()));
    ambassador.wait_line("endpoint returned");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("endpoint_ejected", &[]), 0.0);
    assert_eq!(metrics.sum("trials_total", &[("result", "ok")]), 1.0);
    assert_eq!(back.accepted(), 1, "the trial alone");
    assert_eq!(attempts(&ambassador, &address), attempted, "no session was sent there");
}

/// Scenario: probes found an endpoint healthy a second after it was back, but it got no session until its ejection was
/// over.
#[test]
fn a_probe_that_finds_it_healthy_ends_an_ejection() {
    let (mut dying, upstream) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let address = dying.address();
    let config = Config::app(
        &[&address, &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 1h, max_ejection_time: 1h }\n\
         health_check: { interval: 100ms, unhealthy_threshold: 100, healthy_threshold: 1 }",
    );
    let ambassador = Ambassador::start(&config);
    until("it was found healthy", || (endpoint(&ambassador, 0)["health"] == "healthy").then_some(()));
    dying.stop();
    until("it was ejected", || {
        serve(&ambassador, 1);
        (!endpoint(&ambassador, 0)["ejected"].is_null()).then_some(())
    });
    let _back = Upstream::plain_at(&address, roles::echo);
    until("it returned", || endpoint(&ambassador, 0)["ejected"].is_null().then_some(()));
}

/// Scenario: two of three endpoints stayed ejected though they worked again, and all attempts of a session went to the
/// third, which had just died.
#[test]
fn a_session_goes_on_to_an_ejected_endpoint_that_serves_again() {
    let dead = ClosedPort::new();
    let address = dead.address();
    let mut last = Upstream::plain(roles::echo);
    let config = Config::app(
        &[&address, &last.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 1h, max_ejection_time: 1h }",
    );
    let ambassador = Ambassador::start(&config);
    until("it was ejected", || {
        serve(&ambassador, 1);
        (!endpoint(&ambassador, 0)["ejected"].is_null()).then_some(())
    });
    drop(dead);
    let back = Upstream::plain_at(&address, roles::echo);
    last.stop();
    serve(&ambassador, 20);
    assert_eq!(back.accepted(), 20);
    assert!(endpoint(&ambassador, 0)["ejected"].is_null(), "a session that succeeds ends an ejection");
}

/// Each dropped SYN costs a session `connect.timeout`.
#[test]
fn an_endpoint_that_hangs_costs_sessions_a_fraction_of_the_timeout_and_is_set_aside() {
    let (hole, upstream) = (BlackHole::new(), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&hole.address(), &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 1h, max_ejection_time: 1h }",
    );
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 20);
    let records = ambassador.wait_records(20);
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
    assert_eq!(endpoint(&ambassador, 0)["ejected"]["fault"], "connect");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("hedged_dials_total", &[("result", "won")]), 3.0);
    assert_eq!(metrics.sum("connect_attempts_total", &[("result", "outpaced")]), 3.0);
    assert_eq!(metrics.sum("connect_attempts_total", &[("result", "connect_timeout")]), 0.0);
    let hedged = records.iter().find(|record| record["attempts"] == 2).expect("one was hedged");
    assert_eq!(hedged["endpoint"], upstream.address());
}

#[test]
fn without_hedging_a_session_waits_for_the_whole_timeout() {
    let (hole, upstream) = (BlackHole::new(), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&hole.address(), &upstream.address()],
        "balance: first\nconnect: { hedge_after: none, timeout: 300ms }",
    );
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 1);
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("connect_attempts_total", &[("result", "connect_timeout")]), 1.0);
    assert_eq!(metrics.sum("hedged_dials_total", &[]), 0.0);
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

/// A cluster that refuses at once, and is tried again after a minute.
const HASTY: &str =
    "connect: { attempts: 1 }\ncircuit_breaker: { open_for: 1m }\nlimits: { queue_timeout: 0s }";

#[test]
fn an_open_breaker_refuses_at_once_and_dials_nobody_where_nobody_may_wait() {
    let dead = ClosedPort::new();
    let ambassador = Ambassador::start(&Config::app(&[&dead.address()], HASTY));
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

/// Scenario: five failed dials to the dead endpoint refused all sessions, while another endpoint served.
#[test]
fn the_breaker_stays_closed_while_an_endpoint_serves() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&dead.address(), &upstream.address()],
        "balance: first\ncircuit_breaker: { consecutive_failures: 1 }\noutlier_detection: { consecutive_failures: 0 }",
    );
    let ambassador = Ambassador::start(&config);
    serve(&ambassador, 30);
    assert_eq!(attempts(&ambassador, &dead.address()), 30.0);
    assert_eq!(ambassador.metrics().sum("breaker_transitions_total", &[]), 0.0);
}

#[test]
fn while_the_breaker_is_open_we_try_and_not_the_clients() {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let cluster = format!(
        "tls: {{ ca: {} }}\nconnect: {{ handshake_timeout: 10s, attempts: 1, deadline: 10s }}\n\
         circuit_breaker: {{ consecutive_failures: 1, open_for: 200ms, max_open_for: 200ms }}\nlimits: {{ queue_timeout: 0s }}",
        pki.ca().display()
    );
    let dead = ClosedPort::new();
    let ambassador = Ambassador::start(&Config::app(&[&dead.address()], &cluster));
    fail(&ambassador, 1);
    assert!(
        ["open", "half_open"]
            .contains(&ambassador.status()["clusters"][0]["breaker"].as_str().expect("a word"))
    );
    let address = dead.address();
    drop((dead, hanging));
    let hanging = Upstream::plain_at(&address, roles::silent);
    hanging.wait_accepted(1);
    assert_eq!(ambassador.status()["clusters"][0]["breaker"], "half_open");
    fail(&ambassador, 10);
    assert_eq!(hanging.accepted(), 1, "one trial of an endpoint at a time, and no client's dial");
    let refused = ambassador.record_of("breaker_open");
    assert!(refused["error"].as_str().expect("an error").contains("being tried"), "{refused}");
}

/// Scenario: sessions worked only 24 s after a server's return; until then each of them was refused.
#[test]
fn sessions_wait_for_a_server_that_is_away_for_a_moment_and_none_is_lost() {
    let dead = ClosedPort::new();
    let address = dead.address();
    let ambassador = Ambassador::start(&Config::app(&[&address], ""));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = ambassador.connect();
            client.send(b"waits");
            client
        })
        .collect();
    ambassador.wait_line("breaker open");
    until("they wait", || (ambassador.metrics().sum("waiting_sessions", &[]) >= 15.0).then_some(()));
    drop(dead);
    let _back = Upstream::plain_at(&address, roles::echo);
    for mut client in clients {
        client.expect("waits");
    }
    ambassador.wait_line("breaker closed");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("breaker_state", &[]), 0.0);
    assert_eq!(metrics.sum("breaker_transitions_total", &[("to", "open")]), 1.0);
    serve(&ambassador, 3);
}

#[test]
fn sessions_that_waited_in_vain_are_told_for_what() {
    let dead = ClosedPort::new();
    let cluster = "connect: { attempts: 1 }\ncircuit_breaker: { consecutive_failures: 1 }\nlimits: { queue_timeout: 200ms }";
    let ambassador = Ambassador::start(&Config::app(&[&dead.address()], cluster));
    fail(&ambassador, 2);
    let refused = ambassador.record_of("breaker_open");
    let error = refused["error"].as_str().expect("an error");
    assert!(error.contains("every endpoint failed") && error.contains("queue_timeout"), "{error}");
}

#[test]
fn where_all_refuse_a_session_goes_on_until_its_deadline() {
    let dead = [(); 2].map(|()| ClosedPort::new());
    let addresses = dead.each_ref().map(ClosedPort::address);
    let config = Config::app(
        &addresses.each_ref().map(String::as_str),
        "connect: { deadline: 500ms, timeout: 500ms }\ncircuit_breaker: { consecutive_failures: 0 }",
    );
    let ambassador = Ambassador::start(&config);
    fail(&ambassador, 1);
    let record = ambassador.record();
    assert_eq!(
        record["outcome"], "connect_failed",
        "what the endpoints did says more than that time is over"
    );
    assert!(record["attempts"].as_u64().expect("a number") > 3, "{record}");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("refused") && error.contains("connect.deadline"), "{error}");
}

#[test]
fn retries_wait_for_their_budget() {
    let pki = Pki::new();
    let mute = [(); 2].map(|()| Upstream::plain(|conn| async move { drop(conn) }));
    let addresses = mute.each_ref().map(Upstream::address);
    let cluster = format!(
        "tls: {{ ca: {} }}\nconnect: {{ deadline: 1s, timeout: 1s, retry_budget: {{ ratio: 0, min_per_second: 0 }} }}\n\
         circuit_breaker: {{ consecutive_failures: 0 }}\noutlier_detection: {{ consecutive_failures: 0 }}",
        pki.ca().display()
    );
    let ambassador = Ambassador::start(&Config::app(&addresses.each_ref().map(String::as_str), &cluster));
    let mut clients: Vec<_> = (0..40).map(|_| ambassador.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ending(), End::Reset));
    let records = ambassador.wait_records(40);
    // A session whose deadline ends within an attempt reports the deadline.
    let is_expected =
        |record: &Value| ["tls_failed", "deadline_exceeded"].iter().any(|said| record["outcome"] == *said);
    assert!(records.iter().all(is_expected), "{records:?}");
    assert!(ambassador.metrics().sum("retry_budget_exhausted_total", &[("cluster", "up")]) > 0.0);
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
fn a_server_that_ends_sessions_without_a_word_is_ejected_and_no_trial_brings_it_back() {
    let mute = Upstream::plain(|conn| async move { drop(conn) });
    let upstream = Upstream::plain(|mut conn| async move { drop(conn.write_all(b"220").await) });
    let config = Config::app(
        &[&mute.address(), &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 50ms, max_ejection_time: 50ms }",
    );
    let ambassador = Ambassador::start(&config);
    for _ in 0..20 {
        drop(ambassador.connect().read_out());
    }
    ambassador.wait_records(20);
    until("trials failed", || {
        (ambassador.metrics().sum("trials_total", &[("result", "failed")]) >= 2.0).then_some(())
    });
    assert_eq!(attempts(&ambassador, &mute.address()), 3.0, "trials are not sessions");
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

/// The sessions of an endpoint are ended when probes find it down, with that reason.
#[test]
fn on_unhealthy_ends_the_sessions_of_an_endpoint_that_goes_down() {
    let up = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&up);
    let switchable = Upstream::plain(move |mut conn| {
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
        &[&switchable.address()],
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
