//! Endpoints from etcd: real members, which are killed, frozen, cut off, compacted, and ask for passwords.

use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::discovery::{
    KeepFolder, check, cluster, echoes, member, members, origin, wait_error, wait_members, wait_well,
};
use crate::harness::etcd::Etcd;
use crate::harness::secrets::Secrets;
use crate::harness::{Ambassador, Config, Pki, Upstream, demand, finish, until};

fn source(members: &[&Etcd], more: &str) -> String {
    let urls: Vec<_> = members.iter().map(|member| format!("\"{}\"", member.url())).collect();
    format!("{{ etcd: {{ prefix: /services/orders/, address: [{}]{more} }} }}", urls.join(", "))
}

fn start(members: &[&Etcd], more: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[&source(members, more)], ""))
}

fn listed(upstreams: &[&Upstream]) -> String {
    let list: Vec<_> = upstreams.iter().map(|upstream| format!("\"{}\"", upstream.address())).collect();
    format!("endpoints: [{}]", list.join(", "))
}

/// The place of the member that ambassador watches.
fn wait_watched(members: &[Etcd]) -> usize {
    until("a member was watched", || members.iter().position(Etcd::is_watched))
}

/// Any of them but that one.
fn another(members: &[Etcd], than: usize) -> &Etcd {
    &members[(than + 1) % members.len()]
}

#[test]
fn keys_are_followed_as_they_are_put_and_deleted() {
    let etcd = Etcd::start();
    let [one, two, three, other] = echoes();
    let control = |arguments: &[&str]| {
        let mut command = Command::new(demand("etcdctl", "etcd-client"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.url()]);
        finish(command.args(arguments)).must_succeed();
    };
    control(&["put", "/services/orders/b", &format!("endpoints: [{}]", two.address())]);
    etcd.put("/services/orders2/x", &listed(&[&other]));
    let ambassador = start(&[&etcd], "");
    wait_members(&ambassador, &[&two]);
    let found = origin(&ambassador);
    assert_eq!(
        (&found["kind"], &found["name"], &found["found"]),
        (&json!("etcd"), &json!("/services/orders/"), &json!(1))
    );
    let weighted = format!(r#"{{"endpoints": [{{"address": "{}", "weight": 5}}]}}"#, one.address());
    control(&["put", "/services/orders/a", &weighted]);
    wait_members(&ambassador, &[&one, &two]);
    assert_eq!(member(&ambassador, &one)["weight"], 5);
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    control(&["put", "/services/orders/a", &listed(&[&one, &three])]);
    wait_members(&ambassador, &[&one, &two, &three]);
    control(&["del", "/services/orders/b"]);
    wait_members(&ambassador, &[&one, &three]);
    lasting.echo("after");
    ambassador.connect().echo("found");
    assert!(ambassador.metrics().sum("discovery_total", &[("result", "ok")]) >= 4.0);
    assert_eq!(etcd.ranges(), 1.0, "watched");
}

#[test]
fn the_next_member_tells_where_the_one_that_was_asked_or_the_leader_is_killed() {
    let mut etcds = Etcd::start_three();
    let [one, two, three] = echoes();
    etcds[0].put("/services/orders/a", &listed(&[&one]));
    let ambassador = start(&etcds.each_ref(), "");
    wait_members(&ambassador, &[&one]);
    let watched = wait_watched(&etcds);
    etcds[watched].kill();
    another(&etcds, watched).put("/services/orders/a", &listed(&[&one, &two]));
    wait_members(&ambassador, &[&one, &two]);
    wait_well(&ambassador);
    etcds[watched].begin();
    etcds[watched].wait_ready();
    let leader = until("there was a leader", || etcds.iter().position(Etcd::is_leader));
    etcds[leader].kill();
    another(&etcds, leader).put("/services/orders/a", &listed(&[&two, &three]));
    wait_members(&ambassador, &[&two, &three]);
    wait_well(&ambassador);
    ambassador.connect().echo("found");
}

/// A member that has lost the others knows nothing new and keeps silent, so a watch there would last for ever with what was.
#[test]
fn a_member_that_is_cut_off_from_the_others_is_left() {
    let etcds = Etcd::start_three();
    let [one, two] = echoes();
    etcds[0].put("/services/orders/a", &listed(&[&one]));
    let ambassador = start(&etcds.each_ref(), "");
    wait_members(&ambassador, &[&one]);
    let cut_off = wait_watched(&etcds);
    let others: Vec<_> = (0..3).filter(|index| *index != cut_off).map(|index| &etcds[index]).collect();
    others.iter().for_each(|member| member.signal(Signal::STOP));
    wait_error(&ambassador, "this member has no leader");
    ambassador.connect().echo("what is known is used");
    assert_eq!(members(&ambassador).len(), 1);
    // Now it is the one that is gone.
    others.iter().for_each(|member| member.signal(Signal::CONT));
    etcds[cut_off].signal(Signal::STOP);
    others[0].put("/services/orders/a", &listed(&[&two]));
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
    etcds[cut_off].signal(Signal::CONT);
}

#[test]
fn a_watch_goes_on_where_it_was_and_the_list_is_read_again_where_that_was_compacted() {
    let mut etcd = Etcd::start();
    let (seen, hidden) = (etcd.url(), format!("http://{}:2378", etcd.ip()));
    let both = format!("{seen},{hidden}");
    etcd.kill();
    etcd.set("--listen-client-urls", &both);
    etcd.begin();
    let [one, two, three] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let ambassador = Ambassador::start(&Config::app(&[&source(&[&etcd], "").replace(&seen, &hidden)], ""));
    wait_members(&ambassador, &[&one]);
    for (is_compacted, upstream) in [(false, &two), (true, &three)] {
        etcd.kill();
        etcd.set("--listen-client-urls", &seen);
        etcd.begin();
        etcd.put("/services/orders/a", &listed(&[upstream]));
        if is_compacted {
            etcd.compact();
        }
        etcd.kill();
        etcd.set("--listen-client-urls", &both);
        etcd.begin();
        wait_members(&ambassador, &[upstream]);
        wait_well(&ambassador);
        assert_eq!(etcd.ranges(), f64::from(u8::from(is_compacted)), "{is_compacted}");
    }
}

#[test]
fn a_password_is_asked_for_in_words_and_a_token_that_has_ended_is_renewed() {
    const PASSWORD: &str = "c0rrect \"horse\"";
    let mut etcd = Etcd::start();
    let [one, two] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    etcd.enable_users(PASSWORD);
    let stranger = start(&[&etcd], "");
    wait_error(&stranger, "it wants a user and a password");
    let secrets = Secrets::of("another password");
    let user = format!(", user: app, password: {{ file: {} }}", secrets.path().display());
    let ambassador = start(&[&etcd], &user);
    wait_error(&ambassador, "it does not let user app in (HTTP 400: etcdserver: authentication failed");
    secrets.write(PASSWORD);
    wait_error(
        &ambassador,
        "user app may not read /services/orders/ (HTTP 403: etcdserver: permission denied)",
    );
    assert_eq!(members(&ambassador), [""; 0]);
    etcd.let_app_read("/services/orders/");
    wait_members(&ambassador, &[&one]);
    wait_well(&ambassador);
    // Its tokens end with it.
    etcd.kill();
    etcd.begin();
    etcd.log_in();
    etcd.put("/services/orders/a", &listed(&[&two]));
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
    ambassador.connect().echo("it may read");
    let log = ambassador.lines().join("\n");
    assert!(!log.contains("c0rrect") && !log.contains("another password"), "no password is in the log");
}

#[test]
fn members_are_asked_over_tls() {
    let pki = Pki::new();
    let etcd = Etcd::start_with_tls(|ip| pki.server(&[ip]));
    let [one, two] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let at = |ca: &Pki| {
        let url = format!("https://{}:2377", etcd.ip());
        let source = source(&[&etcd], &format!(", ca: {}", ca.ca().display())).replace(&etcd.url(), &url);
        Ambassador::start(&Config::app(&[&source], ""))
    };
    let verified = at(&pki);
    wait_members(&verified, &[&one]);
    etcd.put("/services/orders/a", &listed(&[&two]));
    wait_members(&verified, &[&two]);
    let strangers = Pki::new();
    let unverified = at(&strangers);
    wait_error(&unverified, "the TLS handshake failed");
    assert_eq!(members(&unverified), [""; 0]);
}

#[test]
fn a_set_without_endpoints_is_believed_only_where_the_configuration_says_so() {
    let etcd = Etcd::start();
    let [one, two] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let [keeps, accepts] = ["", ", empty: accept"].map(|more| start(&[&etcd], more));
    for ambassador in [&keeps, &accepts] {
        wait_members(ambassador, &[&one]);
    }
    etcd.delete("/services/orders/a");
    wait_members(&accepts, &[]);
    wait_error(&keeps, "knows no endpoint any more, which is believed only with `empty: accept`");
    keeps.connect().echo("it stays");
    etcd.put("/services/orders/b", &listed(&[&two]));
    for ambassador in [&keeps, &accepts] {
        wait_members(ambassador, &[&two]);
        wait_well(ambassador);
    }
    etcd.put("/services/orders/b", "endpoints: []");
    wait_members(&accepts, &[]);
    wait_error(&keeps, "knows no endpoint any more");
}

#[test]
fn a_value_that_is_wrong_leaves_the_set_as_it_was_and_is_named() {
    let etcd = Etcd::start();
    let [one, two, three] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let ambassador = start(&[&etcd], "");
    wait_members(&ambassador, &[&one]);
    etcd.put("/services/orders/b", "endpoints:\n  - 127.0.0.1:1\n  - 127.0.0.1:port\n");
    wait_error(&ambassador, "/services/orders/b:3:5: endpoints[1]: ");
    etcd.put("/services/orders/a", &listed(&[&three]));
    etcd.put("/services/orders/c", "endpoints: [127.0.0.1:${PORT}]");
    wait_error(&ambassador, "; and 1 more");
    ambassador.connect().echo("the set stays");
    assert_eq!(members(&ambassador), [one.address()]);
    etcd.put("/services/orders/c", "{\"endpoints\": []}");
    etcd.put("/services/orders/b", &listed(&[&two]));
    wait_members(&ambassador, &[&two, &three]);
    wait_well(&ambassador);
    assert_eq!(etcd.ranges(), 1.0, "watched");
}

#[test]
fn a_host_that_starts_while_etcd_is_down_serves_with_what_was_kept() {
    let mut etcd = Etcd::start();
    let [one, two] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let folder = KeepFolder::new();
    let config = folder.of(Config::app(&[&source(&[&etcd], "")], ""));
    folder.fill(&config, &one);
    etcd.kill();
    let after = Ambassador::start(&config);
    wait_members(&after, &[&one]);
    after.connect().echo("kept");
    assert_eq!(cluster(&after)["discovery"][1]["kind"], "kept");
    etcd.begin();
    etcd.put("/services/orders/a", &listed(&[&two]));
    wait_members(&after, &[&two]);
    wait_well(&after);
}

/// The kernel answers for a process that is frozen, so that nothing fails: what was kept is used after two seconds. A session that
/// came meanwhile, and one that came first of all, are served and not refused.
#[test]
fn sessions_that_wait_at_a_start_are_served_with_what_was_kept() {
    let etcd = Etcd::start();
    let [one, two] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let folder = KeepFolder::new();
    let config = folder.of(Config::app(&[&source(&[&etcd], "")], ""));
    folder.fill(&config, &one);
    etcd.signal(Signal::STOP);
    let after = Ambassador::start(&config);
    after.connect().echo("waited");
    assert_eq!(cluster(&after)["discovery"][1]["kind"], "kept");
    assert!(after.metrics().sum("discovery_kept_timestamp_seconds", &[]) > 0.0);
    // A reload changes nothing of that.
    after.rewrite(&folder.of(Config::app(&[&source(&[&etcd], "")], "connect: { timeout: 4s }")));
    assert_eq!(after.post("/reload").status, 200);
    after.connect().echo("after the reload");
    assert_eq!(cluster(&after)["discovery"][1]["kind"], "kept");
    assert!(after.metrics().sum("discovery_kept_timestamp_seconds", &[]) > 0.0);
    etcd.signal(Signal::CONT);
    etcd.put("/services/orders/a", &listed(&[&two]));
    wait_members(&after, &[&two]);
    until("nothing is kept that is in use", || {
        (cluster(&after)["discovery"].as_array()?.len() == 1).then_some(())
    });
}

#[test]
fn mistakes_have_their_place_and_check_connect_tells_what_was_found() {
    let etcd = Etcd::start();
    let [one] = echoes();
    etcd.put("/services/orders/a", &listed(&[&one]));
    let secrets = Secrets::of("x");
    let password = format!("password: {{ file: {} }}", secrets.path().display());
    for (endpoints, expected) in [
        ("{ etcd: {} }", "prefix"),
        ("{ etcd: { prefix: \"\" } }", "is empty"),
        ("{ etcd: { prefix: a, address: [] } }", "the list is empty"),
        (
            "{ etcd: { prefix: a, address: [\"http://127.0.0.1:1\", \"http://etcd.test:2379\"] } }",
            "has no TLS",
        ),
        ("{ etcd: { prefix: a, address: \"etcd:2379\" } }", "is no URL"),
        ("{ etcd: { prefix: a, user: app } }", "needs `password` beside it"),
        (&format!("{{ etcd: {{ prefix: a, {password} }} }}"), "needs `user` beside it"),
        ("{ etcd: { prefix: a }, file: x.yaml }", "`file` and `etcd` do not go together"),
    ] {
        let told = check(endpoints, &[]).must_exit(78);
        assert!(told.stderr.contains(expected), "{endpoints}: {}", told.stderr);
    }
    let told = check(&source(&[&etcd], ""), &["--connect"]).must_succeed();
    assert!(told.stdout.contains(&format!("clusters.up {}", one.address())), "{}", told.stdout);
    let told = check(&source(&[&etcd], "").replace("2379", "2399"), &["--connect"]).must_exit(1);
    assert!(told.stdout.contains("connecting failed"), "{}", told.stdout);
}
