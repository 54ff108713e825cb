//! Mistakes: `line:column path: a part of the message`, all of a file's in its order.

mod addresses;
mod callers;
mod credentials;
mod remote_sources;

use super::{BIND, ENDPOINTS, least, parse, with};

/// Checks that these, and only these, are the file's mistakes.
#[track_caller]
pub(super) fn check(text: &str, expected: &[(&str, &str, &str)]) {
    let mistakes = match parse(text) {
        Ok(config) => panic!("accepted: {config:?}\n{text}"),
        Err(mistakes) => mistakes,
    };
    let found: Vec<_> = mistakes.iter().collect();
    assert_eq!(found.len(), expected.len(), "{mistakes}\nin\n{text}");
    for (mistake, (position, path, part)) in found.iter().zip(expected) {
        let found = mistake.position.map(|position| position.to_string()).unwrap_or_default();
        assert_eq!((found.as_str(), mistake.path.as_str()), (*position, *path), "{mistakes}\nin\n{text}");
        assert!(mistake.message.contains(part), "{part:?} is not in\n{mistakes}");
    }
}

/// A line of the listener `app` (line 5 of the file, from column 5) that is one mistake.
#[track_caller]
fn check_listener(line: &str, column: usize, path: &str, part: &str) {
    let position = format!("5:{column}");
    check(
        &with("", &format!("{line}\n{BIND}"), ENDPOINTS),
        &[(&position, &format!("listeners.app.{path}"), part)],
    );
}

/// A line of the cluster `up` (line 9) that is one mistake.
#[track_caller]
pub(super) fn check_cluster(line: &str, column: usize, path: &str, part: &str) {
    let position = format!("9:{column}");
    check(
        &with("", BIND, &format!("{line}\n{ENDPOINTS}")),
        &[(&position, &format!("clusters.up.{path}"), part)],
    );
}

/// A line at the top (line 1) that is one mistake.
#[track_caller]
fn check_top(line: &str, column: usize, path: &str, part: &str) {
    check(&least(line, "", ""), &[(&format!("1:{column}"), path, part)]);
}

#[test]
fn a_misspelt_key_is_refused_with_what_was_meant() {
    check_top("admn: { bind: off }", 1, "admn", "unknown key `admn`; did you mean `admin`?");
    check_top("log: { levle: info }", 8, "log.levle", "did you mean `level`?");
    check_listener("max-connections: 5", 5, "max-connections", "did you mean `max_connections`?");
    check_cluster("tsl: {}", 5, "tsl", "did you mean `tls`?");
    check_cluster("connect: { tiemout: 5s }", 16, "connect.tiemout", "did you mean `timeout`?");
    check_cluster("xyzzy: 1", 5, "xyzzy", "unknown key `xyzzy`");
    check_cluster("null: 1", 5, "null", "unknown key `null`");
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    check_cluster("timeout: 5s", 5, "timeout", "it belongs inside `connect`");
    check_cluster("ca: system", 5, "ca", "it belongs inside `tls`");
    check_cluster("idle_timeout: 5s", 5, "idle_timeout", "it belongs inside `session`");
}

#[test]
fn what_is_for_servers_that_speak_first_is_for_them_alone() {
    check_cluster(
        "connect: { greeting_timeout: 1m }",
        34,
        "connect.greeting_timeout",
        "wait for the client's first word",
    );
    check_cluster("helo_name: a.test", 16, "helo_name", "is for the protocols smtp and lmtp");
    let text = least("", "", "helo_name: web_1").replace("protocol: tcp", "protocol: smtp");
    let mistakes = parse(&text).expect_err("no domain").to_string();
    assert!(mistakes.contains("clusters.up.helo_name: `web_1` cannot stand in EHLO"), "{mistakes}");
}

/// Words of HAProxy, Envoy, stunnel and ghostunnel, and other names of protocols, were refused without a hint.
#[test]
fn words_of_others_are_told_in_ours() {
    check_cluster("tls: { sni: a.test }", 12, "tls.sni", "here that is `server_name`");
    check_cluster(
        "tls: { verify_peer: false }",
        12,
        "tls.verify_peer",
        "servers are verified unless it is true",
    );
    check_cluster("lb_policy: ROUND_ROBIN", 5, "lb_policy", "here that is `balance`");
    check_cluster("balance: leastconn", 14, "balance", "write `least_connections`");
    check_listener("protocol: smtp", 5, "protocol", "it belongs to `clusters.NAME.protocol`");
    check_listener("accept: 127.0.0.1:1", 5, "accept", "here that is `bind`");
    for (protocol, part) in [
        ("mariadb", "write `mysql`"),
        ("smtps", "write `smtp` and, as TLS begins with the first byte, `tls: { start: direct }`"),
        ("imaps", "write `imap` and"),
        ("ldaps", "start: direct"),
        ("rediss", "write `redis` and `tls: {}`"),
    ] {
        let text = least("", "", "").replace("protocol: tcp", &format!("protocol: {protocol}"));
        check(&text, &[("8:15", "clusters.up.protocol", part)]);
    }
}

/// A private key, or a file with a password, given as `--config`.
#[test]
fn what_is_no_configuration_is_not_shown() {
    for text in [
        "hunter2-secret",
        "5432",
        "-----BEGIN EC PRIVATE KEY-----\nhunter2-secret\n-----END EC PRIVATE KEY-----\n",
    ] {
        let told = parse(text).expect_err("no configuration").to_string();
        assert!(!told.contains("hunter2") && !told.contains("5432"), "{told}");
    }
}

#[test]
fn a_path_is_told_whole_and_nobodys_home_is_known() {
    let of = |path: &str| {
        parse(&least("", "", &format!("tls: {{ ca: {path} }}"))).expect_err("no such file").to_string()
    };
    let told = of("ca/none.pem");
    assert!(told.contains("cannot read /etc/ambassador/ca/none.pem"), "{told}");
    let told = of("~/ca.pem");
    assert!(told.contains("/etc/ambassador/~/ca.pem: `~` is not expanded here"), "{told}");
}

#[test]
fn duplicates_are_refused_with_both_places() {
    let text = least("", "", "") + "  up:\n    endpoints: [10.0.0.2:1]\n";
    check(&text, &[("10:3", "clusters.up", "`up` is given twice; the first is at line 7")]);
    check_top("log: { access: true, access: false }", 22, "log.access", "the first is at line 1");
}

#[test]
fn names_must_lead_somewhere() {
    let text = least("", "", "").replace("cluster: up", "cluster: upp");
    check(&text, &[("4:14", "listeners.app.cluster", "there is no cluster `upp`; did you mean `up`?")]);
    check_cluster(
        "tls: { identity: x }",
        22,
        "tls.identity",
        "there is no identity `x`; the file has no identity at all",
    );
}

#[test]
fn what_a_file_cannot_be_without() {
    let missing =
        [("1:1", "listeners", "`listeners` is missing"), ("1:1", "clusters", "`clusters` is missing")];
    check("", &missing);
    check("log: {}", &missing);
    let none = [("1:12", "listeners", "needs at least one"), ("2:11", "clusters", "needs at least one")];
    check("listeners: {}\nclusters: {}", &none);
    check(
        "listeners:\n  a:\nclusters:\n  b: 5",
        &[
            ("2:3", "listeners.a.bind", "`bind` is missing: text such as \"127.0.0.1:5432\""),
            ("2:3", "listeners.a.cluster", "`cluster` is missing"),
            ("4:6", "clusters.b", "expected a map of keys, found the number 5"),
        ],
    );
    check("[1]", &[("1:1", "", "expected a map of sections, found a list")]);
    check(
        "listeners:\nclusters:",
        &[("1:1", "listeners", "has no value"), ("2:1", "clusters", "has no value")],
    );
    check(
        &with("", "bind: []", "endpoints: []"),
        &[
            ("5:11", "listeners.app.bind", "the list is empty"),
            ("9:16", "clusters.up.endpoints", "the list is empty"),
        ],
    );
}

#[test]
fn values_are_of_their_kind() {
    check_top(
        "runtime: { workers: 0 }",
        21,
        "runtime.workers",
        "expected a whole number from 1 to 256, found the number 0",
    );
    check_top("runtime: { workers: \"2\" }", 21, "runtime.workers", "found the text `2`");
    check_top("runtime: { workers: 257 }", 21, "runtime.workers", "from 1 to 256");
    check_top("runtime: { landlock: none }", 22, "runtime.landlock", "`none`");
    check_top("runtime: [1]", 10, "runtime", "expected a map of workers or landlock, found a list");
    check_top("log: { access: yes }", 16, "log.access", "expected true or false, found the text `yes`");
    check_top("log: { level: inof }", 15, "log.level", "did you mean `info`?");
    check_top("log: { format: xml }", 16, "log.format", "there is text, json");
    check_top("shutdown: { drain_timeout: 30 }", 28, "shutdown.drain_timeout", "`30` has no unit");
    check_top("shutdown: { lame_duck: none }", 24, "shutdown.lame_duck", "`none` is not possible here");
    check_cluster("session: { keepalive: 500ms }", 27, "session.keepalive", "at least 1s, or `none`");
    check_cluster("session: { user_timeout: 30d }", 30, "session.user_timeout", "at most 24d, or `none`");
    check_cluster("session: { idle_timeout: 0s }", 30, "session.idle_timeout", "or `none` for no limit");
    check_cluster("connect: { attempts: 101 }", 26, "connect.attempts", "from 1 to 100");
    check_cluster("connect: { timeout: 0s }", 25, "connect.timeout", "at least 1ms");
    check_cluster("tls: { min_version: \"1.1\" }", 25, "tls.min_version", "`1.1` is not known here");
    check_cluster("tls: { alpn: postgresql }", 18, "tls.alpn", "expected a list");
    check_cluster("tls: { server_name: \"\" }", 25, "tls.server_name", "is empty");
    check_cluster(
        "tls: { server_name: \"a b\" }",
        25,
        "tls.server_name",
        "neither a host name nor an IP address",
    );
    check_cluster("tls:", 5, "tls", "has no value");
    check_listener("max_connections: 1.5", 22, "max_connections", "found the number 1.5");
    check_listener("max_connections: [1]", 22, "max_connections", "found a list");
}

#[test]
fn keys_that_contradict_each_other() {
    for (tls, at, key) in [("min_version: 1.3", 41, "min_version"), ("alpn: [tds/8.0]", 34, "alpn")] {
        check(
            &least("", "", &format!("tls: {{ start: upgrade, {tls} }}")).replace("tcp", "mssql"),
            &[(&format!("10:{at}"), &format!("clusters.up.tls.{key}"), "TDS 7 has TLS 1.2 only")],
        );
    }
    check_cluster("tls: { start: upgrade }", 19, "tls.start", "protocol tcp has no upgrade to TLS");
    check_cluster("scram_plus: strip", 17, "scram_plus", "is for protocol postgres");
    check_cluster(
        "connect: { backoff: { base: 2s } }",
        33,
        "connect.backoff.base",
        "longer than the longest (`max`, 1s)",
    );
    check_cluster("connect: { backoff: { max: 1ms } }", 32, "connect.backoff.max", "(`base`, 25ms)");
    check_cluster("tls: { cert: a }", 18, "tls.cert", "`key` is missing");
    check_cluster("tls: { key: a }", 17, "tls.key", "`cert` is missing");
    let strip = least("", "", "scram_plus: strip\ntls: { insecure_skip_verify: true }");
    check(
        &strip.replace("protocol: tcp", "protocol: postgres"),
        &[(
            "10:17",
            "clusters.up.scram_plus",
            "channel binding is only taken away where our own verification",
        )],
    );
}

#[test]
fn names_can_be_labels_and_urls() {
    let long = "x".repeat(129);
    for name in ["a b", "a/b", "\"\"", "\"a\\u001b\"", "ä", &long] {
        let mistakes = parse(&least("", "", "").replace("app:", &format!("{name}:"))).expect_err(name);
        let messages: Vec<_> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
        assert!(matches!(messages[..], [one] if one.contains("cannot be a name")), "{mistakes}");
    }
    super::accept(&least("", "", "").replace("app:", "5432:"));
}

#[test]
fn a_list_of_clusters_is_for_clients_that_name_one() {
    let file = |listener: &str| {
        format!("listeners:\n  a: {{ bind: 127.0.0.1:1, {listener} }}\nclusters:\n  b: {{ {ENDPOINTS} }}\n")
    };
    check(&file("cluster: [b]"), &[("2:36", "listeners.a.cluster", "is for `context: connect`")]);
    check(&file("cluster: [], context: connect"), &[("2:36", "listeners.a.cluster", "the list is empty")]);
    check(
        &file("cluster: [b, b], context: connect"),
        &[("2:40", "listeners.a.cluster[1]", "`b` is in the list already")],
    );
    check(
        &file("cluster: [b, cc], context: connect"),
        &[("2:40", "listeners.a.cluster[1]", "there is no cluster `cc`")],
    );
    check_listener("context: conect", 14, "context", "did you mean `connect`?");
}

#[test]
fn what_the_environment_lacks_is_a_mistake_at_its_place() {
    check_top("runtime: { workers: \"${NOPE}\" }", 21, "runtime.workers", "`NOPE` is not set");
    check_top("runtime: { workers: \"${YES}\" }", 21, "runtime.workers", "found `${YES}` after substitution");
    check_top("runtime: { workers: ${WORKERS} }", 22, "", "in quotes");
    check_listener("context: \"${YES}\"", 14, "context", "there is none, connect");
    check_cluster("connect: { local_address: \"$HOME\" }", 31, "connect.local_address", "write `${HOME}`");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "\
lgo: {}
log: { level: loud, access: 1 }
listeners:
  a:
    bind: [localhost:1, 0.0.0.0:2, 127.0.0.1:3]
    cluster: oders
    mode: 0660
  b: { bind: 127.0.0.1:3, cluster: orders, max_connections: 0 }
clusters:
  orders:
    protocol: postgers
    endpoints: [db1, \"${DB}:5432\"]
    tls: { ca: missing.pem, cert: missing.pem, key: missing.key, start: upgrade }
    connect: { timeout: 5, tiemout: 5s }
    circuit_breaker: { open_for: 5m, max_open_for: 1m }
";
    check(
        text,
        &[
            ("1:1", "lgo", "did you mean `log`?"),
            ("2:15", "log.level", "`loud` is not known here"),
            ("2:29", "log.access", "found the number 1"),
            ("5:12", "listeners.a.bind[0]", "write `127.0.0.1:1`"),
            ("5:25", "listeners.a.bind[1]", "expose"),
            ("6:14", "listeners.a.cluster", "did you mean `orders`?"),
            ("7:11", "listeners.a.mode", "in quotes"),
            ("7:11", "listeners.a.mode", "is for unix sockets"),
            ("8:14", "listeners.b.bind", "taken already by `listeners.a.bind[2]` (line 5)"),
            ("8:61", "listeners.b.max_connections", "from 1 to 1000000"),
            ("11:15", "clusters.orders.protocol", "did you mean `postgres`?"),
            ("12:17", "clusters.orders.endpoints[0]", "is missing"),
            ("12:22", "clusters.orders.endpoints[1]", "`DB` is not set"),
            ("13:16", "clusters.orders.tls.ca", "cannot read /etc/ambassador/missing.pem"),
            ("13:35", "clusters.orders.tls.cert", "cannot read /etc/ambassador/missing.pem"),
            ("13:53", "clusters.orders.tls.key", "cannot read /etc/ambassador/missing.key"),
            ("14:25", "clusters.orders.connect.timeout", "`5` has no unit"),
            ("14:28", "clusters.orders.connect.tiemout", "did you mean `timeout`?"),
            ("15:34", "clusters.orders.circuit_breaker.open_for", "is longer than `max_open_for` (1m)"),
        ],
    );
}

#[test]
fn what_a_cluster_does_about_failures_must_make_sense() {
    check_cluster(
        "outlier_detection: { max_ejection_time: 1s, base_ejection_time: 5s }",
        69,
        "outlier_detection.base_ejection_time",
        "`base_ejection_time` (5s) is longer than `max_ejection_time` (1s)",
    );
    check_cluster(
        "circuit_breaker: { half_open_trials: 0 }",
        42,
        "circuit_breaker.half_open_trials",
        "expected a whole number from 1 to 1000",
    );
    check_cluster(
        "connect: { retry_budget: { ratio: -0.1 } }",
        39,
        "connect.retry_budget.ratio",
        "expected a number from 0 to 100, such as 0.2, found the number -0.1",
    );
    check_cluster("panic: never", 12, "panic", "has no effect: the cluster has no `health_check`");
    check_cluster(
        "on_unhealthy: close",
        19,
        "on_unhealthy",
        "has no effect: the cluster has no `health_check`",
    );
    check_cluster("balance: fewest", 14, "balance", "there is round_robin, least_connections, ewma, random");
}
