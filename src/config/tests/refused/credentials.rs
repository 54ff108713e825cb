//! Mistakes in identities, and in demands on a server's certificate.

use super::*;

#[test]
fn an_identity_is_a_pair_of_files_or_an_agent() {
    let with = |identity: &str| least(&format!("identities: {{ a: {identity} }}"), "", "");
    for (identity, path, part) in [
        ("{}", "identities.a.cert", "`cert` is missing: an identity is `cert` and `key`, or `spiffe`"),
        ("{ spiffe: \"unix:/x\", key: k }", "identities.a.key", "is given together with `spiffe`"),
        ("{ spiffe: /run/agent.sock }", "identities.a.spiffe", "write `unix:/run/spire/agent.sock`"),
    ] {
        let mistakes = parse(&with(identity)).expect_err(part).to_string();
        assert!(mistakes.contains(&format!("{path}: ")) && mistakes.contains(part), "{mistakes}");
    }
}

#[test]
fn rules_that_choose_an_identity_are_checked() {
    check_cluster("tls: { identity: [] }", 22, "tls.identity", "the list is empty, and would deny everybody");
    check_cluster(
        "tls: { identity: [a] }",
        23,
        "tls.identity[0]",
        "expected a map of user, group, unit or use",
    );
    check_cluster("tls: { identity: [{ use: a }] }", 30, "tls.identity[0].use", "there is no identity `a`");
    check_cluster("tls: { identity: [{ user: root }] }", 23, "tls.identity[0].use", "`use` is missing");
    let unknown = "tls: { identity: [{ user: no-such, use: a }] }";
    let mistakes = parse(&least("", "", unknown)).expect_err("nobody of that name").to_string();
    assert!(mistakes.contains("this host knows no user `no-such`") && mistakes.contains("no identity `a`"));
}

#[test]
fn demands_on_a_servers_certificate_are_checked_word_by_word() {
    check_cluster("tls: { pins: [] }", 18, "tls.pins", "is empty; without `pins` nothing is demanded");
    check_cluster("tls: { pins: [sha1//AAAA] }", 19, "tls.pins[0]", "begins otherwise than `sha256//`");
    check_cluster("tls: { pins: [sha256//AAAA] }", 19, "tls.pins[0]", "is no SHA-256");
    check_cluster("tls: { allowed_uris: [db] }", 27, "tls.allowed_uris[0]", "`db` is no URI");
    check_cluster("tls: { allowed_uris: [\"spiffe://a/*\"] }", 27, "tls.allowed_uris[0]", "letter by letter");
    check_cluster("tls: { crl: [] }", 17, "tls.crl", "is an empty list");
    check_cluster("tls: { crl: /nowhere/crl.pem }", 17, "tls.crl", "cannot read /nowhere/crl.pem");
    for (tls, key, words) in [
        ("verify: name", "verify", "full"),
        ("verify: false", "verify", "`insecure_skip_verify: true` is what checks nothing"),
        ("verify: verify-full", "verify", "write `full`"),
        ("verify: ca", "verify", "anybody would do who has a certificate of any public CA"),
        ("verify: ca, ca: system", "verify", "anybody would do"),
        ("verify: pin", "verify", "`pin` needs one of two"),
        ("verify: pin, ca: webpki", "ca", "is a list of CAs"),
        ("verify: full, insecure_skip_verify: true", "verify", "does not go with `insecure_skip_verify`"),
        (
            "verify: ca, ca: system, allowed_uris: [\"spiffe://a/b\"]",
            "allowed_uris",
            "does not go with `verify: ca`",
        ),
    ] {
        let text = least("", "", &format!("tls: {{ {tls} }}"));
        let mistakes = parse(&text).expect_err(tls);
        let found = mistakes.iter().find(|mistake| mistake.path == format!("clusters.up.tls.{key}"));
        let found = found.unwrap_or_else(|| panic!("{mistakes}"));
        assert!(found.message.contains(words), "{words:?} is not in {mistakes}");
    }
    let insecure = "tls: { insecure_skip_verify: true, allowed_uris: [\"spiffe://a/b\"] }";
    check_cluster(insecure, 54, "tls.allowed_uris", "does not go with `insecure_skip_verify`");
}
