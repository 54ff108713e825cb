//! What is accepted with a warning.

use super::*;

#[track_caller]
/// Port 465 without `start: direct` ended in "did not finish the upgrade within connect.handshake_timeout (5s)".
#[test]
fn a_port_says_how_tls_begins() {
    for (protocol, port, tls, part) in [
        (
            "smtp",
            465,
            "tls: {}",
            "port 465 is for smtp with TLS from the first byte, whose servers wait for our hello: write `tls: { start: direct }`",
        ),
        ("imap", 993, "", "and the cluster has no `tls`"),
        ("ldap", 389, "tls: { start: direct }", "leave `start: direct` out"),
        ("mqtt", 8883, "", "and the cluster has no `tls`"),
    ] {
        let cluster = format!("endpoints: [\"10.0.0.1:{port}\", {{ address: \"10.0.0.2:1\" }}]\n{tls}");
        let text = with("", BIND, &cluster).replace("protocol: tcp", &format!("protocol: {protocol}"));
        check_warnings(&text, &[part]);
    }
    for (protocol, port, tls) in [
        ("smtp", 465, "tls: { start: direct }"),
        ("smtp", 587, "tls: {}"),
        ("redis", 465, "tls: {}"),
        ("tcp", 993, ""),
    ] {
        let text = with("", BIND, &format!("endpoints: [\"10.0.0.1:{port}\"]\n{tls}"));
        check_warnings(&text.replace("protocol: tcp", &format!("protocol: {protocol}")), &[]);
    }
}

fn check_warnings(text: &str, expected: &[&str]) {
    let warnings = accept(text).warnings;
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, part) in warnings.iter().zip(expected) {
        assert!(warning.starts_with("/etc/ambassador/listeners.yaml:"), "{warning}");
        assert!(warning.contains(part), "{part:?} is not in {warning:?}");
    }
}

#[test]
fn what_works_but_deserves_a_word_is_a_warning() {
    check_warnings(
        &least("admin: { bind: 0.0.0.0:9901 }", "", "tls: { insecure_skip_verify: true }"),
        &[
            ":1:16: admin.bind: 0.0.0.0:9901 is not loopback",
            ":10:34: clusters.up.tls.insecure_skip_verify: the servers are not verified",
        ],
    );
    let postgres = least("", "", "tls: { insecure_skip_verify: true }").replace("tcp", "postgres");
    check_warnings(&postgres, &["SCRAM-SHA-256-PLUS stays in the servers' offer"]);
    check_warnings(&least("", "", "connect: { timeout: 20s }"), &["(10s) is shorter than `timeout` (20s)"]);
    let unused = with("", BIND, ENDPOINTS) + "  other:\n    endpoints: [x:1]\n";
    check_warnings(&unused, &["clusters.other: no listener leads to this cluster"]);
}
