//! Overload: descriptors, the accept queue, memory. What is given up is logged, and comes back. For the log, see
//! `logs`; for configured limits, `limits` and `listeners`.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, prlimit};

use crate::harness::{Ambassador, Client, Config, Conn, End, Upstream, roles, until};

/// Enough for thousands, where the test does not want the shortage.
const LIMITS: &str =
    "limits: { max_connections: 5000, max_connections_per_endpoint: 5000, max_pending: 5000 }";

fn config(upstream: &Upstream, max_connections: u32) -> Config {
    let listener = format!("bind: 127.0.0.1:0\ncluster: up\nmax_connections: {max_connections}");
    Config::new().listener("app", &listener).cluster("up", &[&upstream.address()], LIMITS)
}

/// CPU time in ticks of 10 ms.
fn ticks(ambassador: &Ambassador) -> u64 {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", ambassador.pid().as_raw_nonzero())).expect("its stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// In KiB.
fn resident(ambassador: &Ambassador) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ambassador.pid().as_raw_nonzero()))
        .expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sessions take all descriptors: further connections wait in the queue, no loop spins, and admin requests are still
/// answered.
#[test]
fn sessions_leave_the_last_descriptors_to_those_who_look_after_the_daemon() {
    const CLIENTS: usize = 100;
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&upstream, 1000));
    let limit = Rlimit { current: Some(128), maximum: Some(20_000) };
    prlimit(Some(ambassador.pid()), Resource::Nofile, limit).expect("a limit on our child");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| ambassador.connect()).collect();
    ambassador.wait_line("cannot accept; new connections wait");
    // The accepted ones are served.
    for client in &mut clients[..20] {
        client.echo("during");
    }
    let (before, began) = (ticks(&ambassador), Instant::now());
    while began.elapsed() < Duration::from_millis(700) {
        assert_eq!(ambassador.request("GET", "/healthz", "localhost").status, 200);
        assert!(ambassador.metrics().sum("accept_errors_total", &[]) > 0.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    let spent = ticks(&ambassador) - before;
    assert!(spent < 35, "{spent} ticks of CPU in 70: it spins");
    let accepted = ambassador.metrics().sum("accepted_total", &[]);
    assert!((20.0..60.0).contains(&accepted), "{accepted} of {CLIENTS} were accepted");
    // A session that ends makes room for a waiting one; none is lost.
    let waiting = clients.split_off(accepted as usize);
    drop(clients);
    for mut client in waiting {
        client.echo("behind");
    }
    ambassador.wait_active(0);
    let refused = ambassador.records().iter().filter(|record| record["outcome"] != "completed").count();
    assert_eq!(refused, 0);
    let said = ambassador.lines().iter().filter(|line| line.contains("cannot accept; whoever")).count();
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 10).expect("seconds");
    assert!(said <= most + 1, "{said} times");
}

/// Two thousand connections are complete before the daemon accepts one.
#[test]
fn a_storm_of_connects_is_served_to_the_last_or_refused() {
    const CLIENTS: usize = 2000;
    const SERVED: usize = 700;
    crate::bulk::raise_descriptor_limit();
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&upstream, u32::try_from(SERVED).expect("few")));
    let mut clients: Vec<Client> = ambassador.frozen(|| (0..CLIENTS).map(|_| ambassador.connect()).collect());
    let outcome = |outcome: &str| ambassador.metrics().sum("connections_total", &[("outcome", outcome)]);
    until("the others were refused", || {
        (outcome("listener_full") == (CLIENTS - SERVED) as f64).then_some(())
    });
    assert_eq!(ambassador.metrics().sum("accepted_total", &[]), CLIENTS as f64);
    // Accepted in the order of their connects.
    for client in &mut clients[..SERVED] {
        client.echo("served");
    }
    for mut client in clients.drain(SERVED..) {
        assert_eq!(client.ending(), End::Reset);
    }
    drop(clients);
    ambassador.wait_active(0);
    assert_eq!(outcome("completed"), SERVED as f64);
    // Some of the others write a record, and a line counts the rest.
    until("each that was served left its record", || {
        let records = ambassador.records();
        (records.iter().filter(|record| record["outcome"] == "completed").count() == SERVED).then_some(())
    });
}

/// Clients that send and endpoints that do not read: buffered bytes are bounded, and a connection over the limit costs
/// nothing.
#[test]
fn memory_is_bounded_by_the_cap_of_sessions() {
    const SESSIONS: usize = 30;
    let upstream = Upstream::plain(|conn: Conn| async move {
        std::future::pending::<()>().await;
        drop(conn);
    });
    let ambassador = Ambassador::start(&config(&upstream, u32::try_from(SESSIONS).expect("few")));
    let before = resident(&ambassador);
    let flood = vec![b'x'; 256 * 1024];
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = TcpStream::connect(ambassador.address("app")).expect("the listener accepts");
        client.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        // Until all buffers on the way are full.
        while client.write(&flood).is_ok() {}
        clients.push(client);
    }
    for _ in 0..500 {
        assert_eq!(ambassador.connect().ending(), End::Reset);
    }
    let grown = resident(&ambassador).saturating_sub(before);
    // A portion of a MiB for each session until 16 MiB are held on a worker, then 64 KiB; docs/OPERATING.md.
    assert!(grown < 64 * 1024, "{grown} KiB for {SESSIONS} sessions");
    until("all were counted", || {
        (ambassador.metrics().sum("connections_total", &[("outcome", "listener_full")]) == 500.0)
            .then_some(())
    });
}

/// The memory of an idle session, as docs/OPERATING.md states it.
#[test]
fn a_thousand_resting_sessions_take_a_few_mebibytes() {
    const SESSIONS: usize = 1000;
    crate::bulk::raise_descriptor_limit();
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&upstream, 2000));
    let open = |count: usize| {
        let mut clients: Vec<Client> = (0..count).map(|_| ambassador.connect()).collect();
        clients.iter_mut().for_each(|client| client.echo("hello"));
        clients
    };
    // The first sessions also pay for memory that the allocator keeps.
    let first = open(100);
    let before = resident(&ambassador);
    let others = open(SESSIONS);
    let grown = resident(&ambassador).saturating_sub(before);
    assert!(grown < 6 * 1024, "{grown} KiB for {SESSIONS} sessions");
    drop((first, others));
    ambassador.wait_active(0);
}
