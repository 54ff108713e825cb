//! A host whose user database is slow, such as one in a network or with six million lines: what waits for it, and for
//! how long.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::callers::run_with_run_folder;
use crate::harness::{Ambassador, Config, End, Upstream, finish, roles, until};

/// The first place that a C library asks, nscd(8), in a mount namespace: it reads requests and never answers, for
/// which the library waits at least 5 s.
struct Names {
    folder: TempDir,
    questions: UnixListener,
}

impl Names {
    /// `None`, with a message, if we may not make a mount namespace.
    fn make() -> Option<Self> {
        let probe = finish(Command::new("unshare").args(["--mount", "true"]));
        if probe.code != 0 {
            eprintln!("this needs a mount namespace, which only root can have: not tested: {}", probe.stderr);
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(folder.path().join("nscd")).expect("a folder");
        let questions = UnixListener::bind(folder.path().join("nscd/socket")).expect("a socket");
        questions.set_nonblocking(true).expect("a socket of ours");
        Some(Self { folder, questions })
    }

    /// An ambassador that uses it, with these additional keys of listener `app`.
    fn start(&self, upstream: &Upstream, listener: &str) -> Ambassador {
        let body = format!("bind: 127.0.0.1:0\ncluster: up\n{listener}");
        let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
        Ambassador::start_with(&config, |command| run_with_run_folder(command, self.folder.path()))
    }

    /// Waits until a lookup is under way, and keeps it waiting.
    #[track_caller]
    fn are_asked(&self) -> UnixStream {
        until("somebody was looked up", || self.questions.accept().ok()).0
    }

    /// Stops the name service, so that the library reads `/etc/passwd`.
    fn give_up(self, asked: UnixStream) {
        drop(self.questions);
        drop(asked);
    }
}

/// The caller of the only session.
#[track_caller]
fn caller(ambassador: &Ambassador) -> Value {
    ambassador.get("/sessions").json()["sessions"][0]["caller"].clone()
}

/// Scenario: every first session of a user within a minute waited for the databases before its dial, for up to two
/// seconds, although only the log needed the name.
#[test]
fn a_session_does_not_wait_for_a_name_that_only_the_log_wants() {
    for rules in ["", "allow: [ { user: 0 } ]"] {
        let Some(names) = Names::make() else { return };
        let upstream = Upstream::plain(roles::echo);
        let ambassador = names.start(&upstream, rules);
        let mut client = ambassador.connect();
        let asked = names.are_asked();
        client.echo("hello");
        let bare = caller(&ambassador);
        assert_eq!((&bare["uid"], &bare["user"]), (&Value::from(0), &Value::Null), "what the kernel says");
        names.give_up(asked);
        // A session that waited for the name in vain before must get it now.
        until("the session had its caller's name", || (caller(&ambassador)["user"] == "root").then_some(()));
        let counted = |name: &str| ambassador.metrics().sum(name, &[]);
        assert_eq!((counted("caller_sessions"), counted("caller_connections_total")), (1.0, 1.0), "{rules}");
        drop(client);
        assert_eq!(ambassador.record()["caller"]["user"], "root");
        assert_eq!((counted("caller_sessions"), counted("caller_connections_total")), (0.0, 1.0), "{rules}");
    }
}

#[test]
fn a_session_that_is_over_sooner_has_the_name_in_its_record() {
    let Some(names) = Names::make() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = names.start(&upstream, "");
    let mut client = ambassador.connect();
    let asked = names.are_asked();
    client.echo("hello");
    drop(client);
    upstream.wait_active(0);
    names.give_up(asked);
    let record = ambassador.record();
    assert_eq!((&record["caller"]["user"], &record["outcome"]), (&"root".into(), &"completed".into()));
}

#[test]
fn a_name_service_that_hangs_holds_up_neither_records_nor_a_stop() {
    let Some(names) = Names::make() else { return };
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = names.start(&upstream, "");
    let mut client = ambassador.connect();
    let _asked = names.are_asked();
    client.echo("hello");
    drop(client);
    let record = ambassador.record();
    assert_eq!((&record["caller"]["uid"], &record["caller"]["user"]), (&Value::from(0), &Value::Null));
    let none = |name: &str| ambassador.metrics().sum(name, &[("unit", "none")]);
    assert_eq!((none("caller_connections_total"), none("caller_sessions")), (1.0, 0.0));
    let mut another = ambassador.connect();
    another.echo("hello");
    ambassador.signal(Signal::TERM);
    drop(another);
    assert_eq!(ambassador.wait_exit(), 0);
}

/// Scenario: a session that had ended kept its slot until its caller's name arrived, which only its record needed:
/// with a listener's last slot, no client was served for up to two seconds.
#[test]
fn a_session_that_is_over_takes_no_room_while_its_record_waits_for_a_name() {
    let Some(names) = Names::make() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = names.start(&upstream, "max_connections: 1");
    let mut client = ambassador.connect();
    let _asked = names.are_asked();
    client.echo("hello");
    drop(client);
    upstream.wait_active(0);
    until("the next one was served", || ambassador.connect().try_echo("hello").then_some(()));
    let told = ambassador.records();
    let is_first = |record: &Value| record["outcome"] == "completed";
    assert!(!told.iter().any(is_first), "the first one's record waits: {told:?}");
}

#[test]
fn where_a_rule_wants_to_know_it_a_session_waits_within_bounds() {
    let Some(names) = Names::make() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = names.start(&upstream, "allow: [ { group: 0 } ]");
    let mut client = ambassador.connect();
    let asked = names.are_asked();
    client.send("hello");
    assert_eq!(upstream.accepted(), 0, "nobody was dialled");
    names.give_up(asked);
    client.expect("hello");
    assert_eq!(caller(&ambassador)["user"], "root");
    drop(client);

    // From another daemon, which has no names yet, and gets no answer.
    let Some(names) = Names::make() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = names.start(&upstream, "allow: [ { group: 0 } ]");
    let mut client = ambassador.connect();
    let _asked = names.are_asked();
    assert_eq!(client.ending(), End::Reset);
    let record = ambassador.record();
    assert_eq!((&record["outcome"], &record["caller"]["user"]), (&"denied".into(), &Value::Null));
    assert_eq!(upstream.accepted(), 0);
}
