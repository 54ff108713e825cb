//! `connect.preconnect`: upstream connections that are ready before their clients arrive.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::postgres::{PASSWORD, psql};
use crate::harness::{Ambassador, Config, Conn, Pki, Postgres, ServerTls, Upstream, roles, until};
use crate::health::wait_health;

/// A cluster of servers that echo, for clients of Redis.
fn redis(endpoints: &[&str], preconnect: u32, more: &str) -> Config {
    Config::app(endpoints, &format!("protocol: redis\nconnect: {{ preconnect: {preconnect} }}\n{more}"))
}

#[track_caller]
fn wait_ready(ambassador: &Ambassador, count: u32) {
    until(format!("{count} connections were ready"), || {
        (ambassador.metrics().sum("preconnected", &[("cluster", "up")]) == f64::from(count)).then_some(())
    });
}

fn preconnects(ambassador: &Ambassador, result: &str) -> f64 {
    ambassador.metrics().sum("preconnects_total", &[("cluster", "up"), ("result", result)])
}

#[test]
fn a_client_gets_a_connection_that_was_there_before_it_and_another_takes_its_place() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&redis(&[&upstream.address()], 2, ""));
    wait_ready(&ambassador, 2);
    assert_eq!(upstream.accepted(), 2, "nobody has asked yet");
    let before = ambassador.status();
    assert_eq!(before["clusters"][0]["endpoints"][0]["ready"], 2);
    assert_eq!(before["clusters"][0]["endpoints"][0]["sessions"], 0);
    let mut client = ambassador.connect();
    client.echo("PING\r\n");
    upstream.wait_accepted(3);
    wait_ready(&ambassador, 2);
    assert_eq!(ambassador.status()["clusters"][0]["endpoints"][0]["sessions"], 1);
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["attempts"], 0, "no dial was in its way");
    assert_eq!(record["endpoint"], upstream.address());
    assert!(record["connect_ms"].is_null() && record["outcome"] == "completed", "{record}");
    assert_eq!((preconnects(&ambassador, "hit"), preconnects(&ambassador, "miss")), (1.0, 0.0));
}

#[test]
fn postgres_over_mtls_is_reached_without_a_dial_in_the_clients_way() {
    let postgres = Postgres::quiet();
    let before = postgres.marked_log();
    let tls = postgres.tls();
    let config = Config::postgres(&[&postgres.address()], &format!("{tls}\nconnect: {{ preconnect: 2 }}"));
    let mut ambassador = Ambassador::start(&config);
    for _ in 0..5 {
        wait_ready(&ambassador, 2);
        let port = ambassador.address("app").port();
        let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres password='{PASSWORD}'");
        assert_eq!(psql(&conninfo, "select 6 * 7").must_succeed().stdout.trim(), "42");
    }
    let records = ambassador.wait_records(5);
    for record in &records {
        assert_eq!((&record["attempts"], &record["outcome"]), (&0.into(), &"completed".into()), "{record}");
        assert!(record["handshake_ms"].is_null() && record["tls"]["version"] == "TLSv1.3", "{record}");
    }
    wait_ready(&ambassador, 2);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    postgres.must_have_logged_nothing_since(&before);
}

/// Echoes, and ends the connection when `shut` is raised, like a server that restarts.
fn until_shut(
    shut: &Arc<AtomicBool>,
) -> impl Fn(Conn) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + 'static {
    let shut = Arc::clone(shut);
    move |mut conn| {
        let shut = Arc::clone(&shut);
        Box::pin(async move {
            let mut buffer = [0; 4096];
            while !shut.load(Ordering::SeqCst) {
                let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
                tokio::select! {
                    read = conn.read(&mut buffer) => match read {
                        Ok(read @ 1..) if conn.write_all(&buffer[..read]).await.is_ok() => {
                            drop(conn.flush().await);
                        }
                        _ => return,
                    },
                    () = pause => {}
                }
            }
            drop(conn.shutdown().await);
        })
    }
}

/// The server ends all its connections while the daemon is stopped, and a client arrives: the daemon sees all of it at
/// once.
#[test]
fn a_connection_that_the_server_has_ended_is_never_handed_out() {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    for secured in [false, true] {
        let shut = Arc::new(AtomicBool::new(false));
        let upstream = match secured {
            false => Upstream::plain(until_shut(&shut)),
            true => Upstream::tls(Arc::clone(&tls), until_shut(&shut)),
        };
        let more = if secured { format!("tls: {{ ca: {} }}", pki.ca().display()) } else { String::new() };
        let ambassador = Ambassador::start(&redis(&[&upstream.address()], 3, &more));
        for round in 0..5 {
            wait_ready(&ambassador, 3);
            let mut client = ambassador.frozen(|| {
                shut.store(true, Ordering::SeqCst);
                upstream.wait_active(0);
                shut.store(false, Ordering::SeqCst);
                let mut client = ambassador.connect();
                client.send("PING\r\n");
                client
            });
            client.expect("PING\r\n");
            drop(client);
            let records = ambassador.wait_records(round + 1);
            assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
        }
    }
}

#[test]
fn a_connection_that_ends_is_replaced() {
    let shut = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::plain(until_shut(&shut));
    let ambassador = Ambassador::start(&redis(&[&upstream.address()], 2, ""));
    wait_ready(&ambassador, 2);
    shut.store(true, Ordering::SeqCst);
    until("the ends were noticed", || (preconnects(&ambassador, "died") >= 2.0).then_some(()));
    shut.store(false, Ordering::SeqCst);
    wait_ready(&ambassador, 2);
    ambassador.connect().echo("PING\r\n");
    ambassador.wait_records(1);
    assert_eq!(preconnects(&ambassador, "miss"), 0.0);
}

/// RabbitMQ closes connections without a byte for 10 s; ours are replaced before.
#[test]
fn a_connection_is_replaced_before_its_server_loses_patience() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "protocol: amqp\nconnect: { preconnect: 1 }");
    let ambassador = Ambassador::start(&config);
    wait_ready(&ambassador, 1);
    until("the first was replaced", || (preconnects(&ambassador, "retired") >= 1.0).then_some(()));
    upstream.wait_note("end after 0");
    upstream.wait_accepted(2);
    assert_eq!(preconnects(&ambassador, "died"), 0.0);
    wait_ready(&ambassador, 1);
}

/// Spare connections count towards the limits, and give way to sessions that need the room.
#[test]
fn the_limits_hold_exactly_with_connections_kept_ready() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&redis(&[&upstream.address()], 2, "limits: { max_connections: 3 }"));
    wait_ready(&ambassador, 2);
    let mut held = Vec::new();
    for served in 1..=3 {
        let mut client = ambassador.connect();
        client.echo("PING\r\n");
        held.push(client);
        wait_ready(&ambassador, (3 - served).min(2));
        assert!(upstream.active() <= 3, "{}", upstream.active());
    }
    let mut refused = ambassador.connect();
    refused.send("PING\r\n");
    let (words, _) = refused.read_out();
    assert!(String::from_utf8_lossy(&words).contains("cluster_full"), "{}", String::from_utf8_lossy(&words));
    assert_eq!(upstream.accepted(), 3);
    held.pop();
    wait_ready(&ambassador, 1);
    ambassador.connect().echo("PING\r\n");
}

#[test]
fn none_is_kept_on_an_endpoint_that_is_down() {
    let (up, always) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let answering = |up: &Arc<AtomicBool>| {
        let up = Arc::clone(up);
        Upstream::plain(move |mut conn: Conn| {
            let up = Arc::clone(&up);
            async move {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = conn.read(&mut buffer).await {
                    let is_probe = buffer[..read].starts_with(b"probe");
                    if is_probe && !up.load(Ordering::SeqCst)
                        || conn.write_all(&buffer[..read]).await.is_err()
                    {
                        return;
                    }
                }
            }
        })
    };
    let (failing, steady) = (answering(&up), answering(&always));
    let more = "balance: round_robin\nhealth_check: { type: exchange, interval: 100ms, exchange: { send: probe, expect: probe } }";
    let ambassador = Ambassador::start(&redis(&[&failing.address(), &steady.address()], 4, more));
    let ready = |place: usize| ambassador.status()["clusters"][0]["endpoints"][place]["ready"].as_u64();
    until("they were spread", || (ready(0) == Some(2) && ready(1) == Some(2)).then_some(()));
    up.store(false, Ordering::SeqCst);
    wait_health(&ambassador, &failing.address(), "unhealthy");
    until("all were on the other", || (ready(0) == Some(0) && ready(1) == Some(4)).then_some(()));
    for _ in 0..3 {
        ambassador.connect().echo("PING\r\n");
    }
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["endpoint"] == steady.address()), "{records:?}");
}

#[test]
fn none_outlives_the_certificate_that_it_was_made_with() {
    let pki = Pki::new();
    let (old, new) = (pki.client("old"), pki.client("new"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (cert, key) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    let install = |from: &std::path::Path, to: &std::path::Path| {
        let beside = to.with_extension("new");
        fs::copy(from, &beside).expect("a copy");
        fs::rename(beside, to).expect("a file in place");
    };
    install(&old.cert, &cert);
    install(&old.key, &key);
    let server = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(server, roles::echo);
    let tls =
        format!("tls: {{ ca: {}, cert: {}, key: {} }}", pki.ca().display(), cert.display(), key.display());
    let ambassador = Ambassador::start(&redis(&[&upstream.address()], 2, &tls));
    wait_ready(&ambassador, 2);
    install(&new.cert, &cert);
    install(&new.key, &key);
    until("the new pair was taken", || {
        let reloads = [("kind", "identity"), ("result", "ok")];
        (ambassador.metrics().sum("credential_reloads_total", &reloads) >= 1.0).then_some(())
    });
    ambassador.connect().echo("PING\r\n");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "completed");
    let notes = upstream.notes();
    assert!(notes.iter().any(|note| note.contains("cn=new")), "the session has the new one: {notes:?}");
    until("the old ones were gone", || {
        (upstream.notes().iter().filter(|note| note.as_str() == "end after 0").count() >= 2).then_some(())
    });
}

fn retired(ambassador: &Ambassador, upstream: &Upstream, count: usize) {
    until("the old ones were parted from and new ones were ready", || {
        let parted = upstream.notes().iter().filter(|note| note.as_str() == "end after 0").count();
        let ready = ambassador.metrics().sum("preconnected", &[("cluster", "up")]);
        (parted >= count && ready == f64::from(2_u32)).then_some(())
    });
    assert_eq!(preconnects(ambassador, "died"), 0.0);
}

/// No client connects meanwhile: the spares are closed because of the change, not because of a session.
#[test]
fn none_outlives_the_ca_the_revocation_list_or_the_pins_that_it_was_made_under() {
    const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);
    let (pki, other) = (Pki::new(), Pki::new());
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let crl = pki.crl("crl.pem", &[], YEAR);
    let tls = |more: &str| format!("tls: {{ ca: {}, crl: {} {more} }}", pki.ca().display(), crl.display());
    let config = |more: &str| redis(&[&upstream.address()], 2, &tls(more));
    let ambassador = Ambassador::start(&config(""));
    wait_ready(&ambassador, 2);
    let both = [&pki, &other].map(|pki| fs::read_to_string(pki.ca()).expect("a CA")).concat();
    fs::write(pki.ca(), both).expect("another CA beside the old one");
    retired(&ambassador, &upstream, 2);
    pki.crl("crl.pem", &[&pki.client("revoked")], YEAR);
    retired(&ambassador, &upstream, 4);
    // A reload that adds a demand on the server: a pin that it does not fulfil.
    let pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    ambassador.rewrite(&config(&format!(", pins: [\"{pin}\"]")));
    assert_eq!(ambassador.post("/reload").status, 200);
    ambassador.connect().try_send("PING\r\n");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed", "{record}");
    assert_eq!(preconnects(&ambassador, "hit"), 0.0);
}

#[test]
fn a_reload_changes_how_many_are_ready_and_whether_there_are_any() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&redis(&[&upstream.address()], 1, ""));
    wait_ready(&ambassador, 1);
    for count in [3, 2, 0, 1] {
        ambassador.rewrite(&redis(&[&upstream.address()], count, ""));
        assert_eq!(ambassador.post("/reload").status, 200);
        wait_ready(&ambassador, count);
        let ready = || ambassador.status()["clusters"][0]["endpoints"][0]["ready"].as_u64();
        assert_eq!(ready(), Some(count.into()));
        upstream.wait_active(usize::try_from(count).expect("it is small"));
        ambassador.connect().echo("PING\r\n");
        ambassador.wait_active(0);
    }
    let records = ambassador.wait_records(4);
    let dials: Vec<_> = records.iter().map(|record| record["attempts"].as_u64().expect("a number")).collect();
    assert_eq!(dials, [0, 0, 1, 0], "only where none was kept it had to be dialled");
}

#[test]
fn a_dead_endpoint_is_not_dialled_ahead_in_a_hurry() {
    let mut dead = Upstream::plain(roles::echo);
    dead.stop();
    let unbroken = "circuit_breaker: { consecutive_failures: 0 }";
    let ambassador = Ambassador::start(&redis(&[&dead.address()], 5, unbroken));
    let attempts = || ambassador.metrics().sum("connect_attempts_total", &[("result", "connect_refused")]);
    until("it was tried a few times", || (attempts() >= 6.0).then_some(()));
    let started = std::time::Instant::now();
    let before = attempts();
    until("it was tried once more", || (attempts() > before).then_some(()));
    // A loop without pauses would make thousands in this time.
    let most = 30.0 + started.elapsed().as_secs_f64() * 60.0;
    assert!(attempts() < most, "{} attempts", attempts());
    assert_eq!(preconnects(&ambassador, "died"), 0.0);
}
