//! Rules about who connects, limits for each caller, and what a server is told of the caller.

use super::*;

#[test]
fn rules_about_callers_are_resolved() {
    let rules = "allow:\n  - user: root\n  - { user: 7, group: root, unit: user@7.service/report.service }";
    let config = accept(&with("", &format!("{rules}\n{BIND}"), ENDPOINTS));
    let unit = Some("user@7.service/report.service".into());
    let expected = [Rule { user: Some(0), ..Rule::default() }, Rule { user: Some(7), group: Some(0), unit }];
    assert_eq!(config.listeners[0].admission.allow, expected);
    assert_eq!(config.warnings, Vec::<String>::new());
    let exposed = format!("allow: [{{ user: root }}]\nexpose: true\n{BIND}");
    let warnings = accept(&with("", &exposed, ENDPOINTS)).warnings;
    assert!(warnings[0].contains("listeners.app.allow: whoever connects from another host"), "{warnings:?}");
}

#[test]
fn limits_for_each_caller_are_off_unless_given() {
    let of = |line: &str| accept(&with("", &format!("{line}\n{BIND}"), ENDPOINTS));
    assert!(of("").listeners[0].admission.per_caller.is_off());
    let per_caller = of("per_caller: { max_connections: 50 }").listeners[0].admission.per_caller;
    assert_eq!((per_caller.max_connections, per_caller.connections_per_second), (Some(50), None));
    let per_caller = of("per_caller: { connections_per_second: 9 }").listeners[0].admission.per_caller;
    assert_eq!((per_caller.max_connections, per_caller.connections_per_second), (None, Some(9)));
    let warnings = of("per_caller: { max_connections: 1000 }").warnings;
    assert!(warnings[0].contains("one caller may take all 1000 connections"), "{warnings:?}");
}

#[test]
fn how_many_of_a_caller_may_wait_is_the_clusters_business_unless_the_listener_says_it() {
    let queue = format!("{ENDPOINTS}\nlimits: {{ queue_timeout: 1s, max_pending: 10 }}");
    let of = |line: &str| accept(&with("", &format!("{line}\n{BIND}"), &queue));
    assert_eq!(of("").listeners[0].admission.max_queued, None);
    for most in [0, 9] {
        let config = of(&format!("per_caller: {{ max_queued: {most} }}"));
        let admission = &config.listeners[0].admission;
        assert_eq!((admission.max_queued, admission.per_caller.is_off()), (Some(most), true));
        assert_eq!(config.warnings, Vec::<String>::new());
    }
    let warnings = of("per_caller: { max_queued: 10 }").warnings;
    let words =
        "listeners.app.per_caller.max_queued: one caller may take all 10 places in the queue of cluster up";
    assert!(warnings[0].contains(words), "{warnings:?}");
}

#[test]
fn callers_are_announced_where_the_protocol_has_a_place_for_it() {
    let of = |protocol: &str, more: &str| {
        let text = least("", "", more).replace("protocol: tcp", &format!("protocol: {protocol}"));
        accept(&text).clusters[0].announce_caller
    };
    assert!(!of("postgres", ""));
    assert!(of("postgres", "announce_caller: true"));
    assert!(of("mysql", "announce_caller: true\ntls: {}"));
    assert!(!of("smtp", "announce_caller: false"));
}
