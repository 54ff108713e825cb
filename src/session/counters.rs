//! Sums since the start, from which the admin page draws its curves. The metrics have more, but only a scraper keeps
//! their history.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dial::DialRecord;
use crate::outcome::Outcome;

/// Sums since the start, and the number of live sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub sessions: u64,
    pub accepted: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Bytes to the upstream, live sessions included.
    pub sent: u64,
    /// Bytes from the upstream, live sessions included.
    pub received: u64,
    /// Dials that led to a session.
    pub dials: u64,
    /// The sum of their durations, without waiting for a server's greeting: connect(2), the upgrade and the TLS
    /// handshake.
    pub dialling: Duration,
}

/// The sums that are kept nowhere else.
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
        let took = dial.connect.get().unwrap_or_default() + dial.handshake.get().unwrap_or_default();
        self.dials.fetch_add(1, Ordering::Relaxed);
        self.dial_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Fills these sums into `counters`.
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
    /// The sum of two.
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
