//! The fixed loads, and how far a count may be from its baseline.
//!
//! Each is in lockstep with the daemon (`load`). A one-way flood is not among them: how many bytes the daemon finds at
//! each read depends on timing, and the count varied eightfold. The parts of a flood, a read that fills its portion
//! and is spliced, are in `round_trip_16kib`. Bulk through TLS is not among them either: it measures the cipher.

use std::io;

use crate::load::{Session, Stage};

/// A load in units of work, and the expectations of its count.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What of the access log: `log.access`.
    pub(crate) access: &'static str,
    /// Whether the endpoint speaks TLS and asks for a client certificate.
    pub(crate) is_mtls: bool,
    /// The subtracted run has this many units, the other one twice as many.
    pub(crate) units: u32,
    work: Work,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    /// A message there and back, on one session.
    RoundTrip { bytes: usize },
    /// A session from connect to both ends and its record in the log, if it leaves one, with a byte each way.
    Connect,
}

/// How far from its baseline a count may be, in percent.
///
/// A dozen runs, some of them on one core and some beside two busy loops, lay within ±0.1 % for the plain round
/// trips and ±2 % for the others. The rest is room for other kernels and C libraries. Another CPU changes nothing:
/// valgrind shows every program the same one (a Haswell, wherever the real one has AVX2), so glibc and AWS-LC
/// choose the same code.
pub(crate) const TOLERANCE: u32 = 5;

/// A record of every session.
const ALL: &str = "true";
/// What it costs that a session might leave a record.
const SAMPLED: &str = "{ sample: 0 }";

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "round_trip_64b",
        access: ALL,
        is_mtls: false,
        units: 2000,
        work: Work::RoundTrip { bytes: 64 },
    },
    Scenario {
        name: "round_trip_16kib",
        access: ALL,
        is_mtls: false,
        units: 2000,
        work: Work::RoundTrip { bytes: 16 * 1024 },
    },
    Scenario { name: "connect", access: ALL, is_mtls: false, units: 400, work: Work::Connect },
    Scenario { name: "connect_sampled", access: SAMPLED, is_mtls: false, units: 400, work: Work::Connect },
    Scenario {
        name: "mtls_round_trip_64b",
        access: ALL,
        is_mtls: true,
        units: 6000,
        work: Work::RoundTrip { bytes: 64 },
    },
    Scenario { name: "mtls_connect", access: ALL, is_mtls: true, units: 50, work: Work::Connect },
];

impl Scenario {
    /// Whether each session leaves a record.
    pub(crate) fn is_recorded(&self) -> bool {
        self.access == ALL
    }

    /// Does `units` units of work.
    pub(crate) fn play(&self, stage: &mut Stage, units: u32) -> io::Result<()> {
        match self.work {
            Work::RoundTrip { bytes } => {
                let mut session = Session::begin(stage)?;
                for _ in 0..units {
                    session.send(bytes)?;
                    session.answer(bytes)?;
                }
                session.end()
            }
            Work::Connect => {
                for _ in 0..units {
                    let mut session = Session::begin(stage)?;
                    session.send(1)?;
                    session.answer(1)?;
                    session.end()?;
                }
                Ok(())
            }
        }
    }
}
