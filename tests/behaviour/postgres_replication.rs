//! Replication: connections that begin like all others, and then carry WAL without a time limit.

use std::process::Command;

use crate::harness::postgres::{libpq_client, psql};
use crate::harness::{Ambassador, Config, Postgres, demand, finish};

fn to_postgres() -> (&'static Postgres, Ambassador, String) {
    let postgres = Postgres::shared();
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &postgres.tls()));
    let port = ambassador.address("app").port();
    (postgres, ambassador, format!("host=127.0.0.1 port={port} user=app"))
}

fn tool(name: &str, conninfo: &str) -> Command {
    // It asks for a password in the connection string only where PGPASSWORD is not enough.
    let mut command = libpq_client(&demand(name, "postgresql-client"));
    command.args(["-d", conninfo]);
    command
}

#[test]
fn psql_speaks_the_replication_protocol_of_either_kind() {
    let (_, _ambassador, conninfo) = to_postgres();
    for kind in ["dbname=postgres replication=database", "replication=true"] {
        let told = psql(&format!("{conninfo} {kind}"), "IDENTIFY_SYSTEM").must_succeed();
        assert_eq!(told.stdout.trim().split('|').count(), 4, "{}", told.stdout);
    }
}

/// Two connections at once; the second receives the WAL that is written meanwhile.
#[test]
fn pg_basebackup_streams_a_backup_that_verifies() {
    let (_, ambassador, conninfo) = to_postgres();
    let copy = ambassador.dir().join("copy");
    let mut backup = tool("pg_basebackup", &conninfo);
    finish(backup.args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&copy)).must_succeed();
    finish(Command::new(demand("pg_verifybackup", "postgresql")).arg(&copy)).must_succeed();
    assert!(ambassador.wait_records(2).iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn pg_receivewal_receives_up_to_where_it_is_told() {
    let (postgres, ambassador, conninfo) = to_postgres();
    let files = ambassador.dir().join("wal");
    std::fs::create_dir(&files).expect("a directory");
    let now = postgres.as_superuser("select pg_current_wal_flush_lsn()");
    let mut receive = tool("pg_receivewal", &conninfo);
    finish(receive.args(["--no-loop", "--no-sync", "-E", &now, "-D"]).arg(&files)).must_succeed();
    let received = std::fs::read_dir(&files).expect("the directory").count();
    assert_eq!(received, 1, "one segment, whole or partial");
}
