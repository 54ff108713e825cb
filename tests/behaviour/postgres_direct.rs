//! `start: direct`: PostgreSQL accepts a ClientHello as the first bytes since version 17. Run by `scripts/test-matrix`
//! with 18.

use crate::harness::postgres::psql;
use crate::harness::{Ambassador, Config, Postgres};

#[test]
fn direct_tls_works_from_version_17_on_and_is_explained_before() {
    let postgres = Postgres::shared();
    let cluster = format!("{}\nconnect: {{ attempts: 1 }}", postgres.tls_and(", start: direct"));
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &cluster));
    let port = ambassador.address("app").port();
    let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres");
    let sql = "select ssl, client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let finished = psql(&conninfo, sql);
    if postgres.version() >= 17 {
        assert_eq!(finished.must_succeed().stdout.trim(), "t|/CN=app");
        assert_eq!(ambassador.record()["outcome"], "completed");
        return;
    }
    finished.must_exit(2).must_print(
        "leave `start: direct` out of the cluster's `tls` (PostgreSQL takes it since version 17)",
    );
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed", "{record}");
}

/// Without ALPN the handshake succeeds, and then the server closes without a message.
#[test]
fn direct_tls_without_alpn_is_refused_by_the_server() {
    let postgres = Postgres::shared();
    if postgres.version() < 17 {
        return;
    }
    let tls = postgres.tls_and(", start: direct, alpn: []");
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    let port = ambassador.address("app").port();
    psql(&format!("host=127.0.0.1 port={port} user=app dbname=postgres"), "select 1").must_exit(2);
}
