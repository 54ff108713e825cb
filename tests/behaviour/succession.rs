//! State that a process hands to its successor: health, ejections, breakers, operators' requests, and counters that
//! never fall.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Signal, kill_process};

use crate::harness::{Ambassador, Client, ClosedPort, Config, End, Upstream, finish, roles, until};
use crate::health::{switchable, wait_health};
use crate::replacement::{process, under_keeper};

/// A down endpoint stays so for a hundred good probes, a second apart: without the handed-over state one would make it
/// healthy.
const CHECK: &str = "health_check: { type: exchange, interval: 10s, healthy_threshold: 100, \
                     exchange: { send: 'ping\\n', expect: 'pong\\n' } }";

/// Three servers: one is down by its probes, one is disabled by an operator, one serves.
struct Three {
    down: Upstream,
    is_up: Arc<AtomicBool>,
    disabled: Upstream,
    serving: Upstream,
}

impl Three {
    fn new() -> Self {
        let (is_up, always) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let [disabled, serving] = [(); 2].map(|()| Upstream::plain(switchable(&always)));
        Self { down: Upstream::plain(switchable(&is_up)), is_up, disabled, serving }
    }

    fn config(&self, more: &str) -> Config {
        let endpoints = [self.down.address(), self.disabled.address(), self.serving.address()];
        Config::app(
            &endpoints.each_ref().map(String::as_str),
            &format!("balance: round_robin\n{CHECK}\n{more}"),
        )
    }

    /// Waits until the daemon knows all of it, and then removes the cause of the first.
    #[track_caller]
    fn prepare(&self, ambassador: &Ambassador) {
        wait_health(ambassador, &self.down.address(), "unhealthy");
        let order = format!("/clusters/up/endpoints/{}/disable", self.disabled.address());
        assert_eq!(ambassador.post(&order).status, 200);
        self.is_up.store(true, Ordering::SeqCst);
    }

    /// Sessions go to the third alone, beginning with the first.
    #[track_caller]
    fn are_known(&self, ambassador: &Ambassador) {
        let before = ambassador.records().len();
        (0..12).for_each(|_| ambassador.connect().echo("hello"));
        let records = ambassador.wait_records(before + 12);
        let elsewhere =
            records[before..].iter().filter(|record| record["endpoint"] != self.serving.address());
        assert_eq!(elsewhere.count(), 0, "{records:?}");
        let status = ambassador.status();
        let endpoints = &status["clusters"][0]["endpoints"];
        assert_eq!(endpoints[0]["health"], "unhealthy");
        assert_eq!(endpoints[1]["state"], "disabled");
        let metrics = ambassador.metrics();
        let healthy = |place: usize| {
            let name = endpoints[place]["name"].as_str().expect("a name");
            metrics.sum("endpoint_healthy", &[("endpoint", name)])
        };
        assert_eq!([healthy(0), healthy(1), healthy(2)], [0.0, 0.0, 1.0]);
    }
}

/// Every counter, by name and labels.
fn sums(ambassador: &Ambassador) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let metrics = ambassador.metrics();
    let is_sum = |name: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let kind = [Some(name), family].into_iter().flatten().find_map(|name| metrics.types.get(name));
        name.starts_with("ambassador_") && kind.is_some_and(|kind| kind != "gauge")
    };
    let all = metrics.samples().iter().filter(|sample| is_sum(&sample.name));
    all.map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value)).collect()
}

#[track_caller]
fn none_fell(
    before: &BTreeMap<(String, BTreeMap<String, String>), f64>,
    after: &BTreeMap<(String, BTreeMap<String, String>), f64>,
) {
    // Sums of seconds, added in another order, differ in their last digit.
    let has_fallen = |now: f64, sum: f64| now < sum - sum.abs() * 1e-9;
    let fell: Vec<_> = before
        .iter()
        .filter(|(series, sum)| after.get(series).is_none_or(|now| has_fallen(*now, **sum)))
        .collect();
    assert!(fell.is_empty(), "before, and less or nothing now: {fell:?}");
}

#[test]
fn a_successor_knows_who_is_down_and_what_was_ordered_from_the_first_session_on() {
    let three = Three::new();
    let mut ambassador = Ambassador::start(&three.config(""));
    three.prepare(&ambassador);
    ambassador.replace();
    three.are_known(&ambassador);
    ambassador.wait_line("the predecessor's state is restored");
    // And its successor gets it from it.
    ambassador.replace();
    three.are_known(&ambassador);
}

#[test]
fn a_reload_of_the_cluster_keeps_who_is_down_and_what_was_ordered() {
    let three = Three::new();
    let ambassador = Ambassador::start(&three.config(""));
    three.prepare(&ambassador);
    ambassador.rewrite(&three.config("connect: { attempts: 2 }"));
    assert_eq!(ambassador.post("/reload").json()["changes"][0], "cluster up changed");
    three.are_known(&ambassador);
}

/// A cluster whose first server is dead, and one whose servers are all dead.
fn failing(dead: &ClosedPort, serving: &Upstream, more: &str) -> Config {
    let (dead, serving) = (dead.address(), serving.address());
    Config::app(
        &[&dead, &serving],
        &format!("balance: round_robin\noutlier_detection: {{ base_ejection_time: 1m }}\n{more}"),
    )
    .listener("broken", "bind: 127.0.0.1:0\ncluster: broken")
    .cluster(
        "broken",
        &[&dead],
        &format!(
            "connect: {{ attempts: 1 }}\ncircuit_breaker: {{ consecutive_failures: 2, open_for: 1m }}\n{more}"
        ),
    )
}

#[track_caller]
fn is_set_aside(ambassador: &Ambassador, dead: &ClosedPort) {
    let attempts = |metrics: &crate::harness::Metrics, cluster: &str| {
        metrics.sum("connect_attempts_total", &[("cluster", cluster), ("endpoint", &dead.address())])
    };
    let before = ambassador.metrics();
    (0..6).for_each(|_| ambassador.connect().echo("served"));
    let refusals =
        ambassador.records().into_iter().filter(|record| record["outcome"] == "breaker_open").count();
    assert_eq!(ambassador.connect_to("broken").ending(), End::Reset);
    until("the breaker had refused it", || {
        let refused = ambassador.records().into_iter().filter(|record| record["outcome"] == "breaker_open");
        (refused.count() == refusals + 1).then_some(())
    });
    let after = ambassador.metrics();
    for cluster in ["up", "broken"] {
        assert_eq!(attempts(&after, cluster), attempts(&before, cluster), "{cluster}");
    }
    // Half-open, while a trial is on its way.
    assert!(after.sum("breaker_state", &[("cluster", "broken")]) >= 1.0);
    assert_eq!(after.sum("endpoint_ejected", &[("cluster", "up"), ("endpoint", &dead.address())]), 1.0);
    let status = ambassador.status();
    assert_eq!(status["clusters"][0]["endpoints"][0]["ejected"]["fault"], "connect");
    assert!(status["clusters"][0]["endpoints"][1]["dial_ms"].as_f64().expect("an estimate") > 0.0);
}

#[test]
fn ejections_and_open_breakers_outlive_a_replacement_and_a_reload() {
    let (dead, serving) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let mut ambassador = Ambassador::start(&failing(&dead, &serving, ""));
    (0..12).for_each(|_| ambassador.connect().echo("served"));
    (0..2).for_each(|_| assert_eq!(ambassador.connect_to("broken").ending(), End::Reset));
    ambassador.wait_line("breaker open");
    ambassador.wait_line("endpoint ejected");
    ambassador.replace();
    is_set_aside(&ambassador, &dead);
    ambassador.rewrite(&failing(&dead, &serving, "slow_start: 1s"));
    let changes = ambassador.post("/reload").json()["changes"].clone();
    assert_eq!(changes.as_array().map(Vec::len), Some(2), "{changes}");
    is_set_aside(&ambassador, &dead);
}

#[test]
fn no_sum_falls_and_what_the_old_process_still_counts_is_counted() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let address = ambassador.address("app");
    let mut session = ambassador.connect();
    let first_words = "of the first process";
    session.echo(first_words);
    let words = "at any time";
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                Client::tcp(address).expect("the listener accepts").echo(words);
                times += 1;
            }
            times
        })
    };
    let mut before = sums(&ambassador);
    for _ in 0..5 {
        ambassador.replace();
        for _ in 0..3 {
            let now = sums(&ambassador);
            none_fell(&before, &now);
            before = now;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let times: usize = client.join().expect("no client failed");
    until("the session of the first process was the only one", || {
        (ambassador.metrics().sum("sessions_active", &[]) == 1.0).then_some(())
    });
    assert_eq!(ambassador.metrics().sum("endpoint_sessions", &[]), 1.0);
    assert_eq!(ambassador.status()["listeners"][0]["active"], 0, "it is not one of this process");
    // The processes between it and us have ended; its last report arrives all the same.
    let bytes = "x".repeat(100_000);
    session.echo(&bytes);
    drop(session);
    let all = first_words.len() + times * words.len() + bytes.len();
    until(format!("every process had said what its sessions sent, {all} bytes"), || {
        (ambassador.metrics().sum("sent_bytes_total", &[]) == all as f64).then_some(())
    });
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("sessions_active", &[]), 0.0);
    assert_eq!(metrics.sum("replacements_total", &[("result", "ok")]), 5.0);
    assert_eq!(metrics.sum("accepted_total", &[]), metrics.sum("connections_total", &[]));
}

#[test]
fn a_restart_with_systemds_store_goes_on_from_what_was_known() {
    let three = Three::new();
    let ambassador = under_keeper(&three.config(""));
    three.prepare(&ambassador);
    three.are_known(&ambassador);
    let (before, first) = (sums(&ambassador), process(&ambassador));
    kill_process(first, Signal::TERM).expect("the first process");
    until("the next process answered", || {
        // Between the two no process answers, but the queue waits.
        let pid = ambassador.try_get("/status").ok()?.json()["pid"].as_i64()?;
        (pid != i64::from(first.as_raw_nonzero().get())).then_some(())
    });
    none_fell(&before, &sums(&ambassador));
    three.are_known(&ambassador);
    until("the store was told of it", || {
        ambassador.notified().iter().any(|line| line == "FDNAME=ambassador-kept.snapshot").then_some(())
    });
}

#[test]
fn a_successor_of_another_kind_begins_anew_and_says_so() {
    let three = Three::new();
    let mut ambassador = Ambassador::start(&three.config(""));
    three.prepare(&ambassador);
    // With another name it is another cluster.
    let endpoints = [three.down.address(), three.disabled.address()];
    let renamed = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: other").cluster(
        "other",
        &endpoints.each_ref().map(String::as_str),
        CHECK,
    );
    ambassador.rewrite(&renamed);
    ambassador.replace();
    wait_health(&ambassador, &three.down.address(), "healthy");
    assert_eq!(ambassador.status()["clusters"][0]["endpoints"][1]["state"], "enabled");
}

/// The successor waits for its file, which is a pipe, when the request arrives.
#[test]
fn an_order_that_the_successor_would_not_know_of_is_refused() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "");
    let mut ambassador = Ambassador::start(&config);
    let file = ambassador.dir().join("listeners.yaml");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::remove_file(&file).expect("the file goes");
    finish(std::process::Command::new("mkfifo").arg(&file)).must_succeed();
    let writing = thread::spawn({
        let file = file.clone();
        move || std::fs::OpenOptions::new().write(true).open(file).expect("somebody reads it")
    });
    let order = format!("/clusters/up/endpoints/{}/disable", upstream.address());
    ambassador.replace_while(|ambassador| {
        let mut writer = writing.join().expect("the successor reads its file");
        let refused = ambassador.post(&order);
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.body.contains("another process is about to take over"), "{}", refused.body);
        std::io::Write::write_all(&mut writer, text.as_bytes()).expect("the successor reads");
    });
    assert_eq!(ambassador.post(&order).status, 200);
    assert_eq!(ambassador.status()["clusters"][0]["endpoints"][0]["state"], "disabled");
}
