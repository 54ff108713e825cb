//! What the behaviour tests are written with: a PKI, upstreams of every temper, a real PostgreSQL, the
//! ambassador itself as a process, and a client. Everything is on loopback or a unix socket, every port comes
//! from the OS.
//!
//! Tests are plain threads with blocking sockets; only upstreams run a runtime, each its own. There is no
//! sleep to wait for another party: a test waits for a *fact*, through [`until`], and says in words what it
//! waited for when the fact never came.

mod ambassador;
mod client;
pub(crate) mod command;
mod config;
pub(crate) mod daemon;
mod dead;
mod dns;
pub(crate) mod http;
mod metrics;
mod pattern;
pub(crate) mod pgwire;
mod pki;
pub(crate) mod postgres;
pub(crate) mod proxies;
pub(crate) mod roles;
pub(crate) mod server;
pub(crate) mod somebody;
pub(crate) mod sqlserver;
mod tls;
mod upstream;
pub(crate) mod workload;

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use ambassador::Ambassador;
pub(crate) use client::{Client, End};
pub(crate) use command::{Finished, ambassador, demand, finish, newer_clients, wait};
pub(crate) use config::Config;
pub(crate) use dead::{BlackHole, BusySocket, ClosedPort};
pub(crate) use dns::{Asked, Dnsmasq, Mood, NameServer};
pub(crate) use http::Response;
pub(crate) use metrics::{Metrics, Sample};
pub(crate) use pattern::Pattern;
pub(crate) use pki::{Leaf, Pki};
pub(crate) use postgres::Postgres;
pub(crate) use server::Server;
pub(crate) use tls::ServerTls;
pub(crate) use upstream::{Conn, Upstream};

/// How long any fact may take. Generous, because it is only ever spent by a test that fails: two busy cores,
/// debug builds and a JVM starting next door are normal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `fact` yields something, and fails with `what` in words when [`PATIENCE`] is over.
#[track_caller]
pub(crate) fn until<T>(what: impl Display, fact: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, fact)
}

/// [`until`] with a deadline of the caller's, for facts that are known to need longer.
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
