//! Reading the configuration again: what changes, what stays, and what a mistake in the file causes.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ambassador, Client, Config, Pki, ServerTls, Upstream, roles, until};

fn app(upstream: &Upstream) -> Config {
    Config::app(&[&upstream.address()], "")
}

/// Reloads and asserts that the file is in force.
#[track_caller]
pub(super) fn reload(ambassador: &Ambassador, config: &Config) -> Value {
    ambassador.rewrite(config);
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let reloaded = answer.json();
    assert_eq!(reloaded["ok"], true);
    reloaded
}

#[track_caller]
fn words(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

#[test]
fn a_changed_cluster_takes_new_sessions_and_leaves_live_ones_alone() {
    let (before, after) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&app(&before));
    let mut old = ambassador.connect();
    old.echo("before");
    let reloaded = reload(&ambassador, &app(&after));
    assert_eq!(words(&reloaded["changes"]), ["cluster up changed"]);
    old.echo("a live session goes on");
    ambassador.connect().echo("a new one");
    assert_eq!((before.accepted(), after.accepted()), (1, 1));
    assert_eq!(ambassador.metrics().sum("config_reloads_total", &[("result", "ok")]), 1.0);
    old.echo("and on");
    assert_eq!(ambassador.get("/sessions").json()["sessions"][0]["endpoint"], before.address());
}

/// Scenario: `tls` with `insecure_skip_verify` and `health_check` were taken out of the file, and their gauges stayed at what they
/// were: an alert on an endpoint that nobody probed any more went on for ever.
#[test]
fn what_is_taken_out_is_not_reported_any_more() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let tls =
        "tls: { insecure_skip_verify: true }\nhealth_check: { type: tls, interval: 100ms, timeout: 5s }";
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], tls));
    let of = |name: &str| {
        let samples = ambassador.metrics();
        samples.samples().iter().find(|one| one.name == name).map(|one| one.value)
    };
    let (insecure, healthy) = ("ambassador_tls_verification_disabled", "ambassador_endpoint_healthy");
    until("it was probed", || (of("ambassador_health_checks_total")? > 0.0).then_some(()));
    assert_eq!((of(insecure), of(healthy)), (Some(1.0), Some(1.0)));
    // Disabled, it is not probed, and enabled again it is.
    let path = |order: &str| format!("/clusters/up/endpoints/{}/{order}", upstream.address());
    assert_eq!(ambassador.post(&path("disable")).status, 200);
    until("it was not claimed to be healthy", || of(healthy).is_none().then_some(()));
    assert_eq!(ambassador.post(&path("enable")).status, 200);
    until("it was probed again", || (of(healthy)? == 1.0).then_some(()));
    reload(&ambassador, &Config::app(&[&upstream.address()], ""));
    assert_eq!((of(insecure), of(healthy)), (Some(0.0), None));
}

#[test]
fn what_is_not_changed_is_not_touched() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: [ \"127.0.0.1:0\", \"unix:{dir}/app.sock\" ]\ncluster: up";
    let config = Config::new().listener("app", body).cluster("up", &[&upstream.address()], "");
    let ambassador = Ambassador::start(&config);
    let path = ambassador.dir().join("app.sock");
    let inode = fs::metadata(&path).expect("the socket file").ino();
    let status = ambassador.status();
    // Written differently, with the same meaning.
    let same = config.top("# a comment\n\nruntime: {}");
    assert_eq!(words(&reload(&ambassador, &same)["changes"]), [] as [&str; 0]);
    assert_eq!(ambassador.status()["listeners"][0]["addresses"], status["listeners"][0]["addresses"]);
    assert_eq!(fs::metadata(&path).expect("the socket file").ino(), inode);
    ambassador.connect().echo("tcp");
    Client::unix(&path).expect("a connection").echo("unix");
}

#[test]
fn one_mistake_and_nothing_changes_and_it_is_said_everywhere() {
    let (before, after) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&app(&before));
    ambassador.rewrite(
        &app(&after)
            .top("shutdown: { drian_timeout: 1s }")
            .listener("new", "bind: 127.0.0.1:0\ncluster: none"),
    );
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 422);
    let reloaded = answer.json();
    assert_eq!(reloaded["ok"], false);
    let mistakes = reloaded["mistakes"].as_array().expect("a list of mistakes");
    assert_eq!(mistakes.len(), 2, "all of them: {mistakes:?}");
    assert_eq!(mistakes[0]["path"], "shutdown.drian_timeout");
    assert_eq!((mistakes[0]["line"].as_u64(), mistakes[0]["column"].as_u64()), (Some(3), Some(13)));
    assert!(
        mistakes[0]["message"].as_str().is_some_and(|words| words.contains("drain_timeout")),
        "{mistakes:?}"
    );
    ambassador.wait_line("shutdown.drian_timeout");
    ambassador.wait_line("nothing changed");
    ambassador.connect().echo("as before");
    assert_eq!((before.accepted(), after.accepted()), (1, 0));
    let failed =
        |ambassador: &Ambassador| ambassador.metrics().sum("config_reloads_total", &[("result", "failed")]);
    assert_eq!(failed(&ambassador), 1.0);
    reload(&ambassador, &app(&after));
    assert_eq!(failed(&ambassador), 1.0);
    ambassador.connect().echo("repaired");
    assert_eq!(after.accepted(), 1);
}

#[test]
fn an_address_that_cannot_be_had_is_a_mistake_too() {
    let (before, after) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&app(&before));
    let neighbour = Upstream::plain(roles::echo);
    let taken = format!("bind: {}\ncluster: up", neighbour.address());
    ambassador.rewrite(&app(&after).listener("taken", &taken));
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("in use"), "{}", answer.body);
    ambassador.connect().echo("as before");
    assert_eq!((before.accepted(), after.accepted()), (1, 0));
}

#[test]
fn listeners_come_and_go() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&app(&upstream));
    let more = app(&upstream).listener("more", "bind: unix:{dir}/more.sock\ncluster: up");
    let changes = reload(&ambassador, &more);
    assert!(words(&changes["changes"])[0].starts_with("listener more added on unix:"), "{changes}");
    let path = ambassador.dir().join("more.sock");
    let mut session = Client::unix(&path).expect("a connection");
    session.echo("a new listener");
    let changes = reload(&ambassador, &app(&upstream));
    assert_eq!(words(&changes["changes"]), ["listener more removed; its 1 session(s) drain"]);
    until("the socket file was gone", || (!path.exists()).then_some(()));
    session.echo("its session goes on");
    assert_eq!(ambassador.get("/sessions").json()["sessions"][0]["listener"], "more");
    ambassador.connect().echo("the other listener does not care");
    ambassador.signal(Signal::TERM);
    drop(session);
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn sessions_of_a_removed_listener_end_with_drain_timeout() {
    let upstream = Upstream::plain(roles::echo);
    let short = |config: Config| config.top("shutdown: { drain_timeout: 300ms }");
    let with = short(app(&upstream).listener("more", "bind: unix:{dir}/more.sock\ncluster: up"));
    let ambassador = Ambassador::start(&with);
    let mut session = Client::unix(&ambassador.dir().join("more.sock")).expect("a connection");
    session.echo("before");
    let mut other = ambassador.connect();
    other.echo("before");
    reload(&ambassador, &short(app(&upstream)));
    session.ending();
    assert_eq!(ambassador.record()["outcome"], "drained");
    other.echo("not this one");
}

/// The socket outlives its listener's name: clients in its queue are not affected.
#[test]
fn an_address_may_move_to_another_listener() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let config = |name: &str, upstream: &Upstream| {
        Config::new().listener(name, "bind: unix:{dir}/app.sock\ncluster: up").cluster(
            "up",
            &[&upstream.address()],
            "",
        )
    };
    let ambassador = Ambassador::start(&config("app", &one));
    let path = ambassador.dir().join("app.sock");
    let inode = fs::metadata(&path).expect("the socket file").ino();
    reload(&ambassador, &config("renamed", &two));
    assert_eq!(fs::metadata(&path).expect("the socket file").ino(), inode);
    Client::unix(&path).expect("a connection").echo("renamed");
    assert_eq!(ambassador.record()["listener"], "renamed");
    assert_eq!((one.accepted(), two.accepted()), (0, 1));
}

#[test]
fn caps_count_the_sessions_that_were_there_before() {
    let upstream = Upstream::plain(roles::echo);
    let config = |more: &str| {
        Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 2").cluster(
            "up",
            &[&upstream.address()],
            more,
        )
    };
    let ambassador = Ambassador::start(&config(""));
    let mut one = ambassador.connect();
    one.echo("one");
    reload(&ambassador, &config("session: { idle_timeout: 600s }"));
    let mut two = ambassador.connect();
    two.echo("two");
    ambassador.connect().ending();
    assert_eq!(ambassador.record_of("listener_full")["listener"], "app");
    one.echo("still there");
}

#[test]
fn counters_go_on_when_a_cluster_comes_back() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let to = |cluster: &str| {
        Config::new()
            .listener("app", &format!("bind: 127.0.0.1:0\ncluster: {cluster}"))
            .cluster("one", &[&one.address()], "")
            .cluster("two", &[&two.address()], "")
    };
    let ambassador = Ambassador::start(&to("one"));
    let sent = |cluster| ambassador.metrics().sum("sent_bytes_total", &[("cluster", cluster)]);
    ambassador.connect().echo("12345");
    ambassador.wait_active(0);
    assert_eq!(sent("one"), 5.0);
    reload(&ambassador, &to("two"));
    ambassador.connect().echo("123");
    ambassador.wait_active(0);
    reload(&ambassador, &to("one"));
    ambassador.connect().echo("12345");
    ambassador.wait_active(0);
    assert_eq!((sent("one"), sent("two")), (10.0, 3.0));
}

#[test]
fn certificates_are_read_again() {
    let pki = Pki::new();
    let stranger = Pki::new();
    let (before, after) = (stranger.client("app"), pki.client("app"));
    let server = pki.server(&["127.0.0.1"]);
    let upstream = Upstream::tls(ServerTls::new(&server).clients_of(&pki).build(), roles::echo);
    let place = tempfile::tempdir().expect("a temporary directory");
    let (cert, key) = (place.path().join("client.pem"), place.path().join("client.key"));
    let install = |leaf: &crate::harness::Leaf| {
        fs::copy(&leaf.cert, &cert).expect("a certificate");
        fs::copy(&leaf.key, &key).expect("a key");
    };
    install(&before);
    let cluster =
        format!("tls: {{ ca: {}, cert: {}, key: {} }}", pki.ca().display(), cert.display(), key.display());
    let config = Config::app(&[&upstream.address()], &cluster);
    let ambassador = Ambassador::start(&config);
    let mut refused = ambassador.connect();
    refused.send("with a certificate that the server does not know");
    refused.ending();
    assert_ne!(ambassador.record()["outcome"], "completed");
    install(&after);
    reload(&ambassador, &config);
    until("a client was served", || ambassador.connect().try_echo("with one that it knows").then_some(()));
}

/// Each cluster read the host's certificate, its key and its CA again, twice in a reload: most of what a reload with a
/// thousand clusters cost.
#[test]
fn what_many_clusters_name_is_read_once() {
    const CLUSTERS: usize = 60;
    let pki = Pki::new();
    let place = tempfile::tempdir().expect("a temporary directory");
    let (cert, key) = (place.path().join("client.pem"), place.path().join("client.key"));
    let install = |leaf: &crate::harness::Leaf| {
        for (from, to) in [(&leaf.cert, &cert), (&leaf.key, &key)] {
            fs::copy(from, place.path().join("new")).expect("a copy");
            fs::rename(place.path().join("new"), to).expect("a file");
        }
    };
    install(&pki.client("before"));
    let tls =
        format!("tls: {{ ca: {}, cert: {}, key: {} }}", pki.ca().display(), cert.display(), key.display());
    let config = (0..CLUSTERS).fold(Config::app(&["127.0.0.1:1"], ""), |config, number| {
        config.cluster(&format!("c{number}"), &["127.0.0.1:1"], &tls)
    });
    let ambassador = Ambassador::start(&config);
    let reads = || {
        let io = fs::read_to_string(format!("/proc/{}/io", ambassador.pid())).expect("what it has read");
        let calls = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("the number of reads");
        calls.parse::<usize>().expect("a number")
    };
    let before = reads();
    install(&pki.client("after"));
    reload(&ambassador, &config);
    until("every cluster has the new certificate", || {
        let lines = ambassador.lines();
        let taken = lines.iter().filter(|line| line.contains("new connections use the new content")).count();
        (taken == CLUSTERS).then_some(())
    });
    let reads = reads() - before;
    assert!(reads < 3 * CLUSTERS, "{reads} reads, and {CLUSTERS} clusters name three files each");
}

#[test]
fn what_a_reload_cannot_do_is_said() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream).top("runtime: { workers: 1 }"));
    let reloaded = reload(&ambassador, &app(&upstream).top("runtime: { workers: 2 }"));
    assert!(words(&reloaded["needs_restart"])[0].starts_with("runtime.workers"), "{reloaded}");
    ambassador.wait_line("runtime.workers");
}

#[test]
fn the_admin_address_may_change_and_reads_only() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream));
    assert_eq!(ambassador.request("POST", "/reload", "localhost").status, 405);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port");
    let moved =
        app(&upstream).admin(&format!("{{ bind: \"{free}\", control: \"unix:{{dir}}/control.sock\" }}"));
    reload(&ambassador, &moved);
    assert_eq!(ambassador.status()["admin"], free.to_string());
    until("the old admin address was closed", || std::net::TcpStream::connect(ambassador.admin()).err());
}

#[test]
fn sighup_reloads_and_systemd_is_told_when_it_begins_and_ends() {
    let (before, after) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let mut ambassador = Ambassador::start(&app(&before));
    ambassador.rewrite(&app(&after));
    ambassador.signal(Signal::HUP);
    ambassador.wait_notified("RELOADING=1");
    assert!(ambassador.notified().iter().any(|line| line.starts_with("MONOTONIC_USEC=")));
    ambassador.wait_line("configuration reloaded");
    ambassador.connect().echo("after");
    assert_eq!(after.accepted(), 1);
}

/// Clients connect all the time while the file changes hundreds of times: endpoints, settings, listeners.
#[test]
fn hundreds_of_reloads_lose_no_connection_and_no_memory() {
    const RELOADS: usize = 300;
    let upstreams = [Upstream::plain(roles::echo), Upstream::plain(roles::echo)];
    let config = |round: usize| {
        let idle = format!("session: {{ idle_timeout: {}s }}", 600 + round % 7);
        let config = Config::app(&[&upstreams[round % 2].address()], &idle)
            .log("{ format: json, level: warn, access: false }");
        if round.is_multiple_of(3) {
            config.listener("more", "bind: unix:{dir}/more.sock\ncluster: up")
        } else {
            config
        }
    };
    let ambassador = Ambassador::start(&config(1));
    let address = ambassador.address("app");
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    Client::tcp(address).expect("the listener accepts").echo("at any time");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let round = |round: usize| {
        reload(&ambassador, &config(round));
        // Some clients connect under each configuration.
        let so_far = served.load(Ordering::Relaxed);
        until("a client was served", || (served.load(Ordering::Relaxed) > so_far).then_some(()));
    };
    (0..RELOADS / 3).for_each(round);
    let after_some = resident(&ambassador);
    (RELOADS / 3..RELOADS).for_each(round);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no client failed");
    }
    let grown = resident(&ambassador).saturating_sub(after_some);
    assert!(grown < 4 * 1024, "{grown} KiB more after {} reloads, from {after_some} KiB", RELOADS * 2 / 3);
    assert_eq!(ambassador.metrics().sum("config_reloads_total", &[("result", "ok")]), RELOADS as f64);
}

/// VmRSS in KiB.
fn resident(ambassador: &Ambassador) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ambassador.pid().as_raw_nonzero()))
        .expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
