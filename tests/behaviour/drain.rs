//! Shutdown, as a supervisor, a load balancer's probe and the applications see it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use crate::harness::pgwire::{self, World};
use crate::harness::{Ambassador, Client, Config, End, Pki, Response, ServerTls, Upstream, roles, until};

fn draining(upstream: &Upstream, shutdown: &str) -> Ambassador {
    let config = Config::app(&[&upstream.address()], "").top(&format!("shutdown: {{ {shutdown} }}"));
    Ambassador::start(&config)
}

#[track_caller]
fn wait_state(ambassador: &Ambassador, state: &str) {
    until(format!("the state was {state}"), || (ambassador.status()["state"] == state).then_some(()));
}

#[test]
fn sigterm_lets_sessions_end_and_then_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = Upstream::plain(roles::echo);
        let mut ambassador = draining(&upstream, "drain_timeout: 60s");
        let mut client = ambassador.connect();
        client.echo("before");
        ambassador.signal(signal);
        ambassador.wait_notified("STOPPING=1");
        wait_state(&ambassador, "draining");
        until("a draining listener was closed", || Client::tcp(ambassador.address("app")).err());
        client.echo("a session goes on as before");
        drop(client);
        assert_eq!(ambassador.wait_exit(), 0);
        // A client that connected between the two has a record too, and sent nothing.
        let record = ambassador.record_where("bytes", |record| record["sent_bytes"] != 0);
        assert_eq!(record["outcome"], "completed");
    }
}

#[test]
fn without_sessions_sigterm_exits_at_once() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "drain_timeout: 600s");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn sessions_that_do_not_end_are_cut_after_drain_timeout() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "drain_timeout: 500ms");
    let mut client = ambassador.connect();
    client.echo("before");
    ambassador.signal(Signal::TERM);
    client.ending();
    assert_eq!(ambassador.wait_exit(), 0);
    let record = ambassador.record();
    assert_eq!(
        (record["outcome"].as_str(), record["closed_by"].as_str()),
        (Some("drained"), Some("ambassador"))
    );
    assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (Some(6), Some(6)));
    upstream.wait_active(0);
}

#[test]
fn a_session_still_dialling_is_cut_after_drain_timeout_too() {
    let pki = Pki::new();
    let upstream = Upstream::plain(roles::silent);
    let cluster = format!(
        "tls: {{ ca: {} }}\nconnect: {{ handshake_timeout: 60s, deadline: 60s }}",
        pki.ca().display()
    );
    let config = Config::app(&[&upstream.address()], &cluster).top("shutdown: { drain_timeout: 300ms }");
    let mut ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    upstream.wait_active(1);
    ambassador.signal(Signal::TERM);
    client.ending();
    assert_eq!(ambassador.wait_exit(), 0);
    ambassador.record();
}

/// Scenario: pools keep spare connections that have sent nothing. They lose nothing when closed, but delayed every
/// restart by the whole drain_timeout.
#[test]
fn a_postgres_client_that_has_said_nothing_does_not_hold_up_a_drain() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let cluster = format!("tls: {{ ca: {} }}", world.pki.ca().display());
    let config = Config::postgres(&[&upstream.address()], &cluster).top("shutdown: { drain_timeout: 30s }");
    let mut ambassador = Ambassador::start(&config);
    let _silent = ambassador.connect();
    let mut undecided = ambassador.connect();
    undecided.send(pgwire::SSL_REQUEST);
    undecided.expect("N");
    let mut busy = ambassador.connect();
    busy.send(pgwire::app_startup());
    busy.receive(pgwire::welcome().len());
    ambassador.wait_active(3);
    let told = Instant::now();
    ambassador.signal(Signal::TERM);
    wait_state(&ambassador, "draining");
    busy.echo("a session goes on as before");
    drop(busy);
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(told.elapsed() < Duration::from_secs(5), "the drain took {:?}", told.elapsed());
    let records = ambassador.wait_records(3);
    let outcomes = |outcome: &str| records.iter().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((outcomes("drained"), outcomes("completed")), (2, 1), "{records:?}");
}

#[test]
fn a_second_sigterm_exits_at_once() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "drain_timeout: 600s");
    let mut client = ambassador.connect();
    client.echo("before");
    ambassador.signal(Signal::TERM);
    wait_state(&ambassador, "draining");
    ambassador.signal(Signal::TERM);
    ambassador.wait_exit();
    client.ending();
}

#[test]
fn readyz_says_503_and_why_while_draining() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = draining(&upstream, "drain_timeout: 600s");
    let mut client = ambassador.connect();
    client.echo("before");
    let ready = |path| ambassador.request("GET", path, "localhost");
    assert_eq!(ready("/readyz").status, 200);
    ambassador.signal(Signal::TERM);
    wait_state(&ambassador, "draining");
    let Response { status, body, .. } = ready("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("drain"), "{body}");
    assert_eq!(ready("/healthz").status, 200, "the process lives");
    assert_eq!(ready("/metrics").status, 200, "the last numbers can be scraped");
    client.echo("still here");
}

/// The lame-duck phase is for load balancers that need time to notice: /readyz returns 503, and connections are still
/// served.
#[test]
fn a_lame_duck_says_503_and_still_accepts() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "lame_duck: 3s, drain_timeout: 1s");
    ambassador.signal(Signal::TERM);
    wait_state(&ambassador, "lame_duck");
    assert_eq!(ambassador.request("GET", "/readyz", "localhost").status, 503);
    ambassador.connect().echo("served by a lame duck");
    assert_eq!(ambassador.wait_exit(), 0);
    assert_eq!(ambassador.record()["outcome"], "completed");
}

/// The upstream must be able to tell a TLS session ended by a drain from a truncated stream: it gets a close_notify or
/// a reset.
#[test]
fn a_drained_tls_session_ends_in_good_form() {
    let pki = Pki::new();
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), |mut conn| async move {
            let mut all = Vec::new();
            let end = conn.read_to_end(&mut all).await.map_err(|error| error.kind());
            conn.note(format!("ended {end:?}"));
        });
    let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
    let config = Config::app(&[&upstream.address()], &cluster).top("shutdown: { drain_timeout: 300ms }");
    let mut ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.send("hello");
    upstream.wait_note("handshake");
    ambassador.wait_active(1);
    ambassador.signal(Signal::TERM);
    let note = upstream.wait_note("ended");
    assert!(["ended Ok(5)", "ended Err(ConnectionReset)"].contains(&note.as_str()), "{note}");
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(
        ambassador.record()["duration_ms"].as_f64() < Some(Duration::from_secs(20).as_secs_f64() * 1000.0)
    );
}

/// Idle sessions of a pool end one after the other while they are quiet, so that their clients do not all reconnect at
/// once; a busy session has the whole time.
#[test]
fn quiet_sessions_end_over_the_window_and_busy_ones_at_its_end() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "drain_timeout: 4s");
    let mut quiet: Vec<_> = (0..8).map(|_| ambassador.connect()).collect();
    quiet.iter_mut().for_each(|client| client.echo("before"));
    let mut busy = ambassador.connect();
    busy.echo("before");
    ambassador.signal(Signal::TERM);
    ambassador.wait_notified("STOPPING=1");
    let begun = Instant::now();
    let talking = std::thread::spawn(move || {
        while busy.try_echo("again and again") {}
        begun.elapsed()
    });
    let waiting: Vec<_> = quiet
        .into_iter()
        .map(|mut client| std::thread::spawn(move || (client.ending(), begun.elapsed())))
        .collect();
    let ends: Vec<_> =
        waiting.into_iter().map(|waiting| waiting.join().expect("a client that ended")).collect();
    assert!(ends.iter().all(|(end, _)| *end == End::Orderly), "in good form: {ends:?}");
    let mut times: Vec<_> = ends.iter().map(|(_, at)| *at).collect();
    times.sort_unstable();
    let (first, last) = (times[0], times[7]);
    assert!(first < Duration::from_secs(3), "the first quiet one ended after {first:?}");
    assert!(last - first > Duration::from_millis(1500), "all at once: {times:?}");
    assert!(talking.join().expect("a busy client") >= Duration::from_secs(4), "the busy one was cut early");
    assert_eq!(ambassador.wait_exit(), 0);
    let told = ambassador.wait_line("\"stopped\"");
    assert!(told.contains("\"quiet\":8") && told.contains("\"forced\":1"), "{told}");
    assert!(ambassador.notified().iter().any(|line| line.starts_with("STATUS=draining: 9 session(s)")));
}

#[test]
fn systemds_watchdog_is_fed_while_the_workers_work() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "");
    let ambassador = Ambassador::start_with(&config, |command| {
        command.env("WATCHDOG_USEC", "400000");
    });
    let fed = || ambassador.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    until("the watchdog was fed several times", || (fed() > 3).then_some(()));
}

/// A supervisor that hangs must not make the daemon hang.
#[test]
fn a_supervisor_that_does_not_read_holds_nobody_up() {
    let upstream = Upstream::plain(roles::echo);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let deaf = std::os::unix::net::UnixDatagram::bind(dir.path().join("deaf")).expect("a socket");
    let ambassador = Ambassador::spawn(&Config::app(&[&upstream.address()], ""), |command| {
        command.env("NOTIFY_SOCKET", dir.path().join("deaf")).env("WATCHDOG_USEC", "20000");
    });
    ambassador.wait_line("cannot notify systemd");
    for _ in 0..3 {
        until("it answered", || {
            std::os::unix::net::UnixStream::connect(ambassador.control()).is_ok().then_some(())
        });
        assert_eq!(ambassador.post("/reload").status, 200);
    }
    drop(deaf);
}

#[test]
fn the_start_is_told_in_a_few_lines() {
    let pki = Pki::new();
    let upstream = Upstream::plain(roles::echo);
    let leaf = pki.client("app");
    let identities = format!(
        "identities: {{ billing: {{ cert: {}, key: {} }} }}",
        leaf.cert.display(),
        leaf.key.display()
    );
    let cluster = format!("tls: {{ ca: {}, identity: billing }}", pki.ca().display());
    let config =
        Config::app(&[&upstream.address()], &cluster).top(&identities).log("{ format: json, level: info }");
    let ambassador = Ambassador::start(&config);
    let address = ambassador.address("app").to_string();
    // The last of them may come behind "is ready", which the start waits for.
    for part in [&*address, "over mTLS as billing", "billing for ", "is ready", "landlock: "] {
        ambassador.wait_line(part);
    }
    let told = ambassador.lines();
    assert!(told.len() < 10, "{told:#?}");
}

/// A connection that the kernel has completed must be served; closing the socket would reset it.
#[test]
fn whoever_is_in_the_queue_when_a_drain_begins_is_served() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = draining(&upstream, "drain_timeout: 60s");
    let clients = ambassador.frozen(|| {
        let clients: Vec<_> = (0..20).map(|_| ambassador.connect()).collect();
        ambassador.signal(Signal::TERM);
        clients
    });
    for mut client in clients {
        client.echo("from the queue");
    }
    assert_eq!(ambassador.wait_exit(), 0);
}
