//! PostgreSQL's own clients against a PostgreSQL that demands TLS, a client certificate and SCRAM. To them the
//! ambassador is a server without TLS.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::command::wait;
use crate::harness::postgres::{libpq_client, psql, psql_command};
use crate::harness::{Ambassador, Config, Finished, Postgres, demand, finish, until};

fn to_postgres() -> (&'static Postgres, Ambassador) {
    let postgres = Postgres::shared();
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &postgres.tls()));
    (postgres, ambassador)
}

fn conninfo(ambassador: &Ambassador, user: &str, more: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} dbname=postgres {more}", ambassador.address("app").port())
}

#[track_caller]
fn select_works(ambassador: &Ambassador, sslmode: &str) {
    let sql = "select ssl, client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let finished = psql(&conninfo(ambassador, "app", &format!("sslmode={sslmode}")), sql).must_succeed();
    assert_eq!(finished.stdout.trim(), "t|/CN=app", "the server sees TLS and the ambassador's certificate");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "completed");
    assert!(record["tls"]["version"].is_string());
}

#[test]
fn psql_with_sslmode_disable_reaches_a_server_that_demands_mtls_and_scram() {
    select_works(&to_postgres().1, "disable");
}

#[test]
fn psql_with_sslmode_allow_reaches_a_server_that_demands_mtls_and_scram() {
    select_works(&to_postgres().1, "allow");
}

#[test]
fn psql_with_sslmode_prefer_reaches_a_server_that_demands_mtls_and_scram() {
    select_works(&to_postgres().1, "prefer");
}

#[test]
fn psql_with_sslmode_require_is_told_in_libpqs_own_words() {
    let (_, ambassador) = to_postgres();
    for sslmode in ["require", "verify-ca", "verify-full"] {
        let root = Postgres::shared().pki().ca();
        let more = format!("sslmode={sslmode} sslrootcert={}", root.display());
        let finished = psql(&conninfo(&ambassador, "app", &more), "select 1").must_exit(2);
        finished.must_print("server does not support SSL, but SSL was required");
    }
}

#[test]
fn psql_that_would_bind_the_channel_if_it_could_gets_in() {
    let (_, ambassador) = to_postgres();
    for more in ["channel_binding=prefer", "channel_binding=disable", "gssencmode=prefer sslmode=prefer"] {
        psql(&conninfo(&ambassador, "app", more), "select 1").must_succeed();
    }
}

#[test]
fn psql_reaches_the_server_through_a_unix_socket() {
    let postgres = Postgres::shared();
    // libpq derives the file's name from the port, so the listener's file has that name.
    let body = "bind: unix:{dir}/.s.PGSQL.5432\ncluster: up";
    let cluster = format!("protocol: postgres\n{}", postgres.tls());
    let ambassador = Ambassador::start(&Config::new().listener("app", body).cluster(
        "up",
        &[&postgres.address()],
        &cluster,
    ));
    let conninfo = format!("host={} port=5432 user=app dbname=postgres", ambassador.dir().display());
    assert_eq!(psql(&conninfo, "select 7 * 6").must_succeed().stdout.trim(), "42");
}

#[test]
fn a_role_with_certificate_authentication_needs_no_password() {
    let postgres = Postgres::shared();
    let ambassador =
        Ambassador::start(&Config::postgres(&[&postgres.address()], &Postgres::tls_of_certonly()));
    psql(&conninfo(&ambassador, "certonly", ""), "select 1").must_succeed();
}

#[test]
fn a_certificate_of_the_right_ca_and_another_name_is_enough_for_verify_ca_only() {
    let (_, ambassador) = to_postgres();
    psql(&conninfo(&ambassador, "reports", ""), "select 1").must_succeed();
    let postgres = Postgres::shared();
    let leaf = postgres.pki().client("someone");
    let (ca, cert, key) = (postgres.pki().ca(), leaf.cert.display(), leaf.key.display());
    let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: db.test }}", ca.display());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    psql(&conninfo(&ambassador, "reports", ""), "select 1").must_succeed();
    psql(&conninfo(&ambassador, "app", ""), "select 1").must_exit(2).must_print("FATAL");
}

#[test]
fn a_wrong_password_is_told_by_the_server_itself() {
    let (_, ambassador) = to_postgres();
    let mut command = psql_command(&conninfo(&ambassador, "app", ""));
    let finished = finish(command.env("PGPASSWORD", "wrong").args(["-c", "select 1"])).must_exit(2);
    finished.must_print("password authentication failed for user \"app\"");
    assert_eq!(ambassador.record()["outcome"], "completed", "to us a refused login is a session that ended");
}

#[test]
fn a_missing_client_certificate_is_told_by_the_server_itself() {
    let postgres = Postgres::shared();
    let tls = format!("tls: {{ ca: {}, server_name: db.test }}", postgres.pki().ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    let finished = psql(&conninfo(&ambassador, "app", ""), "select 1").must_exit(2);
    finished.must_print("connection requires a valid client certificate");
}

#[test]
fn psql_is_told_why_the_ambassador_refuses_and_where_to_look() {
    let postgres = Postgres::shared();
    let tls = format!("tls: {{ ca: {}, server_name: wrong.test }}", postgres.pki().ca().display());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    let finished = psql(&conninfo(&ambassador, "app", ""), "select 1").must_exit(2);
    finished.must_print("FATAL:");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed");
    finished.must_print(&format!("[session {}]", record["session"].as_str().expect("a session id")));
    assert!(record["error"].as_str().expect("an error").contains("wrong.test"));
}

/// In TLS 1.3 our handshake ends before the server has verified our certificate. psql must still get an error message,
/// not just a closed connection.
#[test]
fn psql_is_told_when_the_server_rejects_the_certificate_after_the_handshake() {
    let postgres = Postgres::shared();
    let other = crate::harness::Pki::new();
    let leaf = other.client("app");
    let (ca, cert, key) = (postgres.pki().ca(), leaf.cert.display(), leaf.key.display());
    let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: db.test }}", ca.display());
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    let finished = psql(&conninfo(&ambassador, "app", ""), "select 1").must_exit(2);
    let record = ambassador.record();
    finished.must_print("FATAL:");
    finished.must_print(record["session"].as_str().expect("a session id"));
    assert_eq!(record["outcome"], "tls_failed", "{record}");
}

#[test]
fn much_data_goes_in_and_out_through_copy() {
    let (_, ambassador) = to_postgres();
    let mut command = psql_command(&conninfo(&ambassador, "app", ""));
    command.args(["-q", "-c", "create temp table t (n int, s text)", "-c", "copy t from stdin"]);
    command.args(["-c", "select count(*), sum(n), sum(length(s)) from t", "-c", "copy t to stdout"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql");
    let mut input = child.stdin.take().expect("a piped stdin");
    let rows = 200_000;
    let writing = std::thread::spawn(move || {
        for number in 0..rows {
            writeln!(input, "{number}\trow number {number}").expect("psql reads");
        }
    });
    let finished = wait(child).must_succeed();
    writing.join().expect("a writer that does not panic");
    let mut lines = finished.stdout.lines();
    let head = lines.next().expect("the aggregate");
    assert!(head.starts_with("200000|19999900000|"), "{head}");
    assert!(lines.enumerate().all(|(number, line)| line == format!("{number}\trow number {number}")));
}

/// Ctrl-C in psql: libpq opens a second connection with nothing but a CancelRequest, without TLS.
#[test]
fn ctrl_c_in_psql_stops_the_query_on_the_server() {
    let (postgres, ambassador) = to_postgres();
    let conninfo = conninfo(&ambassador, "app", "application_name=cancelled");
    let mut command = psql_command(&conninfo);
    command
        .args(["-c", "select pg_sleep(60)"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("psql");
    let running = "select count(*) from pg_stat_activity where application_name = 'cancelled' and wait_event = 'PgSleep'";
    until("the query sleeps on the server", || (postgres.as_superuser(running) == "1").then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("a psql to interrupt");
    wait(child).must_print("canceling statement due to user request");
    until("the query is gone from the server", || (postgres.as_superuser(running) == "0").then_some(()));
}

fn pgbench(ambassador: &Ambassador, script: &Path, more: &[&str]) -> Finished {
    let mut command = libpq_client(&demand("pgbench", "postgresql-contrib"));
    command.args(["-n", "-f"]).arg(script).args(more).arg(conninfo(ambassador, "app", ""));
    finish(&mut command)
}

#[test]
fn pgbench_with_a_connection_for_each_transaction_loses_none() {
    let (_, ambassador) = to_postgres();
    let script = ambassador.dir().join("select.sql");
    fs::write(&script, "select 1;\n").expect("a script");
    let finished = pgbench(&ambassador, &script, &["-C", "-c", "4", "-j", "2", "-t", "50"]).must_succeed();
    assert!(
        finished.stdout.contains("number of transactions actually processed: 200/200"),
        "{}",
        finished.stdout
    );
    let records = ambassador.wait_records(200);
    assert!(records.iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn pgbench_with_lasting_connections_keeps_its_pace() {
    let (_, ambassador) = to_postgres();
    let script = ambassador.dir().join("select.sql");
    fs::write(&script, "\\set n random(1, 1000)\nselect :n, repeat('x', :n);\n").expect("a script");
    let finished =
        pgbench(&ambassador, &script, &["-M", "prepared", "-c", "8", "-j", "2", "-t", "250"]).must_succeed();
    assert!(
        finished.stdout.contains("number of transactions actually processed: 2000/2000"),
        "{}",
        finished.stdout
    );
}
