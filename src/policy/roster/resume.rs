//! A cluster's decisions as another process left them.

use std::time::Instant;

use super::{Id, Roster};
use crate::policy::breaker::{self, Breaker};
use crate::policy::ewma::Ewma;
use crate::policy::outlier::Outlier;
use crate::policy::slot::Snapshot;

impl Roster {
    /// What a process has to know of the breaker that goes on with it; `None`: there is none.
    #[must_use]
    pub fn breaker_snapshot(&self) -> Option<breaker::Snapshot> {
        self.breaker.as_ref().map(Breaker::snapshot)
    }

    /// The breaker, where there is to be one, goes on from there, unless there is an endpoint that it did not know of. Nothing has
    /// been dialled here yet.
    pub fn resume_breaker(&mut self, snapshot: breaker::Snapshot, now: Instant) {
        if let Some(settings) = self.settings.breaker.filter(|_| !self.has_hope()) {
            self.breaker = Some(Breaker::resume(settings, snapshot, now));
        }
    }

    /// The endpoint, which has just joined, goes on from there, as far as the settings give it a meaning. Whether it is
    /// set aside is the answer.
    pub fn resume(&mut self, id: Id, snapshot: Snapshot, now: Instant) -> bool {
        let Some(position) = self.position(id) else { return false };
        let slot = &mut self.slots[position];
        let Snapshot { admin, health, outlier, is_failing, dial_time, success_time, back_since, last_error } =
            snapshot;
        slot.is_failing = is_failing;
        (slot.admin, slot.health, slot.back_since, slot.last_error) = (admin, health, back_since, last_error);
        for (average, told) in [(&mut slot.ewma, dial_time), (&mut slot.success_time, success_time)] {
            if let Some((seconds, at)) = told {
                *average = Ewma::default();
                average.seed(seconds, at);
            }
        }
        if let Some(settings) = &self.settings.outlier {
            slot.outlier = Outlier::resume(settings, outlier, now);
        }
        !slot.outlier.is_in()
    }
}
