//! CancelRequests: they go to the endpoint whose session they are for.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::command::wait;
use crate::harness::postgres::psql_command;
use crate::harness::{Ambassador, Client, Config, End, Postgres, Upstream, roles, until};

fn cancel_request(process: u32, secret: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + secret.len()).expect("a short key").to_be_bytes();
    [&length, &80_877_102_u32.to_be_bytes(), &process.to_be_bytes(), secret].concat()
}

/// The second endpoint is where the balancer would send what comes second.
#[test]
fn ctrl_c_finds_the_endpoint_that_owns_the_session() {
    let (postgres, other) = (Postgres::shared(), Upstream::plain(roles::silent));
    let cluster = format!("balance: round_robin\n{}", postgres.tls());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address(), &other.address()], &cluster));
    let port = ambassador.address("app").port();
    let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres application_name=owned");
    let mut command = psql_command(&conninfo);
    command
        .args(["-c", "select pg_sleep(60)"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("psql");
    let running =
        "select count(*) from pg_stat_activity where application_name = 'owned' and wait_event = 'PgSleep'";
    until("the query sleeps on the server", || (postgres.as_superuser(running) == "1").then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("a psql to interrupt");
    wait(child).must_say("canceling statement due to user request");
    let records = ambassador.wait_records(2);
    assert!(records.iter().all(|record| record["endpoint"] == postgres.address().as_str()), "{records:?}");
    assert_eq!(other.accepted(), 0);
}

#[test]
fn a_key_that_nobody_has_is_answered_by_the_end_and_costs_no_dial() {
    let endpoints = [Upstream::plain(roles::silent), Upstream::plain(roles::silent)];
    let addresses = endpoints.each_ref().map(Upstream::address);
    let ambassador = Ambassador::start(&Config::postgres(&[&addresses[0], &addresses[1]], ""));
    for secret in [&[7; 4][..], &[7; 32], &[7; 256]] {
        let mut client = ambassador.connect();
        client.send(cancel_request(4711, secret));
        assert_eq!(client.read_out(), (Vec::new(), End::Orderly));
    }
    let records = ambassador.wait_records(3);
    assert!(
        records.iter().all(|record| record["outcome"] == "no_endpoint" && record["attempts"] == 0),
        "{records:?}"
    );
    assert!(endpoints.iter().all(|endpoint| endpoint.accepted() == 0));
}

#[test]
fn with_one_endpoint_every_key_goes_there() {
    let upstream = Upstream::plain(|mut conn| async move {
        use tokio::io::AsyncReadExt;
        let mut request = vec![0; 16];
        if conn.read_exact(&mut request).await.is_ok() {
            conn.note(format!("{request:?}"));
        }
    });
    let ambassador = Ambassador::start(&Config::postgres(&[&upstream.address()], ""));
    let request = cancel_request(4711, &[1, 2, 3, 4]);
    let mut client = Client::tcp(ambassador.address("app")).expect("a connection");
    client.send(&request);
    upstream.wait_note(&format!("{request:?}"));
    assert_eq!(client.read_out().0, b"");
}

/// A listener that is full of queries is where one wants to cancel.
#[test]
fn a_cancel_gets_through_a_listener_that_is_full() {
    let upstream = Upstream::plain(roles::silent);
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 1").cluster(
        "up",
        &[&upstream.address()],
        "protocol: postgres",
    );
    let ambassador = Ambassador::start(&config);
    let mut first = ambassador.connect();
    first.send(crate::harness::pgwire::app_startup());
    upstream.wait_accepted(1);
    let mut client = ambassador.connect();
    client.send(cancel_request(4711, &[1, 2, 3, 4]));
    upstream.wait_accepted(2);
    let mut another = ambassador.connect();
    another.send(crate::harness::pgwire::app_startup());
    let (told, _) = another.read_out();
    assert!(String::from_utf8_lossy(&told).contains("listener_full"), "{told:?}");
}
