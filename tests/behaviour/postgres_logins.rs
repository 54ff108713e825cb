//! Logins by hand against a real server: the gs2 flags of SCRAM with and without PLUS in the offer, and protocol
//! versions.

use std::path::Path;

use serde_json::Value;

use crate::harness::pgwire::{self, read_message};
use crate::harness::postgres::{PASSWORD, psql};
use crate::harness::{Ambassador, Client, Config, End, Postgres, demand, finish, until};

/// Logs in with that flag: the offer that the client got, the result, and the record.
#[track_caller]
fn login(cluster: &str, flag: &str) -> (String, String, Value) {
    let postgres = Postgres::shared();
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], cluster));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/scram.py");
    let mut python = std::process::Command::new(demand("python3", "python3"));
    let port = ambassador.address("app").port().to_string();
    let finished = finish(python.arg(program).args([&port, flag, "app", PASSWORD])).must_succeed();
    let (offer, outcome) = finished.stdout.trim().split_once('\n').expect("an offer and an outcome");
    (offer.to_owned(), outcome.to_owned(), ambassador.record())
}

const STRIPPED: &str = "offer SCRAM-SHA-256";
const KEPT: &str = "offer SCRAM-SHA-256-PLUS SCRAM-SHA-256";

#[test]
fn a_client_that_cannot_bind_gets_in_whether_plus_is_offered_or_not() {
    let tls = Postgres::shared().tls();
    for (scram_plus, expected) in [("auto", STRIPPED), ("strip", STRIPPED), ("keep", KEPT)] {
        let (offer, outcome, record) = login(&format!("{tls}\nscram_plus: {scram_plus}"), "n");
        assert_eq!((offer.as_str(), outcome.as_str()), (expected, "in"), "{scram_plus}");
        assert_eq!(record["outcome"], "completed");
    }
}

/// The server takes it for a downgrade attack and does not explain the remedy; so we refuse with an explanation, and
/// the server never gets it.
#[test]
fn a_client_that_could_bind_is_told_what_to_set_where_plus_is_taken_away() {
    let (offer, outcome, record) = login(&Postgres::shared().tls(), "y");
    assert_eq!(offer, STRIPPED);
    let reason = "the client's login says that it could bind to a TLS channel (gs2 flag `y`), which the server \
                  takes for an attack; set `Channel Binding=Disable` in the client (Npgsql) and `scram_plus: keep` in the \
                  cluster, or leave `enableChannelBinding` off (node-postgres)";
    let session = record["session"].as_str().expect("an id");
    assert_eq!(outcome, format!("refused 08P01 ambassador: bad_opening: {reason} [session {session}]"));
    assert_eq!(
        (record["outcome"].as_str(), record["error"].as_str(), record["closed_by"].as_str()),
        (Some("bad_opening"), Some(reason), Some("ambassador"))
    );
}

#[test]
fn a_client_that_could_bind_is_told_by_the_server_itself_where_plus_is_kept() {
    let (offer, outcome, record) = login(&format!("{}\nscram_plus: keep", Postgres::shared().tls()), "y");
    assert_eq!(
        (offer.as_str(), outcome.as_str()),
        (KEPT, "refused 28000 SCRAM channel binding negotiation error")
    );
    assert_eq!(record["outcome"], "completed", "to us a refused login is a session that ended");
}

/// Channel binding protects the login from an attacker in the middle; only our own verification may replace it.
#[test]
fn plus_is_never_taken_away_where_the_server_is_not_verified() {
    let postgres = Postgres::shared();
    let tls = postgres.tls().replace(" }", ", insecure_skip_verify: true }");
    let (offer, outcome, _) = login(&tls, "n");
    assert_eq!((offer.as_str(), outcome.as_str()), (KEPT, "in"));
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &tls));
    let conninfo =
        format!("host=127.0.0.1 port={} user=app dbname=postgres", ambassador.address("app").port());
    let refused = psql(&conninfo, "select 1").must_exit(2);
    refused.must_print("server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection");
}

fn startup(minor: u16, user: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let parameters = [&[("user", user), ("database", "postgres")], more].concat();
    let mut packet = pgwire::startup(&parameters);
    packet[6..8].copy_from_slice(&minor.to_be_bytes());
    packet
}

/// The highest version that each server speaks: 3.2 came with version 18.
fn newest_minor() -> u32 {
    if Postgres::shared().version() >= 18 { 2 } else { 0 }
}

/// libpq 19 is to send such a request, so that servers and proxies do not ossify.
#[test]
fn an_unknown_minor_version_is_for_the_server_to_negotiate() {
    let postgres = Postgres::shared();
    let ambassador = Ambassador::start(&Config::postgres(&[&postgres.address()], &postgres.tls()));
    let mut client = ambassador.connect();
    client.send(startup(9999, "app", &[("_pq_.test_protocol_negotiation", "")]));
    let (kind, body) = read_message(&mut client);
    let option = b"_pq_.test_protocol_negotiation\0";
    // Servers up to 17 reported the whole version, then only the minor; newer releases report the former again.
    let newest = (3 << 16) | newest_minor();
    assert_eq!(char::from(kind), 'v');
    assert_eq!(body, [&newest.to_be_bytes()[..], &[0, 0, 0, 1], option].concat());
    let offer = pgwire::sasl_offer(&["SCRAM-SHA-256"]);
    assert_eq!(client.receive(offer.len()), offer, "PLUS is taken out behind it, too");
}

/// Logs in by certificate, up to ReadyForQuery; the cancel key.
#[track_caller]
fn key_of(client: &mut Client) -> Vec<u8> {
    let mut key = None;
    loop {
        match read_message(client) {
            (b'K', body) => key = Some(body),
            (b'Z', _) => return key.expect("a key comes before ReadyForQuery"),
            (b'E', body) => panic!("refused: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

/// Version 18 sends keys of 32 bytes to clients that speak 3.2.
#[test]
fn a_cancel_with_the_key_of_protocol_3_2_stops_the_query() {
    let (first, second) = (Postgres::shared(), Postgres::second());
    let addresses = [first.address(), second.address()];
    let addresses = [addresses[0].as_str(), addresses[1].as_str()];
    let ambassador = Ambassador::start(&Config::postgres(&addresses, &Postgres::tls_of_certonly()));
    for _ in 0..4 {
        let mut client = ambassador.connect();
        client.send(startup(2, "certonly", &[]));
        let key = key_of(&mut client);
        assert_eq!(key.len(), if newest_minor() == 2 { 36 } else { 8 });
        client.send(pgwire::message(b'Q', b"select pg_sleep(60)\0"));
        let length = u32::try_from(8 + key.len()).expect("a short key");
        let request = [&length.to_be_bytes()[..], &[4, 0xD2, 0x16, 0x2E], &key].concat();
        let sleeping =
            "select count(*) from pg_stat_activity where usename = 'certonly' and wait_event = 'PgSleep'";
        let sleeps = || [first, second].iter().any(|server| server.as_superuser(sleeping) == "1");
        until("the query sleeps on a server", || sleeps().then_some(()));
        let mut cancel = ambassador.connect();
        cancel.send(&request);
        assert_eq!(cancel.ending(), End::Orderly);
        let (kind, body) = loop {
            match read_message(&mut client) {
                (b'T', _) => {}
                other => break other,
            }
        };
        assert_eq!(char::from(kind), 'E');
        assert!(body.windows(6).any(|field| field == b"C57014"), "{}", String::from_utf8_lossy(&body));
    }
}
