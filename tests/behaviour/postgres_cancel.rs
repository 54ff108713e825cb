//! Cancel requests: each reaches the right one of several servers, whatever limits are reached. A cancel is a
//! connection of its own, in plaintext to us and in TLS to the server; the server ends it.

use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::command::wait;
use crate::harness::other_user::{OtherUser, Users};
use crate::harness::pgwire::{self, World, app_startup};
use crate::harness::postgres::{libpq_client, psql_command};
use crate::harness::{
    Ambassador, Client, Config, End, Pki, Postgres, ServerTls, Upstream, finish, roles, until,
};

fn to_two() -> (Ambassador, [&'static Postgres; 2]) {
    let servers = [Postgres::shared(), Postgres::second()];
    let addresses = servers.map(Postgres::address);
    let addresses = [addresses[0].as_str(), addresses[1].as_str()];
    (Ambassador::start(&Config::postgres(&addresses, &servers[0].tls())), servers)
}

fn conninfo(ambassador: &Ambassador, more: &str) -> String {
    let port = ambassador.address("app").port();
    format!("host=127.0.0.1 port={port} user=app dbname=postgres {more}")
}

/// Round robin, so each of these two sessions is on another server.
#[test]
fn ctrl_c_in_psql_stops_the_query_on_the_server_that_runs_it() {
    let (ambassador, servers) = to_two();
    let running = |name: &str| {
        let sql = format!(
            "select count(*) from pg_stat_activity where application_name = '{name}' and wait_event = 'PgSleep'"
        );
        let counts = servers.map(|server| server.as_superuser(&sql));
        counts.iter().map(|count| count.parse::<u32>().expect("a number")).collect::<Vec<_>>()
    };
    let names = ["routed-1", "routed-2"];
    let sleepers = names.map(|name| {
        let mut command = psql_command(&conninfo(&ambassador, &format!("application_name={name}")));
        command.args(["-c", "select pg_sleep(60)"]).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql");
        until(format!("{name} sleeps on a server"), || {
            (running(name).iter().sum::<u32>() == 1).then_some(())
        });
        (name, child)
    });
    assert_ne!(running(names[0]), running(names[1]), "each server has one");
    for (name, child) in sleepers {
        kill_process(Pid::from_child(&child), Signal::INT).expect("a psql to interrupt");
        wait(child).must_print("canceling statement due to user request");
        until(format!("{name} is gone"), || (running(name) == [0, 0]).then_some(()));
    }
}

#[test]
fn psycopg_cancels_on_the_server_that_runs_the_query() {
    let (ambassador, servers) = to_two();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/drivers/cancel.py");
    let mut python = libpq_client("/usr/bin/python3".as_ref());
    let finished = finish(python.args([program, &conninfo(&ambassador, "")])).must_succeed();
    let mut ports = servers.map(|server| server.address().replace("127.0.0.1:", ""));
    ports.sort();
    assert_eq!(finished.stdout.trim(), ports.join(" "), "sessions on both servers were cancelled");
    for record in ambassador.wait_records(8) {
        assert_eq!(record["outcome"], "completed", "{record}");
        assert!(record["tls"]["version"].is_string(), "cancels too go through TLS: {record}");
    }
}

fn cancel_request(process: u32, secret: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + secret.len()).expect("a short key");
    [&length.to_be_bytes()[..], &[4, 0xD2, 0x16, 0x2E], &process.to_be_bytes(), secret].concat()
}

fn key_data(process: u32, secret: &[u8]) -> Vec<u8> {
    pgwire::message(b'K', &[&process.to_be_bytes()[..], secret].concat())
}

/// A server that gives each session this key, and notes the cancels that it gets. It sends no ReadyForQuery, like a
/// server whose login trigger takes long.
fn server(world: &World, process: u32, secret: &'static [u8]) -> Upstream {
    server_with(&world.tls, process, secret)
}

fn server_with(tls: &Arc<ServerConfig>, process: u32, secret: &'static [u8]) -> Upstream {
    let tls = tls.clone();
    Upstream::plain(move |conn| {
        let tls = tls.clone();
        async move {
            let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
            let Ok(length) = conn.read_u32().await else { return };
            let mut packet = vec![0; usize::try_from(length).expect("a length") - 4];
            if conn.read_exact(&mut packet).await.is_err() {
                return conn.note("half a packet");
            }
            if packet[..4] == [4, 0xD2, 0x16, 0x2E] {
                conn.note(format!("cancel {:?}", &packet[4..]));
                return drop(conn.shutdown().await);
            }
            let welcome = [&pgwire::AUTHENTICATION_OK[..], &key_data(process, secret)].concat();
            drop(conn.write_all(&welcome).await);
            drop(conn.flush().await);
            roles::echo(conn).await;
        }
    })
}

fn cancels(upstream: &Upstream) -> Vec<String> {
    upstream.notes().into_iter().filter(|note| note.starts_with("cancel")).collect()
}

/// A session up to its BackendKeyData.
#[track_caller]
fn session(ambassador: &Ambassador) -> (Client, u32, Vec<u8>) {
    let mut client = ambassador.connect();
    client.send(app_startup());
    assert_eq!(pgwire::read_message(&mut client).0, b'R');
    let (kind, key) = pgwire::read_message(&mut client);
    assert_eq!(kind, b'K');
    (client, u32::from_be_bytes(key[..4].try_into().expect("four bytes")), key[4..].to_vec())
}

#[track_caller]
fn cancel(ambassador: &Ambassador, process: u32, secret: &[u8]) {
    let mut client = ambassador.connect();
    client.send(cancel_request(process, secret));
    assert_eq!(client.ending(), End::Orderly);
}

/// Two servers may use the same process id: only the whole key tells them apart.
#[test]
fn a_cancel_reaches_its_server_even_before_the_session_is_ready() {
    let world = World::new();
    let (four, long) = (server(&world, 7, &[1, 2, 3, 4]), server(&world, 7, &[9; 256]));
    let ambassador = start(&world, &[&four, &long], "", "");
    let sessions = [session(&ambassador), session(&ambassador), session(&ambassador), session(&ambassador)];
    for (_, process, secret) in &sessions {
        cancel(&ambassador, *process, secret);
    }
    for (upstream, secret) in [(&four, &[1, 2, 3, 4][..]), (&long, &[9; 256])] {
        let request = format!("cancel {:?}", &cancel_request(7, secret)[8..]);
        assert_eq!(cancels(upstream), [request.clone(), request], "its own cancels, and only these");
    }
}

fn start(world: &World, upstreams: &[&Upstream], listener: &str, cluster: &str) -> Ambassador {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let tls = format!("protocol: postgres\ntls: {{ ca: {} }}\n{cluster}", world.pki.ca().display());
    let listener = format!("bind: 127.0.0.1:0\ncluster: up\n{listener}");
    Ambassador::start(&Config::new().listener("app", &listener).cluster("up", &addresses, &tls))
}

/// A cancel with an unknown key has no destination: a server would only log it as a wrong key.
#[test]
fn a_cancel_of_nobodys_session_ends_without_a_dial_where_there_are_several_servers() {
    let world = World::new();
    let (one, other) = (server(&world, 7, &[1, 2, 3, 4]), server(&world, 7, &[5, 6, 7, 8]));
    let ambassador = start(&world, &[&one, &other], "", "");
    cancel(&ambassador, 7, &[1, 2, 3, 4]);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "no_endpoint", "{record}");
    let words = "no session of this listener has the key that the client wants cancelled";
    assert_eq!(record["error"], words);
    assert_eq!((one.accepted(), other.accepted()), (0, 0));
}

/// A key is forgotten with its session.
#[test]
fn a_cancel_of_a_session_that_has_ended_goes_nowhere_where_there_are_several_servers() {
    let world = World::new();
    let (one, other) = (server(&world, 7, &[1, 2, 3, 4]), server(&world, 7, &[5, 6, 7, 8]));
    let ambassador = start(&world, &[&one, &other], "", "");
    let (client, process, secret) = session(&ambassador);
    drop(client);
    ambassador.wait_records(1);
    cancel(&ambassador, process, &secret);
    ambassador.record_of("no_endpoint");
    assert!(cancels(&one).is_empty() && cancels(&other).is_empty());
}

#[test]
fn a_cancel_of_an_unknown_session_goes_to_the_only_server() {
    let world = World::new();
    let upstream = server(&world, 7, &[1, 2, 3, 4]);
    let ambassador = start(&world, &[&upstream], "", "");
    cancel(&ambassador, 8, &[0; 32]);
    assert_eq!(cancels(&upstream).len(), 1);
}

/// The listener, the cluster or the endpoint is full of queries, one of which is to be cancelled.
#[test]
fn a_cancel_gets_through_where_everything_is_full() {
    let world = World::new();
    for (listener, cluster) in [
        ("max_connections: 1", ""),
        ("", "limits: { max_connections: 1 }"),
        ("", "limits: { max_connections_per_endpoint: 1 }"),
    ] {
        let upstream = server(&world, 7, &[1, 2, 3, 4]);
        let ambassador = start(&world, &[&upstream], listener, cluster);
        let (_client, process, secret) = session(&ambassador);
        let mut refused = ambassador.connect();
        refused.send(app_startup());
        assert_eq!(pgwire::read_refusal(&mut refused).sqlstate, "53300", "{listener}{cluster}");
        cancel(&ambassador, process, &secret);
        assert_eq!(cancels(&upstream).len(), 1, "{listener}{cluster}");
        let record = ambassador.record_of("completed");
        assert!(record["tls"]["version"].is_string(), "{record}");
    }
}

/// Scenario: cancels with invented keys passed every cap too: a caller that sent them by the hundred had more
/// connections than its limit, and filled the cluster for all others. Such a cancel needs room like a session of its
/// sender, or is refused.
#[test]
fn a_cancel_with_an_invented_key_takes_room_as_a_session_does() {
    let world = World::new();
    for (listener, cluster, outcome) in [
        ("per_caller: { max_connections: 1 }", "", "caller_full"),
        ("max_connections: 1", "", "listener_full"),
        ("", "limits: { max_connections: 1 }", "cluster_full"),
    ] {
        let upstream = server(&world, 7, &[1, 2, 3, 4]);
        let ambassador = start(&world, &[&upstream], listener, cluster);
        let (_client, process, secret) = session(&ambassador);
        for invented in 0..3 {
            let mut client = ambassador.connect();
            client.send(cancel_request(8 + invented, &[0; 4]));
            let _ = client.ending();
        }
        ambassador.wait_records(3);
        assert_eq!(ambassador.record_of(outcome)["outcome"], outcome);
        assert_eq!(upstream.accepted(), 1, "{listener}{cluster}: the session alone");
        cancel(&ambassador, process, &secret);
        assert_eq!(cancels(&upstream).len(), 1, "{listener}{cluster}: the right key still passes");
    }
}

/// Scenario: tokio-postgres does not wait for the server's end; its cancel was dropped with its connection.
#[test]
fn a_cancel_stands_though_its_client_closes_at_once() {
    let world = World::new();
    let upstream = server(&world, 7, &[1, 2, 3, 4]);
    let ambassador = start(&world, &[&upstream], "", "");
    let (_client, process, secret) = session(&ambassador);
    ambassador.frozen(|| ambassador.connect().send(cancel_request(process, &secret)));
    upstream.wait_note("cancel");
    let record: Value = ambassador.record();
    assert_eq!(record["outcome"], "completed", "{record}");
}

fn say_option(bytes: &[u8]) -> String {
    bytes.iter().fold("say=".to_owned(), |mut option, byte| {
        let _ = write!(option, "{byte:02x}");
        option
    })
}

/// The key is what authorises a cancel, for the server and for us: a caller that has it, and may use the cluster,
/// cancels with the identity of the session's caller. A cancel with an unknown key is sent with the sender's own
/// identity, and a denied caller cancels nothing.
#[test]
fn a_cancel_shows_the_certificate_of_its_session_whoever_of_those_who_may_connect_asks_for_it() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let pki = Pki::new();
    let (app, other) = (pki.client("app"), pki.client("other"));
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = server_with(&tls, 7, &[1, 2, 3, 4]);
    let identities = format!(
        "identities:\n  app: {{ cert: {}, key: {} }}\n  other: {{ cert: {}, key: {} }}",
        app.cert.display(),
        app.key.display(),
        other.cert.display(),
        other.key.display()
    );
    let cluster = format!(
        "protocol: postgres\ntls: {{ ca: {}, identity: [ {{ user: {}, use: app }}, {{ user: root, use: other }} ] }}",
        pki.ca().display(),
        billing.name
    );
    let config = Config::new().top(&identities).listener("app", "bind: 127.0.0.1:0\ncluster: up");
    let ambassador = Ambassador::start(&config.cluster("up", &[&upstream.address()], &cluster));
    let target = ambassador.address("app").to_string();
    let mut session = OtherUser::user(billing).call(&target, &[&say_option(&app_startup())]);
    assert!(session.result().starts_with("got R"), "the session is up");
    let right = say_option(&cancel_request(7, &[1, 2, 3, 4]));
    let unknown = say_option(&cancel_request(7, &[4, 3, 2, 1]));
    for (who, key, expected) in [
        (OtherUser::user(billing), &right, Some("app")),
        (OtherUser::default(), &right, Some("app")),
        (OtherUser::default(), &unknown, Some("other")),
        (OtherUser::user(billing), &unknown, Some("app")),
        (OtherUser::user(reports), &right, None),
    ] {
        let before = upstream.notes().len();
        let records = ambassador.records().len();
        assert_eq!(who.call(&target, &[key]).result(), "end");
        let record = ambassador.wait_records(records + 1).remove(records);
        assert_eq!(record["outcome"], if expected.is_some() { "completed" } else { "denied" }, "{record}");
        let notes: Vec<_> = upstream.notes().split_off(before);
        match expected {
            Some(name) => {
                let shown = format!("cn={name}");
                assert!(notes[1].ends_with(&shown) && notes[2].starts_with("cancel"), "{notes:?}");
                assert_eq!(record["tls"]["identity"], name);
            }
            None => assert!(notes.is_empty(), "{notes:?}"),
        }
    }
    drop(session);
}

/// The client takes the end of the connection for the server's confirmation of the cancel.
#[test]
fn the_end_of_a_cancel_is_the_servers() {
    let world = World::new();
    let tls = world.tls.clone();
    let upstream = Upstream::plain(move |conn| {
        let tls = tls.clone();
        async move {
            let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
            drop(conn.read_exact(&mut [0; 16]).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
            conn.note("done");
            drop(conn.shutdown().await);
        }
    });
    let ambassador = start(&world, &[&upstream], "", "");
    cancel(&ambassador, 7, &[1, 2, 3, 4]);
    assert_eq!(upstream.notes().last().map(String::as_str), Some("done"), "the end came after it");
}
