//! The PostgreSQL dialogue byte by byte when all is well: requests for encryption, the startup message, which server
//! messages are changed and which are not, and cancels.

use tokio::io::AsyncWriteExt;

use crate::harness::pgwire::{self, World, app_startup};
use crate::harness::{Ambassador, Client, Config, End, Upstream, roles};

#[test]
fn the_startup_message_goes_through_tls_unchanged() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(client.receive(pgwire::welcome().len()), pgwire::welcome());
    client.echo("from here on bytes are bytes");
    let notes = upstream.notes();
    assert_eq!(notes[0], "SSLRequest");
    assert!(notes[1].contains("alpn=Some(\"postgresql\")"), "{}", notes[1]);
    assert_eq!(notes[2], "startup user=app database=postgres");
}

#[test]
fn a_clients_own_requests_for_encryption_are_answered_no() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    for requests in [
        &[pgwire::SSL_REQUEST][..],
        &[pgwire::GSSENC_REQUEST],
        &[pgwire::GSSENC_REQUEST, pgwire::SSL_REQUEST],
        &[pgwire::SSL_REQUEST, pgwire::GSSENC_REQUEST],
    ] {
        let mut client = ambassador.connect();
        for request in requests {
            client.send(request);
            client.expect("N");
        }
        client.send(app_startup());
        assert_eq!(client.receive(pgwire::welcome().len()), pgwire::welcome());
    }
}

#[test]
fn a_startup_message_in_single_bytes_is_understood() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    for byte in app_startup() {
        client.send([byte]);
    }
    assert_eq!(client.receive(pgwire::welcome().len()), pgwire::welcome());
}

/// Drivers may send more than the startup message at once; the rest is for the server too, exactly once.
#[test]
fn what_a_client_sends_behind_its_startup_message_follows_it() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send([app_startup(), b"and more".to_vec()].concat());
    assert_eq!(client.receive(pgwire::welcome().len()), pgwire::welcome());
    client.expect("and more");
    client.echo("and on");
}

/// A readiness probe of the application's platform must not open a connection to the database.
#[test]
fn a_bare_connect_and_close_costs_the_server_nothing() {
    let world = World::new();
    let upstream = world.server(pgwire::welcome());
    let ambassador = world.ambassador(&upstream);
    drop(ambassador.connect());
    ambassador.wait_records(1);
    let mut client = ambassador.connect();
    client.send(app_startup());
    client.receive(pgwire::welcome().len());
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn scram_plus_is_taken_out_of_the_servers_offer() {
    let world = World::new();
    for (offer, left) in [
        (&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..], &["SCRAM-SHA-256"][..]),
        (&["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER"], &["SCRAM-SHA-256", "OAUTHBEARER"]),
        (&["SCRAM-SHA-256"], &["SCRAM-SHA-256"]),
    ] {
        let upstream = world.server(pgwire::sasl_offer(offer));
        let ambassador = world.ambassador(&upstream);
        let mut client = ambassador.connect();
        client.send(app_startup());
        let due = pgwire::sasl_offer(left);
        assert_eq!(client.receive(due.len()), due);
        client.echo("and nothing else is touched");
    }
}

/// Scenario: our refusal overtook bytes that the server had sent just before.
#[test]
fn what_the_server_said_before_an_impossible_offer_comes_before_the_refusal() {
    let world = World::new();
    let notice = pgwire::message(b'N', b"SNOTICE\0C01000\0Mmaintenance at noon\0\0");
    let offer = pgwire::sasl_offer(&["SCRAM-SHA-256-PLUS"]);
    let upstream = world.server([notice.clone(), offer].concat());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(client.receive(notice.len()), notice);
    let refusal = pgwire::read_refusal(&mut client);
    assert!(refusal.text.contains("SCRAM-SHA-256-PLUS"), "{refusal:?}");
    let record = ambassador.record();
    assert_eq!(
        (record["outcome"].as_str(), &record["session"]),
        (Some("upgrade_failed"), &refusal.session().into())
    );
}

#[test]
fn scram_plus_keep_leaves_the_offer_alone() {
    let world = World::new();
    let offer = pgwire::sasl_offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let upstream = world.server(offer.clone());
    let tls = format!("tls: {{ ca: {} }}\nscram_plus: keep", world.pki.ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&upstream.address()], &tls));
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(client.receive(offer.len()), offer);
}

/// Npgsql rejects a server that does not offer what its own settings require; it is recognised by the order of its
/// parameters.
#[test]
fn scram_plus_auto_strips_for_libpq_and_keeps_for_npgsql() {
    let world = World::new();
    let offer = pgwire::sasl_offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let upstream = world.server(offer.clone());
    let ambassador = world.ambassador(&upstream);
    let mut npgsql = ambassador.connect();
    npgsql.send(pgwire::startup(&[("user", "app"), ("client_encoding", "UTF8"), ("database", "postgres")]));
    assert_eq!(npgsql.receive(offer.len()), offer);
    let mut libpq = ambassador.connect();
    libpq.send(pgwire::startup(&[("user", "app"), ("database", "postgres"), ("client_encoding", "UTF8")]));
    let stripped = pgwire::sasl_offer(&["SCRAM-SHA-256"]);
    assert_eq!(libpq.receive(stripped.len()), stripped);
}

/// PostgreSQL 17 accepts a ClientHello as the first bytes, without SSLRequest.
#[test]
fn start_direct_begins_with_tls() {
    let world = World::new();
    let upstream = Upstream::tls(world.tls.clone(), |mut conn| async move {
        if pgwire::read_startup(&mut conn).await.is_some() {
            drop(conn.write_all(&pgwire::welcome()).await);
            drop(conn.flush().await);
            roles::echo(conn).await;
        }
    });
    let tls = format!("tls: {{ ca: {}, start: direct }}", world.pki.ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&upstream.address()], &tls));
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(client.receive(pgwire::welcome().len()), pgwire::welcome());
    upstream.wait_note("alpn=Some(\"postgresql\")");
}

/// The dialogue must not depend on how the server's bytes are split: one record per byte is the worst case.
#[test]
fn scram_plus_is_taken_out_of_an_offer_that_comes_in_single_bytes() {
    let world = World::new();
    let tls = world.tls.clone();
    let upstream = Upstream::plain(move |conn| {
        let tls = tls.clone();
        async move {
            let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
            if pgwire::read_startup(&mut conn).await.is_some() {
                for byte in pgwire::sasl_offer(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]) {
                    drop(conn.write_all(&[byte]).await);
                    drop(conn.flush().await);
                }
                roles::echo(conn).await;
            }
        }
    });
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(app_startup());
    let due = pgwire::sasl_offer(&["SCRAM-SHA-256"]);
    assert_eq!(client.receive(due.len()), due);
    client.echo("still in step");
}

#[test]
fn an_error_of_the_server_is_passed_on_unchanged() {
    let world = World::new();
    let error = pgwire::message(b'E', b"SFATAL\0C28P01\0Mno such role\0\0");
    let upstream = world.server(error.clone());
    let ambassador = world.ambassador(&upstream);
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(client.receive(error.len()), error);
}

/// The end of the connection tells the client that its CancelRequest was processed, so it must be the server's end.
#[test]
fn a_cancel_request_goes_through_tls_and_ends_when_the_server_ends_it() {
    let world = World::new();
    let tls = world.tls.clone();
    let upstream = Upstream::plain(move |conn| {
        let tls = tls.clone();
        async move {
            let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
            let mut request = [0; 16];
            if tokio::io::AsyncReadExt::read_exact(&mut conn, &mut request).await.is_ok() {
                conn.note(format!("cancel {request:?}"));
                drop(conn.shutdown().await);
            }
        }
    });
    let ambassador = world.ambassador(&upstream);
    let request = [0, 0, 0, 16, 4, 0xD2, 0x16, 0x2E, 0, 0, 0, 42, 1, 2, 3, 4];
    for asks_first in [false, true] {
        let mut client: Client = ambassador.connect();
        if asks_first {
            client.send(pgwire::SSL_REQUEST);
            client.expect("N");
        }
        client.send(request);
        assert_eq!(client.ending(), End::Orderly);
    }
    let cancels = upstream.notes().into_iter().filter(|note| *note == format!("cancel {request:?}")).count();
    assert_eq!(cancels, 2);
}
