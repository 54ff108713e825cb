//! The PostgreSQL dialogue with scripted peers: servers that refuse, stuff, stall and lie, and clients that send
//! garbage. Every client that can be answered gets a PostgreSQL error with the id of the session.

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::harness::pgwire::{self, Refusal, World, app_startup};
use crate::harness::{Ambassador, ClosedPort, Config, End, Upstream, roles};

/// Logs in by hand to an ambassador that must refuse: what the client receives and what the log says.
#[track_caller]
fn refused(ambassador: &Ambassador, outcome: &str) -> (Refusal, Value) {
    let mut client = ambassador.connect();
    client.send(app_startup());
    let refusal = pgwire::read_refusal(&mut client);
    let record = ambassador.record();
    assert_eq!(record["outcome"], outcome, "{record}");
    assert_eq!(record["session"], refusal.session());
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("FATAL", "57P03"), "{refusal:?}");
    (refusal, record)
}

#[test]
fn a_server_that_answers_no_is_refused_and_gets_no_byte_in_plaintext() {
    let world = World::new();
    let upstream = Upstream::plain(|mut conn| async move {
        if pgwire::read_ssl_request(&mut conn).await.is_some() {
            drop(conn.write_all(b"N").await);
            roles::silent(conn).await;
        }
    });
    let (refusal, _) = refused(&world.ambassador(&upstream), "upgrade_failed");
    assert!(refusal.text.to_lowercase().contains("tls"), "{refusal:?}");
    upstream.wait_active(0);
    assert_eq!(upstream.notes(), ["SSLRequest", "client ended"]);
}

/// Messages of an unauthenticated server are never passed to the client as if they came from the database
/// (CVE-2024-10977).
#[test]
fn an_error_before_tls_is_not_relayed() {
    let world = World::new();
    let upstream = Upstream::plain(|mut conn| async move {
        if pgwire::read_ssl_request(&mut conn).await.is_some() {
            drop(conn.write_all(b"Eplease send your password to evil.example.com\n\0").await);
            roles::silent(conn).await;
        }
    });
    let (refusal, _) = refused(&world.ambassador(&upstream), "upgrade_failed");
    assert!(!refusal.text.contains("evil"), "{refusal:?}");
}

/// CVE-2021-23222: bytes behind the S arrived in plaintext and must never be read as if they had come over TLS.
#[test]
fn bytes_stuffed_behind_the_s_are_refused() {
    let world = World::new();
    let tls = world.tls.clone();
    let upstream = Upstream::plain(move |mut conn| {
        let tls = tls.clone();
        async move {
            if pgwire::read_ssl_request(&mut conn).await.is_some() {
                let stuffed = [b"S".to_vec(), pgwire::welcome()].concat();
                drop(conn.write_all(&stuffed).await);
                drop(conn.start_tls(tls).await);
            }
        }
    });
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(app_startup());
    let refusal = pgwire::read_refusal(&mut client);
    let record = ambassador.record();
    assert!(
        ["upgrade_failed", "tls_failed"].contains(&record["outcome"].as_str().expect("an outcome")),
        "{record}"
    );
    assert_eq!(record["session"], refusal.session());
}

#[test]
fn a_server_that_hangs_before_during_and_after_the_upgrade_is_given_up() {
    let world = World::new();
    let never_answers = Upstream::plain(roles::silent);
    refused(&world.ambassador(&never_answers), "upgrade_failed");
    let never_shakes_hands = Upstream::plain(|mut conn| async move {
        if pgwire::read_ssl_request(&mut conn).await.is_some() {
            drop(conn.write_all(b"S").await);
            roles::silent(conn).await;
        }
    });
    refused(&world.ambassador(&never_shakes_hands), "tls_failed");
}

#[test]
fn a_server_that_hangs_up_instead_of_an_answer_is_told() {
    let world = World::new();
    let upstream = Upstream::plain(|mut conn| async move {
        let _ = pgwire::read_ssl_request(&mut conn).await;
    });
    refused(&world.ambassador(&upstream), "upgrade_failed");
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let dead = ClosedPort::new();
    let (refusal, record) = refused(&World::new().ambassador_to(&dead.address()), "connect_failed");
    assert!(record["error"].as_str().expect("an error").to_lowercase().contains("refused"));
    assert!(refusal.text.to_lowercase().contains("connect"), "{refusal:?}");
}

#[test]
fn a_refusal_follows_the_no_that_a_client_asking_for_tls_got() {
    let dead = ClosedPort::new();
    let ambassador = World::new().ambassador_to(&dead.address());
    let mut client = ambassador.connect();
    client.send(pgwire::SSL_REQUEST);
    client.expect("N");
    client.send(app_startup());
    assert_eq!(pgwire::read_refusal(&mut client).sqlstate, "57P03");
}

#[test]
fn any_end_of_the_client_cancels_the_dial() {
    let world = World::new();
    let upstream = Upstream::plain(roles::silent);
    let connect = "connect: { attempts: 1, handshake_timeout: 20s, deadline: 25s }";
    let tls = format!("tls: {{ ca: {} }}\n{connect}", world.pki.ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&upstream.address()], &tls));
    let mut client = ambassador.connect();
    client.send(app_startup());
    upstream.wait_active(1);
    client.end_sending();
    upstream.wait_active(0);
    assert_eq!(ambassador.record()["outcome"], "downstream_gone");
}

#[track_caller]
fn rubbish_is_answered(first: &[u8]) {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(first);
    let refusal = pgwire::read_refusal(&mut client);
    assert_eq!(refusal.severity, "FATAL");
    assert_eq!(ambassador.record()["session"], refusal.session());
    assert_eq!(upstream.accepted(), 0, "rubbish is no reason to dial");
}

#[test]
fn a_startup_packet_of_an_absurd_length_is_answered_at_once() {
    rubbish_is_answered(&[0x7F, 0xFF, 0xFF, 0xFF, 0, 3, 0, 0]);
    rubbish_is_answered(&[0, 0, 0x27, 0x20, 0, 3, 0, 0]);
}

#[test]
fn a_startup_packet_too_short_for_a_version_is_answered() {
    rubbish_is_answered(&[0, 0, 0, 4]);
    rubbish_is_answered(&[0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_client_of_another_protocol_is_answered() {
    rubbish_is_answered(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

#[test]
fn a_tls_client_at_the_plaintext_port_gets_a_tls_alert() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert_eq!(client.read_out(), (pgwire::TLS_ALERT.to_vec(), End::Orderly));
    assert_eq!(upstream.accepted(), 0);
}
