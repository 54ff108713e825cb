//! Discovery of endpoints by name, SRV record or file: followed while sessions run, kept while no source answers.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::harness::daemon::free_port;
use crate::harness::discovery::{
    check_with, cluster, echoes, members, origin, wait_error, wait_members, wait_well,
};
use crate::harness::{
    Ambassador, BlackHole, Client, Config, DnsMode, Dnsmasq, End, NameServer, Pki, ServerTls, Upstream,
    roles, until,
};

/// An upstream on 127.0.0.1 and one on `ip` with the same port.
fn neighbours(ip: &str) -> (Upstream, Upstream) {
    let first = Upstream::plain(roles::echo);
    let beside = Upstream::plain_at(&format!("{ip}:{}", first.port()), roles::echo);
    (first, beside)
}

fn start(dns: &NameServer, endpoints: &str, cluster: &str) -> Ambassador {
    Ambassador::start_with(&Config::app(&[endpoints], cluster), |command| dns.serves(command))
}

#[track_caller]
fn wait_any_error(ambassador: &Ambassador) {
    until("/status showed an error of discovery", || {
        let discovery = cluster(ambassador)["discovery"].clone();
        let origins = discovery.as_array().expect("origins").clone();
        origins.iter().any(|origin| origin["last_error"].is_string()).then_some(())
    });
}

#[test]
fn a_changed_record_is_followed_within_its_ttl_and_sessions_of_the_old_address_stay() {
    let dns = NameServer::start();
    let (old, new) = neighbours("127.1.0.2");
    dns.set("db.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", old.port()), "");
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    assert_eq!(members(&ambassador), [old.address()]);
    dns.set("db.test.", 1, &["127.1.0.2"]);
    let changed = Instant::now();
    wait_members(&ambassador, &[&new]);
    assert!(
        changed.elapsed() < Duration::from_secs(4),
        "a TTL of 1 s was followed after {:?}",
        changed.elapsed()
    );
    lasting.echo("still here");
    ambassador.connect().echo("to the new one");
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
    let endpoints = cluster(&ambassador)["endpoints"].clone();
    let removed = endpoints.as_array().expect("endpoints").iter().find(|one| one["state"] == "removed");
    let removed = removed.expect("the old address is shown while its session lives");
    assert_eq!(
        (&removed["name"], &removed["host"], &removed["sessions"]),
        (&old.address().into(), &"db.test".into(), &1.into())
    );
    drop(lasting);
    until("the old address was forgotten with its session", || {
        (cluster(&ambassador)["endpoints"].as_array().map(Vec::len) == Some(1)).then_some(())
    });
    let record = ambassador.record_where("the new address", |record| record["endpoint"] == new.address());
    assert_eq!(record["outcome"], "completed");
    ambassador.wait_line("endpoint joined");
    ambassador.wait_line("endpoint left");
}

#[test]
fn sessions_of_an_address_that_left_are_closed_where_that_is_asked_for() {
    let dns = NameServer::start();
    let (old, new) = neighbours("127.1.0.3");
    dns.set("db.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", old.port()), "on_removed: close");
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    dns.set("db.test.", 1, &["127.1.0.3"]);
    assert_eq!(lasting.read_out().0, b"");
    assert_eq!(ambassador.record_of("endpoint_removed")["endpoint"], old.address());
    ambassador.connect().echo("to the new one");
    assert_eq!(new.accepted(), 1);
}

#[test]
fn each_address_of_a_name_is_an_endpoint_of_its_own() {
    let dns = NameServer::start();
    let (one, two) = neighbours("127.1.0.4");
    dns.set_alias("db.test.", 60, "other.test.");
    dns.set("other.test.", 60, &["127.1.0.4", "127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", one.port()), "balance: round_robin");
    for _ in 0..4 {
        ambassador.connect().echo("served");
    }
    assert_eq!((one.accepted(), two.accepted()), (2, 2));
    assert_eq!(members(&ambassador), [one.address(), two.address()]);
    let metrics = ambassador.metrics();
    let attempts = |endpoint: &Upstream| {
        metrics.sum("connect_attempts_total", &[("endpoint", &endpoint.address()), ("result", "ok")])
    };
    assert_eq!((attempts(&one), attempts(&two)), (2.0, 2.0));
    let found = origin(&ambassador);
    assert_eq!(
        (&found["kind"], &found["name"], &found["found"]),
        (&"name".into(), &"db.test".into(), &2.into())
    );
    assert!(
        found["age_ms"].is_u64() && found["next_ms"].as_u64().is_some_and(|next| next > 10_000),
        "{found}"
    );
}

/// A failing file never changes the known endpoints. The failure is reported once, in the log, the metrics and the
/// status, and so is its end.
#[test]
fn a_resolver_that_fails_keeps_what_is_known() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("db.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    wait_members(&ambassador, &[&upstream]);
    let mut failures = 0;
    for (mode, words, result) in [
        (DnsMode::Silent, "no name server", "failed"),
        (DnsMode::Failing, "Server Failure", "failed"),
        (DnsMode::Honest, "does not exist", "negative"),
    ] {
        if mode == DnsMode::Honest {
            dns.forget("db.test.");
        }
        dns.set_mode(mode);
        let seen = wait_error(&ambassador, words);
        assert_eq!(seen["found"], 1, "{seen}");
        until("the metrics said so", || {
            let metrics = ambassador.metrics();
            (metrics.sum("discovery_failing", &[("cluster", "up")]) == 1.0
                && metrics.sum("discovery_total", &[("cluster", "up"), ("result", result)]) > 0.0)
                .then_some(())
        });
        ambassador.connect().echo("served all the same");
        let asked = dns.asked();
        until("it was asked again", || (dns.asked() > asked + 2).then_some(()));
        failures += 1;
        dns.set("db.test.", 1, &["127.0.0.1"]);
        dns.set_mode(DnsMode::Honest);
        wait_well(&ambassador);
        let told = ambassador.lines().iter().filter(|line| line.contains("discovery failed")).count();
        assert_eq!(told, failures, "one line for each time it began");
        assert_eq!(members(&ambassador), [upstream.address()]);
    }
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("discovery_failing", &[("cluster", "up")]), 0.0);
    assert!(metrics.sum("discovery_last_success_timestamp_seconds", &[]) > 1_600_000_000.0);
    assert!(ambassador.lines().iter().all(|line| !line.contains("endpoint left")));
}

#[test]
fn what_fails_for_one_family_leaves_the_other_alone() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("db.test.", 1, &["127.0.0.1"]);
    dns.set_mode(DnsMode::FailingForIpv6);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    ambassador.connect().echo("over IPv4");
    wait_error(&ambassador, "Server Failure");
    assert_eq!(members(&ambassador), [upstream.address()]);
}

#[test]
fn the_daemon_starts_with_nothing_resolvable_and_serves_when_a_name_appears() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("no_endpoint");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("cannot resolve db.test") && error.contains("does not exist"), "{error}");
    dns.set("db.test.", 60, &["127.0.0.1"]);
    wait_members(&ambassador, &[&upstream]);
    ambassador.connect().echo("served");
}

/// Endpoints of names that the file still has are kept; a name that was removed is no longer dialled.
#[test]
fn a_reload_while_nobody_answers_gives_up_no_name_that_is_still_there() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("db.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    wait_members(&ambassador, &[&upstream]);
    dns.set_mode(DnsMode::Silent);
    let reload = |host: &str, cluster: &str| {
        ambassador.rewrite(&Config::app(&[&format!("{host}:{}", upstream.port())], cluster));
        assert_eq!(ambassador.post("/reload").status, 200);
    };
    reload("db.test", "balance: round_robin");
    ambassador.connect().echo("served all the same");
    wait_error(&ambassador, "no name server");
    ambassador.connect().echo("and still");
    reload("other.test", "balance: round_robin");
    wait_members(&ambassador, &[]);
}

/// A session that arrives before the first DNS answer waits; it is not refused.
#[test]
fn a_session_waits_for_the_first_answer() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set_mode(DnsMode::Silent);
    dns.set("db.test.", 60, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    let mut client = ambassador.connect();
    client.send("early");
    until("the server was asked", || (dns.asked() >= 2).then_some(()));
    dns.set_mode(DnsMode::Honest);
    client.expect("early");
    drop(client);
    let record = ambassador.record();
    assert_eq!((&record["outcome"], &record["attempts"]), (&"completed".into(), &1.into()));
    assert!(record["resolve_ms"].as_f64().is_some_and(|waited| waited > 0.0), "{record}");
    drop(ambassador.connect());
    until("a session that found endpoints did not wait", || {
        ambassador.records().iter().any(|record| record["resolve_ms"].is_null()).then_some(())
    });
}

/// A failed connect triggers a new query long before the TTL has passed.
#[test]
fn an_address_that_cannot_be_reached_is_asked_about_before_its_ttl_is_over() {
    let dns = NameServer::start();
    let (mut old, new) = neighbours("127.1.0.5");
    dns.set("db.test.", 3600, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db.test:{}", old.port()), "connect: { attempts: 1 }");
    ambassador.connect().echo("served");
    dns.set("db.test.", 3600, &["127.1.0.5"]);
    old.stop();
    until("a session was served by the new address", || {
        let mut client = ambassador.connect();
        client.try_echo("hello").then_some(())
    });
    assert_eq!(members(&ambassador), [new.address()]);
}

#[test]
fn an_answer_that_does_not_fit_is_fetched_over_tcp() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("db.test.", 60, &["127.0.0.1"]);
    dns.set_mode(DnsMode::Truncating);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "");
    ambassador.connect().echo("served");
    assert!(dns.asked_by_tcp() > 0);
}

#[test]
fn short_names_are_searched_for_and_hosts_goes_before_dns() {
    let dns = NameServer::start();
    let (one, two) = neighbours("127.1.0.6");
    dns.set_resolv_conf("search nowhere.test corp.test");
    dns.set("db.corp.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, &format!("db:{}", one.port()), "");
    wait_members(&ambassador, &[&one]);
    dns.set_hosts("127.1.0.6 other db # the database\n");
    wait_members(&ambassador, &[&two]);
    dns.set_hosts("\n");
    wait_members(&ambassador, &[&one]);
}

#[test]
fn a_resolv_conf_that_changes_is_read_again() {
    let (first, second) = (NameServer::start(), NameServer::start());
    let (one, two) = neighbours("127.1.0.7");
    first.set("db.test.", 1, &["127.0.0.1"]);
    first.set("db.other.test.", 1, &["127.1.0.7"]);
    let ambassador = start(&first, &format!("db:{}", one.port()), "");
    wait_error(&ambassador, "does not exist");
    first.set_resolv_conf("search test");
    wait_members(&ambassador, &[&one]);
    first.set_resolv_conf("search other.test");
    wait_members(&ambassador, &[&two]);
    drop(second);
}

#[test]
fn a_host_with_both_families_is_one_endpoint_and_a_dead_family_costs_a_moment() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    // [::1] has no listener on that port.
    dns.set("db.test.", 60, &["127.0.0.1", "::1"]);
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), "connect: { attempts: 1 }");
    ambassador.connect().echo("over IPv4");
    assert_eq!(members(&ambassador), [upstream.address()]);
    let addresses = cluster(&ambassador)["endpoints"][0]["addresses"].clone();
    assert_eq!(addresses, serde_json::json!([format!("[::1]:{}", upstream.port()), upstream.address()]));
    assert_eq!(ambassador.record()["attempts"], 1);
}

/// The silent family gets a head start of 250 ms once; afterwards the family that answered goes first.
#[test]
fn a_silent_family_is_overtaken_and_goes_last_from_then_on() {
    let dns = NameServer::start();
    let hole = BlackHole::at("[::1]:0");
    let upstream = Upstream::plain_at(&format!("127.0.0.1:{}", hole.port()), roles::echo);
    dns.set("db.test.", 60, &["127.0.0.1", "::1"]);
    let cluster = "connect: { attempts: 1, timeout: 2s }";
    let ambassador = start(&dns, &format!("db.test:{}", upstream.port()), cluster);
    // An answer for one family may come before the other.
    until("both families were known", || {
        let endpoints = &self::cluster(&ambassador)["endpoints"];
        (endpoints[0]["addresses"].as_array()?.len() == 2).then_some(())
    });
    // One after the other: the records of two workers may change places.
    for ended in 1..=2 {
        ambassador.connect().echo("over IPv4");
        ambassador.wait_records(ended);
    }
    let records = ambassador.records();
    let took: Vec<_> = records.iter().map(|record| record["connect_ms"].as_f64().expect("a time")).collect();
    assert!((250.0..1500.0).contains(&took[0]), "{took:?}");
    assert!(took[1] < 200.0, "{took:?}");
}

#[test]
fn only_addresses_of_local_addresses_family_are_dialled() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("both.test.", 60, &["127.0.0.1", "::1"]);
    dns.set("six.test.", 60, &["::1"]);
    let local = "connect: { local_address: 127.0.0.1 }";
    let ambassador = start(&dns, &format!("both.test:{}", upstream.port()), local);
    ambassador.connect().echo("over IPv4");
    let addresses = cluster(&ambassador)["endpoints"][0]["addresses"].clone();
    assert_eq!(addresses, serde_json::json!([upstream.address()]));
    let ambassador = start(&dns, "six.test:5432", local);
    wait_error(&ambassador, "only IPv6 addresses, and `connect.local_address` is IPv4");
}

#[test]
fn a_host_name_is_what_the_certificate_must_bear() {
    let (dns, pki) = (NameServer::start(), Pki::new());
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["db.test"])).build(), roles::echo);
    dns.set("db.test.", 60, &["127.0.0.1"]);
    let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
    // The final dot belongs to DNS, not to the name in the certificate.
    let ambassador = start(&dns, &format!("db.test.:{}", upstream.port()), &tls);
    ambassador.connect().echo("verified");
    upstream.wait_note("sni=Some(\"db.test\")");
}

#[test]
fn an_srv_record_names_servers_with_their_ports_and_shares() {
    let dns = NameServer::start();
    let (light, heavy) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    dns.set("a.test.", 1, &["127.0.0.1"]);
    dns.set("b.test.", 1, &["127.0.0.1"]);
    let service = "_db._tcp.test.";
    dns.set_service(service, 1, &[(0, 1, light.port(), "a.test."), (0, 3, heavy.port(), "b.test.")]);
    let ambassador = start(&dns, "{ srv: _db._tcp.test }", "balance: round_robin");
    until("both were endpoints", || (members(&ambassador).len() == 2).then_some(()));
    for _ in 0..8 {
        ambassador.connect().echo("served");
    }
    assert_eq!((light.accepted(), heavy.accepted()), (2, 6));
    // The record moves to one server alone; a target that does not resolve removes nothing.
    dns.set_service(service, 1, &[(0, 0, light.port(), "a.test.")]);
    wait_members(&ambassador, &[&light]);
    dns.set_service(service, 1, &[(0, 0, heavy.port(), "nobody.test.")]);
    until("the new target was asked for", || {
        let discovery = cluster(&ambassador)["discovery"].clone();
        let names = discovery.as_array().expect("origins").iter();
        names.clone().any(|one| one["name"] == "nobody.test." && one["last_error"].is_string()).then_some(())
    });
    assert_eq!(members(&ambassador), [light.address()]);
    ambassador.connect().echo("served all the same");
    dns.set("nobody.test.", 1, &["127.0.0.1"]);
    wait_members(&ambassador, &[&heavy]);
}

#[test]
fn an_srv_answer_cannot_name_a_server_of_another_domain_where_tls_goes_by_its_name() {
    let (dns, pki) = (NameServer::start(), Pki::new());
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["evil.example"])).build(), roles::echo);
    dns.set("evil.example.", 60, &["127.0.0.1"]);
    dns.set_service("_db._tcp.test.", 60, &[(0, 0, upstream.port(), "evil.example.")]);
    let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
    let ambassador = start(&dns, "{ srv: _db._tcp.test }", &tls);
    wait_error(&ambassador, "evil.example is outside test");
    assert_eq!(ambassador.connect().ending(), End::Reset);
    assert_eq!(upstream.accepted(), 0);
}

/// A third-party DNS server whose names change while sessions come and go, and which dies at the end.
#[test]
fn dnsmasq_is_followed_under_load() {
    let (one, two) = neighbours("127.1.0.8");
    let service = |target: &str| format!("_db._tcp.test,{target},{},0,1", one.port());
    let mut dns =
        Dnsmasq::start("127.0.0.1 a.test\n127.1.0.8 b.test\n", &[service("a.test"), service("b.test")]);
    let config = Config::app(&["{ srv: _db._tcp.test }"], "balance: round_robin");
    let ambassador = Ambassador::start_with(&config, |command| dns.serves(command));
    wait_members(&ambassador, &[&one, &two]);
    assert_eq!(members(&ambassador), [one.address(), two.address()]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..400).all(|_| ambassador.connect().try_echo("hello"))))
            .collect();
        dns.set("127.1.0.8 a.test b.test\n");
        wait_members(&ambassador, &[&two]);
        dns.set("127.0.0.1 a.test b.test\n");
        wait_members(&ambassador, &[&one]);
        dns.stop();
        wait_any_error(&ambassador);
        for client in clients {
            assert!(client.join().expect("a client that did not panic"), "a session was lost");
        }
    });
    ambassador.connect().echo("served all the same");
    assert_eq!(members(&ambassador), [one.address()]);
}

/// Writes the file as programs should: to a temporary file, then renamed into place.
fn replace(file: &Path, text: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, text).expect("a file");
    fs::rename(&aside, file).expect("a rename");
}

fn listing(upstreams: &[&Upstream]) -> String {
    upstreams.iter().fold("endpoints:\n".into(), |text, one| format!("{text}  - {}\n", one.address()))
}

fn start_on_file(file: &Path, cluster: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[&format!("{{ file: {} }}", file.display())], cluster))
}

#[test]
fn a_file_that_is_swapped_under_load_loses_no_session() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orders.yaml");
    let upstreams: [_; 3] = echoes();
    replace(&file, &listing(&[&upstreams[0]]));
    let ambassador = start_on_file(&file, "");
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..150).all(|_| ambassador.connect().try_echo("hello"))))
            .collect();
        for round in 1..20 {
            let now = [&upstreams[round % 3], &upstreams[(round + 1) % 3]];
            replace(&file, &listing(&now));
            wait_members(&ambassador, &now);
            assert_eq!(members(&ambassador), now.map(Upstream::address));
        }
        for client in clients {
            assert!(client.join().expect("a client that did not panic"), "a session was lost");
        }
    });
    assert!(upstreams.iter().all(|upstream| upstream.accepted() > 0));
}

#[test]
fn a_file_behind_a_link_that_is_swapped_is_followed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    for (name, upstream) in [("..1", &one), ("..2", &two)] {
        fs::create_dir(dir.path().join(name)).expect("a folder");
        fs::write(dir.path().join(name).join("orders.yaml"), listing(&[upstream])).expect("a file");
    }
    let link = |to: &str| {
        let aside = dir.path().join("..aside");
        std::os::unix::fs::symlink(to, &aside).expect("a link");
        fs::rename(&aside, dir.path().join("..data")).expect("a rename");
    };
    link("..1");
    let file = dir.path().join("orders.yaml");
    std::os::unix::fs::symlink("..data/orders.yaml", &file).expect("a link");
    let ambassador = start_on_file(&file, "");
    wait_members(&ambassador, &[&one]);
    link("..2");
    wait_members(&ambassador, &[&two]);
}

#[test]
fn a_file_that_is_wrong_keeps_what_it_said_and_says_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orders.json");
    let upstream = Upstream::plain(roles::echo);
    // The file is created after the daemon has started.
    let ambassador = start_on_file(&file, "");
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let error = ambassador.record_of("no_endpoint")["error"].to_string();
    assert!(error.contains("orders.json") && error.contains("cannot read it"), "{error}");
    replace(&file, &format!("{{ \"endpoints\": [ \"{}\" ] }}", upstream.address()));
    wait_members(&ambassador, &[&upstream]);
    let at = file.display();
    for (text, words) in [
        ("{ \"endpoints\": [ \"10.0.0.1:1\", ", format!("{at}:1:")),
        (
            "endpoints:\n  - address: 10.0.0.1:1\n    wieght: 2\n",
            format!("{at}:3:5: endpoints[0].wieght: unknown key"),
        ),
        ("", format!("{at}:1:1: endpoints: `endpoints` is missing")),
    ] {
        fs::write(&file, text).expect("a file");
        wait_error(&ambassador, &words);
        assert_eq!(members(&ambassador), [upstream.address()]);
        ambassador.connect().echo("served all the same");
    }
    fs::remove_file(&file).expect("a file to remove");
    wait_error(&ambassador, "cannot read it");
    ambassador.connect().echo("served all the same");
    // An empty list is an answer, too.
    replace(&file, "endpoints: []\n");
    wait_members(&ambassador, &[]);
    assert_eq!(ambassador.connect().ending(), End::Reset);
    replace(&file, &listing(&[&upstream]));
    wait_members(&ambassador, &[&upstream]);
}

/// Of a thousand addresses 256 were used, with one line of warning.
#[test]
fn a_file_of_a_thousand_addresses_is_used_whole_and_one_of_too_many_is_a_mistake() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orders.yaml");
    let list = |count: usize| {
        let addresses = (0..count).map(|index| format!("  - 127.1.{}.{}:1\n", index / 250, index % 250));
        format!("endpoints:\n{}", addresses.collect::<String>())
    };
    fs::write(&file, list(1000)).expect("a file");
    let ambassador = start_on_file(&file, "");
    until("all were endpoints", || (members(&ambassador).len() == 1000).then_some(()));
    replace(&file, &list(4097));
    wait_error(
        &ambassador,
        ":4098:5: endpoints[4096]: there are 4097, and a cluster has at most 4096 endpoints",
    );
    assert_eq!(members(&ambassador).len(), 1000);
    replace(&file, &list(4096));
    until("all were endpoints", || (members(&ambassador).len() == 4096).then_some(()));
}

/// The lists are replaced; descriptors, threads and series must not grow. Series of names that had left stayed for ever, up to a
/// thousand, and those that came later had none.
#[test]
fn hundreds_of_changes_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orders.yaml");
    let list = |round: usize| {
        let addresses = (0..20).map(|index| format!("  - 127.{}.{}.{index}:1\n", round / 200, round % 200));
        format!("endpoints:\n{}", addresses.collect::<String>())
    };
    fs::write(&file, list(0)).expect("a file");
    let ambassador = start_on_file(&file, "health_check: { interval: 1h }");
    let count = |what: &str| {
        let folder = format!("/proc/{}/{what}", ambassador.pid().as_raw_nonzero());
        fs::read_dir(folder).expect("a process to look at").count()
    };
    let change = |round: usize| {
        replace(&file, &list(round));
        let first = format!("127.{}.{}.0:1", round / 200, round % 200);
        until(format!("{first} was an endpoint"), || {
            (members(&ambassador).first() == Some(&first)).then_some(())
        });
    };
    (1..10).for_each(change);
    let before = (count("fd"), count("task"));
    (10..150).for_each(change);
    // The thread that wrote a report may be about to end, and probes are under way.
    until(format!("no descriptor and thread was left over, after {before:?}"), || {
        let after = (count("fd"), count("task"));
        (after.0 <= before.0 + 2 && after.1 <= before.1).then_some(())
    });
    let cluster = cluster(&ambassador);
    assert_eq!(cluster["endpoints"].as_array().map(Vec::len), Some(20));
    // Those that have left are not probed; a probe in flight may have been the last of one.
    until("those that are there have a gauge of their health, and no others", || {
        let metrics = ambassador.metrics();
        let healthy = metrics.samples().iter().filter(|one| one.name == "ambassador_endpoint_healthy");
        (healthy.count() == 20).then_some(())
    });
}

#[test]
fn check_connect_resolves_and_reports_it() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    dns.set("db.test.", 60, &["127.0.0.1"]);
    let check =
        |endpoints: &str, arguments: &[&str]| check_with(endpoints, arguments, |command| dns.serves(command));
    let finished = check(&format!("db.test:{}", upstream.port()), &["--connect"]).must_succeed();
    for part in ["clusters.up db.test", "resolve    ok      1 found", &upstream.address(), "connect    ok"] {
        assert!(finished.stdout.contains(part), "{part}\n{}", finished.stdout);
    }
    let finished = check("nobody.test:1", &["--connect"]).must_exit(1);
    assert!(finished.stdout.contains("resolve    FAILED  the name does not exist"), "{}", finished.stdout);
    let orders = dns.dir().join("orders.yaml");
    fs::write(&orders, "endpoints: [db]").expect("a file");
    let finished = check(&format!("{{ file: {} }}", orders.display()), &[]).must_exit(78);
    finished.must_print("orders.yaml:1:13: endpoints[0]: the port of `db` is missing");
}

/// Scenario: one client of a listener whose cluster led to the listener itself, by a name, took all its connections:
/// each session dialled the next. An address is refused when the file is read; a name is detected when it resolves.
#[test]
fn a_name_that_leads_to_the_listener_itself_is_no_endpoint() {
    let upstream = Upstream::plain(roles::echo);
    for (name, bind) in [("localhost", "127.0.0.1"), ("zero.test", "127.0.0.1"), ("loop.test", "0.0.0.0")] {
        let port = free_port();
        let dns = NameServer::start();
        dns.set_hosts("127.0.0.1 localhost");
        dns.set("zero.test.", 60, &["0.0.0.0"]);
        dns.set("loop.test.", 60, &["127.0.0.7"]);
        let listener = format!("bind: {bind}:{port}\nexpose: true\ncluster: up\nmax_connections: 50");
        let with = |endpoints: &[&str]| Config::new().listener("app", &listener).cluster("up", endpoints, "");
        let named = format!("{name}:{port}");
        let ambassador = Ambassador::start_with(&with(&[&named]), |command| dns.serves(command));
        let origin = wait_error(&ambassador, "it would dial itself");
        assert_eq!(origin["name"], name);
        let mut client = Client::tcp(([127, 0, 0, 1], port).into()).expect("the listener is there");
        client.ending();
        assert_eq!(ambassador.record()["outcome"], "no_endpoint", "{name}: one client, one session");
        ambassador.rewrite(&with(&[&named, &upstream.address()]));
        assert_eq!(ambassador.post("/reload").status, 200);
        wait_members(&ambassador, &[&upstream]);
        Client::tcp(([127, 0, 0, 1], port).into()).expect("the listener is there").echo("served");
    }
}

/// Scenario: the clusters of two listeners led to each other by name; one client took all connections of both.
#[test]
fn names_that_lead_back_over_another_listener_are_no_endpoints() {
    let ports = [free_port(), free_port()];
    let dns = NameServer::start();
    dns.set("a.test.", 60, &["127.0.0.1"]);
    dns.set("b.test.", 60, &["127.0.0.1"]);
    let listener = |port, cluster| format!("bind: 127.0.0.1:{port}\ncluster: {cluster}\nmax_connections: 50");
    let config = Config::new()
        .listener("a", &listener(ports[0], "to-b"))
        .listener("b", &listener(ports[1], "to-a"))
        .cluster("to-b", &[&format!("b.test:{}", ports[1])], "")
        .cluster("to-a", &[&format!("a.test:{}", ports[0])], "");
    let ambassador = Ambassador::start_with(&config, |command| dns.serves(command));
    until("one of them was left out", || {
        let status = ambassador.status();
        let error = |cluster: &Value| cluster["discovery"][0]["last_error"].as_str().map(str::to_owned);
        let errors = status["clusters"].as_array().expect("clusters").iter().filter_map(error);
        errors.into_iter().find(|error| error.contains("leads back here")).map(drop)
    });
    let mut client = Client::tcp(([127, 0, 0, 1], ports[0]).into()).expect("the listener is there");
    client.ending();
    ambassador.record_of("no_endpoint");
    let records = ambassador.records();
    assert!(records.len() <= 2, "one client, a session of each listener at most: {records:?}");
}
