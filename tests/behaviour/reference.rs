//! The reference servers without an ambassador in between: the assumptions of the other modules hold.

use crate::harness::postgres::{PASSWORD, psql};
use crate::harness::{Client, Pattern, Postgres, Upstream, roles};

#[test]
fn the_real_postgres_refuses_a_client_without_tls() {
    let postgres = Postgres::shared();
    let (host, port) = postgres
        .address()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("host:port");
    let refused = psql(
        &format!("host={host} port={port} user=app password='{PASSWORD}' dbname=postgres sslmode=disable"),
        "select 1",
    );
    assert_ne!(refused.code, 0);
    refused.must_print("no pg_hba.conf entry");
    refused.must_print("no encryption");
}

#[test]
fn the_real_postgres_refuses_a_client_without_a_certificate() {
    let postgres = Postgres::shared();
    let (host, port) = postgres
        .address()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("host:port");
    let refused =
        psql(&format!("host={host} port={port} user=app dbname=postgres sslmode=require"), "select 1");
    assert_ne!(refused.code, 0);
    refused.must_print("client certificate");
}

#[test]
fn the_exchange_of_patterns_notices_a_missing_byte() {
    let mut pattern = Pattern::default();
    let bytes = pattern.upcoming(1000).to_vec();
    assert_eq!(pattern.check(&bytes[..500]), Ok(()));
    assert_eq!(pattern.check(&bytes[501..]), Err(500));
    let upstream = Upstream::plain(roles::exchange(3_000_000));
    Client::tcp(upstream.address().parse().expect("an address")).expect("a connection").exchange(3_000_000);
    upstream.wait_note("identical 3000000");
}
