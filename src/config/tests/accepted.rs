//! What an accepted file means.

mod callers;
mod discovery;
mod warnings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::{BIND, ENDPOINTS, accept, least, with};
use crate::admin::Control;
use crate::cluster::{EvictionSettings, OnEndpointLoss, SendProxy, Source, Target};
use crate::config::Config;
use crate::log::{Format, Output};
use crate::policy::admission::{Needs, Rule};
use crate::policy::eligibility::Panic;
use crate::policy::sampling::Sampling;
use crate::policy::{balance, breaker, budget, hedge, outlier};
use crate::sys::{Bind, SystemdBind, UnixBind};
use crate::tls::TlsStart;

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
