//! The rows of the table: which work, over which wire, with how many sessions, and in what unit it is
//! judged. Every figure is a cost: less is better.
//!
//! Lacks any knowledge of who takes part.
use crate::load::Reading;
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
    /// Round trips of 64 bytes while one further session takes in bulk.
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
    },
    Idle {
        sessions: usize,
    },
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    pub(crate) work: Work,
}

impl Row {
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        [(Wire::Plain, "plain"), (Wire::Mtls, "mtls")]
            .into_iter()
            .flat_map(|(wire, word)| {
                works(quick).into_iter().map(move |(name, work)| Self {
                    name: format!("{word}/{name}"),
                    wire,
                    work,
                })
            })
            .collect()
    }

    /// One session in flight leaves two of three parties idle at any time, so they share a core.
    pub(crate) fn one_core(&self) -> bool {
        matches!(self.work, Work::RoundTrips { sessions: 1, .. })
    }

    pub(crate) fn unit(&self) -> &'static str {
        match self.work {
            Work::RoundTrips { .. } => "µs CPU/round trip",
            Work::Connect { .. } => "µs CPU/session",
            Work::Bulk { .. } => "ms CPU/GB",
            Work::Idle { .. } => "KiB/session",
            Work::Beside { .. } => "µs p99.9",
        }
    }

    pub(crate) fn figure(&self, reading: &Reading) -> f64 {
        let nanos = reading.cpu.as_nanos() as f64;
        match self.work {
            Work::RoundTrips { .. } | Work::Connect { .. } => nanos / 1e3 / reading.units,
            Work::Bulk { .. } => (nanos / 1e6) / (reading.units / 1e9),
            Work::Idle { .. } => reading.memory as f64 / 1024.0 / reading.units,
            Work::Beside { .. } => reading.latency.map_or(f64::NAN, |latency| latency.p999),
        }
    }

    /// Whether it stands in the chart: the rows that the aims are written for.
    pub(crate) fn is_headline(&self) -> bool {
        match self.work {
            Work::RoundTrips { message, sessions } => message == 64 && matches!(sessions, 1 | 64),
            Work::Bulk { flow, sessions } => flow != Ask::Both && (sessions == 1 || flow == Ask::Down),
            Work::Connect { .. } | Work::Idle { .. } => true,
            Work::Beside { .. } => false,
        }
    }

    pub(crate) fn has_latency(&self) -> bool {
        matches!(self.work, Work::RoundTrips { .. } | Work::Connect { .. } | Work::Beside { .. })
    }
}

fn works(quick: bool) -> Vec<(String, Work)> {
    let mut works = Vec::new();
    for (message, word) in [(64, "64B"), (4096, "4KiB"), (65_536, "64KiB")] {
        for sessions in [1, 16, 64, 256] {
            works.push((format!("{word}/{sessions}"), Work::RoundTrips { message, sessions }));
        }
    }
    for (flow, word) in [(Ask::Down, "down"), (Ask::Up, "up"), (Ask::Both, "both")] {
        for sessions in [1, 16] {
            works.push((format!("{word}/{sessions}"), Work::Bulk { flow, sessions }));
        }
    }
    works.push(("beside".to_owned(), Work::Beside { sessions: 16 }));
    works.push(("connect".to_owned(), Work::Connect { at_once: 16 }));
    works.push(("idle".to_owned(), Work::Idle { sessions: if quick { 50 } else { 5000 } }));
    works
}

/// Whether `name` is one that `glob` means: `*` stands for any run of characters, `?` for one.
pub(crate) fn matches(glob: &str, name: &str) -> bool {
    let Some(first) = glob.chars().next() else { return name.is_empty() };
    let rest = &glob[first.len_utf8()..];
    let mut tail = name.chars();
    match first {
        '*' => matches(rest, name) || (tail.next().is_some() && matches(glob, tail.as_str())),
        '?' => tail.next().is_some() && matches(rest, tail.as_str()),
        letter => tail.next() == Some(letter) && matches(rest, tail.as_str()),
    }
}
