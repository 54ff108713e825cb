//! Clients that Debian stable lacks, or has only in older versions, against its servers: `scripts/test-matrix clients`
//! fetches and runs them.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::server::{PASSWORD, mariadb, nats};
use crate::harness::sqlserver::USER;
use crate::harness::{Ambassador, Config, Finished, Postgres, demand, finish, newer_clients};
use crate::mssql_clients;

fn to_mariadb() -> Ambassador {
    let server = mariadb();
    Ambassador::start(&Config::app(&[&server.address(0)], &format!("protocol: mysql\n{}", server.tls(""))))
}

fn driver(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(file)
}

fn python() -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", newer_clients("python"));
    python
}

fn run(ambassador: &Ambassador, mut program: Command, file: &str, user: &str) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(program.arg(driver(file)).args([&port, user, PASSWORD]))
}

#[test]
#[ignore = "libpq 18: scripts/test-matrix clients"]
fn psycopg_with_libpq_18_works_with_either_version_of_the_protocol() {
    let postgres = Postgres::shared();
    let cluster = format!("protocol: postgres\n{}", postgres.tls());
    let ambassador = Ambassador::start(&Config::app(&[&postgres.address()], &cluster));
    let port = ambassador.address("app").port().to_string();
    let password = crate::harness::postgres::PASSWORD;
    let finished =
        finish(python().arg(driver("with_libpq_18.py")).args([&port, "app", password])).must_succeed();
    assert_eq!(finished.stdout, "42\n42\n42\n");
}

#[test]
#[ignore = "mysql-connector-python: scripts/test-matrix clients"]
fn mysql_connector_python_works_through_a_plaintext_port() {
    assert_eq!(run(&to_mariadb(), python(), "with_connector_python.py", "app").must_succeed().stdout, "42\n");
}

#[test]
#[ignore = "mysql2: scripts/test-matrix clients"]
fn mysql2_works_through_a_plaintext_port() {
    let mut node = Command::new(demand("node", "nodejs"));
    node.env("NODE_PATH", newer_clients("node_modules"));
    assert_eq!(run(&to_mariadb(), node, "with_mysql2.js", "app").must_succeed().stdout, "42\n");
}

#[test]
#[ignore = "Connector/J 3.5: scripts/test-matrix clients"]
fn connector_j_3_5_works_through_a_plaintext_port() {
    let ambassador = to_mariadb();
    let url = format!("jdbc:mariadb://127.0.0.1:{}/shop", ambassador.address("app").port());
    let mut java = Command::new(demand("java", "default-jdk-headless"));
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(newer_clients("mariadb-java-client.jar"));
    let finished = finish(java.arg(driver("ConnectorJ.java")).args([&url, "app", PASSWORD])).must_succeed();
    assert_eq!(finished.stdout.trim(), "Connector/J is content");
}

#[test]
#[ignore = "nats-py: scripts/test-matrix clients"]
fn nats_py_learns_of_no_server_of_the_cluster() {
    let [one, two] = nats();
    let cluster = format!("protocol: nats\nbalance: round_robin\n{}", one.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&one.address(0), &two.address(0)], &cluster));
    let finished = run(&ambassador, python(), "with_nats.py", "app").must_succeed();
    assert_eq!(finished.stdout, "nats-py is content\n");
}

#[test]
#[ignore = "tedious: scripts/test-matrix clients"]
fn tedious_works_through_a_plaintext_port() {
    let served = mssql_clients::served();
    let mut node = Command::new(demand("node", "nodejs"));
    node.env("NODE_PATH", newer_clients("node_modules"));
    let finished = run(&served.ambassador, node, "with_tedious.js", USER).must_succeed();
    assert_eq!(finished.stdout, "42\n42\n", "{:?}", served.server.notes());
}
