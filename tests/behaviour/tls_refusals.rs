//! TLS to the upstream when it must fail. In every case the client gets nothing but a reset, the log has the reason,
//! and not one byte of the client reached the wrong server.

use std::sync::Arc;

use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::proxies::nginx;
use crate::harness::{
    Ambassador, Config, End, Pki, ServerTls, Upstream, ambassador as ambassador_command, finish, roles, until,
};

/// Sends a client's bytes towards an upstream that must not get them, and returns the record.
#[track_caller]
fn refused(upstream: &Upstream, tls: &str) -> Value {
    let cluster = format!("tls: {{ {tls} }}\nconnect: {{ attempts: 1, handshake_timeout: 500ms }}");
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.try_send("for the right server only");
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed", "{record}");
    assert_eq!(record["closed_by"], "ambassador");
    assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (Some(0), Some(0)));
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "tls_failed")]), 1.0);
    assert!(
        upstream
            .notes()
            .iter()
            .all(|note| !note.starts_with("end after") && !note.starts_with("error after"))
    );
    record
}

#[track_caller]
fn error_must_contain(record: &Value, words: &[&str]) {
    let error = record["error"].as_str().expect("an error").to_lowercase();
    assert!(words.iter().any(|word| error.contains(&word.to_lowercase())), "none of {words:?} in {error:?}");
}

fn ca(pki: &Pki) -> String {
    format!("ca: {}", pki.ca().display())
}

fn server(tls: Arc<ServerConfig>) -> Upstream {
    Upstream::tls(tls, roles::echo)
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let upstream = server(ServerTls::new(&other.server(&["127.0.0.1"])).build());
    error_must_contain(
        &refused(&upstream, &ca(&pki)),
        &["not signed by a CA of tls.ca: one of the name of its issuer is there"],
    );
}

#[test]
fn without_ca_only_public_roots_are_trusted() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).build());
    error_must_contain(&refused(&upstream, ""), &["neither tls.ca nor what the server sent has the CA"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["other.test"])).build());
    error_must_contain(&refused(&upstream, &format!("{}, server_name: db.test", ca(&pki))), &["db.test"]);
}

#[test]
fn a_certificate_for_a_name_does_not_stand_for_the_address() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["db.test"])).build());
    error_must_contain(&refused(&upstream, &ca(&pki)), &["127.0.0.1"]);
}

#[test]
fn an_expired_certificate_is_refused() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.expired_server(&["127.0.0.1"])).build());
    error_must_contain(&refused(&upstream, &ca(&pki)), &["expired"]);
}

#[test]
fn a_client_certificate_shown_by_a_server_is_refused() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.client("127.0.0.1")).build());
    refused(&upstream, &ca(&pki));
}

#[test]
fn a_server_without_tls_is_refused() {
    let pki = Pki::new();
    // A server that answers at once with bytes that are not TLS.
    let upstream = Upstream::plain(roles::greet("220 mail.example.com ESMTP ready\r\n"));
    refused_plain(&upstream, &pki);
    // A server that reads our ClientHello, does not understand it and closes.
    let upstream = Upstream::plain(|mut conn| async move {
        let mut hello = [0; 16];
        drop(conn.read_exact(&mut hello).await);
        drop(conn.write_all(b"what?\n").await);
    });
    refused_plain(&upstream, &pki);
}

/// A plaintext server of the test notes bytes of the handshake, so the test searches only for the client's own bytes.
#[track_caller]
fn refused_plain(upstream: &Upstream, pki: &Pki) {
    let cluster = format!("tls: {{ {} }}\nconnect: {{ attempts: 1, handshake_timeout: 2s }}", ca(pki));
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.try_send("for the right server only");
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed", "{record}");
    assert_eq!(record["sent_bytes"], 0);
    assert!(record["error"].is_string());
}

#[test]
fn a_server_that_accepts_and_is_silent_is_given_up_in_words() {
    let pki = Pki::new();
    // It reads the ClientHello and never answers; then a server that does not even read.
    for upstream in [Upstream::plain(roles::silent), Upstream::plain(roles::deaf)] {
        let record = refused(&upstream, &ca(&pki));
        error_must_contain(&record, &["timed out", "timeout", "within"]);
    }
}

#[test]
fn a_server_that_hangs_up_amid_the_handshake_is_told() {
    let pki = Pki::new();
    let upstream = Upstream::plain(|mut conn| async move {
        let mut hello = [0; 5];
        drop(conn.read_exact(&mut hello).await);
        conn.reset();
    });
    assert!(refused(&upstream, &ca(&pki))["error"].is_string());
}

#[test]
fn a_server_below_min_version_is_refused() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).only_1_2().build());
    refused(&upstream, &format!("{}, min_version: \"1.3\"", ca(&pki)));
}

#[test]
fn a_server_without_our_alpn_names_is_refused() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["other"]).build());
    refused(&upstream, &format!("{}, alpn: [ mine ]", ca(&pki)));
}

#[test]
fn a_missing_client_certificate_is_told_by_tls_1_2_in_the_handshake() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).only_1_2().build());
    let record = refused(&upstream, &ca(&pki));
    error_must_contain(&record, &["alert", "certificate", "handshake"]);
}

/// In TLS 1.3 our side of the handshake is over before the server has verified us: the alert arrives where the first
/// byte was expected. The log must name the certificate all the same, or the operator would not know why the server
/// closed.
#[test]
fn a_missing_client_certificate_is_told_by_tls_1_3_after_the_handshake() {
    let pki = Pki::new();
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).only_1_3().build());
    let cluster = format!("tls: {{ {} }}\nconnect: {{ attempts: 1 }}", ca(&pki));
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send("hello");
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    assert!(
        ["tls_failed", "upstream_reset"].contains(&record["outcome"].as_str().expect("an outcome")),
        "{record}"
    );
    error_must_contain(&record, &["certificate"]);
    upstream.wait_note("handshake failed");
}

#[test]
fn a_client_certificate_of_another_ca_is_told() {
    let (pki, other) = (Pki::new(), Pki::new());
    let stranger = other.client("stranger");
    let upstream = server(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).only_1_3().build());
    let identity =
        format!("{}, cert: {}, key: {}", ca(&pki), stranger.cert.display(), stranger.key.display());
    let cluster = format!("tls: {{ {identity} }}\nconnect: {{ attempts: 1 }}");
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send("hello");
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    error_must_contain(&record, &["unknownca", "unknown ca", "certificate", "decrypt"]);
}

/// Scenario: a receiver of one-way messages asks for a certificate, does without, reads the message and closes in
/// order. That was reported as a rejection, which it may be; but the client was reset, and would have sent its message
/// again.
#[test]
fn a_server_that_asked_for_a_certificate_and_ends_in_order_is_not_made_a_reset() {
    let pki = Pki::new();
    let leaf = pki.server(&["127.0.0.1"]);
    let tls = ServerTls::new(&leaf).asks_for_clients_of(&pki).build();
    let upstream = Upstream::tls(tls, |mut conn| async move {
        let mut message = [0; 7];
        drop(conn.read_exact(&mut message).await);
        conn.note(String::from_utf8_lossy(&message));
        drop(conn.shutdown().await);
    });
    let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send("message");
    assert_eq!(client.ending(), End::Orderly);
    upstream.wait_note("message");
    drop(client);
    let record = ambassador.record();
    assert_eq!((&record["outcome"], &record["sent_bytes"]), (&"tls_failed".into(), &7.into()), "{record}");
    error_must_contain(&record, &["certificate"]);
}

/// Scenario: nginx' `stream` with `ssl_verify_client on` ends the connection without an alert if there is no
/// certificate. The record said `completed`, the client saw an end without an answer, and `check --connect` said
/// "handshake ok".
#[test]
fn nginx_that_wants_a_certificate_and_gets_none_is_told_as_that() {
    const WORDS: &str = "the server asked for a client certificate, got none";
    let server = nginx();
    // Rejection within the handshake (TLS 1.2) and after it (1.3); with a protocol that has refusals of its own, and
    // with one that has none.
    for (port, protocol) in [(3, "redis"), (4, "redis"), (3, "tcp"), (4, "tcp")] {
        let cluster = format!("protocol: {protocol}\n{}", server.tls_without_certificate());
        let config = Config::app(&[&server.address(port)], &cluster);
        let ambassador = Ambassador::start(&config);
        let mut client = ambassador.connect();
        client.send("PING\r\n");
        let (heard, end) = client.read_out();
        let heard = String::from_utf8(heard).expect("text");
        if protocol == "redis" {
            let refusal = format!("-LOADING ambassador: tls_failed: {WORDS}");
            assert!(heard.starts_with(&refusal), "{heard}");
            assert_eq!(end, End::Orderly);
        } else {
            // An end like nginx': a reset if the request is still unread.
            assert_eq!(heard, "");
        }
        drop(client);
        let record = ambassador.record();
        let told = (&record["outcome"], &record["closed_by"], &record["received_bytes"]);
        assert_eq!(told, (&"tls_failed".into(), &"upstream".into(), &0.into()), "{record}");
        error_must_contain(&record, &[WORDS]);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("listeners.yaml");
        std::fs::write(&file, config.render(dir.path())).expect("a file to check");
        let checked = finish(ambassador_command().args(["check", "--connect", "--config"]).arg(&file));
        let checked = checked.must_exit(1).stdout;
        assert!(checked.contains("handshake  FAILED") && checked.contains(WORDS), "{checked}");
    }
    until("nginx said why", || {
        server.log().contains("client sent no required SSL certificate").then_some(())
    });
    // A client certificate is accepted.
    for port in [3, 4] {
        let ambassador = Ambassador::start(&Config::app(&[&server.address(port)], &server.tls("")));
        assert_eq!(String::from_utf8_lossy(&ambassador.connect().read_out().0), "CN=app");
    }
}
