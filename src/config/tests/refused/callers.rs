//! Mistakes in rules about who connects, and in limits for each caller.

use super::*;

#[test]
fn a_rule_that_names_nobody_or_somebody_unknown_is_refused() {
    check_listener("allow: []", 12, "allow", "the list is empty, and would admit nobody");
    check_listener("allow: root", 12, "allow", "`root` is not known here; there is anyone");
    check_listener("allow: [{}]", 13, "allow[0]", "the rule names no user, group or unit");
    check_listener("allow: [{ user: root, usr: a }]", 27, "allow[0].usr", "did you mean `user`?");
    check_listener("allow: [{ user: no-such }]", 21, "allow[0].user", "this host knows no user `no-such`");
    check_listener("allow: [{ group: no-such }]", 22, "allow[0].group", "this host knows no group `no-such`");
    for unit in ["report", "report.timer", "apps.slice", "a.service/b.service", "re/port.service"] {
        let line = format!("allow: [{{ unit: {unit} }}]");
        check_listener(&line, 21, "allow[0].unit", "is no unit that processes run in: write report.service");
    }
    check(
        &with(
            "",
            &format!("allow: [{{ user: root }}, {{ user: no-such, unit: report }}]\n{BIND}"),
            ENDPOINTS,
        ),
        &[
            ("5:37", "listeners.app.allow[1].user", "no user"),
            ("5:52", "listeners.app.allow[1].unit", "no unit"),
        ],
    );
}

#[test]
fn limits_for_each_caller_are_numbers() {
    check_listener("per_caller: {}", 5, "per_caller", "there is no limit in it");
    check_listener(
        "per_caller: 5",
        17,
        "per_caller",
        "expected a map of max_connections, connections_per_second or max_queued",
    );
    check_listener(
        "per_caller: { max_connections: 0 }",
        36,
        "per_caller.max_connections",
        "from 1 to 1000000",
    );
    check_listener(
        "per_caller: { max_connections: 1, max_pending: 1 }",
        39,
        "per_caller.max_pending",
        "unknown key `max_pending`",
    );
    let file = least("", "per_caller: { max_queued: 3 }", "limits: { queue_timeout: 0s }");
    let line = 1 + file.lines().position(|line| line.contains("max_queued")).expect("it is there");
    let part = "has no effect: the listener's cluster has no queue; set `limits.queue_timeout` there";
    check(&file, &[(&format!("{line}:31"), "listeners.app.per_caller.max_queued", part)]);
}

#[test]
fn callers_are_not_announced_where_nobody_would_hear_it() {
    for (protocol, part) in [
        ("tcp", "is for the protocols postgres and mysql"),
        ("smtp", "is for the protocols postgres and mysql"),
        ("mysql", "needs `tls` here"),
    ] {
        let text =
            least("", "", "announce_caller: true").replace("protocol: tcp", &format!("protocol: {protocol}"));
        check(&text, &[("10:22", "clusters.up.announce_caller", part)]);
    }
}
