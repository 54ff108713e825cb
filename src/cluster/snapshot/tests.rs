//! What one process writes, another restores.

use fastrand::Rng;
use serde_json::{Value, json};

use super::*;
use crate::cluster::health_check::{self, ProbeKind};
use crate::cluster::{EndpointView, Settings, fixture};
use crate::cluster::{Source, SrvService};
use crate::policy::health;
use crate::policy::outlier::{self, State as Outlier};

const TWO: [&str; 2] = ["10.0.0.1:1", "10.0.0.2:1"];

/// A cluster of which all is known that a snapshot may have.
fn checked(endpoints: &[&str]) -> Settings {
    let [short, long] = [500, 10_000].map(Duration::from_millis);
    let rhythm = health::Settings { interval: long, healthy_threshold: 2, unhealthy_threshold: 3 };
    Settings {
        health_check: Some(health_check::Settings { kind: ProbeKind::Tcp, timeout: short, rhythm }),
        outlier: Some(outlier::Settings {
            consecutive_failures: 2,
            base_ejection_time: short,
            max_ejection_time: long,
            early_close: Duration::ZERO,
        }),
        breaker: Some(breaker_of(short)),
        ..fixture::settings(endpoints)
    }
}

fn breaker_of(open_for: Duration) -> breaker::Settings {
    breaker::Settings { consecutive_failures: 3, open_for, max_open_for: open_for, half_open_trials: 1 }
}

/// The same cluster, with its endpoints found by a query.
fn found(settings: Settings) -> Settings {
    let service = SrvService { name: "_db._tcp.test".into(), server_name: None, own_domain_only: false };
    Settings { source: Some(Source::Service(service)), endpoints: Vec::new(), ..settings }
}

fn resumed(settings: Settings, snapshot: &Value) -> Arc<Cluster> {
    let snapshot = serde_json::from_value(snapshot.clone()).unwrap();
    Cluster::resume(settings, Rng::with_seed(2), snapshot)
}

fn only(cluster: &Cluster, name: &str) -> EndpointView {
    cluster.view().into_iter().find(|view| view.endpoint.settings().name.as_str() == name).unwrap()
}

/// The snapshot of a cluster whose first endpoint is unhealthy and whose second is disabled.
fn written() -> Value {
    let cluster = Cluster::new(checked(&TWO), Rng::with_seed(1));
    let rhythm = cluster.settings().health_check.as_ref().unwrap().rhythm;
    let first = &cluster.endpoints()[0];
    cluster
        .probe_table
        .resume(first, Health::resume(rhythm, HealthStatus::Unhealthy, clock::now(), clock::now()));
    cluster.set_health(first.id(), HealthStatus::Unhealthy, Err(Some("it says no")));
    assert!(cluster.set_admin("10.0.0.2:1", Admin::Disabled));
    serde_json::to_value(cluster.snapshot()).unwrap()
}

#[test]
fn health_and_orders_are_those_of_before() {
    let cluster = resumed(checked(&["10.0.0.2:1", "10.0.0.1:1"]), &written());
    let first = only(&cluster, "10.0.0.1:1");
    assert_eq!((first.health, first.admin), (HealthStatus::Unhealthy, Admin::Enabled));
    assert_eq!(first.last_error.as_deref(), Some("it says no"));
    assert_eq!(first.observed.unwrap().status, HealthStatus::Unhealthy, "its probes go on from there");
    let second = only(&cluster, "10.0.0.2:1");
    assert_eq!((second.admin, second.observed), (Admin::Disabled, None));
    // A third process restores the same.
    let again = serde_json::to_value(cluster.snapshot()).unwrap();
    let third = resumed(checked(&TWO), &again);
    assert_eq!(only(&third, "10.0.0.1:1").health, HealthStatus::Unhealthy);
    assert_eq!(only(&third, "10.0.0.2:1").admin, Admin::Disabled);
}

#[test]
fn only_the_same_server_is_known_again_and_only_where_it_has_a_meaning() {
    let snapshot = written();
    let mut other = checked(&TWO);
    other.endpoints.iter_mut().for_each(|endpoint| endpoint.server_name = "other.test".try_into().unwrap());
    let cluster = resumed(other, &snapshot);
    assert_eq!(only(&cluster, "10.0.0.1:1").health, HealthStatus::Undecided, "another name for TLS");
    let cluster = resumed(fixture::settings(&TWO), &snapshot);
    assert_eq!(only(&cluster, "10.0.0.1:1").health, HealthStatus::Undecided, "nobody looks any more");
    assert_eq!(only(&cluster, "10.0.0.2:1").admin, Admin::Disabled);
}

#[test]
fn endpoints_that_are_found_later_are_known_when_they_come() {
    let snapshot = written();
    let found = found(checked(&TWO));
    let cluster = resumed(found.clone(), &snapshot);
    assert_eq!(cluster.view().len(), 0);
    let handed_on = serde_json::to_value(cluster.snapshot()).unwrap();
    let cluster = resumed(found, &handed_on);
    cluster.set_endpoints(checked(&TWO).endpoints);
    assert_eq!(only(&cluster, "10.0.0.1:1").health, HealthStatus::Unhealthy);
    assert_eq!(only(&cluster, "10.0.0.2:1").admin, Admin::Disabled);
}

#[test]
fn breaker_ejections_and_estimates_go_on() {
    let present = Clocks::new();
    let soon = present.usec + 3_000_000;
    let snapshot = json!({
        "breaker": { "state": "open", "until": soon, "rounds": 2 },
        "endpoints": [{
            "name": "10.0.0.1:1", "addresses": ["10.0.0.1:1"], "server_name": "10.0.0.1",
            "outlier": { "ejected": ["connect", soon], "times": 4, "failures": { "handshake": 1 } },
            "dial_seconds": 0.25, "dialled": present.usec, "failing": true,
            "success_seconds": 0.125, "succeeded": present.usec - 1_000_000,
        }, {
            "name": "10.0.0.2:1", "addresses": ["10.0.0.2:1"], "server_name": "10.0.0.2", "failing": true,
        }],
    });
    let cluster = resumed(checked(&TWO), &snapshot);
    let Some(breaker::State::Open { until }) = cluster.breaker() else { panic!("it is open") };
    assert!(until > present.now + Duration::from_millis(200), "no longer than max_open_for");
    let first = only(&cluster, "10.0.0.1:1");
    assert!(matches!(first.outlier, Outlier::Ejected { fault: Fault::Connect, .. }));
    assert_eq!(first.dial_time, Some(Duration::from_millis(250)));
    let again = serde_json::to_value(cluster.snapshot()).unwrap();
    assert_eq!(again["endpoints"][0]["outlier"]["times"], 4);
    assert_eq!(again["endpoints"][0]["outlier"]["failures"]["handshake"], 1);
    assert_eq!(again["breaker"]["rounds"], 2);
    // By these hedging tells a slow dial from a usual one.
    assert_eq!(again["endpoints"][0]["success_seconds"], 0.125);
    let succeeded = again["endpoints"][0]["succeeded"].as_i64().unwrap();
    assert!(succeeded.abs_diff(present.usec - 1_000_000) < 1_000_000, "{succeeded}");
}

/// Scenario: endpoints by name, all of them down, and the process is replaced. As soon as the names were resolved again
/// the breaker closed and logged that an endpoint served again, because the endpoints' state was restored only after
/// they had joined.
#[test]
fn an_open_breaker_stays_open_when_failing_endpoints_are_found_again() {
    let soon = Clocks::new().usec + 60_000_000;
    let failing =
        |name: &str| json!({ "name": name, "addresses": [name], "server_name": "10.0.0.1", "failing": true });
    let snapshot = json!({
        "breaker": { "state": "open", "until": soon, "rounds": 2 },
        "endpoints": [failing("10.0.0.1:1")],
    });
    let breaker = Some(breaker_of(Duration::from_secs(60)));
    let cluster = resumed(found(Settings { breaker, ..fixture::settings(&[]) }), &snapshot);
    let is_open = |cluster: &Cluster| matches!(cluster.breaker(), Some(breaker::State::Open { .. }));
    assert!(is_open(&cluster), "nothing is known yet");
    cluster.set_endpoints(vec![fixture::endpoint(TWO[0])]);
    assert!(is_open(&cluster), "it is the one that failed");
    cluster.set_endpoints(TWO.map(fixture::endpoint).into());
    assert!(!is_open(&cluster), "one that nobody has tried may be good");
}

#[test]
fn what_another_version_says_is_passed_over_and_nonsense_does_no_harm() {
    let snapshot = json!({
        "mood": "new",
        "breaker": { "state": "ajar", "until": i64::MAX },
        "endpoints": [
            {
                "name": "10.0.0.1:1", "addresses": ["10.0.0.1:1"], "server_name": "10.0.0.1", "colour": "red",
                "order": "pondering", "health": { "status": "poorly", "since": i64::MIN },
                "outlier": { "ejected": ["boredom", 1], "back": i64::MAX },
                "dial_seconds": -1.0, "back_since": i64::MIN,
            },
            { "name": "10.0.0.2:1", "addresses": ["10.0.0.2:1"], "server_name": "10.0.0.2",
              "dial_seconds": 1e300, "outlier": { "ejected": ["connect", i64::MAX] } },
            {},
        ],
    });
    let cluster = resumed(checked(&TWO), &snapshot);
    assert_eq!(cluster.breaker(), Some(breaker::State::Closed { failures: 0 }));
    let first = only(&cluster, "10.0.0.1:1");
    assert_eq!((first.health, first.admin, first.dial_time), (HealthStatus::Undecided, Admin::Enabled, None));
    assert_eq!(first.outlier, Outlier::In);
    let second = only(&cluster, "10.0.0.2:1");
    let Outlier::Ejected { until, .. } = second.outlier else { panic!("it is ejected") };
    assert!(until <= clock::now() + Duration::from_secs(60), "no longer than max_ejection_time");
}
