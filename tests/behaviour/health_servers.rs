//! Health checks of type `protocol` against real servers: the servers are found healthy, and log of it what the
//! documentation says.

use std::net::SocketAddr;

use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::server::{self, dovecot, mariadb, postfix, redis};
use crate::harness::{Ambassador, Config, Postgres, Server, until};

use crate::health::{wait_health, wait_probes};

const CHECK: &str = "health_check: { type: protocol, interval: 100ms, timeout: 5s }";

fn probing(address: &str, cluster: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[address], &format!("{cluster}\n{CHECK}")))
}

/// Probes a server on one of its ports until several probes have succeeded, and stops.
fn passes(server: &Server, index: usize, protocol: &str) {
    let address = server.address(index);
    let mut ambassador = probing(&address, &format!("protocol: {protocol}\n{}", server.tls("")));
    wait_health(&ambassador, &address, "healthy");
    wait_probes(&ambassador, &address, "ok", 5);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn postgres_with_default_logging_logs_nothing_of_its_probes() {
    let postgres = Postgres::quiet();
    let before = postgres.marked_log();
    let mut ambassador = probing(&postgres.address(), &format!("protocol: postgres\n{}", postgres.tls()));
    wait_health(&ambassador, &postgres.address(), "healthy");
    wait_probes(&ambassador, &postgres.address(), "ok", 10);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    postgres.must_have_logged_nothing_since(&before);
}

/// What counts towards `max_connect_errors` is a connection that ends without a login; the server logs each as aborted.
#[test]
fn mariadb_sees_each_probe_through_to_a_login_that_it_refuses() {
    let server = mariadb();
    let address = server.address(0);
    let aborted = |host: &str| {
        let log = server.log();
        log.lines().filter(|line| line.contains("Aborted connection") && line.contains(host)).count()
    };
    // Addresses of this test alone: the server serves other tests too.
    drop(connect_from("127.0.0.98:0", &address));
    until("the server logged what it holds against a host", || (aborted("'127.0.0.98'") == 1).then_some(()));
    let cluster = format!("protocol: mysql\nconnect: {{ local_address: 127.0.0.97 }}\n{}", server.tls(""));
    let ambassador = probing(&address, &cluster);
    wait_health(&ambassador, &address, "healthy");
    wait_probes(&ambassador, &address, "ok", 12);
    let denied = "Access denied for user 'ambassador-probe'@'127.0.0.97'";
    until("the server logged the refused logins", || {
        (server.log().matches(denied).count() >= 12).then_some(())
    });
    assert_eq!(aborted("'127.0.0.97'"), 0, "{}", server.log());
}

fn connect_from(local: &str, to: &str) -> Socket {
    let address = |text: &str| SockAddr::from(text.parse::<SocketAddr>().expect("an address"));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&address(local)).expect("an address of this host");
    socket.connect(&address(to)).expect("the server accepts");
    socket
}

#[test]
fn redis_that_wants_a_password_is_healthy() {
    passes(redis(), 0, "redis");
}

/// By bytes instead of the protocol's own probe, through the same TLS.
#[test]
fn redis_answers_an_exchange_behind_tls() {
    let server = redis();
    let address = server.address(0);
    let check = "health_check: { type: exchange, interval: 100ms, timeout: 5s, \
                 exchange: { send: \"PING\\r\\n\", expect: '-NOAUTH' } }";
    let cluster = format!("protocol: redis\n{}\n{check}", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&address], &cluster));
    wait_health(&ambassador, &address, "healthy");
}

#[test]
fn postfix_hears_a_whole_conversation() {
    passes(postfix(), 0, "smtp");
    let log = postfix().log();
    assert!(log.contains("ehlo=2 starttls=1 quit=1 commands=4"), "{log}");
    // Waiting for the server to start logs a "lost connection after CONNECT" as well.
    for phase in ["EHLO", "STARTTLS", "QUIT"] {
        assert!(!log.contains(&format!("lost connection after {phase}")), "{log}");
    }
}

#[test]
fn dovecot_is_healthy_in_all_its_protocols() {
    for (index, protocol) in ["imap", "pop3", "sieve", "lmtp"].into_iter().enumerate() {
        passes(dovecot(), index, protocol);
    }
}

#[test]
fn the_others_are_healthy_too() {
    passes(server::slapd(), 0, "ldap");
    passes(&server::nats()[0], 0, "nats");
    passes(server::memcached(), 0, "memcached");
    passes(server::mosquitto(), 0, "mqtt");
}
