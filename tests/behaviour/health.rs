//! Health checks: what each type detects, which endpoints get sessions, and how health is shown.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Ambassador, Config, Conn, Pki, ServerTls, Upstream, roles, until};

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An endpoint's entry in `/status`.
fn endpoint(ambassador: &Ambassador, address: &str) -> Value {
    let status = ambassador.status();
    let endpoints = status["clusters"][0]["endpoints"].as_array().expect("endpoints").clone();
    let found = endpoints.into_iter().find(|endpoint| endpoint["name"] == address);
    found.unwrap_or_else(|| panic!("/status knows no endpoint {address}"))
}

/// Waits until `/status` reports that health.
#[track_caller]
pub(crate) fn wait_health(ambassador: &Ambassador, address: &str, health: &str) -> Value {
    until(format!("{address} was {health}"), || {
        let endpoint = endpoint(ambassador, address);
        (endpoint["health"] == health).then_some(endpoint)
    })
}

/// Waits until this many more probes of the endpoint have ended.
#[track_caller]
pub(crate) fn wait_probes(ambassador: &Ambassador, address: &str, result: &str, more: usize) {
    let labels = [("cluster", "up"), ("endpoint", address), ("result", result)];
    let ended = || ambassador.metrics().sum("health_checks_total", &labels);
    let before = ended();
    until(format!("{more} probes of {address} ended by {result}"), || {
        (ended() >= before + more as f64).then_some(())
    });
}

fn healthy(ambassador: &Ambassador, address: &str) -> f64 {
    ambassador.metrics().sum("endpoint_healthy", &[("cluster", "up"), ("endpoint", address)])
}

/// Lines of the log about a change of the endpoint's health.
fn transitions(ambassador: &Ambassador, address: &str) -> Vec<String> {
    let lines = ambassador.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let of = lines.filter(|line| line["message"] == "health changed" && line["endpoint"] == address);
    of.map(|line| line["state"].as_str().unwrap_or_default().to_owned()).collect()
}

const QUICK: &str = "interval: 100ms, timeout: 1s";

/// Answers `ping` lines with `pong` while `up`, else with an error; echoes everything else.
pub(crate) fn switchable(up: &Arc<AtomicBool>) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    let up = Arc::clone(up);
    move |mut conn| {
        let up = Arc::clone(&up);
        Box::pin(async move {
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = conn.read(&mut buffer).await {
                let answer = match &buffer[..read] {
                    b"ping\n" if up.load(Ordering::SeqCst) => b"pong\n".as_slice(),
                    b"ping\n" => b"\x1bgo away\n",
                    other => other,
                };
                if conn.write_all(answer).await.is_err() || answer.starts_with(b"\x1b") {
                    return;
                }
            }
        })
    }
}

/// A cluster of servers that are probed with `ping`.
fn pinged(endpoints: &[&str], more: &str) -> Config {
    let check = format!("{{ type: exchange, {QUICK}, exchange: {{ send: 'ping\\n', expect: 'pong\\n' }} }}");
    Config::app(endpoints, &format!("balance: round_robin\nhealth_check: {check}\n{more}"))
}

#[test]
fn an_endpoint_that_fails_its_probes_gets_no_session_until_it_passes_them_again() {
    let (up, always) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (switchable, steady) = (Upstream::plain(switchable(&up)), Upstream::plain(switchable(&always)));
    let ambassador = Ambassador::start(&pinged(&[&switchable.address(), &steady.address()], ""));
    let before = wait_health(&ambassador, &switchable.address(), "healthy");
    assert_eq!(before["health_error"], Value::Null);
    assert!(before["health_seconds"].as_f64().expect("a number") >= 0.0);
    wait_health(&ambassador, &steady.address(), "healthy");

    up.store(false, Ordering::SeqCst);
    let after = wait_health(&ambassador, &switchable.address(), "unhealthy");
    let words = "the answer, which begins with \"\\x1bgo away\\n\", has no \"pong\\n\" in it";
    assert_eq!(after["health_error"], words);
    until("the metric said so", || (healthy(&ambassador, &switchable.address()) == 0.0).then_some(()));
    assert_eq!(healthy(&ambassador, &steady.address()), 1.0);
    for _ in 0..6 {
        ambassador.connect().echo("hello");
    }
    let records = ambassador.wait_records(6);
    assert!(records.iter().all(|record| record["endpoint"] == steady.address()), "{records:?}");

    up.store(true, Ordering::SeqCst);
    wait_health(&ambassador, &switchable.address(), "healthy");
    for _ in 0..4 {
        ambassador.connect().echo("hello");
    }
    let records = ambassador.wait_records(10);
    let back = records[6..].iter().filter(|record| record["endpoint"] == switchable.address()).count();
    assert_eq!(back, 2, "it takes its turn again");
    assert_eq!(transitions(&ambassador, &switchable.address()), ["healthy", "unhealthy", "healthy"]);
}

#[test]
fn an_endpoint_that_flaps_below_the_threshold_stays_what_it_is() {
    let turn = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turn);
    // Every third probe is answered: never three failures in a row.
    let upstream = Upstream::plain(move |conn| {
        let up = counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        switchable(&Arc::new(AtomicBool::new(up)))(conn)
    });
    let ambassador = Ambassador::start(&pinged(&[&upstream.address()], ""));
    wait_health(&ambassador, &upstream.address(), "healthy");
    wait_probes(&ambassador, &upstream.address(), "bad_answer", 12);
    assert_eq!(transitions(&ambassador, &upstream.address()), ["healthy"]);
}

#[test]
fn a_dead_endpoint_is_told_by_the_first_probe() {
    let (mut dead, steady) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    dead.stop();
    let config = Config::app(
        &[&dead.address(), &steady.address()],
        &format!("health_check: {{ type: tcp, {QUICK} }}"),
    );
    let ambassador = Ambassador::start(&config);
    let told = wait_health(&ambassador, &dead.address(), "unhealthy");
    assert!(told["health_error"].as_str().expect("words").contains("refused"), "{told}");
    wait_health(&ambassador, &steady.address(), "healthy");
    wait_probes(&ambassador, &dead.address(), "connect_refused", 1);
    wait_probes(&ambassador, &steady.address(), "ok", 1);
    let attempts =
        |address: &str| ambassador.metrics().sum("connect_attempts_total", &[("endpoint", address)]);
    for _ in 0..6 {
        ambassador.connect().echo("hello");
    }
    ambassador.wait_records(6);
    assert_eq!(attempts(&dead.address()), 0.0, "a probe is no attempt, and no session went there");
    assert_eq!(attempts(&steady.address()), 6.0);
}

/// The interval is an hour: only the session that failed on the endpoint can trigger the probe.
#[test]
fn a_session_that_cannot_connect_hurries_the_next_probe() {
    let (mut dying, steady) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let config = Config::app(
        &[&dying.address(), &steady.address()],
        "balance: round_robin\nhealth_check: { type: tcp, interval: 1h, unhealthy_threshold: 1 }",
    );
    let ambassador = Ambassador::start(&config);
    wait_health(&ambassador, &dying.address(), "healthy");
    let address = dying.address();
    dying.stop();
    until("a session ran into the dead endpoint", || {
        ambassador.connect().echo("hello");
        let refused = [("endpoint", address.as_str()), ("result", "connect_refused")];
        (ambassador.metrics().sum("connect_attempts_total", &refused) > 0.0).then_some(())
    });
    let probes = || ambassador.metrics().sum("health_checks_total", &[("endpoint", &address)]);
    wait_health(&ambassador, &address, "unhealthy");
    assert_eq!(probes(), 2.0, "the first, and the one that was hurried");
}

#[test]
fn a_server_that_hangs_is_told_by_what_did_not_come() {
    let pki = Pki::new();
    let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
    let silent = Upstream::plain(roles::silent);
    for (cluster, kind, awaited) in [
        ("", "exchange, exchange: { send: x, expect: y }", "answer"),
        (tls.as_str(), "tls", "TLS handshake"),
        ("", "http, http: { port: PORT }", "answer"),
    ] {
        let kind = kind.replace("PORT", &silent.port().to_string());
        let check = format!("health_check: {{ interval: 100ms, timeout: 200ms, type: {kind} }}");
        let config = Config::app(&[&silent.address()], &format!("{check}\n{cluster}"));
        let ambassador = Ambassador::start(&config);
        let told = wait_health(&ambassador, &silent.address(), "unhealthy");
        let words = format!("waiting for the {awaited} when health_check.timeout (200ms) was over");
        assert!(told["health_error"].as_str().expect("words").contains(&words), "{told}");
        wait_probes(&ambassador, &silent.address(), "timeout", 1);
    }
}

#[test]
fn an_answer_that_is_not_the_one_is_shown_though_the_server_goes_on() {
    let upstream = Upstream::plain(roles::echo);
    let check =
        "health_check: { interval: 100ms, timeout: 200ms, type: exchange, exchange: { send: x, expect: y } }";
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], check));
    let told = wait_health(&ambassador, &upstream.address(), "unhealthy");
    let words = "the answer, which begins with \"x\", has no \"y\" in it";
    assert_eq!(told["health_error"], words);
}

#[test]
fn a_probe_shakes_hands_with_the_clusters_own_tls() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (leaf, stranger) = (pki.client("app"), other.client("app"));
    let server = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).only_1_3().build();
    let upstream = Upstream::tls(server, roles::echo);
    let tls = |ca: &Pki, leaf: &crate::harness::Leaf| {
        let (cert, key) = (leaf.cert.display(), leaf.key.display());
        format!("tls: {{ ca: {}, cert: {cert}, key: {key} }}", ca.ca().display())
    };
    for (tls, health, words, result) in [
        (tls(&pki, &leaf), "healthy", "", "ok"),
        (tls(&other, &leaf), "unhealthy", "not signed by a CA of tls.ca", "tls_failed"),
        // In TLS 1.3 a server may reject our certificate after our side of the handshake is done.
        (tls(&pki, &stranger), "unhealthy", "the server rejected our client certificate", "bad_answer"),
    ] {
        let check = format!("health_check: {{ type: tls, {QUICK} }}");
        let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &format!("{tls}\n{check}")));
        let told = wait_health(&ambassador, &upstream.address(), health);
        assert!(told["health_error"].as_str().unwrap_or_default().contains(words), "{told}");
        wait_probes(&ambassador, &upstream.address(), result, 1);
    }
}

/// The three ways in which a server ends a connection right after its handshake.
fn shows_out(how: &'static str) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    move |mut conn| {
        Box::pin(async move {
            match how {
                "close_notify" => drop(conn.shutdown().await),
                "FIN" => conn.shutdown_tcp(),
                _ => conn.reset(),
            }
        })
    }
}

/// Scenario: a proxy whose own servers were down finished the handshake and closed. The probe took that close for
/// content, and the endpoint was healthy while every session to it failed.
#[test]
fn a_server_that_closes_right_after_the_handshake_is_unhealthy() {
    let pki = Pki::new();
    for how in ["close_notify", "FIN", "reset"] {
        let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), shows_out(how));
        let cluster =
            format!("tls: {{ ca: {} }}\nhealth_check: {{ type: tls, {QUICK} }}", pki.ca().display());
        let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
        let told = wait_health(&ambassador, &upstream.address(), "unhealthy");
        let words = "the server closed the connection right after the handshake";
        assert!(told["health_error"].as_str().unwrap_or_default().starts_with(words), "{how}: {told}");
        wait_probes(&ambassador, &upstream.address(), "bad_answer", 2);
    }
}

/// A server that greets, and a server that waits for its client: neither is mistaken for the above.
#[test]
fn a_server_that_greets_and_one_that_waits_pass_a_probe_of_tls() {
    let pki = Pki::new();
    let server = || ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    let greets = Upstream::tls(server(), |mut conn| async move {
        drop(conn.write_all(b"hello\n").await);
        drop(conn.shutdown().await);
    });
    let waits = Upstream::tls(server(), roles::echo);
    let cluster = format!("tls: {{ ca: {} }}\nhealth_check: {{ type: tls, {QUICK} }}", pki.ca().display());
    let config = Config::app(&[&greets.address(), &waits.address()], &cluster);
    let ambassador = Ambassador::start(&config);
    for upstream in [&greets, &waits] {
        wait_health(&ambassador, &upstream.address(), "healthy");
        wait_probes(&ambassador, &upstream.address(), "ok", 3);
        assert_eq!(transitions(&ambassador, &upstream.address()), ["healthy"]);
    }
}

/// Notes how long each client stayed after the handshake, in milliseconds.
async fn stays(mut conn: Conn) {
    let begun = std::time::Instant::now();
    drop(conn.read(&mut [0; 64]).await);
    conn.note(format!("stayed {}", begun.elapsed().as_millis()));
}

/// Scenario: each probe of type `tls` waited 300 ms, once a second, for the server's reaction to our certificate:
/// probes occupied one connection of a nearly full server a third of the time.
#[test]
fn only_credentials_that_a_server_has_not_let_pass_are_waited_for() {
    let pki = Pki::new();
    let folder = crate::credentials::Folder::with(&pki.client("first"));
    let server = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(server, stays);
    let (cert, key) = (folder.path("client.pem"), folder.path("client.key"));
    let cluster = format!(
        "tls: {{ ca: {}, cert: {}, key: {} }}\nhealth_check: {{ type: tls, interval: 100ms, timeout: 5s }}",
        pki.ca().display(),
        cert.display(),
        key.display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let stays = || {
        let notes = upstream.notes();
        let stayed = notes.iter().filter_map(|note| note.strip_prefix("stayed ")?.parse::<u32>().ok());
        stayed.collect::<Vec<_>>()
    };
    let stayed_behind = |known: usize, what: &str, is_it: &dyn Fn(u32) -> bool| {
        until(format!("a probe {what} (they stayed {:?})", stays()), || {
            stays().into_iter().skip(known).any(is_it).then_some(())
        });
    };
    until("the first probe was over", || (!stays().is_empty()).then_some(()));
    assert!(stays()[0] >= 200, "the first waits: {:?}", stays());
    stayed_behind(1, "left at once", &|stayed| stayed < 100);

    let known = stays().len();
    let renewed = pki.client("second");
    folder.install(&renewed.cert, "client.pem");
    folder.install(&renewed.key, "client.key");
    stayed_behind(known, "waited for what becomes of another certificate", &|stayed| stayed >= 200);
    let known = stays().len();
    stayed_behind(known, "left at once again", &|stayed| stayed < 100);
    wait_health(&ambassador, &upstream.address(), "healthy");
}

/// Answers like Patroni: 200 on the primary, 503 elsewhere.
fn role(is_primary: &Arc<AtomicBool>) -> impl Fn(Conn) -> Script + Clone + Send + 'static {
    let is_primary = Arc::clone(is_primary);
    move |mut conn| {
        let is_primary = Arc::clone(&is_primary);
        Box::pin(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                match conn.read_u8().await {
                    Ok(byte) => asked.push(byte),
                    Err(_) => return,
                }
            }
            conn.note(String::from_utf8_lossy(&asked));
            let (status, body) = if is_primary.load(Ordering::SeqCst) {
                ("200 OK", "{\"state\": \"running\", \"role\": \"primary\"}")
            } else {
                ("503 Service Unavailable", "{\"state\": \"running\", \"role\": \"replica\"}")
            };
            let length = body.len();
            let answer = format!("HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            drop(conn.write_all(answer.as_bytes()).await);
            drop(conn.shutdown().await);
        })
    }
}

/// Two hosts, each with a database and a Patroni that listen on the same ports.
#[test]
fn sessions_follow_the_role_that_an_http_server_tells_on_another_port() {
    let roles = [true, false].map(|is_primary| Arc::new(AtomicBool::new(is_primary)));
    let one = Upstream::plain(roles::greet("one"));
    let two = Upstream::plain_at("127.0.0.2:0", roles::greet("two"));
    let patroni_one = Upstream::plain(role(&roles[0]));
    let port = patroni_one.port();
    let patroni_two = Upstream::plain_at(&format!("127.0.0.2:{port}"), role(&roles[1]));
    let config = Config::app(
        &[&one.address(), &two.address()],
        &format!("balance: round_robin\nhealth_check: {{ type: http, {QUICK}, http: {{ port: {port} }} }}"),
    );
    let ambassador = Ambassador::start(&config);
    wait_health(&ambassador, &one.address(), "healthy");
    let told = wait_health(&ambassador, &two.address(), "unhealthy");
    let words = format!("GET /primary at 127.0.0.2:{port}: answered 503 Service Unavailable, expected 200");
    assert_eq!(told["health_error"], words);
    for _ in 0..4 {
        ambassador.connect().expect("one");
    }
    let asked = patroni_two.wait_note("GET /primary HTTP/1.1\r\n");
    assert!(asked.contains(&format!("host: 127.0.0.2:{port}\r\n")), "{asked}");

    for role in &roles {
        role.fetch_xor(true, Ordering::SeqCst);
    }
    wait_health(&ambassador, &two.address(), "healthy");
    wait_health(&ambassador, &one.address(), "unhealthy");
    for _ in 0..4 {
        ambassador.connect().expect("two");
    }
    assert_eq!(transitions(&ambassador, &two.address()), ["unhealthy", "healthy"]);
}

/// An HTTPS server would not know the database's ALPN name.
#[test]
fn an_https_probe_has_the_clusters_trust_and_identity_and_a_name_of_its_own_for_what_it_speaks() {
    let pki = Pki::new();
    let leaf = pki.client("app");
    let server = ServerTls::new(&pki.server(&["db.test"])).clients_of(&pki).alpn(&["http/1.1"]).build();
    let patroni = Upstream::tls(server, role(&Arc::new(AtomicBool::new(true))));
    let database = Upstream::plain(roles::echo);
    let (ca, cert, key) = (pki.ca(), leaf.cert.display(), leaf.key.display());
    let tls = format!(
        "tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: db.test, alpn: [postgresql] }}",
        ca.display()
    );
    let check = format!(
        "health_check: {{ type: http, {QUICK}, http: {{ port: {}, path: /replica, tls: true }} }}",
        patroni.port()
    );
    let config = Config::app(&[&database.address()], &format!("{tls}\n{check}"));
    let ambassador = Ambassador::start(&config);
    wait_health(&ambassador, &database.address(), "healthy");
    patroni.wait_note("GET /replica HTTP/1.1");
    let handshake = patroni.wait_note("handshake");
    for part in ["alpn=Some(\"http/1.1\")", "sni=Some(\"db.test\")", "client=true"] {
        assert!(handshake.contains(part), "{handshake}");
    }
    assert_eq!(database.accepted(), 0, "nobody asks the database itself");
}

#[test]
fn an_http_server_that_is_none_is_told_so() {
    let rubbish = Upstream::plain(roles::greet("220 mail.test ESMTP\r\n"));
    let check = format!("health_check: {{ type: http, {QUICK}, http: {{ port: {} }} }}", rubbish.port());
    let ambassador = Ambassador::start(&Config::app(&[&rubbish.address()], &check));
    let told = wait_health(&ambassador, &rubbish.address(), "unhealthy");
    let words = told["health_error"].as_str().expect("words");
    assert!(words.starts_with("GET /primary at 127.0.0.1:"), "{words}");
    wait_probes(&ambassador, &rubbish.address(), "bad_answer", 1);
}

#[test]
fn without_a_check_nobody_is_probed_and_nothing_is_claimed() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    ambassador.connect().echo("hello");
    assert_eq!(endpoint(&ambassador, &upstream.address())["health"], "unchecked");
    assert_eq!(endpoint(&ambassador, &upstream.address())["health_seconds"], Value::Null);
    assert_eq!(upstream.accepted(), 1);
    let samples = ambassador.metrics();
    assert!(samples.samples().iter().all(|sample| sample.name != "ambassador_endpoint_healthy"));
}

/// Sessions on an endpoint that goes down are ended only where the configuration says `close`.
#[test]
fn sessions_end_with_an_endpoint_that_goes_down_when_the_file_says_so() {
    let (up, always) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (switchable, steady) = (Upstream::plain(switchable(&up)), Upstream::plain(switchable(&always)));
    for fate in ["close", "keep"] {
        up.store(true, Ordering::SeqCst);
        let more = format!("on_unhealthy: {fate}\nclosing_time: 100ms");
        let ambassador = Ambassador::start(&pinged(&[&switchable.address(), &steady.address()], &more));
        wait_health(&ambassador, &switchable.address(), "healthy");
        wait_health(&ambassador, &steady.address(), "healthy");
        let mut clients = [ambassador.connect(), ambassador.connect()];
        clients.iter_mut().for_each(|client| client.echo("hello"));
        up.store(false, Ordering::SeqCst);
        wait_health(&ambassador, &switchable.address(), "unhealthy");
        if fate == "close" {
            let record = ambassador.record_of("endpoint_down");
            assert_eq!(record["endpoint"], switchable.address());
            ambassador.wait_active(1);
        } else {
            wait_probes(&ambassador, &switchable.address(), "bad_answer", 3);
            clients.iter_mut().for_each(|client| client.echo("still here"));
        }
    }
}

/// Scenario: two sessions found one after the other that all endpoints were down, and that they were not, and reported
/// it in the reverse order: `cluster_panic` and `breaker_state` stayed wrong until the next change. A scrape reads the
/// state itself, so it is right even if no session has come since.
#[test]
fn a_scrape_reads_whether_a_cluster_is_in_panic() {
    let up = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::plain(switchable(&up));
    let check = format!(
        "health_check: {{ type: exchange, {QUICK}, exchange: {{ send: \"ping\\n\", expect: pong }} }}"
    );
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &check));
    let panic = || ambassador.metrics().sum("cluster_panic", &[("cluster", "up")]);
    wait_health(&ambassador, &upstream.address(), "unhealthy");
    assert_eq!(panic(), 1.0);
    up.store(true, Ordering::SeqCst);
    wait_health(&ambassador, &upstream.address(), "healthy");
    assert_eq!(panic(), 0.0);
}
