//! Servers that speak first, and late: how long the daemon waits for the greeting, and what it reports of a silent
//! server.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::harness::server::{dovecot, mariadb, postfix};
use crate::harness::{
    Ambassador, Config, Conn, Finished, Pki, Postgres, Server, ServerTls, Upstream, ambassador, finish,
    roles, wait,
};

/// At most a second, so that the greetings take longer than all of these limits.
const SHORT: &str = "handshake_timeout: 300ms, deadline: 500ms, timeout: 400ms";

/// An SMTP server that sends the rest of its greeting on a cue, like postscreen.
fn smtp_server(tls: Arc<ServerConfig>, may_greet: Arc<Semaphore>) -> Upstream {
    Upstream::plain(move |conn| serve_smtp(conn, Arc::clone(&tls), Arc::clone(&may_greet)))
}

async fn serve_smtp(mut conn: Conn, tls: Arc<ServerConfig>, may_greet: Arc<Semaphore>) {
    drop(conn.write_all(b"220-a moment\r\n").await);
    let _leave = may_greet.acquire().await;
    drop(conn.write_all(b"220 mx.test ESMTP\r\n").await);
    for (heard, answer) in [("EHLO", "250-mx.test\r\n250 STARTTLS\r\n"), ("STARTTLS", "220 go\r\n")] {
        let mut line = vec![0; 128];
        let count = conn.read(&mut line).await.unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..count]).into_owned();
        conn.note(line.trim_end());
        if !line.starts_with(heard) || conn.write_all(answer.as_bytes()).await.is_err() {
            return conn.note("left in the middle");
        }
    }
    if let Some(conn) = conn.start_tls(tls).await {
        roles::echo(conn).await;
    }
}

fn smtp_cluster(pki: &Pki, connect: &str) -> String {
    format!(
        "protocol: smtp\nconnect: {{ {connect} }}\ntls: {{ ca: {}, server_name: mx.test }}",
        pki.ca().display()
    )
}

/// Scenario: Postfix' postscreen completes its greeting after 6 s, and so does an Exim with a `delay`: the session was
/// refused after 5 s, and each retry began the wait anew. RFC 5321 §4.5.3.2.1 has clients wait five minutes.
#[test]
fn a_server_that_greets_late_is_waited_for_and_not_blamed() {
    let (pki, may_greet) = (Pki::new(), Arc::new(Semaphore::new(0)));
    let leaf = pki.server(&["mx.test"]);
    let server = smtp_server(ServerTls::new(&leaf).build(), Arc::clone(&may_greet));
    let health_check = "health_check: { type: tls, interval: 100ms, timeout: 100ms, unhealthy_threshold: 1 }";
    let cluster = format!("{}\n{health_check}", smtp_cluster(&pki, SHORT));
    let ambassador = Ambassador::start(&Config::app(&[&server.address()], &cluster));
    let mut client = ambassador.connect();
    // Logged when handshake_timeout is over. The deadline over all attempts is over when the next session gets this
    // error.
    let line = ambassador.wait_line("not greeted yet");
    assert!(line.contains("300s") && line.contains("tls.start: direct"), "{line}");
    ambassador.wait_line("server's greeting when health_check.timeout (100ms) was over");
    may_greet.add_permits(100);
    client.expect("220 [127.0.0.1] ESMTP ambassador\r\n");
    client.echo("250 served\r\n");
    drop(client);
    let record = ambassador.record();
    assert_eq!((&record["outcome"], &record["attempts"]), (&"completed".into(), &1.into()), "{record}");
    assert!(record["greeting_ms"].as_f64().is_some_and(|took| took > 300.0), "{record}");
    assert_eq!(ambassador.metrics().sum("ejections_total", &[]), 0.0);
}

/// The same with Postfix' own postscreen, whose whole greeting takes 2 s here (6 by default), with shorter limits.
#[test]
fn a_postscreen_lets_pass_whoever_waits() {
    let cluster = format!("protocol: smtp\nconnect: {{ {SHORT} }}\n{}", postfix().tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&postfix().address(1)], &cluster));
    let mut client = ambassador.connect();
    client.expect("220 [127.0.0.1] ESMTP ambassador\r\n");
    client.send("EHLO app.test\r\n");
    client.expect("250-mx.test\r\n");
    // A client that only leaves would be logged by the server, whose log other tests read.
    client.send("QUIT\r\n");
    client.read_out();
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["attempts"], 1, "{record}");
    assert!(record["greeting_ms"].as_f64().is_some_and(|took| took > 1500.0), "{record}");
}

/// A client that asks for an answer within half a second, by `Ambassador-Deadline`, gets one.
#[test]
fn a_deadline_that_the_client_asks_for_holds_for_the_greeting() {
    let (pki, server) = (Pki::new(), Upstream::plain(roles::silent));
    let cluster = smtp_cluster(&pki, "handshake_timeout: 100ms");
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\ncontext: connect").cluster(
        "up",
        &[&server.address()],
        &cluster,
    );
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.send("CONNECT up HTTP/1.1\r\nHost: up\r\nAmbassador-Deadline: 400ms\r\n\r\n");
    client.read_out();
    let record = ambassador.record_of("deadline_exceeded");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("did not greet within connect.deadline (400ms)"), "{error}");
    assert_eq!(ambassador.metrics().sum("connect_attempts_total", &[("result", "deadline")]), 1.0);
    let endpoint = &ambassador.status()["clusters"][0]["endpoints"][0];
    assert!(endpoint["ejected"].is_null(), "{endpoint}");
}

/// With five minutes for a greeting a frozen server must not cost its sessions five minutes.
#[test]
fn a_server_that_hangs_costs_no_session_its_greeting_where_another_is() {
    let (pki, may_greet) = (Pki::new(), Arc::new(Semaphore::new(100)));
    let leaf = pki.server(&["mx.test"]);
    let server = smtp_server(ServerTls::new(&leaf).build(), may_greet);
    let hung = Upstream::plain(roles::silent);
    let cluster = format!("balance: first\n{}", smtp_cluster(&pki, "timeout: 1s"));
    let ambassador = Ambassador::start(&Config::app(&[&hung.address(), &server.address()], &cluster));
    for _ in 0..3 {
        let mut client = ambassador.connect();
        client.expect("220 [127.0.0.1] ESMTP ambassador\r\n");
        client.echo("250 served\r\n");
    }
    for record in ambassador.wait_records(3) {
        assert!(record["duration_ms"].as_f64().is_some_and(|took| took < 2000.0), "{record}");
    }
    ambassador.wait_line("endpoint ejected");
}

/// A MySQL server is not hedged, since it counts aborted logins; a server that has not even greeted counts none.
#[test]
fn a_database_that_hangs_is_passed_over_when_the_time_of_a_handshake_is_over() {
    let (server, hung) = (mariadb(), Upstream::plain(roles::silent));
    let cluster =
        format!("protocol: mysql\nbalance: first\nconnect: {{ handshake_timeout: 1s }}\n{}", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&hung.address(), &server.address(0)], &cluster));
    let mut client = ambassador.connect();
    // The packet number, then protocol version 10.
    assert_eq!(client.receive(5)[3..], [0, 10]);
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["attempts"], 2, "{record}");
    assert_eq!(ambassador.metrics().sum("hedged_dials_total", &[("result", "won")]), 1.0);
}

fn check(config: &Config, extra: &[&str]) -> Finished {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, config.render(dir.path())).expect("a file to check");
    let mut command: Command = ambassador();
    finish(command.arg("check").args(extra).arg("--config").arg(&file))
}

/// Scenario: a MySQL client at a PostgreSQL server, or SMTP at port 465 without `start: direct`, ended in "did not
/// finish the upgrade within connect.handshake_timeout (5s)" without the reason.
#[test]
fn a_server_that_waits_for_its_client_is_told_from_one_that_greets() {
    let (pki, silent) = (Pki::new(), Upstream::plain(roles::silent));
    let smtp = Config::app(&[&silent.address()], &smtp_cluster(&pki, "greeting_timeout: 300ms"));
    let finished = check(&smtp, &["--connect"]).must_exit(1);
    for part in [
        "did not greet within connect.greeting_timeout (300ms)",
        "servers of smtp speak first",
        "tls.start: direct",
    ] {
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
    }
    for (protocol, server, port, part) in [
        ("postgres", mariadb(), 0, "it greets as servers of mysql do"),
        ("postgres", postfix(), 0, "it greets as servers of smtp"),
        ("ldap", dovecot(), 0, "it greets as servers of imap do"),
        ("mysql", dovecot(), 1, "it greets as servers of pop3 do"),
        ("imap", postfix(), 0, "it greets as servers of smtp"),
    ] {
        let cluster = format!("protocol: {protocol}\n{}", Server::tls(server, ""));
        let finished = check(&Config::app(&[&server.address(port)], &cluster), &["--connect"]).must_exit(1);
        assert!(finished.stdout.contains(part), "{protocol}: {}", finished.stdout);
    }
}

/// Scenario: a MySQL or SMTP cluster at a PostgreSQL port, or SMTP at port 465 without `start: direct`. Both sides wait
/// for the other's first words; `check --connect` was silent for 30 s, and then guessed.
#[test]
fn a_silent_server_is_asked_what_it_speaks() {
    let postgres = Postgres::shared();
    let pki = Pki::new();
    let direct =
        Upstream::tls(ServerTls::new(&pki.server(&["mx.test"])).build(), roles::greet("220 mx.test\r\n"));
    let ca = format!("tls: {{ ca: {}, server_name: mx.test }}", pki.ca().display());
    let of_postgres = "it answers as servers of postgres do";
    for (protocol, address, tls, seen) in [
        ("mysql", postgres.address(), postgres.tls(), of_postgres),
        ("smtp", postgres.address(), postgres.tls(), of_postgres),
        ("smtp", direct.address(), ca.clone(), "it speaks TLS with the first byte (write tls.start: direct)"),
    ] {
        let begun = Instant::now();
        let finished =
            check(&Config::app(&[&address], &format!("protocol: {protocol}\n{tls}")), &["--connect"]);
        let took = begun.elapsed();
        let told = finished.must_exit(1).stdout;
        assert!(told.contains("upgrade    waits   the server waits for its client"), "{protocol}: {told}");
        assert!(
            told.contains(&format!("does not greet as servers of {protocol} do; {seen}")),
            "{protocol}: {told}"
        );
        // Three seconds of silence, and two at most for each question.
        assert!(took < Duration::from_secs(15), "{protocol} took {took:?}: {told}");
    }
}

/// The same in a session: the log says so after a few seconds, once, and the session waits on.
#[test]
fn the_first_warning_of_a_silent_server_says_what_it_may_be() {
    let postgres = Postgres::shared();
    let cluster = format!("protocol: mysql\n{}", postgres.tls());
    let ambassador = Ambassador::start(&Config::app(&[&postgres.address()], &cluster));
    let begun = Instant::now();
    let _client = ambassador.connect();
    let line = ambassador.wait_line("not greeted yet");
    // `handshake_timeout` is 5 s.
    assert!(begun.elapsed() < Duration::from_millis(4900), "{:?}: {line}", begun.elapsed());
    assert!(line.contains("one that waits for its client speaks another protocol, or TLS"), "{line}");
    ambassador.wait_active(1);
}

/// Scenario: a server that greets late is not given up for the questions that a silent one is asked.
#[test]
fn a_check_waits_for_a_greeting_that_comes_after_the_questions() {
    let (pki, may_greet) = (Pki::new(), Arc::new(Semaphore::new(0)));
    let tls = ServerTls::new(&pki.server(&["mx.test"])).build();
    let cue = Arc::clone(&may_greet);
    let late = Upstream::plain(move |mut conn| {
        let (tls, cue) = (Arc::clone(&tls), Arc::clone(&cue));
        async move {
            // The first connection is the one that waits for its greeting; the others ask at once.
            let _leave = cue.acquire().await;
            drop(conn.write_all(b"220-late\r\n").await);
            conn.note("greets");
            serve_smtp(conn, tls, Arc::new(Semaphore::new(100))).await;
        }
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    let config = Config::app(&[&late.address()], &smtp_cluster(&pki, ""));
    fs::write(&file, config.render(dir.path())).expect("a file to check");
    let mut command: Command = ambassador();
    command.args(["check", "--connect", "--config"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let checking = command.spawn().expect("the check starts");
    // The connection of the check, and one for each question.
    late.wait_accepted(3);
    may_greet.add_permits(100);
    let told = wait(checking).stdout;
    assert!(told.contains("upgrade    waits   the server waits for its client"), "{told}");
    assert!(told.contains("handshake  ok"), "{told}");
}

/// Scenario: the first server took longer than `deadline` to report that it has no room. The second was never tried:
/// nothing was left of the deadline, although a greeting is not part of it.
#[test]
fn a_greeting_that_comes_late_and_says_no_leaves_time_for_another_server() {
    let pki = Pki::new();
    let may_greet = Arc::new(Semaphore::new(100));
    let may_refuse = Arc::new(Semaphore::new(0));
    let refusing = Arc::clone(&may_refuse);
    let slow = Upstream::plain(move |mut conn| {
        let may_refuse = Arc::clone(&refusing);
        async move {
            drop(may_refuse.acquire().await);
            drop(conn.write_all(b"421 4.3.2 not now\r\n").await);
            drop(conn.shutdown().await);
        }
    });
    let leaf = pki.server(&["mx.test"]);
    let second = smtp_server(ServerTls::new(&leaf).build(), may_greet);
    let cluster =
        smtp_cluster(&pki, "deadline: 2s, timeout: 2s, handshake_timeout: 2500ms, hedge_after: none");
    let standby = format!("{{ address: \"{}\", priority: 1 }}", second.address());
    let ambassador = Ambassador::start(&Config::app(&[&slow.address(), &standby], &cluster));
    let mut client = ambassador.connect();
    // When handshake_timeout is over, which is longer than the deadline.
    ambassador.wait_line("not greeted yet");
    may_refuse.add_permits(1);
    client.expect("220 [127.0.0.1] ESMTP ambassador\r\n");
    drop(client);
    let record = ambassador.record();
    assert_eq!((&record["endpoint"], &record["attempts"]), (&second.address().into(), &2.into()), "{record}");
}
