//! Listeners: addresses, unix sockets and their files, the connection limit, and accepting when descriptors run out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::harness::{Ambassador, BusySocket, Client, Config, End, Pki, Upstream, pgwire, roles, until};

fn unix_path(ambassador: &Ambassador, listener: &str) -> PathBuf {
    let path = ambassador.addresses(listener).iter().find_map(|address| address.strip_prefix("unix:"));
    path.expect("a unix address in /status").into()
}

#[test]
fn an_ipv6_listener_leads_to_an_ipv4_upstream() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::new().listener("app", "bind: \"[::1]:0\"\ncluster: up").cluster(
        "up",
        &[&upstream.address()],
        "",
    );
    let ambassador = Ambassador::start(&config);
    assert!(ambassador.address("app").is_ipv6());
    ambassador.connect().echo("over ::1");
}

#[test]
fn one_listener_has_several_binds() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: [ \"127.0.0.1:0\", \"[::1]:0\", \"unix:{dir}/app.sock\" ]\ncluster: up";
    let ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    let (unix, tcp): (Vec<_>, Vec<_>) =
        ambassador.addresses("app").iter().partition(|address| address.starts_with("unix:"));
    assert_eq!((unix.len(), tcp.len()), (1, 2));
    for address in tcp {
        Client::tcp(address.parse().expect("an address")).expect("a connection").echo("tcp");
    }
    Client::unix(&unix_path(&ambassador, "app")).expect("a connection").echo("unix");
    ambassador.wait_records(3);
}

/// The kernel attests the peer of a unix socket.
#[test]
fn a_session_over_a_unix_socket_has_its_caller_on_record() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: [ \"127.0.0.1:0\", \"unix:{dir}/app.sock\" ]\ncluster: up";
    let ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    Client::unix(&unix_path(&ambassador, "app")).expect("a connection").echo("unix");
    let record = ambassador.record();
    assert_eq!(record["caller"]["uid"], rustix::process::geteuid().as_raw(), "{record}");
    assert_eq!(record["caller"]["pid"], std::process::id(), "{record}");
    ambassador.connect().echo("tcp");
    let record = ambassador.wait_records(2).remove(1);
    assert_eq!(record["caller"]["uid"], rustix::process::geteuid().as_raw(), "{record}");
    assert!(record["caller"]["pid"].is_null(), "the kernel does not tell it of TCP: {record}");
}

/// A unix socket has no reset; when its client has closed, both directions are closed, with bytes still unread.
#[test]
fn a_unix_client_that_wrote_and_closed_cancels_the_dial() {
    let (ambassador, hanging) = dialling_for_a_unix_client();
    let mut client = Client::unix(&unix_path(&ambassador, "app")).expect("a connection");
    client.send("bytes that nobody will want an answer to");
    hanging.wait_active(1);
    let left = Instant::now();
    drop(client);
    let record = ambassador.record();
    assert!(left.elapsed() < Duration::from_secs(15), "{record}");
    assert_eq!(record["outcome"], "downstream_gone");
    assert_eq!(record["closed_by"], "downstream");
    hanging.wait_active(0);
}

/// A half-close behind bytes does not mean that the client left: it still wants the answer.
#[test]
fn a_unix_client_that_wrote_and_ended_its_side_does_not_cancel_the_dial() {
    let (ambassador, hanging) = dialling_for_a_unix_client();
    let mut client = Client::unix(&unix_path(&ambassador, "app")).expect("a connection");
    client.send("a question");
    client.end_sending();
    hanging.wait_active(1);
    ambassador.signal(Signal::TERM);
    // It lasted until it was ended; a client taken for gone would be on record.
    client.ending();
    assert_eq!(ambassador.record()["outcome"], "drained");
}

/// A dial that takes longer than a test waits, for clients of unix listener `app`.
fn dialling_for_a_unix_client() -> (Ambassador, Upstream) {
    let pki = Pki::new();
    let hanging = Upstream::plain(roles::silent);
    let connect = "connect: { handshake_timeout: 60s, deadline: 60s }";
    let cluster = format!("tls: {{ ca: {} }}\n{connect}", pki.ca().display());
    let config = Config::new()
        .listener("app", "bind: unix:{dir}/app.sock\ncluster: up")
        .cluster("up", &[&hanging.address()], &cluster)
        .top("shutdown: { drain_timeout: 300ms }");
    (Ambassador::start(&config), hanging)
}

#[test]
fn a_unix_socket_gets_the_mode_it_was_given_and_is_gone_after_exit() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: unix:{dir}/app.sock\ncluster: up\nmode: \"0640\"";
    let mut ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    let path = unix_path(&ambassador, "app");
    let meta = fs::metadata(&path).expect("the socket file");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
    Client::unix(&path).expect("a connection").echo("unix");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(!path.exists(), "the socket file outlives the process");
}

#[test]
fn a_unix_socket_is_given_to_the_owner_and_group_named() {
    if !rustix::process::geteuid().is_root() {
        // Only root may change a file's owner; without root, the test names its own user.
        let upstream = Upstream::plain(roles::echo);
        let uid = rustix::process::geteuid().as_raw();
        let body = format!("bind: unix:{{dir}}/app.sock\ncluster: up\nowner: {uid}");
        drop(Ambassador::start(&Config::new().listener("app", &body).cluster(
            "up",
            &[&upstream.address()],
            "",
        )));
        return;
    }
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: unix:{dir}/app.sock\ncluster: up\nowner: nobody\ngroup: nogroup";
    let ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    let meta = fs::metadata(unix_path(&ambassador, "app")).expect("the socket file");
    assert_eq!((meta.uid(), meta.gid()), (65534, 65534), "nobody:nogroup on Debian");
}

#[test]
fn a_socket_file_a_dead_process_left_is_replaced() {
    let upstream = Upstream::plain(roles::echo);
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("app.sock");
    drop(UnixListener::bind(&path).expect("a socket file"));
    assert!(path.exists(), "a closed unix listener leaves its file");
    let body = format!("bind: unix:{}\ncluster: up", path.display());
    let ambassador =
        Ambassador::start(&Config::new().listener("app", &body).cluster("up", &[&upstream.address()], ""));
    Client::unix(&unix_path(&ambassador, "app")).expect("a connection").echo("a new one");
}

#[test]
fn a_socket_somebody_listens_on_is_left_alone() {
    let upstream = Upstream::plain(roles::echo);
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("app.sock");
    let living = UnixListener::bind(&path).expect("a socket file");
    let body = format!("bind: unix:{}\ncluster: up", path.display());
    let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
    let mut ambassador = Ambassador::spawn(&config, |_| {});
    assert_eq!(ambassador.wait_exit(), 1);
    ambassador.wait_line("app.sock");
    living.set_nonblocking(true).expect("a non-blocking listener");
    drop(Client::unix(&path).expect("the living one still listens"));
}

/// Its owner lives and is busy: a connect to it blocks until there is room in its queue.
#[test]
fn a_socket_whose_owner_has_a_full_queue_is_left_alone_at_once() {
    let upstream = Upstream::plain(roles::echo);
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("app.sock");
    let living = BusySocket::bind(&path);
    let body = format!("bind: unix:{}\ncluster: up", path.display());
    let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
    let started = Instant::now();
    let mut ambassador = Ambassador::spawn(&config, |_| {});
    assert_eq!(ambassador.wait_exit(), 1);
    assert!(started.elapsed() < Duration::from_secs(10), "it hung for {:?}", started.elapsed());
    let told = ambassador.wait_line("app.sock");
    assert!(told.contains("another process is listening"), "{told}");
    living.serves_who_waited();
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let upstream = Upstream::plain(roles::echo);
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("app.sock");
    fs::write(&path, "precious").expect("a file");
    let body = format!("bind: unix:{}\ncluster: up", path.display());
    let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
    assert_eq!(Ambassador::spawn(&config, |_| {}).wait_exit(), 1);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
}

#[test]
fn a_port_in_use_is_named_and_exits_1() {
    let (upstream, neighbour) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let taken = neighbour.address();
    let body = format!("bind: {taken}\ncluster: up");
    let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
    let mut ambassador = Ambassador::spawn(&config, |_| {});
    assert_eq!(ambassador.wait_exit(), 1);
    ambassador.wait_line(&taken);
}

#[test]
fn a_full_listener_resets_the_next_client_and_admits_again_after_one_left() {
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 2";
    let ambassador =
        Ambassador::start(&Config::new().listener("app", body).cluster("up", &[&upstream.address()], ""));
    let (mut one, mut two) = (ambassador.connect(), ambassador.connect());
    one.echo("one");
    two.echo("two");
    assert_eq!(ambassador.connect().ending(), End::Reset);
    let record = ambassador.record_of("listener_full");
    assert_eq!(record["listener"], "app");
    assert_eq!(record["closed_by"], "ambassador");
    assert_eq!(upstream.accepted(), 2, "a refused client costs the upstream nothing");
    assert_eq!(
        ambassador.metrics().sum("connections_total", &[("listener", "app"), ("outcome", "listener_full")]),
        1.0
    );
    drop(one);
    ambassador.wait_active(1);
    ambassador.connect().echo("three");
    two.echo("two is as well as before");
}

#[test]
fn a_full_postgres_listener_says_so_in_postgres_words() {
    let upstream = Upstream::plain(roles::silent);
    let body = "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 1";
    let config =
        Config::new().listener("app", body).cluster("up", &[&upstream.address()], "protocol: postgres");
    let ambassador = Ambassador::start(&config);
    let mut one = ambassador.connect();
    // A session without a byte would be ended to make room.
    one.send(pgwire::startup(&[("user", "app")]));
    upstream.wait_active(1);
    let mut two = ambassador.connect();
    two.send(pgwire::startup(&[("user", "app")]));
    let refusal = pgwire::read_refusal(&mut two);
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("FATAL", "53300"));
    assert_eq!(ambassador.record_of("listener_full")["session"], refusal.session());
    drop(one);
}

/// Descriptors run out while sessions live: accept fails with EMFILE. The daemon must neither die nor spin nor lose
/// its sessions, and must accept again once descriptors are free.
#[test]
fn running_out_of_descriptors_is_survived() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let mut first = ambassador.connect();
    first.echo("before");
    let limit = |count: u64| {
        let limit = Rlimit { current: Some(count), maximum: Some(20_000) };
        prlimit(Some(ambassador.pid()), Resource::Nofile, limit).expect("a limit on our child");
    };
    // A new descriptor has the lowest free number, so at this limit not even the next accept succeeds.
    let descriptors = PathBuf::from(format!("/proc/{}/fd", ambassador.pid().as_raw_nonzero()));
    limit(
        (0..)
            .find(|number| descriptors.join(format!("{number}")).symlink_metadata().is_err())
            .expect("a free number"),
    );
    let mut waiting: Vec<Client> = (0..20).map(|_| ambassador.connect()).collect();
    until("the shortage is logged", || {
        let told = ambassador
            .lines()
            .into_iter()
            .any(|line| line.contains("os error 24") || line.contains("Too many open files"));
        told.then_some(())
    });
    first.echo("during");
    limit(1024);
    // They waited in the backlog, and are now served.
    for client in &mut waiting {
        client.echo("after");
    }
    first.echo("after");
    let complaints = ambassador.lines().iter().filter(|line| line.contains("Too many open files")).count();
    assert!(complaints < 100, "{complaints} complaints: accept did not back off");
}
