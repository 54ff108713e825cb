//! Mistakes in addresses: of listeners, of their sockets, of endpoints.

use super::*;

#[test]
fn a_mode_is_octal_in_quotes_and_of_a_unix_socket() {
    let unix = |mode: &str| with("", &format!("bind: unix:/run/a.sock\n{mode}"), ENDPOINTS);
    check(&unix("mode: 0660"), &[("6:11", "listeners.app.mode", "octal digits in quotes, such as \"0660\"")]);
    check(&unix("mode: 660"), &[("6:11", "listeners.app.mode", "in quotes")]);
    check(&unix("mode: \"0688\""), &[("6:11", "listeners.app.mode", "octal")]);
    check(&unix("owner: no-such-user"), &[("6:12", "listeners.app.owner", "knows no user `no-such-user`")]);
    check(
        &unix("group: no-such-group"),
        &[("6:12", "listeners.app.group", "knows no group `no-such-group`")],
    );
    check(&unix("owner: -1"), &[("6:12", "listeners.app.owner", "a name or a number")]);
    check_listener("mode: \"0660\"", 11, "mode", "is for unix sockets");
    check_listener("group: root", 12, "group", "is for unix sockets");
}

#[test]
fn addresses_say_what_to_write_instead() {
    let bind = |text: &str| with("", &format!("bind: {text}"), ENDPOINTS);
    for (text, part) in [
        ("localhost:5432", "write `127.0.0.1:5432`"),
        ("\"*:5432\"", "with `expose: true`"),
        ("/run/a.sock", "written `unix:/run/a.sock`"),
        ("\"unix:\"", "the path of the socket is missing"),
        ("unix:/", "the path of the socket is missing"),
        ("5432", "expected text such as \"127.0.0.1:5432\""),
        ("\"[::ffff:127.0.0.1]:5432\"", "write `127.0.0.1:5432`"),
    ] {
        check(&bind(text), &[("5:11", "listeners.app.bind", part)]);
    }
    let long = format!("unix:/{}", "x".repeat(107));
    check(
        &bind(&long),
        &[("5:11", "listeners.app.bind", "has 108 bytes, and that of a unix socket at most 107")],
    );
    let two = "[127.0.0.1:5432, localhost:5433]";
    check(&bind(two), &[("5:28", "listeners.app.bind[1]", "write `127.0.0.1:5433`")]);
    check(&bind("[::1]:5432"), &[("5:16", "", "put an IPv6 address in quotes")]);
    check_cluster(
        "connect: { local_address: \"10.0.0.7:0\" }",
        31,
        "connect.local_address",
        "is no IP address",
    );
    check_top("admin: { bind: localhost:1 }", 16, "admin.bind", "write `127.0.0.1:1`");
    check_top("admin: { bind: \"unix:/x\" }", 16, "admin.bind", "the unix socket is `admin.control`");
    check_top("admin: { control: /run/x }", 19, "admin.control", "write `unix:/run/x`, or `off`");
}

#[test]
fn plaintext_beyond_this_host_must_be_meant() {
    for address in ["0.0.0.0:1", "\"[::]:1\"", "192.0.2.1:1", "\"[2001:db8::1]:1\""] {
        let text = with("", &format!("bind: {address}"), ENDPOINTS);
        check(&text, &[("5:11", "listeners.app.bind", "`expose: true` says you mean it")]);
        crate::config::tests::accept(&with("", &format!("bind: {address}\nexpose: true"), ENDPOINTS));
    }
    for address in ["127.0.0.1:1", "127.9.9.9:1", "\"[::1]:1\""] {
        crate::config::tests::accept(&with("", &format!("bind: {address}"), ENDPOINTS));
    }
}

#[test]
fn an_address_belongs_to_one() {
    let twice = with("", "bind: [127.0.0.1:5432, 127.0.0.1:5432]", ENDPOINTS);
    check(&twice, &[("5:28", "listeners.app.bind[1]", "taken already by `listeners.app.bind[0]` (line 5)")]);
    check(
        &least("admin: { bind: 127.0.0.1:5432 }", "", ""),
        &[("1:16", "admin.bind", "taken already by `listeners.app.bind`")],
    );
    let all = with("", "expose: true\nbind: [127.0.0.1:5432, 0.0.0.0:5432]", ENDPOINTS);
    check(&all, &[("6:28", "listeners.app.bind[1]", "taken already")]);
    let unix = with("admin: { control: \"unix:/etc/ambassador/a\" }", "bind: unix:a", ENDPOINTS);
    check(&unix, &[("1:19", "admin.control", "taken already by `listeners.app.bind`")]);
    let itself = with("", BIND, "endpoints: [127.0.0.1:5432]");
    check(&itself, &[("5:11", "listeners.app.bind", "it would dial itself")]);
    // Two listeners that lead to each other would use up all connections of both for one client.
    let listener = |name: &str, port, to| format!("  {name}: {{ bind: 127.0.0.1:{port}, cluster: {to} }}\n");
    let cluster =
        |name: &str, port| format!("  {name}: {{ protocol: tcp, endpoints: [127.0.0.1:{port}] }}\n");
    let two = |back| {
        let listeners = listener("a", 1, "to-b") + &listener("b", 2, "to-a");
        format!("listeners:\n{listeners}clusters:\n{}{}", cluster("to-b", 2), cluster("to-a", back))
    };
    let each = |line: &'static str, at: &'static str, words: &'static str| (line, at, words);
    check(
        &two(1),
        &[
            each("2:14", "listeners.a.bind", "leads to `listeners.b`, and that leads back here"),
            each("3:14", "listeners.b.bind", "leads to `listeners.a`, and that leads back here"),
        ],
    );
    crate::config::tests::accept(&two(9));
}

#[test]
fn endpoints_are_servers() {
    let endpoints = |items: &str| with("", BIND, &format!("endpoints: [{items}]"));
    for (item, part) in [
        ("db1", "port of `db1` is missing"),
        ("postgres://db1:5432", "is a URL"),
        ("\"::1\"", "write `[::1]:5432`, in quotes"),
    ] {
        check(&endpoints(item), &[("9:17", "clusters.up.endpoints[0]", part)]);
    }
    check(
        &endpoints("{ weight: 0, address: db1 }"),
        &[
            ("9:27", "clusters.up.endpoints[0].weight", "from 1 to 65535"),
            ("9:39", "clusters.up.endpoints[0].address", "is missing"),
        ],
    );
    check(
        &endpoints("a:1, { address: A:1 }"),
        &[("9:33", "clusters.up.endpoints[1].address", "in the list already")],
    );
    check(
        &endpoints("{ address: a:1, server_name: b }"),
        &[("9:46", "clusters.up.endpoints[0].server_name", "no `tls`")],
    );
    let source = |source: &str| with("", BIND, &format!("endpoints: {{ {source} }}"));
    let at = "clusters.up.endpoints";
    check(&source(""), &[("9:5", at, "one of `srv`, `file`, `consul`, `etcd`, `kubernetes` and `xds`")]);
    check(&source("srv: a, file: b"), &[("9:32", &format!("{at}.file"), "do not go together")]);
    check(&source("srv: 'a:1'"), &[("9:23", &format!("{at}.srv"), "_SERVICE._tcp.DOMAIN")]);
    check(&source("dns: a"), &[("9:5", at, "one of"), ("9:18", &format!("{at}.dns"), "unknown key")]);
    check(&endpoints("[a]"), &[("9:17", "clusters.up.endpoints[0]", "found a list")]);
    check(
        &least("", "", "connect: { local_address: \"::1\" }"),
        &[("9:17", "clusters.up.endpoints[0]", "one is IPv4, one IPv6")],
    );
}

#[test]
fn proxy_headers_are_believed_from_this_host_only() {
    check(
        &with("", "bind: 0.0.0.0:1\nexpose: true\naccept_proxy: true", ENDPOINTS),
        &[("5:11", "listeners.app.bind", "could claim to be anybody")],
    );
    check_listener("accept_proxy: v2", 19, "accept_proxy", "true or false");
    check_cluster("send_proxy: v3", 17, "send_proxy", "did you mean `v1`?");
    check_cluster("send_proxy_max: 256", 21, "send_proxy_max", "needs `send_proxy: v2`");
}

/// Landlock's rights are for folders with everything below them.
#[test]
fn nothing_is_made_in_the_root_folder_by_a_daemon_that_gives_up_files() {
    let part = "would be made directly in `/`";
    check(&with("", "bind: unix:/app.sock", ENDPOINTS), &[("5:11", "listeners.app.bind", part)]);
    check_top("log: { output: /no-such-ambassador.log }", 16, "log.output", part);
    check_top("admin: { control: unix:/control.sock }", 19, "admin.control", part);
    parse(&with("runtime: { landlock: off }", "bind: unix:/app.sock", ENDPOINTS))
        .expect("nothing is given up");
}

#[test]
fn sockets_of_systemd_have_a_name_and_one_listener() {
    for (name, part) in [
        ("\"systemd:\"", "with FileDescriptorName=NAME in the .socket unit"),
        ("systemd:a:b", "`a:b` is no descriptor name"),
        ("\"systemd:a,b\"", "`a,b` is no descriptor name"),
        ("systemd:ü", "`ü` is no descriptor name"),
    ] {
        check(&with("", &format!("bind: {name}"), ENDPOINTS), &[("5:11", "listeners.app.bind", part)]);
    }
    check(
        &with("", "bind: [systemd:a, systemd:b, systemd:a]", ENDPOINTS),
        &[(
            "5:34",
            "listeners.app.bind[2]",
            "systemd:a is taken already by `listeners.app.bind[0]` (line 5)",
        )],
    );
    check(
        &with("", "bind: systemd:a\nmode: \"0600\"", ENDPOINTS),
        &[("6:11", "listeners.app.mode", "`mode` is for unix sockets, and this listener has none")],
    );
}
