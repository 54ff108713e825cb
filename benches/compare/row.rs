//! The rows of the table: the work, the wire, the number of sessions, and the unit. Every figure is a cost: less is
//! better.
//!
//! Lacks the contestants.
use crate::database::Database;
use crate::growth::{Fleet, Quantity};
use crate::load::Reading;
use crate::mail::MailServer;
use crate::place::Seating;
use crate::wire::Ask;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    Plain,
    /// Plain to the proxy, TLS with a client certificate from there to the upstream.
    Mtls,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    RoundTrips {
        message: usize,
        sessions: usize,
    },
    /// Round trips of 64 bytes while one further session receives bulk.
    Beside {
        sessions: usize,
    },
    /// `flow` is one of `Down`, `Up`, `Both`.
    Bulk {
        flow: Ask,
        sessions: usize,
    },
    /// Connect, one byte each way, close.
    Connect {
        at_once: usize,
        /// Whether the upstream lets TLS sessions be resumed.
        resume: bool,
    },
    Idle {
        sessions: usize,
    },
    /// PostgreSQL's own load on a PostgreSQL.
    Pgbench {
        script: Script,
    },
    /// One session per message, from Postfix's smtp-source to its smtp-sink.
    Mail {
        at_once: usize,
    },
    /// A configuration of many clusters, to which nobody connects.
    Growth {
        fleet: Fleet,
        quantity: Quantity,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Script {
    /// One SELECT a transaction.
    Select,
    /// UPDATE, SELECT and INSERT in one transaction: seven round trips.
    Simple,
    /// One SELECT a session.
    Connect,
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    pub(crate) work: Work,
    pub(crate) seating: Seating,
}

impl Row {
    /// Unpinned rows are of interest only if the others are pinned.
    pub(crate) fn all(quick: bool, pins: bool) -> Vec<Self> {
        let both = |works: Vec<(&str, Work)>| -> Vec<Self> {
            let of_wire = |wire| works.iter().map(move |(name, work)| Self::new(wire, name, *work));
            of_wire(Wire::Plain).chain(of_wire(Wire::Mtls)).collect()
        };
        let mut rows = both(synthetic(quick));
        let full = Work::Connect { at_once: AT_ONCE, resume: false };
        rows.push(Self::new(Wire::Mtls, "connect-full", full));
        if pins {
            rows.extend(both(worth_unpinning(quick)).into_iter().map(Self::unpinned));
        }
        rows.extend(both(real()));
        rows.extend(growth(quick));
        rows
    }

    fn new(wire: Wire, name: &str, work: Work) -> Self {
        let word = match wire {
            Wire::Plain => "plain",
            Wire::Mtls => "mtls",
        };
        let seating = match work {
            // One session in flight leaves two of three parties idle at any time, so they share a core.
            Work::RoundTrips { sessions: 1, .. } => Seating::Together,
            // A database has so much more work than a proxy that the proxy's core would become idle after each
            // message, and waking it was more than half of the figure.
            Work::Pgbench { .. } | Work::Mail { .. } => Seating::Together,
            Work::RoundTrips { .. }
            | Work::Beside { .. }
            | Work::Bulk { .. }
            | Work::Connect { .. }
            | Work::Idle { .. }
            | Work::Growth { .. } => Seating::Apart,
        };
        Self { name: format!("{word}/{name}"), wire, work, seating }
    }

    fn unpinned(self) -> Self {
        Self { name: format!("{}/unpinned", self.name), seating: Seating::Anywhere, ..self }
    }

    /// The missing programs of the row, beside the contestants.
    pub(crate) fn lacks(&self) -> Option<String> {
        match self.work {
            Work::Pgbench { .. } => Database::lacks(),
            Work::Mail { .. } => MailServer::lacks(),
            Work::RoundTrips { .. }
            | Work::Beside { .. }
            | Work::Bulk { .. }
            | Work::Connect { .. }
            | Work::Idle { .. }
            | Work::Growth { .. } => None,
        }
    }

    /// Third-party programs at both ends.
    pub(crate) fn is_real_work(&self) -> bool {
        matches!(self.work, Work::Pgbench { .. } | Work::Mail { .. })
    }

    pub(crate) fn unit(&self) -> &'static str {
        match self.work {
            Work::RoundTrips { .. } => "µs CPU/round trip",
            Work::Connect { .. } => "µs CPU/session",
            Work::Bulk { .. } => "ms CPU/GB",
            Work::Idle { .. } => "KiB/session",
            Work::Beside { .. } => "µs p99.9",
            Work::Pgbench { .. } => "µs CPU/transaction",
            Work::Mail { .. } => "µs CPU/message",
            Work::Growth { quantity: Quantity::ScrapeSize, .. } => "kB",
            Work::Growth { quantity, .. } if quantity.is_bytes() => "MB",
            Work::Growth { .. } => "ms CPU",
        }
    }

    pub(crate) fn figure(&self, reading: &Reading) -> f64 {
        let nanos = reading.cpu.as_nanos() as f64;
        match self.work {
            Work::RoundTrips { .. } | Work::Connect { .. } | Work::Pgbench { .. } | Work::Mail { .. } => {
                nanos / 1e3 / reading.units
            }
            Work::Bulk { .. } => (nanos / 1e6) / (reading.units / 1e9),
            Work::Idle { .. } => reading.memory as f64 / 1024.0 / reading.units,
            Work::Beside { .. } => reading.latency.map_or(f64::NAN, |latency| latency.p999),
            Work::Growth { quantity: Quantity::ScrapeSize, .. } => reading.memory as f64 / 1e3,
            Work::Growth { quantity, .. } if quantity.is_bytes() => reading.memory as f64 / 1e6,
            Work::Growth { .. } => nanos / 1e6,
        }
    }

    /// Whether it is in the chart: the rows with aims, and real work.
    pub(crate) fn is_headline(&self) -> bool {
        if self.seating == Seating::Anywhere {
            return false;
        }
        match self.work {
            Work::RoundTrips { message, sessions } => message == 64 && matches!(sessions, 1 | 64),
            Work::Bulk { flow, sessions } => flow != Ask::Both && (sessions == 1 || flow == Ask::Down),
            Work::Connect { .. } | Work::Idle { .. } | Work::Mail { .. } => true,
            Work::Pgbench { script } => script != Script::Simple,
            Work::Growth { fleet, quantity } => fleet.clusters == 1000 && quantity != Quantity::MemoryScraped,
            Work::Beside { .. } => false,
        }
    }

    /// Whether it is compared with the same load without a proxy.
    pub(crate) fn has_direct(&self) -> bool {
        match self.work {
            Work::RoundTrips { .. }
            | Work::Connect { .. }
            | Work::Beside { .. }
            | Work::Pgbench { .. }
            | Work::Mail { .. } => true,
            Work::Bulk { .. } | Work::Idle { .. } | Work::Growth { .. } => false,
        }
    }
}

/// Concurrent sessions where each is short.
const AT_ONCE: usize = 16;

/// A quick run proves that the rows work, and omits rows that differ only in numbers.
fn synthetic(quick: bool) -> Vec<(&'static str, Work)> {
    let trips = |message, sessions| Work::RoundTrips { message, sessions };
    let bulk = |flow, sessions| Work::Bulk { flow, sessions };
    let mut works = vec![
        ("64B/1", trips(64, 1)),
        ("64B/16", trips(64, 16)),
        ("64B/64", trips(64, 64)),
        ("64B/256", trips(64, 256)),
        ("4KiB/1", trips(4096, 1)),
        ("4KiB/16", trips(4096, 16)),
        ("4KiB/64", trips(4096, 64)),
        ("4KiB/256", trips(4096, 256)),
        ("64KiB/1", trips(65_536, 1)),
        ("64KiB/16", trips(65_536, 16)),
        ("64KiB/64", trips(65_536, 64)),
        ("64KiB/256", trips(65_536, 256)),
        ("down/1", bulk(Ask::Down, 1)),
        ("down/16", bulk(Ask::Down, 16)),
        ("up/1", bulk(Ask::Up, 1)),
        ("up/16", bulk(Ask::Up, 16)),
        ("both/1", bulk(Ask::Both, 1)),
        ("both/16", bulk(Ask::Both, 16)),
        ("beside", Work::Beside { sessions: 16 }),
        ("connect", Work::Connect { at_once: AT_ONCE, resume: true }),
        ("idle", Work::Idle { sessions: if quick { 50 } else { 5000 } }),
    ];
    let differs = |name: &str| name.starts_with("4KiB") || name.ends_with("/64") || name == "64KiB/256";
    works.retain(|(name, _)| !quick || !differs(name));
    works
}

fn worth_unpinning(quick: bool) -> Vec<(&'static str, Work)> {
    let mut works = vec![
        ("64B/1", Work::RoundTrips { message: 64, sessions: 1 }),
        ("64B/16", Work::RoundTrips { message: 64, sessions: 16 }),
        ("down/1", Work::Bulk { flow: Ask::Down, sessions: 1 }),
        ("connect", Work::Connect { at_once: AT_ONCE, resume: true }),
    ];
    works.truncate(if quick { 1 } else { works.len() });
    works
}

fn real() -> Vec<(&'static str, Work)> {
    vec![
        ("pgbench/select", Work::Pgbench { script: Script::Select }),
        ("pgbench/simple", Work::Pgbench { script: Script::Simple }),
        ("pgbench/connect", Work::Pgbench { script: Script::Connect }),
        ("mail", Work::Mail { at_once: AT_ONCE }),
    ]
}

/// With mTLS to the upstreams only what it changes, and not for many endpoints: TLS belongs to the cluster.
fn growth(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for fleet in Fleet::all(quick) {
        let name = format!("growth/{}x{}", fleet.clusters, fleet.endpoints);
        let row = |quantity: Quantity, wire, name: &str| Row {
            name: format!("{name}/{}", quantity.name()),
            wire,
            work: Work::Growth { fleet, quantity },
            seating: Seating::Apart,
        };
        rows.extend(Quantity::ALL.map(|quantity| row(quantity, Wire::Plain, &name)));
        if fleet.endpoints < fleet.clusters {
            let name = format!("{name}/mtls");
            let quantities = [Quantity::Start, Quantity::Memory, Quantity::Reload];
            rows.extend(quantities.map(|quantity| row(quantity, Wire::Mtls, &name)));
        }
    }
    rows
}
