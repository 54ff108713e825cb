//! Sockets that systemd binds and passes by descriptor: which listener gets which, what is rejected, and a start by
//! the first connection.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Ambassador, Client, Config, Upstream, demand, roles, until};

/// Makes `command` start with those sockets, as systemd would.
pub(super) fn activated(command: &mut Command, sockets: &[&str]) {
    let mut wrapped = Command::new(demand("python3", "python3"));
    wrapped.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/drivers/activate.py"));
    wrapped.args(sockets).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    *command = wrapped;
}

fn bound_to(bind: &str, upstream: &Upstream) -> Config {
    Config::new().listener("app", &format!("{bind}\ncluster: up")).cluster("up", &[&upstream.address()], "")
}

#[test]
fn a_listener_takes_the_sockets_of_its_name() {
    let upstream = Upstream::plain(roles::echo);
    let config = bound_to("bind: [ \"systemd:web\", \"127.0.0.1:0\" ]", &upstream)
        .listener("mail", "bind: systemd:mail\ncluster: up");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("web.sock");
    let sockets = [
        "web=tcp:127.0.0.1:0",
        "mail=tcp:::1:0",
        &format!("web=unix:{}", path.display()),
        "web=unix:@ambassador-test",
    ];
    let mut ambassador = Ambassador::start_with(&config, |command| activated(command, &sockets));
    let web = ambassador.addresses("app");
    assert_eq!(web.len(), 4, "{web:?}");
    assert!(
        web.contains(&format!("unix:{}", path.display())) && web.contains(&"unix:@ambassador-test".into())
    );
    ambassador.connect().echo("tcp");
    Client::unix(&path).expect("a connection").echo("unix");
    assert!(ambassador.address("mail").is_ipv6());
    ambassador.connect_to("mail").echo("v6");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(path.exists(), "the file of a socket that systemd bound is systemd's");
}

#[test]
fn a_name_that_was_not_passed_is_answered_with_those_that_were() {
    let upstream = Upstream::plain(roles::echo);
    let config = bound_to("bind: systemd:wbe", &upstream);
    let mut ambassador = Ambassador::spawn(&config, |command| {
        activated(command, &["web=tcp:127.0.0.1:0", "mail=tcp:127.0.0.1:0"]);
    });
    assert_eq!(ambassador.wait_exit(), 1);
    let told = ambassador.wait_line("systemd:wbe");
    assert!(told.contains("but `mail`, `web`") && told.contains("FileDescriptorName="), "{told}");
}

#[test]
fn without_systemd_the_error_says_what_is_missing() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::spawn(&bound_to("bind: systemd:web", &upstream), |_| {});
    assert_eq!(ambassador.wait_exit(), 1);
    let told = ambassador.wait_line("systemd:web");
    assert!(told.contains(".socket unit") && told.contains("LISTEN_FDS"), "{told}");
}

#[test]
fn a_descriptor_that_is_no_stream_listener_is_refused() {
    let upstream = Upstream::plain(roles::echo);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let packets = format!("web=seqpacket:{}/s", dir.path().display());
    for (socket, part) in [
        ("web=udp:127.0.0.1:0", "no stream socket"),
        (packets.as_str(), "no stream socket"),
        ("web=connected:", "Accept=yes"),
        ("web=file:/dev/null", "no socket"),
    ] {
        let config = bound_to("bind: systemd:web", &upstream);
        let mut ambassador = Ambassador::spawn(&config, |command| activated(command, &[socket]));
        assert_eq!(ambassador.wait_exit(), 1);
        let told = ambassador.wait_line("systemd:web");
        assert!(told.contains(part), "{socket}: {told}");
    }
}

/// The rule that keeps plaintext on this host applies to the bound address, whichever process bound it.
#[test]
fn a_passed_socket_that_is_not_loopback_needs_expose() {
    let upstream = Upstream::plain(roles::echo);
    for address in ["0.0.0.0:0", ":::0"] {
        let socket = format!("web=tcp:{address}");
        let config = bound_to("bind: systemd:web", &upstream);
        let mut ambassador = Ambassador::spawn(&config, |command| activated(command, &[&socket]));
        assert_eq!(ambassador.wait_exit(), 1);
        let told = ambassador.wait_line("not loopback");
        assert!(told.contains("expose: true"), "{told}");

        let config = bound_to("bind: systemd:web\nexpose: true", &upstream);
        let ambassador = Ambassador::start_with(&config, |command| activated(command, &[&socket]));
        let port = ambassador.address("app").port();
        Client::tcp(([127, 0, 0, 1], port).into()).expect("a connection").echo("exposed");
    }
}

#[test]
fn a_passed_socket_that_no_listener_names_is_a_warning() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start_with(&bound_to("bind: 127.0.0.1:0", &upstream), |command| {
        activated(command, &["spare=tcp:127.0.0.1:0"]);
    });
    let told = ambassador.wait_line("spare");
    assert!(told.contains("WARN") && told.contains("bind: systemd:spare"), "{told}");
    ambassador.connect().echo("all the same");
}

/// The descriptors are for one process: an inherited environment must not make us close other descriptors.
#[test]
fn descriptors_for_another_process_are_left_alone() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start_with(&bound_to("bind: 127.0.0.1:0", &upstream), |command| {
        command.env("LISTEN_PID", "1").env("LISTEN_FDS", "5");
    });
    ambassador.connect().echo("fine");
}

/// With systemd's own program: it listens, and starts the daemon when the first client connects.
#[test]
fn the_first_connection_starts_the_daemon_and_is_served() {
    let upstream = Upstream::plain(roles::echo);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port");
    let mut ambassador = Ambassador::spawn(&bound_to("bind: systemd:app", &upstream), |command| {
        let mut activate = Command::new(demand("systemd-socket-activate", "systemd"));
        activate.args(["--fdname=app", "-l", &port.to_string()]);
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            activate.arg(format!("--setenv={}={}", name.display(), value.display()));
        }
        activate.arg(command.get_program()).args(command.get_args());
        activate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = activate;
    });
    let mut first = until("systemd-socket-activate listens", || Client::tcp(port).ok());
    ambassador.wait_notified("READY=1");
    first.echo("it waited in the queue");
}
