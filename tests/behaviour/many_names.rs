//! Clusters with more host names than are queried at once: whatever becomes of the names, the daemon keeps answering,
//! and stops when it is asked to.

use std::fmt::Write as _;
use std::fs;

use rustix::process::Signal;

use crate::harness::{Ambassador, Config, DnsMode, NameServer, Upstream, ambassador, finish, roles, until};

/// Maximum number of endpoints that discovery gives a cluster.
const ENDPOINTS_MAX: usize = 4096;

fn name(index: usize) -> String {
    format!("db{index}.test")
}

/// This many names; if `half` is set, only every other one has an address.
fn config(dns: &NameServer, count: usize, half: bool) -> Config {
    let mut list = String::from("endpoints:\n");
    for index in 0..count {
        writeln!(list, "  - {}:1", name(index)).expect("a string takes all");
        if half && index % 2 == 1 {
            dns.set(
                &format!("{}.", name(index)),
                60,
                &[&format!("127.9.{}.{}", index / 250, index % 250 + 1)],
            );
        }
    }
    let file = dns.dir().join(format!("names-{count}.yaml"));
    fs::write(&file, list).expect("an endpoints file");
    Config::app(&[&format!("{{ file: {} }}", file.display())], "")
}

/// The number of answered names, and of endpoints.
fn progress(ambassador: &Ambassador) -> (usize, usize) {
    let cluster = ambassador.status()["clusters"][0].clone();
    let origins = cluster["discovery"].as_array().expect("origins").clone();
    let answered = origins
        .iter()
        .filter(|one| one["kind"] == "name" && (one["last_error"].is_string() || one["found"] != 0))
        .count();
    (answered, cluster["endpoints"].as_array().expect("endpoints").len())
}

/// Scenario: with a 17th name the main thread found it overdue at every turn and never yielded, so the answers to the
/// first 16 were never read; admin requests hung, SIGTERM was ignored, and a watchdog would have killed all sessions.
#[test]
fn any_number_of_names_leaves_the_daemon_at_work() {
    for (count, mode, half) in [
        (17, DnsMode::Honest, false),
        (17, DnsMode::Silent, false),
        (256, DnsMode::Honest, true),
        (256, DnsMode::Failing, false),
        (1000, DnsMode::Honest, true),
        (2000, DnsMode::Silent, false),
    ] {
        let what = format!("{count} names, {mode:?}, half of them alive: {half}");
        let dns = NameServer::start();
        let config = config(&dns, count, half);
        dns.set_mode(mode);
        let mut ambassador = Ambassador::start_with(&config, |command| dns.serves(command));
        let wanted = count.min(ENDPOINTS_MAX);
        if mode == DnsMode::Silent {
            until(format!("the seventeenth was asked for: {what}"), || (dns.asked() > 32).then_some(()));
        } else {
            until(format!("all were asked for: {what}"), || {
                (progress(&ambassador) == (wanted, if half { wanted / 2 } else { 0 })).then_some(())
            });
        }
        assert_eq!(ambassador.get("/healthz").status, 200, "{what}");
        ambassador.signal(Signal::TERM);
        assert_eq!(ambassador.wait_exit(), 0, "{what}");
    }
}

/// Scenario: names without an answer took all query slots; names that resolve waited for ever if they came later in
/// the alphabet.
#[test]
fn names_that_nobody_answers_for_do_not_keep_the_others_from_being_asked_for() {
    let dns = NameServer::start();
    let upstream = Upstream::plain(roles::echo);
    let dead: Vec<_> = (0..40).map(|index| format!("dead{index}.test:1")).collect();
    let live = format!("zz.test:{}", upstream.port());
    dns.set("zz.test.", 1, &["127.0.0.1"]);
    dns.set_mode(DnsMode::Failing);
    let endpoints: Vec<_> = dead.iter().map(String::as_str).chain([live.as_str()]).collect();
    let ambassador =
        Ambassador::start_with(&Config::app(&endpoints, "panic: all"), |command| dns.serves(command));
    until("all were asked for", || (progress(&ambassador).0 == 41).then_some(()));
    dns.set_mode(DnsMode::Honest);
    until("the one that lives was found", || (progress(&ambassador).1 == 1).then_some(()));
    ambassador.connect().echo("served");
}

/// Scenario: `check --connect` queries the same way, and hung too.
#[test]
fn check_connect_comes_to_an_end_with_any_number_of_names() {
    for (count, mode) in [(17, DnsMode::Silent), (256, DnsMode::Failing), (2000, DnsMode::Honest)] {
        let dns = NameServer::start();
        let config = config(&dns, count, false);
        dns.set_mode(mode);
        let file = dns.dir().join("listeners.yaml");
        fs::write(&file, config.render(dns.dir())).expect("a file to check");
        let mut command = ambassador();
        command.args(["check", "--connect", "--config"]).arg(&file);
        dns.serves(&mut command);
        let finished = finish(&mut command).must_exit(1);
        assert!(finished.stdout.contains("resolve    FAILED"), "{count}, {mode:?}:\n{}", finished.stdout);
    }
}
