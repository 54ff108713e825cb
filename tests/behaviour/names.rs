//! Real-world DNS: name servers that are dead, old, or silent about one family, and every option of resolv.conf(5)
//! that changes the queries. A scripted server plays them; its file is the daemon's `/etc/resolv.conf`.

use std::fs;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use crate::harness::{
    Ambassador, Asked, Config, DnsMode, NameServer, Upstream, ambassador, finish, roles, until,
};

/// A name server that knows `db.test`, and the upstream behind that name.
fn scene(mode: DnsMode) -> (NameServer, Upstream) {
    let (dns, upstream) = (NameServer::start(), Upstream::plain(roles::echo));
    dns.set("db.test.", 60, &["127.0.0.1"]);
    dns.set_mode(mode);
    (dns, upstream)
}

/// With that server's `/etc/resolv.conf`, a cluster of that host and port.
fn start(dns: &NameServer, host: &str, upstream: &Upstream) -> Ambassador {
    let config = Config::app(&[&format!("{host}:{}", upstream.port())], "connect: { deadline: 30s }");
    Ambassador::start_with(&config, |command| dns.serves(command))
}

/// The first session is served, and waits no longer than this for its endpoint.
#[track_caller]
fn is_served_within(ambassador: &Ambassador, most: Duration) {
    ambassador.connect().echo("served");
    let record = ambassador.record();
    let waited = Duration::from_secs_f64(record["resolve_ms"].as_f64().unwrap_or_default() / 1000.0);
    assert!(waited < most, "it waited {waited:?}: {record}");
}

fn lines(nameservers: &[&NameServer], rest: &str) -> String {
    let servers: String = nameservers.iter().map(|dns| format!("nameserver {}\n", dns.ip())).collect();
    format!("{servers}{rest}\n")
}

fn last_error(ambassador: &Ambassador) -> Option<String> {
    let origin = ambassador.status()["clusters"][0]["discovery"][0].clone();
    origin["last_error"].as_str().map(str::to_owned)
}

#[track_caller]
fn wait_error(ambassador: &Ambassador, words: &str) {
    until(format!("/status said {words:?}"), || {
        last_error(ambassador).filter(|error| error.contains(words)).map(drop)
    });
}

/// Scenario: a name server answers A and never AAAA (systemd/systemd#22575, and many home routers): the daemon waited
/// for both queries, longer than any session waits, so that every session was refused as `no_endpoint`. Also, a change
/// of the address with a TTL of a second is followed by that TTL, not by the time of the unanswered AAAA query.
#[test]
fn a_server_that_never_answers_about_ipv6_delays_nothing() {
    let (dns, upstream) = scene(DnsMode::SilentForIpv6);
    let beside = Upstream::plain_at(&format!("127.2.0.2:{}", upstream.port()), roles::echo);
    dns.set_whole_resolv_conf(&lines(&[&dns], ""));
    dns.set("db.test.", 1, &["127.0.0.1"]);
    let ambassador = start(&dns, "db.test", &upstream);
    is_served_within(&ambassador, Duration::from_secs(2));
    let begun = Instant::now();
    dns.set("db.test.", 1, &["127.2.0.2"]);
    until("the new address was served", || {
        ambassador.connect().echo("on the way");
        (beside.accepted() > 0).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "followed after {:?}", begun.elapsed());
    wait_error(&ambassador, "no name server");
    let error = "discovery failed";
    ambassador.wait_line(error);
    assert_eq!(ambassador.lines().iter().filter(|line| line.contains(error)).count(), 1, "told once");
}

/// The same for a short name: each search domain without the name was waited for.
#[test]
fn a_server_that_never_answers_about_ipv6_delays_no_search() {
    let (dns, upstream) = scene(DnsMode::SilentForIpv6);
    dns.set_whole_resolv_conf(&lines(&[&dns], "search one.test two.test three.test test"));
    is_served_within(&start(&dns, "db", &upstream), Duration::from_secs(2));
}

#[test]
fn no_aaaa_asks_for_no_ipv6() {
    let (dns, upstream) = scene(DnsMode::Honest);
    dns.set("db.test.", 60, &["127.0.0.1", "::1"]);
    dns.set_resolv_conf("options no-aaaa");
    let ambassador = start(&dns, "db.test", &upstream);
    is_served_within(&ambassador, Duration::from_secs(2));
    assert!(dns.questions().iter().all(|asked| !asked.is_ipv6), "{:?}", dns.questions());
    let endpoint = ambassador.status()["clusters"][0]["endpoints"][0].clone();
    assert_eq!(endpoint["addresses"].as_array().map_or(1, Vec::len), 1, "{endpoint}");
    dns.set("six.test.", 60, &["::1"]);
    wait_error(&start(&dns, "six.test", &upstream), "no-aaaa");
}

/// Scenario: a word in `search` that is not a name, such as one from a DHCP server, made hickory-resolver ignore the
/// whole file: no name resolved.
#[test]
fn a_bad_word_in_resolv_conf_costs_itself_alone() {
    let (dns, upstream) = scene(DnsMode::Honest);
    dns.set_resolv_conf(&format!("search a..b {}.test test\nnonsense\noptions flux:1", "x".repeat(64)));
    let ambassador = start(&dns, "db", &upstream);
    is_served_within(&ambassador, Duration::from_secs(2));
    let line = ambassador.wait_line("unknown settings are skipped");
    assert!(line.contains("a..b") && line.contains("nonsense") && line.contains("flux"), "{line}");
}

/// Scenario: servers older than EDNS, and some middleboxes, report in one of four ways that they do not understand it;
/// this was taken for an answer, and the fourth for a forgery (RFC 6891 section 7). systemd-resolved writes `options
/// edns0`.
#[test]
fn a_server_that_rejects_edns_is_asked_without() {
    let moods =
        [ResponseCode::FormErr, ResponseCode::NotImp, ResponseCode::BADVERS].map(DnsMode::RejectingEdns);
    for mode in moods.into_iter().chain([DnsMode::RejectingEdnsBarely]) {
        let (dns, upstream) = scene(mode);
        dns.set("db.test.", 1, &["127.0.0.1"]);
        dns.set_whole_resolv_conf(&lines(&[&dns], "options edns0 trust-ad"));
        let ambassador = start(&dns, "db.test", &upstream);
        is_served_within(&ambassador, Duration::from_secs(3));
        let questions = dns.questions();
        assert!(questions[0].edns && questions.iter().any(|asked| !asked.edns), "{mode:?}: {questions:?}");
        let known = |asked: &Asked| !asked.edns;
        until("later questions bore none", || {
            let questions = dns.questions();
            (questions.len() > 8 && questions.iter().rev().take(2).all(known)).then_some(())
        });
    }
}

/// One of several servers that is silent, absent or refusing costs a moment and no name. hickory-resolver takes the
/// first refusal for the answer.
#[test]
fn one_server_of_several_may_be_dead() {
    for mode in [Some(DnsMode::Silent), Some(DnsMode::Failing), Some(DnsMode::Refusing), None] {
        let (dns, upstream) = scene(DnsMode::Honest);
        let dead = NameServer::start();
        dead.set_mode(mode.unwrap_or_default());
        let text = lines(&[&dead, &dead, &dns], "search nowhere.test elsewhere.test test");
        dns.set_whole_resolv_conf(&text);
        if mode.is_none() {
            drop(dead);
        }
        is_served_within(&start(&dns, "db", &upstream), Duration::from_secs(4));
    }
}

#[test]
fn servers_are_asked_in_order_or_in_turn_where_rotate_says_so() {
    for (options, are_both) in [("", false), ("options rotate", true)] {
        let (dns, upstream) = scene(DnsMode::Honest);
        let second = NameServer::start();
        second.set("db.test.", 1, &["127.0.0.1"]);
        dns.set("db.test.", 1, &["127.0.0.1"]);
        dns.set_whole_resolv_conf(&lines(&[&dns, &second], options));
        let _ambassador = start(&dns, "db.test", &upstream);
        until("it was asked for again", || (dns.asked() + second.asked() >= 6).then_some(()));
        assert!(dns.asked() > 0);
        assert_eq!(second.asked() > 0, are_both, "{options:?}");
    }
}

#[test]
fn use_vc_asks_over_tcp_alone() {
    let (dns, upstream) = scene(DnsMode::Honest);
    dns.set_resolv_conf("options use-vc");
    is_served_within(&start(&dns, "db.test", &upstream), Duration::from_secs(2));
    assert!(dns.questions().iter().all(|asked| asked.by_tcp), "{:?}", dns.questions());
}

/// For routers that mix up two concurrent queries.
#[test]
fn single_request_asks_for_ipv6_when_ipv4_is_answered() {
    let (dns, upstream) = scene(DnsMode::LosesOne);
    dns.set_whole_resolv_conf(&lines(&[&dns], "options single-request"));
    is_served_within(&start(&dns, "db.test", &upstream), Duration::from_secs(4));
    let kinds: Vec<_> = dns.questions().iter().map(|asked| asked.is_ipv6).collect();
    assert_eq!(kinds, [false, false, true], "the first one was lost");
}

/// Scenario: a query had 10 s in all, whatever `timeout` and `attempts` were: the second attempt in a slow network
/// never came.
#[test]
fn a_second_attempt_is_waited_for_as_long_as_resolv_conf_says() {
    let (dns, upstream) = scene(DnsMode::LosesFour);
    dns.set_whole_resolv_conf(&lines(&[&dns], "options timeout:11 attempts:2 no-aaaa"));
    let ambassador = start(&dns, "db.test", &upstream);
    is_served_within(&ambassador, Duration::from_secs(20));
    assert!(ambassador.lines().iter().all(|line| !line.contains("discovery failed")));
}

#[test]
fn an_alias_of_nothing_says_what_it_is_an_alias_of() {
    let (dns, upstream) = scene(DnsMode::Honest);
    dns.set_alias("db.test.", 60, "gone.test.");
    let ambassador = start(&dns, "db.test", &upstream);
    wait_error(&ambassador, "it is an alias of gone.test: the name does not exist");
    dns.set_alias("db.test.", 60, "empty.test.");
    dns.set("empty.test.", 60, &[]);
    wait_error(&ambassador, "it is an alias of empty.test: it has no address");
    // A search domain with such an alias must not end the search.
    dns.set_alias("app.one.test.", 60, "gone.test.");
    dns.set("app.two.test.", 60, &["127.0.0.1"]);
    dns.set_resolv_conf("search one.test two.test");
    is_served_within(&start(&dns, "app", &upstream), Duration::from_secs(2));
}

/// `check --connect` shows the answers of both families, not only the first.
#[test]
fn check_connect_waits_for_the_family_that_is_late() {
    let (dns, upstream) = scene(DnsMode::SilentForIpv6);
    let file = dns.dir().join("listeners.yaml");
    let config = Config::app(&[&format!("db.test:{}", upstream.port())], "");
    fs::write(&file, config.render(dns.dir())).expect("a file to check");
    let mut command = ambassador();
    command.args(["check", "--connect", "--config"]).arg(&file);
    dns.serves(&mut command);
    let finished = finish(&mut command);
    assert!(finished.stdout.contains("no name server"), "{}\n{}", finished.stdout, finished.stderr);
}
