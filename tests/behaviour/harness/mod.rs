//! The harness of the behaviour tests: a PKI, upstreams of every behaviour, a real PostgreSQL, the ambassador as a
//! process, and a client. Everything is on loopback or a unix socket, every port comes from the OS.
//!
//! Tests are plain threads with blocking sockets; only upstreams run a runtime, each its own. No test sleeps to wait
//! for another party: it waits for a *fact*, through [`until`], which names the fact when it fails.

mod ambassador;
mod client;
pub(crate) mod command;
mod config;
pub(crate) mod consul;
pub(crate) mod daemon;
mod dead;
pub(crate) mod discovery;
mod dns;
pub(crate) mod etcd;
pub(crate) mod http;
pub(crate) mod kubernetes;
mod metrics;
pub(crate) mod other_user;
mod pattern;
pub(crate) mod pgwire;
mod pki;
pub(crate) mod postgres;
pub(crate) mod proxies;
pub(crate) mod roles;
pub(crate) mod secrets;
pub(crate) mod server;
pub(crate) mod sqlserver;
pub(crate) mod submission;
mod tls;
pub(crate) mod token_server;
mod upstream;
pub(crate) mod workload;
pub(crate) mod xds;

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use ambassador::Ambassador;
pub(crate) use client::{Client, End};
pub(crate) use command::{Finished, ambassador, demand, finish, newer_clients, wait};
pub(crate) use config::Config;
pub(crate) use dead::{BlackHole, BusySocket, ClosedPort};
pub(crate) use dns::{Asked, DnsMode, Dnsmasq, NameServer};
pub(crate) use http::Response;
pub(crate) use metrics::{Metrics, Sample};
pub(crate) use pattern::Pattern;
pub(crate) use pki::{Leaf, Pki};
pub(crate) use postgres::Postgres;
pub(crate) use server::Server;
pub(crate) use tls::ServerTls;
pub(crate) use upstream::{Conn, Upstream};

/// How long any fact may take. Generous, because only a failing test spends it: two busy cores, debug builds and a JVM
/// that starts at the same time are normal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `fact` yields a value, and fails with the text `what` when [`PATIENCE`] is over.
#[track_caller]
pub(crate) fn until<T>(what: impl Display, fact: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, fact)
}

/// [`until`] with another deadline, for facts that are known to need longer.
#[track_caller]
pub(crate) fn until_within<T>(
    patience: Duration,
    what: impl Display,
    mut fact: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
