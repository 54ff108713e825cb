//! Control requests: POSTs to the control socket that change a running daemon, and the commands that send them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustix::process::geteuid;
use serde_json::Value;

use crate::harness::other_user::{OtherUser, Users};
use crate::harness::{
    Ambassador, BlackHole, Client, Config, Finished, NameServer, Pki, ServerTls, Upstream,
    ambassador as binary, finish, roles, until,
};

fn echo_app() -> (Upstream, Ambassador) {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    (upstream, ambassador)
}

/// The ids of the live sessions, oldest first.
fn sessions(ambassador: &Ambassador) -> Vec<String> {
    let sessions = ambassador.get("/sessions").json();
    let sessions = sessions["sessions"].as_array().expect("a list of sessions");
    sessions.iter().map(|session| session["session"].as_str().expect("an id").to_owned()).collect()
}

/// The state of the endpoint with that name in `/status`.
fn state(ambassador: &Ambassador, endpoint: &str) -> Value {
    let status = ambassador.status();
    let endpoints = status["clusters"][0]["endpoints"].as_array().expect("a list of endpoints");
    endpoints.iter().find(|one| one["name"] == endpoint).expect("the endpoint")["state"].clone()
}

#[test]
fn a_session_is_closed_by_order_and_no_other_is() {
    let (upstream, ambassador) = echo_app();
    let (mut first, mut second) = (ambassador.connect(), ambassador.connect());
    first.echo("one");
    second.echo("another one");
    let live = sessions(&ambassador);
    let closed = ambassador.get("/sessions").json()["sessions"]
        .as_array()
        .and_then(|all| all.iter().find(|session| session["sent_bytes"] == 3).cloned())
        .expect("the first session");
    let id = closed["session"].as_str().expect("an id");
    let answer = ambassador.post(&format!("/sessions/{id}/close"));
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &"closed_by_operator".into()));
    first.ending();
    let record = ambassador.record();
    assert_eq!((record["session"].as_str(), record["sent_bytes"].as_u64()), (Some(id), Some(3)));
    assert_eq!(
        (record["outcome"].as_str(), record["closed_by"].as_str()),
        (Some("closed_by_operator"), Some("ambassador"))
    );
    second.echo("goes on");
    upstream.wait_active(1);
    let ended = [("listener", "app"), ("outcome", "closed_by_operator")];
    assert_eq!(ambassador.metrics().sum("connections_total", &ended), 1.0);
    // It has ended, so it cannot be closed again.
    let again = ambassador.post(&format!("/sessions/{id}/close"));
    assert_eq!(again.status, 404);
    assert!(again.body.contains(id), "{}", again.body);
    assert_eq!((live.len(), sessions(&ambassador).len()), (2, 1));
}

#[test]
fn a_session_that_is_still_dialling_is_closed_by_order() {
    let hole = BlackHole::new();
    let config = Config::app(&[&hole.address()], "connect: { timeout: 60s, deadline: 60s }");
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    let id = until("the session was there", || sessions(&ambassador).pop());
    assert_eq!(ambassador.post(&format!("/sessions/{id}/close")).status, 200);
    client.ending();
    let record = ambassador.record();
    assert_eq!(
        (record["outcome"].as_str(), record["sent_bytes"].as_u64()),
        (Some("closed_by_operator"), Some(0))
    );
}

#[test]
fn every_order_leaves_a_line_that_says_who_gave_it() {
    let (_upstream, ambassador) = echo_app();
    ambassador.post("/sessions/0000000000000000/close");
    let line: Value =
        serde_json::from_str(&ambassador.wait_line("/sessions/0000000000000000/close")).expect("JSON");
    assert_eq!(line["target"], "audit");
    assert_eq!(line["uid"].as_u64(), Some(u64::from(geteuid().as_raw())), "{line}");
    assert_eq!(line["pid"].as_u64(), Some(u64::from(std::process::id())), "{line}");
    assert_eq!(line["status"], 404);
    // A request that raises the threshold above the level of such lines is logged all the same, and so is the next.
    ambassador.post("/log?level=error");
    ambassador.wait_line("/log?level=error");
    ambassador.post("/sessions/0000000000000001/close");
    ambassador.wait_line("/sessions/0000000000000001/close");
}

#[test]
fn what_is_no_order_is_refused_in_words() {
    let (upstream, ambassador) = echo_app();
    let endpoint = upstream.address();
    for (path, status, words) in [
        ("/sessions/xyz/close", 400, "16 hex digits"),
        ("/sessions", 404, "/sessions/ID/close"),
        ("/shutdown", 404, "/drain"),
        (&format!("/clusters/down/endpoints/{endpoint}/drain"), 404, "there are: up"),
        ("/clusters/up/endpoints/10.9.8.7:1/drain", 404, &endpoint),
        (&format!("/clusters/up/endpoints/{endpoint}/close"), 404, "enable,drain,disable"),
    ] {
        let answer = ambassador.post(path);
        assert_eq!(answer.status, status, "POST {path}: {}", answer.body);
        assert!(answer.body.contains(words), "POST {path}: {}", answer.body);
    }
    // Control requests are accepted by POST only.
    assert_eq!(ambassador.get("/drain").status, 404);
    ambassador.connect().echo("as before");
}

#[test]
fn the_http_address_takes_no_orders() {
    let (upstream, ambassador) = echo_app();
    let mut client = ambassador.connect();
    client.echo("hello");
    let id = sessions(&ambassador).remove(0);
    for path in [
        "/reload".to_owned(),
        "/drain".to_owned(),
        format!("/sessions/{id}/close"),
        format!("/clusters/up/endpoints/{}/disable", upstream.address()),
    ] {
        let answer = ambassador.request("POST", &path, "localhost");
        assert_eq!(answer.status, 405, "POST {path}: {}", answer.body);
        assert!(answer.body.contains("control socket"), "{}", answer.body);
    }
    assert_eq!(state(&ambassador, &upstream.address()), "enabled");
    client.echo("still here");
}

#[test]
fn a_drained_endpoint_gets_no_new_session_until_it_is_enabled_again() {
    let upstreams = [Upstream::plain(roles::echo), Upstream::plain(roles::echo)];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let config = Config::app(&[&addresses[0], &addresses[1]], "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.echo("before");
    let used = upstreams.iter().find(|upstream| upstream.active() == 1).expect("an upstream");
    let order = |order: &str| {
        let answer = ambassador.post(&format!("/clusters/up/endpoints/{}/{order}", used.address()));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let drained = order("drain");
    assert_eq!((&drained["was"], &drained["state"]), (&"enabled".into(), &"draining".into()));
    assert_eq!((drained["sessions"].as_u64(), drained["enabled"].as_u64()), (Some(1), Some(1)));
    assert_eq!(state(&ambassador, &used.address()), "draining");
    for _ in 0..3 {
        ambassador.connect().echo("elsewhere");
    }
    assert_eq!(used.accepted(), 1);
    client.echo("a live session goes on");
    order("disable");
    client.echo("and on, since on_removed says keep");
    order("enable");
    for _ in 0..2 {
        ambassador.connect().echo("to each in turn");
    }
    assert_eq!(used.accepted(), 2);
}

#[test]
fn disabling_an_endpoint_ends_its_sessions_where_on_removed_says_close() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], "on_removed: close"));
    let mut client = ambassador.connect();
    client.echo("before");
    let path = |order: &str| format!("/clusters/up/endpoints/{}/{order}", upstream.address());
    assert_eq!(ambassador.post(&path("drain")).status, 200);
    client.echo("drained: it goes on");
    let disabled = ambassador.post(&path("disable")).json();
    assert_eq!(disabled["enabled"], 0);
    client.ending();
    assert_eq!(ambassador.record()["outcome"], "endpoint_removed");
    // No endpoint is left to dial.
    ambassador.connect().ending();
    ambassador.record_of("no_endpoint");
}

#[test]
fn an_order_to_drain_is_a_sigterm() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "").top("shutdown: { drain_timeout: 60s }");
    let mut ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    client.echo("before");
    let answer = ambassador.post("/drain");
    assert_eq!((answer.status, answer.json()["sessions"].as_u64()), (202, Some(1)), "{}", answer.body);
    ambassador.wait_notified("STOPPING=1");
    until("a draining listener was closed", || Client::tcp(ambassador.address("app")).err());
    let again = ambassador.post("/drain");
    assert_eq!((again.status, &again.json()["already"]), (200, &true.into()), "{}", again.body);
    assert_eq!(ambassador.post("/reload").status, 503, "who stops takes no new file");
    client.echo("goes on");
    drop(client);
    assert_eq!(ambassador.wait_exit(), 0);
}

/// A command that talks to the daemon's control socket, run to its end.
#[track_caller]
fn command(ambassador: &Ambassador, arguments: &[&str]) -> Finished {
    finish(binary().args(arguments).arg("--control").arg(ambassador.control()))
}

#[test]
fn the_sessions_command_shows_who_lives_and_filters() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "")
        .listener("other", "bind: 127.0.0.1:0\ncluster: away")
        .cluster("away", &[&upstream.address()], "");
    let ambassador = Ambassador::start(&config);
    let (mut app, mut other) = (ambassador.connect(), ambassador.connect_to("other"));
    app.echo("hello");
    other.echo("hello to others");
    let live = sessions(&ambassador);
    let table = command(&ambassador, &["sessions"]).must_succeed().stdout;
    assert!(live.iter().all(|id| table.contains(id)) && table.contains("15 B"), "{table}");
    for filter in [["--listener", "other"], ["--cluster", "away"]] {
        let filtered = command(&ambassador, &["sessions", filter[0], filter[1]]).must_succeed().stdout;
        assert_eq!(filtered.lines().count(), 2, "a head and one session: {filtered}");
        let json = command(&ambassador, &["sessions", "--json", filter[0], filter[1]]).must_succeed().stdout;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let found = json["sessions"].as_array().expect("a list");
        assert_eq!((found.len(), &found[0]["listener"]), (1, &"other".into()));
    }
    let nobody = command(&ambassador, &["sessions", "--listener", "none"]).must_succeed().stdout;
    assert_eq!(nobody.lines().count(), 1, "{nobody}");
}

#[test]
fn the_close_command_closes_what_lives_and_exits_1_for_the_rest() {
    let (_upstream, ambassador) = echo_app();
    let (mut first, mut second) = (ambassador.connect(), ambassador.connect());
    first.echo("one");
    second.echo("two");
    let live = sessions(&ambassador);
    let nobody = "0000000000000000";
    let finished = command(&ambassador, &["close", &live[0], nobody, &live[1]]).must_exit(1);
    finished.must_print(nobody);
    assert!(live.iter().all(|id| finished.stdout.contains(id)), "{}", finished.stdout);
    first.ending();
    second.ending();
    let records = ambassador.wait_records(2);
    assert!(records.iter().all(|record| record["outcome"] == "closed_by_operator"), "{records:?}");
    command(&ambassador, &["close", "rubbish"]).must_exit(1).must_print("16 hex digits");
    finish(binary().arg("close")).must_exit(2);
}

#[test]
fn the_endpoint_command_takes_an_endpoint_out_and_in() {
    let (upstream, ambassador) = echo_app();
    let endpoint = upstream.address();
    let finished = command(&ambassador, &["endpoint", "up", &endpoint, "drain"]).must_succeed();
    assert!(finished.stdout.contains("no endpoint of up is enabled"), "{}", finished.stdout);
    assert_eq!(state(&ambassador, &endpoint), "draining");
    let finished = command(&ambassador, &["endpoint", "up", &endpoint, "enable", "--json"]).must_succeed();
    let json: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!((&json["was"], &json["state"]), (&"draining".into(), &"enabled".into()));
    command(&ambassador, &["endpoint", "up", "10.9.8.7:1", "drain"]).must_exit(1).must_print(&endpoint);
    command(&ambassador, &["endpoint", "up", &endpoint, "kill"]).must_exit(2);
}

#[test]
fn the_reload_command_says_what_changed_or_what_is_wrong() {
    let (upstream, ambassador) = echo_app();
    let same = Config::app(&[&upstream.address()], "");
    let unchanged = command(&ambassador, &["reload"]).must_succeed().stdout;
    assert!(unchanged.contains("nothing has changed"), "{unchanged}");
    ambassador.rewrite(&Config::app(&[&upstream.address()], "session: { idle_timeout: 1h }"));
    let changed = command(&ambassador, &["reload"]).must_succeed().stdout;
    assert!(changed.contains("cluster up changed"), "{changed}");
    ambassador.rewrite(&same.top("shutdown: { drian_timeout: 1s }"));
    let refused = command(&ambassador, &["reload"]).must_exit(78);
    let file = ambassador.dir().join("listeners.yaml").display().to_string();
    let golden =
        "FILE:3:13: shutdown.drian_timeout: unknown key `drian_timeout`; did you mean `drain_timeout`?
   3 | shutdown: { drian_timeout: 1s }
     |             ^^^^^^^^^^^^^

1 mistake in FILE";
    let golden = golden.replace("FILE", &file);
    assert_eq!(refused.stderr, format!("{golden}; nothing has changed\n"));
    let checked = finish(crate::harness::command::ambassador().args(["check", "--config", &file]));
    assert_eq!(checked.stderr, format!("{golden}\n"), "check says the same");
    let refused = command(&ambassador, &["reload", "--json"]).must_exit(78);
    let json: Value = serde_json::from_str(&refused.stdout).expect("JSON");
    assert_eq!(json["mistakes"][0]["path"], "shutdown.drian_timeout");
}

#[test]
fn the_drain_command_begins_and_waits_where_it_is_told_to() {
    let (_upstream, mut ambassador) = echo_app();
    let mut client = ambassador.connect();
    client.echo("before");
    let begun = command(&ambassador, &["drain"]).must_succeed().stdout;
    assert!(begun.contains("1 live session"), "{begun}");
    let again = command(&ambassador, &["drain"]).must_succeed().stdout;
    assert!(again.contains("already"), "{again}");
    client.echo("goes on");
    drop(client);
    assert_eq!(ambassador.wait_exit(), 0);

    let (_upstream, mut ambassador) = echo_app();
    command(&ambassador, &["drain", "--wait"]).must_succeed();
    assert!(!ambassador.control().exists(), "it has gone when the command returns");
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn orders_that_reach_nobody_exit_1_and_say_why() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("control.sock");
    for order in
        [&["reload"][..], &["drain"], &["close", "0000000000000000"], &["endpoint", "a", "b", "drain"]]
    {
        let finished = finish(binary().args(order).arg("--control").arg(&socket)).must_exit(1);
        finished.must_print("control.sock: nobody listens there");
    }
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, "admin: { control: off }\n").expect("a file");
    let finished = finish(binary().args(["drain", "--config"]).arg(&file)).must_exit(1);
    finished.must_print("admin.control off");
}

#[test]
fn whoever_may_not_give_orders_is_told_who_may() {
    let Some(users) = Users::have() else { return };
    let (_upstream, ambassador) = echo_app();
    // Only the socket's own mode may deny access.
    fs::set_permissions(ambassador.dir(), Permissions::from_mode(0o755)).expect("a folder for all");
    let program = ambassador.dir().join("ambassador");
    fs::copy(env!("CARGO_BIN_EXE_ambassador"), &program).expect("a copy of the binary");
    let mut command = OtherUser::user(users.reports).command(&program);
    let finished = finish(command.args(["drain", "--control"]).arg(ambassador.control())).must_exit(1);
    finished.must_print("it is for root and the daemon's own user");
    ambassador.connect().echo("as before");
}

/// Scenario: with TLS, two names that led to one address were two endpoints with the same displayed name, and a
/// request reached only the first: the address that was to be disabled was still dialled through the other.
#[test]
fn an_order_reaches_every_endpoint_of_that_address_and_says_how_many() {
    let (dns, pki) = (NameServer::start(), Pki::new());
    let certificate = pki.server(&["a.test", "b.test"]);
    let upstream = Upstream::tls(ServerTls::new(&certificate).build(), roles::echo);
    dns.set_hosts("127.0.0.1 a.test b.test");
    let of = |name: &str| format!("{name}:{}", upstream.port());
    let tls = format!("tls: {{ ca: {} }}\nbalance: round_robin", pki.ca().display());
    let config = Config::app(&[&of("a.test"), &of("b.test")], &tls);
    let ambassador = Ambassador::start_with(&config, |command| dns.serves(command));
    let endpoints = || ambassador.status()["clusters"][0]["endpoints"].as_array().expect("endpoints").clone();
    until("both were known", || (endpoints().len() == 2).then_some(()));
    let mut clients: Vec<_> = (0..2).map(|_| ambassador.connect()).collect();
    clients.iter_mut().for_each(|client| client.echo("served"));
    let ordered = ambassador.post(&format!("/clusters/up/endpoints/{}/drain", upstream.address())).json();
    assert_eq!((&ordered["endpoints"], &ordered["sessions"]), (&2.into(), &2.into()), "{ordered}");
    assert_eq!((&ordered["was"], &ordered["enabled"]), (&"enabled".into(), &0.into()), "{ordered}");
    assert!(endpoints().iter().all(|endpoint| endpoint["state"] == "draining"), "{:?}", endpoints());
    let told = command(&ambassador, &["endpoint", "up", &upstream.address(), "enable"]).must_succeed().stdout;
    assert!(told.contains("all 2 of that address") && told.contains("it was draining"), "{told}");
    assert!(endpoints().iter().all(|endpoint| endpoint["state"] == "enabled"), "{:?}", endpoints());
}
