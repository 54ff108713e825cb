//! The Postgres dialogue where no real client and no real server goes: servers that refuse, stuff, stall and
//! lie, and clients that send rubbish. Whoever can be answered is answered in Postgres words with the id of
//! the session.

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::harness::pgwire::{self, Refusal, World, app_startup};
use crate::harness::{Ambassador, ClosedPort, Config, End, Postgres, Upstream, roles};

/// Logs in by hand at an ambassador that must refuse: what the client is told and what the log says.
#[track_caller]
fn refused(ambassador: &Ambassador, outcome: &str) -> (Refusal, Value) {
    let mut client = ambassador.connect();
    client.send(app_startup());
    let refusal = pgwire::read_refusal(&mut client);
    let record = ambassador.record();
    assert_eq!(record["outcome"], outcome, "{record}");
    assert_eq!(record["session"], refusal.session());
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("FATAL", "08006"), "{refusal:?}");
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

/// What an unauthenticated server says is never shown to the client as if it were the database's word
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

/// CVE-2021-23222: bytes behind the S arrived in plaintext and must never be read as if they had come through
/// TLS.
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
    assert_eq!(pgwire::read_refusal(&mut client).sqlstate, "08006");
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

/// The first message of a login with that gs2 flag, and everything that the client is told then.
fn log_in_with_flag(scram_plus: &str, flag: &str) -> (String, Value) {
    let postgres = Postgres::shared();
    let cluster = format!("scram_plus: {scram_plus}\n{}", postgres.tls());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &cluster));
    let mut client = ambassador.connect();
    let startup = b"\0\0\0\x20\0\x03\0\0user\0app\0database\0x\0\0";
    let mut startup = startup.to_vec();
    startup[3] = u8::try_from(startup.len()).expect("a short packet");
    client.send(&startup);
    let head = client.receive(5);
    assert_eq!(head[0], b'R');
    client.receive(usize::from(head[4]) - 4);
    let data = format!("{flag},,n=,r=abcdefghijklmnop");
    let mut body = b"SCRAM-SHA-256\0\0\0\0".to_vec();
    body.push(u8::try_from(data.len()).expect("a short answer"));
    body.extend(data.as_bytes());
    client.send([&b"p\0\0\0"[..], &[u8::try_from(body.len() + 4).expect("a short message")], &body].concat());
    let told = client.receive(9);
    if told[0] == b'R' {
        return (format!("R {}", told[8]), Value::Null);
    }
    let words = String::from_utf8_lossy(&client.read_out().0).into_owned();
    drop(client);
    (words, ambassador.record())
}

/// What Npgsql does when PLUS is gone from the list, and what any client does that has no binding at all.
#[test]
fn a_login_that_claims_it_could_bind_is_told_what_to_set() {
    let (words, record) = log_in_with_flag("strip", "y");
    assert!(words.contains("Channel Binding=Disable") && words.contains("scram_plus: keep"), "{words}");
    assert_eq!(record["outcome"], "bad_opening", "{record}");
    assert!(record["error"].as_str().expect("words").contains("gs2 flag `y`"), "{record}");
    // SASLContinue: the server goes on.
    assert_eq!(log_in_with_flag("strip", "n").0, "R 11");
    assert_eq!(log_in_with_flag("keep", "n").0, "R 11");
    // With the list kept nobody has taken anything away, and the server speaks for itself.
    let (words, record) = log_in_with_flag("keep", "y");
    assert!(words.contains("SCRAM channel binding negotiation error"), "{words}");
    assert_eq!(record["outcome"], "completed", "{record}");
}
