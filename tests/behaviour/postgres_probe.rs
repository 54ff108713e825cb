//! `check --connect` against PostgreSQL: its report, and what the server logs about it.

use std::fs;
use std::process::Command;

use tokio::io::AsyncWriteExt;

use crate::harness::pgwire::{self, World};
use crate::harness::postgres::PASSWORD;
use crate::harness::{Ambassador, Config, Finished, Postgres, Upstream, ambassador, demand, finish, until};

#[track_caller]
fn check(config: &Config) -> Finished {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, config.render(dir.path())).expect("a file to check");
    finish(ambassador().args(["check", "--connect", "--config"]).arg(&file))
}

fn answer(finished: &Finished) -> &str {
    let line = finished.stdout.lines().find(|line| line.trim_start().starts_with("answer"));
    line.unwrap_or_else(|| panic!("no answer is told:\n{}{}", finished.stdout, finished.stderr)).trim()
}

const SERVES: &str = "answer     ok      the server would serve a client";

#[test]
fn a_probe_leaves_no_line_in_the_log_of_a_server_with_default_logging() {
    let postgres = Postgres::quiet();
    let before = postgres.marked_log();
    let mut ways = vec![postgres.tls()];
    if postgres.version() >= 17 {
        ways.push(postgres.tls_and(", start: direct"));
    }
    for tls in ways {
        for _ in 0..3 {
            let checked = check(&Config::postgres(&[&postgres.address()], &tls)).must_succeed();
            assert_eq!(answer(&checked), SERVES);
        }
    }
    postgres.must_have_logged_nothing_since(&before);
}

/// Scenario: the probe was ended by a reset, and the server logged one.
#[test]
fn a_login_that_we_refuse_leaves_no_line_in_the_log_of_a_server_with_default_logging() {
    let postgres = Postgres::quiet();
    let before = postgres.marked_log();
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &postgres.tls()));
    for (flag, outcome) in [("y", "bad_opening"), ("n", "completed")] {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/drivers/scram.py");
        let port = ambassador.address("app").port().to_string();
        let mut python = Command::new(demand("python3", "python3"));
        finish(python.args([program, &port, flag, "app", PASSWORD])).must_succeed();
        ambassador.record_of(outcome);
    }
    postgres.must_have_logged_nothing_since(&before);
}

/// If pg_hba.conf has no line for the probe's role, the server refuses it, and logs that. It serves all the same.
#[test]
fn a_server_without_a_line_for_the_probe_serves_and_logs_it() {
    let postgres = Postgres::shared();
    let checked = check(&Config::postgres(&[&postgres.address()], &postgres.tls())).must_succeed();
    assert_eq!(answer(&checked), SERVES);
    let words =
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"ambassador_probe\", database \"postgres\"";
    until("the server has logged the probe", || postgres.log().contains(words).then_some(()));
}

#[test]
fn a_server_that_rejects_our_certificate_does_not_serve() {
    let postgres = Postgres::shared();
    let other = crate::harness::Pki::new();
    let leaf = other.client("app");
    let (ca, cert, key) = (postgres.pki().ca(), leaf.cert.display(), leaf.key.display());
    let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: db.test }}", ca.display());
    let checked = check(&Config::postgres(&[&postgres.address()], &tls)).must_exit(1);
    assert!(
        answer(&checked).starts_with("answer     FAILED  the server rejected our client certificate"),
        "{}",
        checked.stdout
    );
}

/// PostgreSQL starting up, shutting down and full, and a server that is not PostgreSQL.
#[test]
fn a_server_is_judged_by_its_first_message() {
    let world = World::new();
    for (reply, verdict) in [
        (error("57P03"), "answer     FAILED  the server takes no connections now (SQLSTATE 57P03)"),
        (error("57P01"), "answer     FAILED  the server is shutting down (SQLSTATE 57P01)"),
        (error("XX000"), "answer     FAILED  the server answers a login with an error (SQLSTATE XX000)"),
        (error("53300"), SERVES),
        (b"+OK ready\r\n".to_vec(), "answer     FAILED  the server's first message is not PostgreSQL"),
        (Vec::new(), "answer     FAILED  the server closed the connection instead of asking for a login"),
    ] {
        let tls = world.tls.clone();
        let upstream = Upstream::plain(move |conn| {
            let (tls, reply) = (tls.clone(), reply.clone());
            async move {
                let Some(mut conn) = pgwire::accept_ssl(conn, tls).await else { return };
                if pgwire::read_startup(&mut conn).await.is_some() {
                    drop(conn.write_all(&reply).await);
                    drop(conn.shutdown().await);
                }
            }
        });
        let tls = format!("tls: {{ ca: {} }}", world.pki.ca().display());
        let checked = check(&Config::postgres(&[&upstream.address()], &tls));
        assert_eq!(answer(&checked), verdict);
        assert_eq!(checked.code, i32::from(verdict != SERVES));
        upstream.wait_note("startup user=ambassador_probe database=postgres");
    }
}

fn error(sqlstate: &str) -> Vec<u8> {
    pgwire::message(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0Mwords\0\0").as_bytes())
}
