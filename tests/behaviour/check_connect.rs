//! `check --connect`: each endpoint is dialled once, and each step of the dial is reported.

use std::fs;

use crate::harness::{
    ClosedPort, Config, Finished, Pki, Postgres, ServerTls, Upstream, ambassador, finish, pgwire, roles,
};

fn check_connect(config: &Config) -> Finished {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, config.render(dir.path())).expect("a file to check");
    finish(ambassador().args(["check", "--connect", "--config"]).arg(&file))
}

/// Both streams: this test makes no claim about which of them carries the report.
fn output(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr).to_lowercase()
}

#[track_caller]
fn must_print(finished: &Finished, words: &[&str]) {
    for word in words {
        assert!(
            output(finished).contains(&word.to_lowercase()),
            "{word:?} is not printed:\n{}",
            output(finished)
        );
    }
}

#[test]
fn check_connect_walks_the_whole_way_to_a_postgres_that_demands_mtls() {
    let postgres = Postgres::shared();
    let address = postgres.address();
    let finished = check_connect(&Config::postgres(&[&address], &postgres.tls())).must_succeed();
    must_print(&finished, &[&address, "resolve", "connect", "upgrade", "handshake"]);
}

#[test]
fn check_connect_names_the_endpoint_that_refuses_and_tries_the_others() {
    let (dead, upstream) = (ClosedPort::new(), Upstream::plain(roles::echo));
    let config = Config::app(&[&dead.address(), &upstream.address()], "");
    let finished = check_connect(&config).must_exit(1);
    must_print(&finished, &[&dead.address(), &upstream.address(), "connect", "refused"]);
    upstream.wait_accepted(1);
    assert_eq!(upstream.accepted(), 1, "every endpoint is dialled once");
}

#[test]
fn check_connect_tells_a_handshake_that_fails_by_its_reason() {
    let (pki, other) = (Pki::new(), Pki::new());
    let upstream = Upstream::tls(ServerTls::new(&other.server(&["127.0.0.1"])).build(), roles::echo);
    let config = Config::app(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let finished = check_connect(&config).must_exit(1);
    must_print(&finished, &["handshake", "certificate"]);
}

#[test]
fn check_connect_tells_a_server_that_refuses_the_upgrade() {
    let pki = Pki::new();
    let upstream = Upstream::plain(|mut conn| async move {
        use tokio::io::AsyncWriteExt;
        if pgwire::read_ssl_request(&mut conn).await.is_some() {
            drop(conn.write_all(b"N").await);
        }
    });
    let config = Config::postgres(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    must_print(&check_connect(&config).must_exit(1), &["upgrade"]);
}

/// Scenario: a close without a byte was taken for a server that waits for its client.
#[test]
fn check_connect_tells_a_server_that_closes_right_after_the_handshake() {
    let pki = Pki::new();
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), |mut conn| async move {
            drop(tokio::io::AsyncWriteExt::shutdown(&mut conn).await);
        });
    let config = Config::app(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let finished = check_connect(&config).must_exit(1);
    must_print(&finished, &["handshake", "then: the server closed the connection right after the handshake"]);
}

#[test]
fn check_without_connect_touches_no_endpoint() {
    let upstream = Upstream::plain(roles::echo);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, Config::app(&[&upstream.address()], "").render(dir.path())).expect("a file to check");
    finish(ambassador().args(["check", "--config"]).arg(&file)).must_succeed();
    assert_eq!(upstream.accepted(), 0);
}
