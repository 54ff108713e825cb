//! Mistakes in sources of endpoints that are asked over the network.

use super::*;

/// Checks the mistakes of `endpoints: { … }`, each by its path below `clusters.up.endpoints` and a part of what is said. All are of line 8.
#[track_caller]
fn check_source(source: &str, expected: &[(&str, &str)]) {
    let line = format!("endpoints: {{ {source} }}");
    let text = with("", BIND, &line);
    let mistakes = parse(&text).expect_err(&text);
    let found: Vec<_> = mistakes.iter().map(|one| (one.path.as_str(), one.message.as_str())).collect();
    assert_eq!(found.len(), expected.len(), "{mistakes}\nin\n{text}");
    for ((path, message), (place, part)) in found.iter().zip(expected) {
        assert_eq!(*path, format!("clusters.up.endpoints.{place}"), "{mistakes}");
        assert!(message.contains(part), "{part:?} is not in\n{mistakes}");
    }
}

#[test]
fn what_has_no_effect_is_a_mistake() {
    let consul = |more: &str| format!("consul: {{ service: a, {more} }}");
    check_source(&consul("ca: webpki"), &[("consul.ca", "no server of these is asked by https")]);
    check_source(
        &consul("address: \"unix:/run/consul.sock\", ca: webpki, allow_plaintext: true"),
        &[("consul.ca", "has no effect"), ("consul.allow_plaintext", "has no effect")],
    );
    check_source(
        &consul("address: \"https://consul.test:8501\", ca: webpki, allow_plaintext: true"),
        &[("consul.allow_plaintext", "no server of these is asked by http")],
    );
    check_source(
        "etcd: { prefix: /a/, address: [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\", \"http://127.0.0.1:1/\"] }",
        &[("etcd.address[2]", "http://127.0.0.1:1/ is in the list twice")],
    );
    check_source(
        "kubernetes: { service: a, namespace: b, address: \"http://127.0.0.1:8001\", port: 0 }",
        &[("kubernetes.port", "0 is no port")],
    );
}

/// A mistake in one key hid those in the others.
#[test]
fn all_mistakes_of_a_source_are_told_at_once() {
    let missing = "token: { file: /nowhere/token, x: 1 }, ca: /nowhere/ca.pem";
    check_source(
        &format!("consul: {{ service: \"\", address: \"http://consul.test:8500\", {missing} }}"),
        &[
            ("consul.service", "is empty"),
            ("consul.address", "; `allow_plaintext: true` allows it"),
            ("consul.token.x", "unknown key"),
        ],
    );
    check_source(
        "etcd: { prefix: \"\", user: a, address: [\"http://etcd.test:2379\", \"https://etcd.test:2379\", \"x\"], ca: /nowhere/ca.pem }",
        &[
            ("etcd.prefix", "is empty"),
            ("etcd.user", "needs `password`"),
            ("etcd.address[0]", "allow_plaintext"),
            ("etcd.address[2]", "is no URL"),
        ],
    );
    check_source(
        "kubernetes: { service: A, address: \"http://api.test:1\", port: 0 }",
        &[
            ("kubernetes", "`namespace` is missing"),
            ("kubernetes.service", "is no name in Kubernetes"),
            ("kubernetes.address", "allow_plaintext"),
            ("kubernetes.port", "0 is no port"),
        ],
    );
}
