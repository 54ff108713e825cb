//! The deadline of one step of an attempt. What a server takes to greet is not counted, unless the client has set the deadline.

use std::time::{Duration, Instant};

use crate::clock;
use crate::cluster::AttemptBound;

/// The deadline of a step, and the bound it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptDeadline {
    pub(super) at: Instant,
    pub(super) bound: AttemptBound,
    /// The whole length of the bound.
    pub(super) length: Duration,
    /// Whether it also limits the wait for a greeting.
    pub(super) is_firm: bool,
}

impl AttemptDeadline {
    pub(super) fn after(begun: Instant, bound: AttemptBound, length: Duration) -> Self {
        Self { at: begun + length, bound, length, is_firm: false }
    }

    /// `is_firm`: a wait for a greeting counts against the deadline.
    pub(super) const fn firm(self, is_firm: bool) -> Self {
        Self { is_firm, ..self }
    }

    /// The deadline of an attempt that begins now: the full length again if the wait for a greeting has used it up.
    pub(super) fn for_another(self) -> Self {
        let now = clock::now();
        if self.is_firm || now < self.at { self } else { Self::after(now, self.bound, self.length) }
    }

    /// The deadline, extended by the wait for a greeting unless it is firm.
    pub(super) fn without(self, waited: Duration) -> Self {
        if self.is_firm { self } else { Self { at: self.at + waited, ..self } }
    }

    /// The earlier of the two, so that each wait needs only one timer.
    pub(super) fn within(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }
}
