//! What a route has seen since the start, as plain sums: what the page of the admin address draws curves from. The
//! metrics have more, but only a scraper remembers them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::outcome::Outcome;
use crate::upstream::DialRecord;

/// The sums, and the sessions that live now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Sessions that live.
    pub sessions: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Those of them that were turned away.
    pub refused: u64,
    /// Bytes to the upstream, those of live sessions included.
    pub sent: u64,
    /// Bytes from the upstream, those of live sessions included.
    pub received: u64,
    /// Dials that led to a session.
    pub dials: u64,
    /// How long these took together, from connect(2) to the end of the handshake.
    pub dialling: Duration,
}

/// The sums that nothing else keeps.
#[derive(Debug, Default)]
pub(super) struct OwnCounters {
    refused: AtomicU64,
    dials: AtomicU64,
    dial_micros: AtomicU64,
}

impl OwnCounters {
    pub(super) fn record_end(&self, outcome: Outcome) {
        if outcome.is_refusal() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn record_dial(&self, dial: &DialRecord) {
        let took = dial.connect.unwrap_or_default() + dial.handshake.unwrap_or_default();
        self.dials.fetch_add(1, Ordering::Relaxed);
        self.dial_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds them to what else is known.
    pub(super) fn complete(&self, counters: Counters) -> Counters {
        Counters {
            refused: self.refused.load(Ordering::Relaxed),
            dials: self.dials.load(Ordering::Relaxed),
            dialling: Duration::from_micros(self.dial_micros.load(Ordering::Relaxed)),
            ..counters
        }
    }
}

impl Counters {
    /// Of two routes together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            sessions: self.sessions + other.sessions,
            accepted: self.accepted + other.accepted,
            refused: self.refused + other.refused,
            sent: self.sent + other.sent,
            received: self.received + other.received,
            dials: self.dials + other.dials,
            dialling: self.dialling + other.dialling,
        }
    }
}
