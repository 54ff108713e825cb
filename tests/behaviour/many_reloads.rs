//! Many random reloads: nothing that they create outlives the configuration it was created for.
//!
//! The series of a removed listener, cluster or endpoint are there for a minute after a scrape, and then gone.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::harness::{Ambassador, Client, Config, Pki, Upstream, roles, until_within};
use crate::reload::reload;

/// In CI; `AMBASSADOR_TEST_RELOADS` overrides it.
const RELOADS: usize = 60;
const LISTENERS: usize = 4;
const CLUSTERS: usize = 5;

/// Resources at the beginning and at the end.
fn base(upstreams: &[Upstream]) -> Config {
    Config::new()
        .top("shutdown: { drain_timeout: 1s }")
        .log("{ format: json, level: warn, access: false }")
        .listener("app", "bind: 127.0.0.1:0\ncluster: up")
        .cluster("up", &[&upstreams[0].address()], "")
}

/// A different configuration each time: other listeners, clusters and endpoints, discovered and checked in other ways.
fn any(rng: &mut Rng, upstreams: &[Upstream]) -> Config {
    let mut config = base(upstreams);
    let clusters: Vec<_> = (0..CLUSTERS).filter(|_| rng.bool()).collect();
    for cluster in &clusters {
        let body = cluster_body(rng);
        let mut picked: Vec<_> = upstreams.iter().map(Upstream::address).collect();
        rng.shuffle(&mut picked);
        picked.truncate(rng.usize(1..=upstreams.len()));
        if rng.u8(..4) == 0 {
            // By name, from /etc/hosts.
            let port = picked[0].rsplit(':').next().expect("a port").to_owned();
            picked[0] = format!("localhost:{port}");
        }
        let endpoints: Vec<_> = picked.iter().map(String::as_str).collect();
        config = config.cluster(&format!("c{cluster}"), &endpoints, &body);
    }
    for listener in 0..LISTENERS {
        if clusters.is_empty() || rng.bool() {
            continue;
        }
        let cluster = clusters[rng.usize(..clusters.len())];
        let bind =
            if rng.bool() { "127.0.0.1:0".to_owned() } else { format!("'unix:{{dir}}/l{listener}.sock'") };
        let max = rng.u8(5..50);
        let body = format!("bind: {bind}\ncluster: c{cluster}\nmax_connections: {max}");
        config = config.listener(&format!("l{listener}"), &body);
    }
    config
}

fn cluster_body(rng: &mut Rng) -> String {
    let mut body = String::new();
    let mut line = |text: &str| writeln!(body, "{text}").expect("a string takes all");
    line(["on_removed: keep", "on_removed: close"][rng.usize(..2)]);
    line(["balance: round_robin", "balance: random"][rng.usize(..2)]);
    if rng.bool() {
        line("health_check: { type: tcp, interval: 100ms, timeout: 200ms }");
        line(["on_unhealthy: keep", "on_unhealthy: close"][rng.usize(..2)]);
    }
    if rng.u8(..3) == 0 {
        line("protocol: redis\nconnect: { preconnect: 2 }");
    }
    if rng.u8(..3) == 0 {
        line("on_rotation: drain\ntls: { ca: '{dir}/ca.pem', server_name: localhost }");
    }
    body
}

/// Sessions that live through several reloads.
fn mingle(rng: &mut Rng, ambassador: &Ambassador, clients: &mut Vec<Client>) {
    if clients.len() > 20 || rng.u8(..3) == 0 {
        let gone = rng.usize(..=clients.len());
        clients.truncate(gone);
    }
    let status = ambassador.status();
    for listener in status["listeners"].as_array().expect("listeners") {
        let address = listener["addresses"][0].as_str().expect("an address");
        let client = match address.strip_prefix("unix:") {
            Some(path) => Client::unix(path.as_ref()),
            None => Client::tcp(address.parse().expect("an address")),
        };
        if let Ok(mut client) = client {
            client.offer("hello");
            clients.push(client);
        }
    }
}

/// Tasks of sessions, other tasks, descriptors, threads.
fn counts(ambassador: &Ambassador) -> [usize; 4] {
    let count = |what: &str| {
        let folder = format!("/proc/{}/{what}", ambassador.pid().as_raw_nonzero());
        fs::read_dir(folder).expect("a process to look at").count()
    };
    // Before the scrape, whose connection is closed a moment after its answer.
    let (descriptors, threads) = (count("fd"), count("task"));
    let metrics = ambassador.metrics();
    let tasks = |of: &str| metrics.sum("tasks", &[("of", of)]) as usize;
    [tasks("sessions"), tasks("upkeep"), descriptors, threads]
}

/// The objects that have series.
fn series(ambassador: &Ambassador) -> BTreeSet<(&'static str, String)> {
    let metrics = ambassador.metrics();
    let labels = |name: &'static str| {
        metrics.samples().iter().filter_map(move |one| Some((name, one.labels.get(name)?.clone())))
    };
    labels("listener").chain(labels("cluster")).chain(labels("endpoint")).collect()
}

/// Removed objects have been shown for a minute.
fn only_the_base_has_series(ambassador: &Ambassador, endpoint: &Upstream) {
    let base = BTreeSet::from([("cluster", "up".to_owned()), ("listener", "app".to_owned())]);
    let endpoint = ("endpoint", endpoint.address());
    until_within(Duration::from_secs(120), "no series is of what was taken out", || {
        // The endpoint has none before it is used.
        let mut series = series(ambassador);
        series.remove(&endpoint);
        (series == base).then_some(())
    });
}

/// Gauges that count objects.
const COUNTING: [&str; 7] = [
    "sessions_active",
    "endpoint_sessions",
    "endpoint_ejected",
    "pending_dials",
    "waiting_sessions",
    "preconnected",
    "discovery_failing",
];

#[test]
fn nothing_outlives_what_it_was_made_for() {
    let reloads =
        env::var("AMBASSADOR_TEST_RELOADS").map_or(RELOADS, |count| count.parse().expect("a number"));
    let seed = env::var("AMBASSADOR_TEST_SEED").map_or(14, |seed| seed.parse().expect("a number"));
    let mut rng = Rng::with_seed(seed);
    let pki = Pki::new();
    let upstreams: Vec<_> = (0..4).map(|_| Upstream::plain(roles::echo)).collect();
    let ambassador = Ambassador::start(&base(&upstreams));
    fs::copy(pki.ca(), ambassador.dir().join("ca.pem")).expect("a CA");
    // Everything that is created only once exists from here on.
    for _ in 0..5 {
        reload(&ambassador, &any(&mut rng, &upstreams));
        mingle(&mut rng, &ambassador, &mut Vec::new());
    }
    let settle = |before: Option<[usize; 4]>| {
        reload(&ambassador, &base(&upstreams));
        // The last drain_timeout, and the sessions that are ended after it: nothing changes for this long.
        const QUIET: Duration = Duration::from_millis(1500);
        let mut last = None;
        until_within(
            Duration::from_secs(60),
            format!("it came to rest, after {before:?} with seed {seed}"),
            || {
                let now = counts(&ambassador);
                let (counted, since) = *last.get_or_insert_with(|| (now, Instant::now()));
                if counted != now {
                    last = None;
                }
                let is_quiet = counted == now
                    && since.elapsed() >= QUIET
                    && ambassador.get("/sessions").json()["sessions"] == Value::Array(Vec::new());
                (is_quiet
                    && before.is_none_or(|before| {
                        before[..2] == now[..2] && now[2] <= before[2] && now[3] <= before[3]
                    }))
                .then_some(now)
            },
        )
    };
    let before = settle(None);
    let mut clients = Vec::new();
    for _ in 0..reloads {
        reload(&ambassador, &any(&mut rng, &upstreams));
        mingle(&mut rng, &ambassador, &mut clients);
    }
    drop(clients);
    settle(Some(before));
    only_the_base_has_series(&ambassador, &upstreams[0]);
    let metrics = ambassador.metrics();
    let wrong: Vec<_> = metrics
        .samples()
        .iter()
        .filter(|one| {
            COUNTING.iter().any(|name| one.name == format!("ambassador_{name}")) && one.value != 0.0
        })
        .map(|one| format!("{} {:?} {}", one.name, one.labels, one.value))
        .collect();
    assert!(wrong.is_empty(), "with seed {seed}: {wrong:?}");
}
