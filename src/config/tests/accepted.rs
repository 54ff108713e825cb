//! What an accepted file means.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::{BIND, ENDPOINTS, accept, least, with};
use crate::admin::Control;
use crate::config::Config;
use crate::log::{Format, Output};
use crate::policy::admission::{Needs, Rule};
use crate::policy::eligibility::Panic;
use crate::policy::sampling::Sampling;
use crate::policy::{balance, breaker, budget, hedge, outlier};
use crate::sys::{Bind, SystemdBind, UnixBind};
use crate::tls::TlsStart;
use crate::upstream::discovery::{Source, Target};
use crate::upstream::{EvictionSettings, OnEndpointLoss, SendProxy};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn the_defaults_are_those_promised() {
    let config = accept(&least("", "", "tls: {}"));
    assert_eq!(config.admin.bind, Some(SocketAddr::from(([127, 0, 0, 1], 9901))));
    assert_eq!(config.admin.control, Control::Default("/run/ambassador/control.sock".into()));
    assert_eq!((config.log.level, config.listeners[0].records), (LevelFilter::INFO, Some(Sampling::ALL)));
    assert_eq!((&config.log.events.output, config.log.events.format), (&Output::Stderr, None));
    assert_eq!(config.log.access, config.log.events);
    assert!(config.workers >= 1);
    assert_eq!((config.shutdown.lame_duck, config.shutdown.drain_timeout), (Duration::ZERO, 30 * SECOND));
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.file, Path::new("/etc/ambassador/listeners.yaml"));

    let [listener] = &config.listeners[..] else { panic!("one listener") };
    assert_eq!(listener.max_connections, 1000);
    assert_eq!((listener.name.as_str(), &listener.clusters[..]), ("app", &["up".into()][..]));
    assert_eq!(listener.binds, [Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 5432)))]);

    let [cluster] = &config.clusters[..] else { panic!("one cluster") };
    assert_eq!(cluster.protocol.label(), "tcp");
    assert_eq!(cluster.balance, balance::Policy::LeastConnections);
    assert_eq!(cluster.endpoints[0].weight, 1);
    let dial = cluster.dial;
    assert_eq!(
        (dial.connect_timeout, dial.handshake_timeout, dial.deadline),
        (3 * SECOND, 5 * SECOND, 10 * SECOND)
    );
    let retry = dial.retry;
    assert_eq!((retry.attempts, retry.backoff_base, retry.backoff_max), (None, 25 * MILLISECOND, SECOND));
    assert_eq!((dial.local_address, dial.preconnect), (None, None));
    let limits = cluster.limits;
    assert_eq!(
        (limits.max_connections, limits.max_pending, limits.max_connections_per_endpoint),
        (1024, 1024, 500)
    );
    assert_eq!((cluster.queue_timeout, cluster.wants_of_callers()), (10 * SECOND, None));
    assert_eq!(
        cluster.eviction,
        EvictionSettings {
            on_unhealthy: OnEndpointLoss::Keep,
            on_removed: OnEndpointLoss::Keep,
            closing_time: 5 * SECOND
        }
    );
    assert_eq!(
        cluster.breaker,
        Some(breaker::Settings {
            consecutive_failures: 5,
            open_for: 100 * MILLISECOND,
            max_open_for: 500 * MILLISECOND,
            half_open_trials: 1
        })
    );
    assert_eq!(
        cluster.outlier,
        Some(outlier::Settings {
            consecutive_failures: 3,
            base_ejection_time: 500 * MILLISECOND,
            max_ejection_time: 10 * SECOND,
            early_close: SECOND
        })
    );
    assert_eq!(cluster.retry_budget, Some(budget::Settings { ratio: 0.2, min_per_second: 3.0 }));
    assert_eq!((cluster.hedge, cluster.hedges), (Some(hedge::Settings::by_history(3 * SECOND)), true));
    assert_eq!((cluster.panic, cluster.slow_start), (Panic::All, Duration::ZERO));
    assert_eq!(cluster.endpoints[0].priority, 0);
    let session = cluster.session;
    assert_eq!(
        (session.idle_timeout, session.half_close_timeout, session.max_lifetime),
        (None, Some(60 * SECOND), None)
    );
    assert_eq!(
        (cluster.socket.keepalive, cluster.socket.user_timeout),
        (Some(60 * SECOND), Some(75 * SECOND))
    );
    let tls = cluster.tls.as_ref().expect("tls is given");
    assert!(tls.verifies() && tls.identities().all().is_empty() && tls.server_name().is_none());
    assert_eq!(tls.start(), TlsStart::Direct);
}

#[test]
fn a_greeting_has_a_time_of_its_own_by_the_protocol() {
    let dial = |lines: &str| {
        let config = accept(&least("", "", lines).replace("    protocol: tcp\n", ""));
        (config.clusters[0].dial.greeting_timeout, config.clusters[0].hedge)
    };
    let hedge = |within| Some(hedge::Settings::by_history(3 * SECOND).greeting_within(within));
    for (protocol, expected) in [("smtp", 300), ("lmtp", 300), ("mysql", 30), ("nats", 10), ("imap", 60)] {
        let expected = expected * SECOND;
        assert_eq!(
            dial(&format!("protocol: {protocol}\ntls: {{}}")),
            (expected, hedge(expected)),
            "{protocol}"
        );
    }
    let own = "protocol: smtp\ntls: {}\nconnect: { greeting_timeout: 7s }";
    assert_eq!(dial(own), (7 * SECOND, hedge(7 * SECOND)));
    let direct = dial("protocol: smtp\ntls: { start: direct }").1;
    assert_eq!(
        direct,
        Some(hedge::Settings::by_history(3 * SECOND)),
        "it comes behind TLS, as the client's to wait for"
    );
}

#[test]
fn tls_is_off_unless_given() {
    assert!(accept(&least("", "", "")).clusters[0].tls.is_none());
}

#[test]
fn every_value_that_is_given_arrives() {
    let config = accept(
        r#"
admin: { bind: off, control: off }
log: { format: json, level: warn, access: false }
runtime: { workers: 3 }
shutdown: { lame_duck: 1s, drain_timeout: 2s }
listeners:
  a: { bind: ["127.0.0.1:1", "[::1]:1"], cluster: b, max_connections: 7 }
clusters:
  b:
    protocol: postgres
    endpoints:
      - db1.example.com:5432
      - { address: "[2001:db8::1]:5433", weight: 9 }
      - { address: db3:1, server_name: three }
    balance: round_robin
    scram_plus: keep
    tls: { start: direct, min_version: 1.3, alpn: [] }
    connect: { timeout: 1s, handshake_timeout: 2s, attempts: 9, deadline: 4s, backoff: { base: 0s, max: 5s } }
    limits: { max_connections: 1, max_pending: 2, max_connections_per_endpoint: 3 }
    session: { idle_timeout: 1s, half_close_timeout: none, max_lifetime: 2s, keepalive: none,
               user_timeout: 3s }
"#,
    );
    assert_eq!((config.admin.bind, config.admin.control), (None, Control::Off));
    assert_eq!(config.log.events.format, Some(Format::Json));
    assert_eq!((config.log.level, config.workers), (LevelFilter::WARN, 3));
    assert!(config.listeners.iter().all(|listener| listener.records.is_none()));
    assert_eq!((config.shutdown.lame_duck, config.shutdown.drain_timeout), (SECOND, 2 * SECOND));
    assert_eq!((config.listeners[0].binds.len(), config.listeners[0].max_connections), (2, 7));

    let cluster = &config.clusters[0];
    assert_eq!(format!("{:?}", cluster.protocol), "Postgres { scram_plus: Keep, server_is_verified: true }");
    assert_eq!(cluster.balance, balance::Policy::RoundRobin);
    let Some(Source::Listed(targets)) = &cluster.source else { panic!("a list with names") };
    let told = |target: &Target| {
        (target.address.to_string(), target.weight, target.server_name.to_str().into_owned())
    };
    let endpoints: Vec<_> = targets.iter().map(told).collect();
    let expected = [
        ("db1.example.com:5432", 1, "db1.example.com"),
        ("[2001:db8::1]:5433", 9, "2001:db8::1"),
        ("db3:1", 1, "three"),
    ];
    assert_eq!(
        endpoints,
        expected.map(|(name, weight, server)| (name.to_owned(), weight, server.to_owned()))
    );
    let known: Vec<_> = cluster.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(known, ["[2001:db8::1]:5433"], "where the others are has to be found out");
    assert_eq!(cluster.tls.as_ref().map(|tls| tls.start()), Some(TlsStart::Direct));
    assert_eq!((cluster.dial.connect_timeout, cluster.dial.deadline), (SECOND, 4 * SECOND));
    assert_eq!(cluster.dial.retry.backoff_base, Duration::ZERO);
    assert_eq!(cluster.limits.max_connections_per_endpoint, 3);
    assert_eq!((cluster.session.idle_timeout, cluster.session.half_close_timeout), (Some(SECOND), None));
    assert_eq!((cluster.socket.keepalive, cluster.socket.user_timeout), (None, Some(3 * SECOND)));
}

#[test]
fn mssql_begins_as_its_server_takes_it_unless_the_file_says_how() {
    let start = |tls: &str| {
        let text = least("", "", &format!("tls: {tls}")).replace("tcp", "mssql");
        accept(&text).clusters[0].tls.as_ref().map(|tls| tls.start())
    };
    assert_eq!(start("{}"), Some(TlsStart::EitherWay));
    assert_eq!(start("{ start: upgrade }"), Some(TlsStart::Upgrade));
    assert_eq!(start("{ start: direct, min_version: 1.3 }"), Some(TlsStart::Direct));
    // TDS 7 does not support these.
    assert_eq!(start("{ min_version: 1.3 }"), Some(TlsStart::Direct));
    assert_eq!(start("{ alpn: [tds/8.0] }"), Some(TlsStart::Direct));
}

#[test]
fn postgres_upgrades_by_default_and_takes_the_clusters_server_name() {
    let text = least("", "", "tls: { server_name: db.example.com }").replace("tcp", "postgres");
    let cluster = &accept(&text).clusters[0];
    assert_eq!(format!("{:?}", cluster.protocol), "Postgres { scram_plus: Auto, server_is_verified: true }");
    assert_eq!(cluster.tls.as_ref().map(|tls| tls.start()), Some(TlsStart::Upgrade));
    assert_eq!(cluster.endpoints[0].server_name.to_str(), "db.example.com");
}

#[test]
fn unix_sockets_have_mode_owner_and_group() {
    let plain = accept(&with("", "bind: unix:run/a.sock", ENDPOINTS));
    let path = PathBuf::from("/etc/ambassador/run/a.sock");
    let bind = Bind::Unix(UnixBind { path, mode: 0o660, owner: None, group: None });
    assert_eq!(plain.listeners[0].binds, [bind]);

    let listener = "bind: [unix:/run/a.sock, 127.0.0.1:1]\nmode: \"0600\"\nowner: 1000\ngroup: root";
    let owned = accept(&with("", listener, ENDPOINTS));
    let path = PathBuf::from("/run/a.sock");
    let bind = Bind::Unix(UnixBind { path, mode: 0o600, owner: Some(1000), group: Some(0) });
    assert_eq!(owned.listeners[0].binds[0], bind);
}

#[test]
fn sockets_of_systemd_go_by_name_and_may_be_exposed() {
    for (expose, name) in [(false, "orders db"), (true, "web")] {
        let config = accept(&with("", &format!("bind: \"systemd:{name}\"\nexpose: {expose}"), ENDPOINTS));
        let bind = Bind::Systemd(SystemdBind { name: name.into(), expose });
        assert_eq!(config.listeners[0].binds, [bind]);
    }
}

#[test]
fn sessions_may_wait_for_room_and_take_turns_by_caller() {
    let cluster = &accept(&least("", "", "limits: { queue_timeout: 500ms }")).clusters[0];
    assert_eq!(cluster.queue_timeout, 500 * MILLISECOND);
    assert_eq!(cluster.wants_of_callers(), Some(Needs { unit: true, groups: false }));
}

#[test]
fn with_a_connect_request_a_listener_may_lead_to_several_clusters() {
    let config = accept(&format!(
        "listeners:\n  a: {{ bind: 127.0.0.1:1, cluster: [b, c], context: connect }}\n  \
         d: {{ bind: 127.0.0.1:2, cluster: b, context: connect }}\nclusters:\n  b: {{ {ENDPOINTS} }}\n  c: {{ {ENDPOINTS} }}\n"
    ));
    assert_eq!(config.listeners[0].clusters, ["b".into(), "c".into()]);
    assert!(config.listeners[0].context);
    assert_eq!(config.listeners[1].clusters, ["b".into()]);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert!(!accept(&least("", "context: none", "")).listeners[0].context);
}

#[test]
fn proxy_headers_are_accepted_and_sent() {
    let config =
        accept(&with("", &format!("{BIND}\naccept_proxy: true"), &format!("{ENDPOINTS}\nsend_proxy: v1")));
    assert!(config.listeners[0].accept_proxy);
    assert_eq!(config.clusters[0].send_proxy, Some(SendProxy::V1));
    let config = accept(&least("", "", "send_proxy: v2"));
    assert!(!config.listeners[0].accept_proxy);
    assert!(
        matches!(&config.clusters[0].send_proxy, Some(SendProxy::V2 { host, most: 1500 }) if !host.is_empty())
    );
    for (protocol, expected) in [("mysql", 256), ("smtp", 512), ("imap", 1500)] {
        let config = accept(
            &least("", "", "send_proxy: v2").replace("protocol: tcp", &format!("protocol: {protocol}")),
        );
        let sent = &config.clusters[0].send_proxy;
        assert!(matches!(sent, Some(SendProxy::V2 { most, .. }) if *most == expected), "{sent:?}");
    }
    let config = accept(&least("", "", "send_proxy: v2\nsend_proxy_max: 107"));
    assert!(matches!(config.clusters[0].send_proxy, Some(SendProxy::V2 { most: 107, .. })));
    assert_eq!(accept(&least("", "", "")).clusters[0].send_proxy, None);
}

#[test]
fn the_environment_gives_text_numbers_and_booleans() {
    let config = accept(&with(
        "runtime: { workers: \"${WORKERS}\" }\nlog: { access: \"${NOPE:-false}\" }",
        "bind: 127.0.0.1:${PORT}\nexpose: ${YES}",
        "endpoints: [\"${HOST:-10.0.0.1}:${PORT}\"]\nslow_start: ${SLOW:-0s}",
    ));
    assert_eq!((config.workers, config.listeners[0].records), (3, None));
    assert_eq!(config.listeners[0].binds[0].to_string(), "127.0.0.1:5432");
    assert_eq!(config.clusters[0].endpoints[0].name.as_str(), "10.0.0.1:5432");
}

#[test]
fn anchors_and_merges_are_yaml() {
    let config = accept(
        "listeners:\n  a: { bind: 127.0.0.1:1, cluster: b }\n  c: { bind: 127.0.0.1:2, cluster: d }\n\
         clusters:\n  b: &b { endpoints: [10.0.0.1:1], connect: { attempts: 7 } }\n\
         \u{20} d: { <<: *b, endpoints: [10.0.0.2:1] }\n",
    );
    assert_eq!(config.clusters[1].dial.retry.attempts, Some(7));
    assert_eq!(config.clusters[1].endpoints[0].name.as_str(), "10.0.0.2:1");
}

#[test]
fn the_control_socket_is_where_the_host_keeps_such_things() {
    let control = |variables: &'static [(&str, &str)]| {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Config::parse(&least("", "", ""), Path::new("l.yaml"), &environment)
            .expect("a right file")
            .admin
            .control
    };
    let default = |path: &str| Control::Default(path.into());
    assert_eq!(control(&[]), default("/run/ambassador/control.sock"));
    assert_eq!(
        control(&[("XDG_RUNTIME_DIR", "/run/user/1")]),
        default("/run/user/1/ambassador/control.sock")
    );
    let both = control(&[("RUNTIME_DIRECTORY", "/run/one:/run/two"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
    assert_eq!(both, default("/run/one/control.sock"));
    assert_eq!(control(&[("RUNTIME_DIRECTORY", "")]), default("/run/ambassador/control.sock"));

    let config = accept(&least("admin: { control: \"unix:run/c.sock\" }", "", ""));
    assert_eq!(config.admin.control, Control::At("/etc/ambassador/run/c.sock".into()));
}

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
fn a_list_of_addresses_has_nothing_to_find_out() {
    let cluster = &accept(&with("", BIND, "endpoints: ['[fe80::1%lo]:1', 10.0.0.1:2]")).clusters[0];
    assert!(cluster.source.is_none());
    let at: Vec<_> = cluster.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(at, ["[fe80::1%lo]:1", "10.0.0.1:2"]);
}

#[test]
fn an_srv_record_may_name_servers_of_its_domain_only_where_its_answer_alone_names_them() {
    let service = |cluster: &str| {
        let text = with("", BIND, &format!("endpoints: {{ srv: _db._tcp.example.com }}\n{cluster}"));
        match &accept(&text).clusters[0].source {
            Some(Source::Service(service)) => (service.name.clone(), service.own_domain_only),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(service(""), ("_db._tcp.example.com".into(), false));
    assert!(service("tls: {}").1);
    assert!(!service("tls: { server_name: db.example.com }").1);
}

#[test]
fn an_endpoints_file_is_a_list_like_the_configurations_own() {
    let file = |cluster: &str| {
        let text = with("", BIND, &format!("endpoints: {{ file: endpoints/orders.yaml }}\n{cluster}"));
        let config = accept(&text);
        match &config.clusters[0].source {
            Some(Source::File(file)) => file.clone(),
            other => panic!("{other:?}"),
        }
    };
    let orders = file("");
    assert_eq!(orders.path, Path::new("/etc/ambassador/endpoints/orders.yaml"));
    let parse = |text: &str| {
        let targets = (orders.parse)(text.as_bytes())?;
        Ok::<_, String>(
            targets.iter().map(|target| (target.address.to_string(), target.weight)).collect::<Vec<_>>(),
        )
    };
    let yaml = "endpoints:\n  - 10.0.0.1:1\n  - { address: db:2, weight: 3 }\n";
    let json =
        "{\n\t\"endpoints\": [\n\t\t\"10.0.0.1:1\",\n\t\t{ \"address\": \"db:2\", \"weight\": 3 }\n\t]\n}\n";
    for text in [yaml, json] {
        assert_eq!(parse(text), Ok(vec![("10.0.0.1:1".into(), 1), ("db:2".into(), 3)]), "{text}");
    }
    assert_eq!(parse("endpoints: []"), Ok(Vec::new()), "a way to say that there is none");
    let at = "/etc/ambassador/endpoints/orders.yaml:";
    for (text, words) in [
        ("", "1:1: endpoints: `endpoints` is missing"),
        ("endpoints:\n  - 10.0.0.1", "2:5: endpoints[0]: the port is missing"),
        ("endpoints: [a:1, b, a:1]", "1:18: endpoints[1]: the port of `b` is missing"),
        ("endpoints: [a:1, 'b", "1:18: "),
        ("endpoints: [{ address: 'a:1', wieght: 1 }]", "did you mean `weight`?"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(at) && error.contains(words), "{text}: {error}");
        assert!(!error.contains('\n'), "one line in the log: {error}");
    }
    assert!((orders.parse)(b"endpoints:\n\xff").unwrap_err().contains("yaml:2: is not UTF-8"));
    let local = file("connect: { local_address: 10.0.0.9 }");
    assert!((local.parse)(b"endpoints: ['[fd00::1]:1']").unwrap_err().contains("one is IPv4, one IPv6"));
}

/// The environment's values were substituted into an endpoints file, so its author could read them in `/status`, in the
/// log and in DNS queries.
#[test]
fn an_endpoints_file_gets_nothing_of_the_environment() {
    let config = accept(&with("", BIND, "endpoints: { file: endpoints.yaml }"));
    let Some(Source::File(file)) = &config.clusters[0].source else { panic!("a file") };
    for text in [
        "endpoints: ['${CARGO_PKG_NAME}:1']",
        "endpoints: [{ address: '${CARGO_PKG_NAME}/:1' }]",
        "endpoints: ['a$$b:1']",
    ] {
        let error = (file.parse)(text.as_bytes()).unwrap_err();
        assert!(error.contains("is not substituted in this file") && !error.contains("`ambassador"), "{error}");
    }
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

#[test]
fn what_a_cluster_does_about_failures_is_as_said() {
    let config = accept(&with(
        "",
        BIND,
        "endpoints: [{ address: \"10.0.0.1:1\", priority: 2, weight: 3 }]\n\
         balance: source_hash\nslow_start: 10s\nclosing_time: 0s\non_unhealthy: close\non_removed: close\n\
         connect: { retry_budget: { ratio: 1, min_per_second: 0 } }\n\
         circuit_breaker: { consecutive_failures: 0 }\noutlier_detection: { consecutive_failures: 0 }\n\
         health_check: { type: tcp }\npanic: never",
    ));
    let cluster = &config.clusters[0];
    assert_eq!((cluster.endpoints[0].priority, cluster.endpoints[0].weight), (2, 3));
    assert_eq!((cluster.balance, cluster.slow_start), (balance::Policy::SourceHash, 10 * SECOND));
    assert_eq!(cluster.retry_budget, Some(budget::Settings { ratio: 1.0, min_per_second: 0.0 }));
    assert_eq!((cluster.breaker, cluster.outlier), (None, None), "0 is never");
    assert_eq!(cluster.panic, Panic::Never);
    let closed = EvictionSettings {
        on_unhealthy: OnEndpointLoss::Close,
        on_removed: OnEndpointLoss::Close,
        closing_time: Duration::ZERO,
    };
    assert_eq!(cluster.eviction, closed);
}

#[test]
fn a_check_that_asks_for_a_role_does_not_panic() {
    for (settings, expected) in [
        ("health_check: { type: http, http: { port: 8008, path: /primary } }", Panic::Never),
        ("health_check: { type: http, http: { port: 8008, path: /primary } }\npanic: all", Panic::All),
        ("health_check: { type: tcp }", Panic::All),
    ] {
        assert_eq!(accept(&least("", "", settings)).clusters[0].panic, expected, "{settings}");
    }
}
