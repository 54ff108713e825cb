//! Limits on a session's life and on its idle time.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Ambassador, Config, Pki, ServerTls, Upstream, roles};

/// An echo upstream, plain or TLS, behind an ambassador with these `session:` keys; returns the record of `drive`'s
/// session.
fn session(tls: bool, keys: &str, drive: impl Fn(&Ambassador)) -> Value {
    let pki = Pki::new();
    let upstream = match tls {
        false => Upstream::plain(roles::echo),
        true => Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo),
    };
    let tls = if tls { format!("tls: {{ ca: {} }}\n", pki.ca().display()) } else { String::new() };
    let ambassador =
        Ambassador::start(&Config::app(&[&upstream.address()], &format!("{tls}session: {{ {keys} }}")));
    drive(&ambassador);
    upstream.wait_active(0);
    ambassador.record()
}

#[track_caller]
fn ended_by_us(record: &Value, outcome: &str, after: Duration) {
    assert_eq!(
        (record["outcome"].as_str(), record["closed_by"].as_str()),
        (Some(outcome), Some("ambassador")),
        "{record}"
    );
    let took = Duration::from_secs_f64(record["duration_ms"].as_f64().expect("a duration") / 1000.0);
    assert!(took >= after && took < after + Duration::from_secs(8), "{outcome} after {took:?}");
}

#[test]
fn an_idle_session_is_ended() {
    for tls in [false, true] {
        let record = session(tls, "idle_timeout: 400ms", |ambassador| {
            let mut client = ambassador.connect();
            client.echo("then silence");
            client.ending();
        });
        ended_by_us(&record, "idle_timeout", Duration::from_millis(400));
    }
}

#[test]
fn a_session_that_moves_a_byte_now_and_then_is_not_idle() {
    for tls in [false, true] {
        let record = session(tls, "idle_timeout: 1s", |ambassador| {
            let mut client = ambassador.connect();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2500) {
                client.echo(".");
                // The pace is what is tested: well below the limit, well above nothing.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        assert_eq!(record["outcome"], "completed");
    }
}

#[test]
fn no_session_outlives_max_lifetime_however_busy() {
    for tls in [false, true] {
        let record = session(tls, "max_lifetime: 600ms", |ambassador| {
            let mut client = ambassador.connect();
            let start = Instant::now();
            while client.try_echo(".") {
                assert!(start.elapsed() < Duration::from_secs(10), "it goes on and on");
            }
        });
        ended_by_us(&record, "max_lifetime", Duration::from_millis(600));
    }
}

#[test]
fn a_session_without_limits_stays() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "session: { idle_timeout: none, max_lifetime: none }");
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.echo("one");
    client.echo("two");
    assert_eq!(ambassador.records().len(), 0);
}
