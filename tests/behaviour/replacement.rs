//! Replacement of the process: with the sockets, the queue and the files; and a failed replacement changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{Ambassador, Client, Config, Upstream, demand, roles, until};

fn both_kinds(upstream: &Upstream, more: &str) -> Config {
    let body = "bind: [ \"127.0.0.1:0\", \"unix:{dir}/app.sock\" ]\ncluster: up";
    Config::new().listener("app", body).cluster("up", &[&upstream.address()], more)
}

#[track_caller]
fn wait_gone(pid: Pid, path: &Path) {
    // A zombie child counts as ended as well.
    until("the old process was gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let is_over = test_kill_process(pid).is_err() || stat.contains(") Z ");
        is_over.then_some(())
    });
    assert!(path.exists(), "the old process took the successor's socket file with it");
}

#[test]
fn a_successor_has_the_sockets_and_the_old_process_keeps_its_sessions() {
    let (before, after) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let mut ambassador = Ambassador::start(&both_kinds(&before, ""));
    let path = ambassador.dir().join("app.sock");
    let inode = fs::metadata(&path).expect("the socket file").ino();
    let addresses = ambassador.status()["listeners"][0]["addresses"].clone();
    let mut session = ambassador.connect();
    session.echo("before");
    // The successor reads the current file.
    ambassador.rewrite(&both_kinds(&after, ""));
    let old = ambassador.replace();
    assert_ne!(old, ambassador.pid());
    until("the successor answered", || {
        let status = ambassador.status();
        (status["pid"] == ambassador.pid().as_raw_nonzero().get()).then_some(())
    });
    assert_eq!(ambassador.status()["listeners"][0]["addresses"], addresses, "the same ports");
    assert_eq!(fs::metadata(&path).expect("the socket file").ino(), inode);
    ambassador.connect().echo("by the successor");
    Client::unix(&path).expect("a connection").echo("over the unix socket too");
    assert_eq!((before.accepted(), after.accepted()), (1, 2));
    assert_eq!(ambassador.metrics().sum("replacements_total", &[("result", "ok")]), 1.0);
    session.echo("a session of the old process goes on");
    drop(session);
    wait_gone(old, &path);
    ambassador.connect().echo("and nobody misses it");
}

#[test]
fn the_old_process_ends_sessions_when_it_is_told_to_or_when_their_time_is_over() {
    let upstream = Upstream::plain(roles::echo);
    let config = both_kinds(&upstream, "").top("shutdown: { drain_timeout: 200ms }");
    let mut ambassador = Ambassador::start(&config);
    let path = ambassador.dir().join("app.sock");
    let mut session = ambassador.connect();
    session.echo("before");
    let old = ambassador.replace();
    session.echo("after");
    kill_process(old, Signal::TERM).expect("the old process");
    session.ending();
    wait_gone(old, &path);

    let limited =
        both_kinds(&upstream, "").top("shutdown: { drain_timeout: 200ms, replaced_timeout: 300ms }");
    ambassador.rewrite(&limited);
    ambassador.replace();
    // The old process accepts the connections that are in the queue when it stops, and keeps them.
    let mut session = until("the new process served", || {
        let mut session = ambassador.connect();
        session.echo("before");
        let status = ambassador.status();
        let is_here = status["listeners"].as_array()?.iter().any(|listener| listener["active"] == 1);
        is_here.then_some(session)
    });
    let old = ambassador.replace();
    session.ending();
    wait_gone(old, &path);
    assert_eq!(ambassador.record_of("drained")["listener"], "app");
}

#[test]
fn a_successor_that_does_not_start_leaves_everything_as_it_was() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&both_kinds(&upstream, ""));
    let path = ambassador.dir().join("app.sock");
    let old = ambassador.pid();
    ambassador.rewrite(&both_kinds(&upstream, "protokol: tcp"));
    ambassador.signal(Signal::USR2);
    let told = ambassador.wait_line("the successor did not start");
    assert!(told.contains("exit status: 78"), "{told}");
    // An address of another process: by then the successor had taken over our sockets.
    let taken = Upstream::plain(roles::echo);
    let body = format!("bind: {}\ncluster: up", taken.address());
    ambassador.rewrite(&both_kinds(&upstream, "").listener("more", &body));
    ambassador.signal(Signal::USR2);
    until("the second failure was said", || {
        let failures =
            ambassador.lines().into_iter().filter(|line| line.contains("the successor did not start"));
        (failures.count() == 2).then_some(())
    });
    assert_eq!(ambassador.metrics().sum("replacements_total", &[("result", "failed")]), 2.0);
    assert_eq!(ambassador.pid(), old);
    ambassador.connect().echo("tcp as before");
    Client::unix(&path).expect("the socket file is there").echo("unix as before");
    ambassador.rewrite(&both_kinds(&upstream, ""));
    ambassador.replace();
    Client::unix(&path).expect("a connection").echo("and the next attempt works");
}

#[test]
fn a_replaced_daemon_can_be_stopped_and_takes_its_files_with_it() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&both_kinds(&upstream, ""));
    let path = ambassador.dir().join("app.sock");
    let old = ambassador.replace();
    wait_gone(old, &path);
    ambassador.signal(Signal::TERM);
    until("the socket file was gone", || (!path.exists()).then_some(()));
}

/// The children of a process, by their ids.
fn children(of: Pid) -> Vec<Pid> {
    let of = of.as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[test]
fn what_starts_a_successor_holds_nothing_hears_no_signal_and_ends_with_the_daemon() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&both_kinds(&upstream, ""));
    let path = ambassador.dir().join("app.sock");
    let [launcher] = children(ambassador.pid())[..] else { panic!("one child, that waits") };
    let open = fs::read_dir(format!("/proc/{}/fd", launcher.as_raw_nonzero())).expect("our grandchild");
    let open: Vec<_> = open.flatten().map(|entry| fs::read_link(entry.path()).unwrap_or_default()).collect();
    let sockets = open.iter().filter(|link| link.to_string_lossy().starts_with("socket:"));
    assert_eq!((open.len(), sockets.count()), (4, 1), "stdin, stdout, stderr and one socket: {open:?}");
    // The signal that a terminal, or a supervisor, would send to the whole process group.
    for signal in [Signal::INT, Signal::HUP, Signal::TERM, Signal::USR2, Signal::QUIT] {
        kill_process(launcher, signal).expect("the launcher");
    }
    let old = ambassador.replace();
    Client::unix(&path).expect("a connection").echo("by the successor");
    wait_gone(old, &path);
    // It acts on these signals all the same, although the launcher that started it blocks them.
    assert_eq!(children(ambassador.pid()).len(), 1);
    ambassador.replace();
    let [launcher] = children(ambassador.pid())[..] else { panic!("one child, that waits") };
    ambassador.signal(Signal::KILL);
    until("the launcher was gone with the daemon", || test_kill_process(launcher).is_err().then_some(()));
}

/// Clients connect all the time, over TCP and over the unix socket, while one process after another takes over.
#[test]
fn many_replacements_under_load_fail_no_connection() {
    let upstream = Upstream::plain(roles::echo);
    let quiet = both_kinds(&upstream, "").log("{ format: json, level: warn, access: false }");
    let mut ambassador = Ambassador::start(&quiet);
    let (address, path) = (ambassador.address("app"), ambassador.dir().join("app.sock"));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (stop, served, path) = (Arc::clone(&stop), Arc::clone(&served), path.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let client = if number % 2 == 0 { Client::tcp(address) } else { Client::unix(&path) };
                    client.expect("the listener accepts").echo("at any time");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut held = Vec::new();
    for round in 0..30 {
        let mut session = ambassador.connect();
        session.echo("of this process");
        held.push(session);
        ambassador.replace();
        let so_far = served.load(Ordering::Relaxed);
        until(format!("clients were served after replacement {round}"), || {
            (served.load(Ordering::Relaxed) > so_far + 10).then_some(())
        });
        // Three generations at once; the oldest may end.
        if held.len() > 2 {
            held.remove(0).echo("still alive");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no client failed");
    }
    held.iter_mut().for_each(|session| session.echo("alive until the end"));
}

/// Started by a supervisor that keeps its descriptors, and started again with them after it has ended.
#[track_caller]
pub(crate) fn under_keeper(config: &Config) -> Ambassador {
    Ambassador::start_with(config, |command| {
        let mut keeper = Command::new(demand("python3", "python3"));
        keeper.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/drivers/keeper.py"));
        keeper.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => keeper.env(name, value),
                None => keeper.env_remove(name),
            };
        }
        keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = keeper;
    })
}

/// The process that answers now.
#[track_caller]
pub(crate) fn process(ambassador: &Ambassador) -> Pid {
    let pid = ambassador.status()["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    pid.expect("a pid that is not 0")
}

/// A restart with systemd's descriptor store: a client that connects while no process runs waits in the queue, and is
/// served.
#[test]
fn sockets_in_systemds_store_outlive_the_process() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = under_keeper(&both_kinds(&upstream, ""));
    let path = ambassador.dir().join("app.sock");
    let inode = fs::metadata(&path).expect("the socket file").ino();
    let (status, address) = (ambassador.status(), ambassador.address("app"));
    until("systemd had the sockets", || {
        // Two of the listener, the admin's address, the control socket.
        (ambassador.notified().iter().filter(|line| *line == "FDSTORE=1").count() >= 4).then_some(())
    });
    let first = process(&ambassador);
    kill_process(first, Signal::STOP).expect("the first process");
    until("every thread of the first process stood still", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", first.as_raw_nonzero())).expect("its threads");
        let stands = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        };
        tasks.flatten().all(stands).then_some(())
    });
    // It will not accept these any more.
    let (mut tcp, mut unix) = (Client::tcp(address).expect("a queue"), Client::unix(&path).expect("a queue"));
    kill_process(first, Signal::KILL).expect("the first process");
    tcp.echo("served by the next process");
    unix.echo("this one too");
    let restarted = ambassador.status();
    assert_ne!(restarted["pid"], status["pid"]);
    assert_eq!(restarted["listeners"][0]["addresses"], status["listeners"][0]["addresses"]);
    assert_eq!(restarted["admin"], status["admin"]);
    assert_eq!(fs::metadata(&path).expect("the socket file").ino(), inode);
    // Otherwise the test would wait for them.
    drop((tcp, unix));
    kill_process(process(&ambassador), Signal::TERM).expect("the second process");
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(path.exists(), "the file stays with the socket");
}
