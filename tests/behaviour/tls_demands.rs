//! Demands on a server's certificate beyond chain and name: a pinned key, a URI, that no CA has revoked it.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::harness::{Ambassador, Config, Leaf, Pki, ServerTls, Upstream, roles, until, until_within};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn ambassador(upstream: &Upstream, pki: &Pki, keys: &str) -> Ambassador {
    let tls = format!("tls: {{ ca: {}, {keys} }}\nconnect: {{ attempts: 1 }}", pki.ca().display());
    Ambassador::start(&Config::app(&[&upstream.address()], &tls))
}

fn tls(leaf: &Leaf) -> Arc<ServerConfig> {
    ServerTls::new(leaf).build()
}

/// The newest session was refused with this text.
#[track_caller]
fn refused(ambassador: &Ambassador, words: &str) -> String {
    let before = ambassador.records().len();
    ambassador.connect().try_send("for the right server only");
    let record = ambassador.wait_records(before + 1).remove(before);
    assert_eq!(record["outcome"], "tls_failed", "{record}");
    let error = record["error"].as_str().expect("an error").to_owned();
    assert!(error.contains(words), "{words:?} is not in {error:?}");
    error
}

#[test]
fn a_uri_in_the_certificate_is_demanded_instead_of_the_name() {
    let pki = Pki::new();
    let uri = "spiffe://example.com/orders-db";
    let upstream = Upstream::tls(tls(&pki.server_with_uris(&["elsewhere.test"], &[uri])), roles::echo);
    let keys = format!("server_name: db.test, allowed_uris: [\"{uri}\"]");
    ambassador(&upstream, &pki, &keys).connect().echo("secret");
    upstream.wait_note("sni=Some(\"db.test\")");
    let strict = ambassador(&upstream, &pki, "allowed_uris: [\"spiffe://example.com/other\"]");
    refused(&strict, &format!("none of tls.allowed_uris; its URI names are [{uri}]"));
    // The name alone no longer counts.
    let named = Upstream::tls(tls(&pki.server(&["127.0.0.1"])), roles::echo);
    refused(&ambassador(&named, &pki, &format!("allowed_uris: [\"{uri}\"]")), "none of tls.allowed_uris");
}

#[test]
fn a_pin_is_demanded_on_top_of_chain_and_name() {
    let pki = Pki::new();
    let upstream = Upstream::tls(tls(&pki.server(&["127.0.0.1"])), roles::echo);
    let other = format!("sha256//{}=", "A".repeat(43));
    let strict = ambassador(&upstream, &pki, &format!("pins: [\"{other}\"]"));
    // The refusal has the key of the server: an operator would copy it after verifying it.
    let error = refused(&strict, "none of tls.pins; it is sha256//");
    let pin = error.split(' ').find(|word| word.starts_with("sha256//")).expect("a pin");
    ambassador(&upstream, &pki, &format!("pins: [\"{other}\", \"{pin}\"]")).connect().echo("secret");
    let misnamed = ambassador(&upstream, &pki, &format!("server_name: db.test, pins: [\"{pin}\"]"));
    refused(&misnamed, "another name");
}

#[test]
fn a_certificate_that_is_revoked_is_refused_from_the_moment_the_list_says_so_even_with_a_ticket() {
    let pki = Pki::new();
    let (good, bad) = (pki.server(&["127.0.0.1"]), pki.server(&["127.0.0.1"]));
    let upstream = Upstream::tls(tls(&bad), roles::echo);
    let list = pki.crl("crl.pem", &[], 30 * DAY);
    let ambassador = ambassador(&upstream, &pki, &format!("crl: {}", list.display()));
    ambassador.connect().echo("not revoked yet");
    ambassador.connect().echo("resumed");
    upstream.wait_note("kind=Some(Resumed)");
    pki.crl("crl.pem", &[&bad], 30 * DAY);
    let reloads =
        |kind| ambassador.metrics().sum("credential_reloads_total", &[("kind", kind), ("result", "ok")]);
    until("the new list was read", || (reloads("ca") >= 1.0).then_some(()));
    refused(&ambassador, "is revoked by tls.crl");
    let ends = ambassador.metrics().sum("certificate_expiry_timestamp_seconds", &[("role", "crl")]);
    assert!(ends > 1.7e9, "{ends}");
    // Other certificates of the CA are not affected, whether the list stands alone or among several files.
    let other = Upstream::tls(tls(&good), roles::echo);
    let keys = format!("crl: [{}]", list.display());
    self::ambassador(&other, &pki, &keys).connect().echo("never revoked");
}

#[test]
fn a_list_that_has_expired_or_is_of_another_ca_refuses_all() {
    let (pki, other) = (Pki::new(), Pki::new());
    let upstream = Upstream::tls(tls(&pki.server(&["127.0.0.1"])), roles::echo);
    let expired = pki.crl("expired.pem", &[], DAY / 2);
    let late = ambassador(&upstream, &pki, &format!("crl: {}", expired.display()));
    late.wait_line("expired.pem has expired");
    refused(&late, "a revocation list of tls.crl has expired");
    let foreign = other.crl("foreign.pem", &[], 30 * DAY);
    // Both CAs have the same name, so only the signature tells them apart.
    let foreign = ambassador(&upstream, &pki, &format!("crl: {}", foreign.display()));
    refused(&foreign, "a revocation list of tls.crl is not signed by the CA whose name it bears");
}

/// Scenario: an expired revocation list refused only full handshakes: sessions were resumed for ever, each with a new
/// ticket for the next, and spare connections were still used. The same with a server's certificate that expired
/// meanwhile.
#[test]
fn what_has_ended_since_is_refused_with_a_ticket_and_over_a_connection_kept_ready_too() {
    // On a busy machine three daemons take long to start.
    const LEFT: Duration = Duration::from_secs(20);
    let pki = Pki::new();
    let upstream = Upstream::tls(tls(&pki.server(&["127.0.0.1"])), roles::echo);
    let ending = Upstream::tls(tls(&pki.server_until(&["127.0.0.1"], LEFT)), roles::echo);
    let crl = format!("crl: {}", pki.crl("crl.pem", &[], DAY + LEFT).display());
    let ready = |more: &str| {
        let tls = format!("tls: {{ ca: {}, {more} }}", pki.ca().display());
        let cluster = format!("protocol: redis\nconnect: {{ preconnect: 2, attempts: 1 }}\n{tls}");
        Ambassador::start(&Config::app(&[&upstream.address()], &cluster))
    };
    let all = [
        (ambassador(&upstream, &pki, &crl), "hello", "a revocation list of tls.crl has expired"),
        (ready(&crl), "PING\r\n", "a revocation list of tls.crl has expired"),
        (ambassador(&ending, &pki, ""), "hello", "the server's certificate has expired"),
    ];
    for (ambassador, words, _) in &all {
        ambassador.connect().echo(words);
        ambassador.connect().echo(words);
    }
    upstream.wait_note("kind=Some(Resumed)");
    ending.wait_note("kind=Some(Resumed)");
    for (ambassador, words, reason) in &all {
        until_within(3 * LEFT, format!("{reason:?} was said"), || {
            let before = ambassador.records().len();
            let mut client = ambassador.connect();
            client.try_send(words);
            drop(client);
            let record = ambassador.wait_records(before + 1).remove(before);
            record["error"].as_str().filter(|error| error.contains(reason)).map(str::to_owned)
        });
    }
}
