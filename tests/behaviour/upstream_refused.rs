//! Servers that run and have no room: their refusal reaches the client with their own text and code, another endpoint
//! is tried, and it does not count as a failure.

use std::io::Read;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::pgwire;
use crate::harness::postgres::{psql, psql_command};
use crate::harness::server::{PASSWORD, full_nats, mariadb};
use crate::harness::{
    Ambassador, Client, Config, End, Pki, Postgres, ServerTls, Upstream, demand, finish, roles, until,
};

/// Sends that at once, and ends.
fn turning_away(words: &'static [u8]) -> Upstream {
    Upstream::plain(move |mut conn| async move {
        drop(conn.write_all(words).await);
        drop(conn.shutdown().await);
    })
}

/// In place of a greeting: 1040, as MariaDB and MySQL send it.
const TOO_MANY: &[u8] = b"\x17\0\0\0\xff\x10\x04Too many connections";
const HOST_BLOCKED: &[u8] = b"\x18\0\0\0\xff\x69\x04#HY000Host is blocked";

/// Scenario: MySQL's 1040 reached the client as 1105, and five of them opened the breaker of a working server; so did
/// an SMTP server's 421, and the equivalent of every protocol whose server speaks first. Six sessions each, one more
/// than the breaker permits.
#[test]
fn the_servers_own_no_reaches_the_client_and_is_held_against_nobody() {
    for (protocol, said, heard) in [
        ("mysql", TOO_MANY, &b"\xff\x10\x04Too many connections ["[..]),
        ("mysql", HOST_BLOCKED, b"\xff\x69\x04Host is blocked ["),
        // Not a permanent error: a mail would be returned.
        ("smtp", b"554-go\r\n554 5.7.1 away\r\n", b"421 4.4."),
        ("smtp", b"421 4.7.0 mx.test too busy\r\n", b"421 4.7.0 mx.test too busy ["),
        ("lmtp", b"421 4.3.2 full\r\n", b"421 4.3.2 full ["),
        ("imap", b"* BYE [UNAVAILABLE] Too many\r\n", b"* BYE [UNAVAILABLE] Too many ["),
        ("pop3", b"-ERR [SYS/TEMP] full\r\n", b"-ERR [SYS/TEMP] full ["),
        ("sieve", b"BYE (TRYLATER) \"too many\"\r\n", b"BYE (TRYLATER) \"too many ["),
        ("nntp", b"400 too many connections\r\n", b"400 too many connections ["),
        ("ftp-control", b"421 Too many users\r\n", b"421 Too many users ["),
        ("nats", b"-ERR 'maximum connections exceeded'\r\n", b"-ERR 'maximum connections exceeded ["),
        (
            "nats",
            b"INFO {\"tls_required\":true} \r\n-ERR 'maximum connections exceeded'\r\n",
            b"-ERR 'maximum connections exceeded [",
        ),
    ] {
        let (pki, full) = (Pki::new(), turning_away(said));
        let cluster = format!("protocol: {protocol}\ntls: {{ ca: {} }}", pki.ca().display());
        let ambassador = Ambassador::start(&Config::app(&[&full.address()], &cluster));
        for _ in 0..6 {
            let (words, end) = ambassador.connect().read_out();
            let words = String::from_utf8_lossy(&words).into_owned();
            assert!(words.contains(&*String::from_utf8_lossy(heard)), "{protocol}: {words}");
            assert!(words.contains("ambassador: upstream_refused"), "{protocol}: {words}");
            assert_eq!(end, End::Orderly);
        }
        let records = ambassador.wait_records(6);
        assert!(
            records.iter().all(|record| record["outcome"] == "upstream_refused"),
            "{protocol}: {records:?}"
        );
        assert_eq!(full.accepted(), 6, "a full server is asked once for each session");
        let metrics = ambassador.metrics();
        assert_eq!(metrics.sum("connect_attempts_total", &[("result", "upstream_refused")]), 6.0);
        assert_eq!(metrics.sum("connections_total", &[("outcome", "upstream_refused")]), 6.0);
        assert_eq!((metrics.sum("breaker_state", &[]), metrics.sum("ejections_total", &[])), (0.0, 0.0));
    }
}

/// Scenario: an attacker in the middle answered StartTLS with a notice of disconnection whose code is "success": it
/// became the answer to the client's Bind, and so any password was accepted.
#[test]
fn no_plaintext_answer_becomes_a_successful_bind() {
    const NOTICE: &[u8] = b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
    const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00";
    let upstream = Upstream::plain(|mut conn| async move {
        let mut asked = [0; 31];
        drop(conn.read_exact(&mut asked).await);
        drop(conn.write_all(NOTICE).await);
        drop(conn.shutdown().await);
    });
    let pki = Pki::new();
    let cluster =
        format!("protocol: ldap\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send(BIND);
    let (answer, _) = client.read_out();
    let at = answer.windows(2).position(|pair| pair == b"\x0a\x01").expect("a result code");
    assert!([51, 52].contains(&answer[at + 2]), "{answer:?}");
    assert_eq!(ambassador.record()["outcome"], "upgrade_failed");
}

fn query(ambassador: &Ambassador) -> crate::harness::Finished {
    let port = ambassador.address("app").port().to_string();
    let mut command = std::process::Command::new(demand("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "--batch", "--skip-column-names", "--host=127.0.0.1", "--user=app"]);
    command.args([&format!("--port={port}"), &format!("--password={PASSWORD}"), "--skip-ssl"]);
    command.args(["-e", "select 6 * 7"]);
    finish(&mut command)
}

/// One of two servers is full: no client gets its refusal, the retry budget does not run out over it, and after a
/// refusal the other server is tried first for a while.
#[test]
fn another_endpoint_is_tried() {
    let (server, full) = (mariadb(), turning_away(TOO_MANY));
    let cluster = format!("protocol: mysql\nbalance: round_robin\n{}", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&full.address(), &server.address(0)], &cluster));
    for _ in 0..12 {
        assert_eq!(query(&ambassador).must_succeed().stdout, "42\n");
    }
    let asked = full.accepted();
    assert!((1..12).contains(&asked), "{asked}");
    let metrics = ambassador.metrics();
    assert_eq!(
        (metrics.sum("ejections_total", &[]), metrics.sum("retry_budget_exhausted_total", &[])),
        (0.0, 0.0)
    );
}

/// The message that a full PostgreSQL sends in place of an answer to the login.
fn fatal(sqlstate: &str, words: &str) -> Vec<u8> {
    pgwire::message(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0M{words}\0\0").as_bytes())
}

/// Scenario: a server's refusal over TLS was passed on, and no other endpoint was tried: PostgreSQL's 53300 and 57P03,
/// and the greetings of mail servers with TLS from the first byte.
#[test]
fn what_is_said_behind_tls_counts_as_what_is_said_before() {
    for (protocol, said, heard) in [
        (
            "postgres",
            fatal("53300", "sorry, too many clients already"),
            "C53300\0Msorry, too many clients already [",
        ),
        (
            "postgres",
            fatal("57P03", "the database system is starting up"),
            "C57P03\0Mthe database system is starting up [",
        ),
        ("smtp", b"421 4.7.0 mx.test too busy\r\n".to_vec(), "421 4.7.0 mx.test too busy ["),
        ("imap", b"* BYE [UNAVAILABLE] Too many\r\n".to_vec(), "* BYE [UNAVAILABLE] Too many ["),
        ("pop3", b"-ERR [SYS/TEMP] full\r\n".to_vec(), "-ERR [SYS/TEMP] full ["),
        ("nntp", b"400 too many connections\r\n".to_vec(), "400 too many connections ["),
    ] {
        let world = pgwire::World::new();
        let is_postgres = protocol == "postgres";
        let tls = ServerTls::new(&world.pki.server(&["127.0.0.1"])).build();
        let full = match is_postgres {
            true => world.server(said),
            false => Upstream::tls(tls, move |mut conn| {
                let said = said.clone();
                async move {
                    drop(conn.write_all(&said).await);
                    drop(conn.shutdown().await);
                }
            }),
        };
        let start = if is_postgres { "" } else { ", start: direct" };
        let cluster = format!("protocol: {protocol}\ntls: {{ ca: {}{start} }}", world.pki.ca().display());
        let ambassador = Ambassador::start(&Config::app(&[&full.address()], &cluster));
        for _ in 0..6 {
            let mut client = ambassador.connect();
            if is_postgres {
                client.send(pgwire::app_startup());
            }
            let (words, end) = client.read_out();
            let words = String::from_utf8_lossy(&words).into_owned();
            assert!(words.contains(heard) && words.contains("upstream_refused"), "{protocol}: {words}");
            assert_eq!(end, End::Orderly);
        }
        let records = ambassador.wait_records(6);
        assert!(records.iter().all(|record| record["outcome"] == "upstream_refused"), "{records:?}");
        let metrics = ambassador.metrics();
        assert_eq!(
            metrics.sum("connect_attempts_total", &[("result", "upstream_refused")]),
            6.0,
            "{protocol}"
        );
        assert_eq!((metrics.sum("breaker_state", &[]), metrics.sum("ejections_total", &[])), (0.0, 0.0));
    }
}

/// The same with a PostgreSQL that has no room and another one that has, also with spare connections.
#[test]
fn a_full_postgresql_is_passed_over() {
    let (full, roomy) = (Postgres::small(0), Postgres::shared());
    let mut sessions: Vec<_> = (0..2).map(|_| held_session(&full.of_superuser())).collect();
    for connect in ["", "connect: { preconnect: 2 }"] {
        let cluster = format!("balance: round_robin\n{}\n{connect}", roomy.tls());
        let alone = Ambassador::start(&Config::postgres(&[&full.address()], &cluster));
        let conninfo = |ambassador: &Ambassador| {
            let port = ambassador.address("app").port();
            format!("host=127.0.0.1 port={port} user=app dbname=postgres")
        };
        psql(&conninfo(&alone), "select 1")
            .must_exit(2)
            .must_print("FATAL:  sorry, too many clients already [");
        let both = Ambassador::start(&Config::postgres(&[&full.address(), &roomy.address()], &cluster));
        for _ in 0..8 {
            assert_eq!(psql(&conninfo(&both), "select 6 * 7").must_succeed().stdout, "42\n");
        }
        let records = both.wait_records(8);
        assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
        assert!(records.iter().all(|record| record["endpoint"] == *roomy.address()), "{records:?}");
    }
    sessions.iter_mut().for_each(|session| drop(session.kill().and_then(|()| session.wait())));
}

/// The last slots are reserved for superusers, which PostgreSQL reports only once it knows the user: with a
/// certificate, right behind its AuthenticationOk.
#[test]
fn a_postgresql_with_room_for_superusers_only_is_full() {
    let full = Postgres::small(1);
    let mut sessions: Vec<_> = (0..2).map(|_| held_session(&full.of_superuser())).collect();
    let ambassador = Ambassador::start(&Config::postgres(&[&full.address()], &Postgres::tls_of_certonly()));
    let port = ambassador.address("app").port();
    let finished = psql(&format!("host=127.0.0.1 port={port} user=certonly dbname=postgres"), "select 1");
    finished.must_exit(2).must_print("upstream_refused");
    assert_eq!(ambassador.record()["outcome"], "upstream_refused");
    sessions.iter_mut().for_each(|session| drop(session.kill().and_then(|()| session.wait())));
}

/// Behind a password the login cannot go elsewhere any more; it was recorded as completed. It is told as what it is, and the next
/// sessions go to the other server.
#[test]
fn a_postgresql_that_has_room_for_superusers_only_says_so_behind_a_password() {
    let (full, roomy) = (Postgres::small(1), Postgres::shared());
    let mut sessions: Vec<_> = (0..2).map(|_| held_session(&full.of_superuser())).collect();
    let cluster = format!("balance: first\n{}", roomy.tls());
    let config = Config::postgres(&[&full.address(), &roomy.address()], &cluster);
    let ambassador = Ambassador::start(&config);
    let port = ambassador.address("app").port();
    let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres");
    psql(&conninfo, "select 1").must_exit(2).must_print("remaining connection slots are reserved");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "upstream_refused", "{record}");
    assert!(record["error"].as_str().is_some_and(|error| error.contains("53300")), "{record}");
    for _ in 0..3 {
        assert_eq!(psql(&conninfo, "select 6 * 7").must_succeed().stdout, "42\n");
    }
    sessions.iter_mut().for_each(|session| drop(session.kill().and_then(|()| session.wait())));
}

/// A psql that has logged in, and waits.
fn held_session(conninfo: &str) -> std::process::Child {
    let mut command = psql_command(conninfo);
    command.args(["-c", "select 1", "-c", "select pg_sleep(600)"]);
    let mut session = command.stdout(Stdio::piped()).spawn().expect("psql starts");
    let mut said = [0; 1];
    session.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("psql has an answer");
    session
}

/// The wait for a slow answer to a login ends with the deadline of the dial: the session continues.
#[test]
fn a_login_that_nobody_answers_in_time_is_not_given_up() {
    let world = pgwire::World::new();
    let (answer, gate) = tokio::sync::watch::channel(false);
    let tls = world.tls.clone();
    let slow = Upstream::plain(move |conn| {
        let (tls, mut gate) = (tls.clone(), gate.clone());
        async move {
            let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
            let _ = pgwire::read_startup(&mut conn).await;
            drop(gate.wait_for(|open| *open).await);
            drop(conn.write_all(&pgwire::welcome()).await);
            roles::echo(conn).await;
        }
    });
    let cluster = format!("tls: {{ ca: {} }}\nconnect: {{ deadline: 300ms }}", world.pki.ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&slow.address()], &cluster));
    let mut client = ambassador.connect();
    client.send(pgwire::app_startup());
    slow.wait_note("startup");
    until("the session relays", || {
        let status = ambassador.status();
        (status["clusters"][0]["endpoints"][0]["sessions"] == 1).then_some(())
    });
    answer.send_replace(true);
    let mut heard = vec![0; pgwire::welcome().len()];
    client.read_exact(&mut heard).expect("the server's answer");
    assert_eq!(heard, pgwire::welcome());
    client.echo("afterwards");
    drop(client);
    let (record, sent) = (ambassador.record(), pgwire::app_startup().len() + "afterwards".len());
    assert_eq!((&record["outcome"], &record["sent_bytes"]), (&"completed".into(), &sent.into()), "{record}");
}

/// MariaDB's own client understands it like the server's own.
#[test]
fn the_mariadb_client_shows_1040() {
    let (pki, full) = (Pki::new(), turning_away(TOO_MANY));
    let cluster = format!("protocol: mysql\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&full.address()], &cluster));
    query(&ambassador).must_exit(1).must_print("ERROR 1040 (HY000): Too many connections [");
}

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

/// Scenario: nats-server greets first and then checks for room: its `-ERR` arrives where TLS should begin, and was
/// taken for a broken handshake, or for injected plaintext.
#[test]
fn a_nats_server_at_its_maximum_is_told_as_that() {
    let server = full_nats();
    let cluster = format!("protocol: nats\n{}", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&server.address(0)], &cluster));
    let mut first = ambassador.connect();
    assert!(line(&mut first).starts_with("INFO {"));
    first.send("CONNECT {\"verbose\":false}\r\nPING\r\n");
    assert_eq!(line(&mut first), "PONG\r\n");
    for _ in 0..6 {
        let (words, _) = ambassador.connect().read_out();
        let words = String::from_utf8(words).expect("text");
        assert!(words.contains("-ERR 'maximum connections exceeded ["), "{words}");
    }
    assert_eq!(ambassador.metrics().sum("ejections_total", &[]), 0.0);
    assert_eq!(ambassador.metrics().sum("breaker_state", &[]), 0.0);
}
