//! TLS to the upstream when all is well: versions, names, client certificates, ALPN, resumption, roots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;

use crate::harness::{Ambassador, Config, Conn, End, Leaf, Pki, ServerTls, Upstream, roles, until};

/// An echo upstream with this TLS, and an ambassador whose cluster trusts `pki` plus what `keys` say.
fn trusting(pki: &Pki, tls: Arc<ServerConfig>, keys: &str) -> (Upstream, Ambassador) {
    let upstream = Upstream::tls(tls, roles::echo);
    let config =
        Config::app(&[&upstream.address()], &format!("tls: {{ ca: {}, {keys} }}", pki.ca().display()));
    let ambassador = Ambassador::start(&config);
    (upstream, ambassador)
}

fn identity(leaf: &Leaf) -> String {
    format!("cert: {}, key: {}", leaf.cert.display(), leaf.key.display())
}

#[test]
fn tls_1_3_and_1_2_are_spoken_and_recorded() {
    let pki = Pki::new();
    let leaf = pki.server(&["127.0.0.1"]);
    for (tls, version) in
        [(ServerTls::new(&leaf).only_1_3(), "1.3"), (ServerTls::new(&leaf).only_1_2(), "1.2")]
    {
        let (_upstream, ambassador) = trusting(&pki, tls.build(), "");
        ambassador.connect().echo("secret");
        let record = ambassador.record();
        assert_eq!(record["outcome"], "completed");
        assert!(record["tls"]["version"].as_str().expect("a version").contains(version), "{record}");
        assert!(record["tls"]["cipher"].as_str().expect("a cipher").contains("AES"), "{record}");
        assert_eq!(record["tls"]["resumed"], false);
        assert!(record["handshake_ms"].is_number() && record["connect_ms"].is_number());
    }
}

#[test]
fn the_certificate_must_bear_the_server_name_and_the_server_is_told_it() {
    let pki = Pki::new();
    let (upstream, ambassador) =
        trusting(&pki, ServerTls::new(&pki.server(&["db.test"])).build(), "server_name: db.test");
    ambassador.connect().echo("secret");
    upstream.wait_note("sni=Some(\"db.test\")");
}

#[test]
fn the_server_name_defaults_to_the_host_name_of_the_endpoint() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["localhost"])).build(), roles::echo);
    let endpoint = format!("localhost:{}", upstream.port());
    let config = Config::app(&[&endpoint], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let ambassador = Ambassador::start(&config);
    ambassador.connect().echo("secret");
    upstream.wait_note("sni=Some(\"localhost\")");
}

#[test]
fn an_endpoint_has_a_server_name_of_its_own() {
    let pki = Pki::new();
    let (one, two) = (pki.server(&["one.test"]), pki.server(&["two.test"]));
    let one = Upstream::tls(ServerTls::new(&one).build(), roles::echo);
    let two = Upstream::tls(ServerTls::new(&two).build(), roles::echo);
    let endpoint = |upstream: &Upstream, name: &str| {
        format!("{{ address: \"{}\", server_name: {name} }}", upstream.address())
    };
    let endpoints = [endpoint(&one, "one.test"), endpoint(&two, "two.test")];
    let cluster = format!("balance: round_robin\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&endpoints.each_ref().map(String::as_str), &cluster));
    for _ in 0..2 {
        ambassador.connect().echo("secret");
    }
    one.wait_note("sni=Some(\"one.test\")");
    two.wait_note("sni=Some(\"two.test\")");
    assert!(ambassador.wait_records(2).iter().all(|record| record["attempts"] == 1));
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_demands_one() {
    let pki = Pki::new();
    let client = pki.client("billing");
    let server = pki.server(&["127.0.0.1"]);
    for tls in [ServerTls::new(&server), ServerTls::new(&server).only_1_2()] {
        let (upstream, ambassador) = trusting(&pki, tls.clients_of(&pki).build(), &identity(&client));
        ambassador.connect().echo("secret");
        upstream.wait_note("client=true");
        assert_eq!(ambassador.status()["clusters"][0]["tls"], "mtls");
        assert_eq!(ambassador.record()["outcome"], "completed");
    }
}

#[test]
fn keys_come_in_pkcs8_pkcs1_and_sec1() {
    let pki = Pki::new();
    let (ec, rsa) = (pki.client("ec"), pki.rsa_client("rsa"));
    let pairs = [
        (&ec.cert, ec.key.clone()),
        (&ec.cert, ec.key_in_sec1()),
        (&rsa.cert, rsa.key.clone()),
        (&rsa.cert, rsa.key_in_pkcs1()),
    ];
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let mut config = Config::new();
    for (number, (cert, key)) in pairs.iter().enumerate() {
        let name = format!("up{number}");
        let (ca, cert, key) = (pki.ca(), cert.display(), key.display());
        let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key} }}", ca.display());
        config = config.listener(&format!("app{number}"), &format!("bind: 127.0.0.1:0\ncluster: {name}"));
        config = config.cluster(&name, &[&upstream.address()], &tls);
    }
    let ambassador = Ambassador::start(&config);
    for number in 0..pairs.len() {
        ambassador.connect_to(&format!("app{number}")).echo("secret");
    }
    assert_eq!(upstream.notes().iter().filter(|note| note.contains("client=true")).count(), pairs.len());
}

#[test]
fn alpn_is_offered_and_what_the_server_picks_is_taken() {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["other", "mine"]).build();
    let (upstream, ambassador) = trusting(&pki, tls, "alpn: [ mine ]");
    ambassador.connect().echo("secret");
    upstream.wait_note("alpn=Some(\"mine\")");
}

#[test]
fn the_second_session_resumes_the_tls_session_of_the_first() {
    let pki = Pki::new();
    let (client, server) = (pki.client("billing"), pki.server(&["127.0.0.1"]));
    for tls in [ServerTls::new(&server).only_1_3(), ServerTls::new(&server).only_1_2()] {
        let (upstream, ambassador) = trusting(&pki, tls.clients_of(&pki).build(), &identity(&client));
        ambassador.connect().echo("first");
        ambassador.wait_records(1);
        ambassador.connect().echo("second");
        let records = ambassador.wait_records(2);
        assert_eq!(records[0]["tls"]["resumed"], false);
        assert_eq!(records[1]["tls"]["resumed"], true, "{}", records[1]);
        upstream.wait_note("kind=Some(Resumed)");
    }
}

/// Scenario: a TLS 1.3 ticket is used once, and the store kept eight: a pool that opened more connections than that at
/// once paid for full handshakes.
#[test]
fn a_burst_resumes_as_many_tls_sessions_as_tickets_were_stored() {
    const IN_TURN: usize = 20;
    const AT_ONCE: usize = 12;
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).only_1_3().build();
    assert_eq!(tls.send_tls13_tickets, 2);
    let (accepted, gate) = (AtomicUsize::new(0), Arc::new(Barrier::new(AT_ONCE)));
    let upstream = Upstream::plain(move |conn| {
        let is_of_the_burst = accepted.fetch_add(1, Ordering::SeqCst) >= IN_TURN;
        let (tls, gate) = (tls.clone(), gate.clone());
        async move {
            if is_of_the_burst {
                // No handshake of the burst receives a ticket before each has sent the one it uses.
                conn.wait_readable().await;
                gate.wait().await;
            }
            if let Some(conn) = conn.start_tls(tls).await {
                roles::echo(conn).await;
            }
        }
    });
    let config = Config::app(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let ambassador = Ambassador::start(&config);
    let resumed = || ambassador.records().iter().filter(|record| record["tls"]["resumed"] == true).count();
    for number in 1..=IN_TURN {
        ambassador.connect().echo("in turn");
        ambassador.wait_records(number);
    }
    assert_eq!(ambassador.records()[0]["tls"]["resumed"], false);
    assert_eq!(resumed(), IN_TURN - 1);
    let mut burst: Vec<_> = (0..AT_ONCE).map(|_| ambassador.connect()).collect();
    for client in &mut burst {
        client.echo("at once");
    }
    drop(burst);
    ambassador.wait_records(IN_TURN + AT_ONCE);
    assert_eq!(resumed(), IN_TURN - 1 + AT_ONCE);
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("tls_handshakes_total", &[("kind", "full")]), 1.0);
    assert_eq!(metrics.sum("tls_handshakes_total", &[("kind", "resumed")]), (IN_TURN - 1 + AT_ONCE) as f64);
}

#[test]
fn the_key_exchange_is_a_post_quantum_hybrid_where_the_server_has_one() {
    let pki = Pki::new();
    let (upstream, ambassador) = trusting(&pki, ServerTls::new(&pki.server(&["127.0.0.1"])).build(), "");
    ambassador.connect().echo("secret");
    upstream.wait_note("group=Some(X25519MLKEM768)");
}

#[test]
fn ca_system_means_the_roots_of_the_host() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let config = Config::app(&[&upstream.address()], "tls: { ca: system }");
    let ambassador = Ambassador::start_with(&config, |command| {
        command.env("SSL_CERT_FILE", pki.ca());
    });
    ambassador.connect().echo("secret");
}

#[test]
fn a_server_that_speaks_first_is_heard_through_tls() {
    let pki = Pki::new();
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::greet("* OK ready\r\n"));
    let config = Config::app(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let ambassador = Ambassador::start(&config);
    ambassador.connect().expect("* OK ready\r\n");
}

#[test]
fn the_expiry_of_the_client_certificate_is_a_metric() {
    let pki = Pki::new();
    let client = pki.client("billing");
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let (_upstream, ambassador) = trusting(&pki, tls, &identity(&client));
    // rcgen's default notAfter is the year 4096.
    let expiry = ambassador
        .metrics()
        .sum("certificate_expiry_timestamp_seconds", &[("cluster", "up"), ("role", "client")]);
    assert!(expiry > 60e9, "{expiry}");
}

#[test]
fn an_identity_is_named_once_and_used_by_several_clusters() {
    let pki = Pki::new();
    let client = pki.client("billing");
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let mut config = Config::new().top(&format!("identities:\n  billing: {{ {} }}", identity(&client)));
    let tls = format!("tls: {{ ca: {}, identity: billing }}", pki.ca().display());
    for name in ["orders", "invoices"] {
        config = config.listener(name, &format!("bind: 127.0.0.1:0\ncluster: {name}"));
        config = config.cluster(name, &[&upstream.address()], &tls);
    }
    let ambassador = Ambassador::start(&config);
    for name in ["orders", "invoices"] {
        ambassador.connect_to(name).echo("secret");
    }
    assert_eq!(upstream.notes().iter().filter(|note| note.contains("client=true")).count(), 2);
}

/// Possible, because it is sometimes needed for an hour; with a warning, because the hour becomes a year.
#[test]
fn insecure_skip_verify_works_and_says_so_in_log_and_metrics() {
    let (_pki, other) = (Pki::new(), Pki::new());
    let upstream = Upstream::tls(ServerTls::new(&other.expired_server(&["other.test"])).build(), roles::echo);
    let config = Config::app(&[&upstream.address()], "tls: { insecure_skip_verify: true }");
    let ambassador = Ambassador::start(&config);
    ambassador.connect().echo("to whomever");
    ambassador.wait_line("insecure_skip_verify");
    let metrics = ambassador.metrics();
    let told = |sample: &&crate::harness::Sample| sample.name.contains("verif") && sample.value == 1.0;
    assert!(metrics.samples().iter().any(|sample| told(&sample)), "no metric says it");
}

/// Our first key shares are for the hybrid and X25519. A server that has neither asks again (HelloRetryRequest), like
/// OpenSSL restricted to the NIST curves.
#[test]
fn a_server_that_wants_another_key_exchange_gets_it() {
    let pki = Pki::new();
    let (upstream, ambassador) =
        trusting(&pki, ServerTls::new(&pki.server(&["127.0.0.1"])).only_p384().build(), "");
    ambassador.connect().echo("secret");
    upstream.wait_note("group=Some(secp384r1)");
}

#[test]
fn a_certificate_file_carries_its_intermediates_to_the_server() {
    let pki = Pki::new();
    let client = pki.client_by_intermediate("billing");
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let (upstream, ambassador) = trusting(&pki, tls, &identity(&client));
    ambassador.connect().echo("secret");
    upstream.wait_note("client=true");
}

/// Answers one request and ends its side, with a close_notify or with only a FIN; then reads to the client's end.
async fn answers_and_ends(mut conn: Conn, says_goodbye: bool) {
    let mut question = [0; 8];
    drop(conn.read_exact(&mut question).await);
    drop(conn.write_all(b"answer").await);
    drop(conn.flush().await);
    match says_goodbye {
        true => drop(conn.shutdown().await),
        false => conn.shutdown_tcp(),
    }
    drop(conn.read_to_end(&mut Vec::new()).await);
}

/// Scenario: a server's FIN without close_notify was passed on as a clean end, and the operator did not learn that the
/// stream may have been truncated.
#[test]
fn an_end_without_close_notify_is_counted_and_in_the_record() {
    let pki = Pki::new();
    let leaf = pki.server(&["127.0.0.1"]);
    for tls in [ServerTls::new(&leaf).only_1_2().build(), ServerTls::new(&leaf).only_1_3().build()] {
        for says_goodbye in [true, false] {
            let upstream = Upstream::tls(Arc::clone(&tls), move |conn| answers_and_ends(conn, says_goodbye));
            let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
            let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
            let mut client = ambassador.connect();
            client.send("question");
            assert_eq!(client.read_out(), (b"answer".to_vec(), End::Orderly), "the client sees the same");
            drop(client);
            let record = ambassador.record();
            assert_eq!(
                (&record["outcome"], &record["closed_by"], &record["tls"]["unclean_end"]),
                (&"completed".into(), &"upstream".into(), &(!says_goodbye).into()),
                "{record}"
            );
            let counted = || {
                let metrics = ambassador.metrics();
                let ended = metrics.sum("connections_total", &[("outcome", "completed")]);
                (ended == 1.0).then(|| metrics.sum("unclean_tls_ends_total", &[("cluster", "up")]))
            };
            assert_eq!(until("the session was counted", counted), f64::from(u8::from(!says_goodbye)));
        }
    }
}
