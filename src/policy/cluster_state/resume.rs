//! Resumes a cluster's decisions where a predecessor left them.

use std::time::Instant;

use super::{ClusterState, Id};
use crate::policy::breaker::{self, Breaker};
use crate::policy::endpoint_state::Snapshot;
use crate::policy::ewma::Ewma;
use crate::policy::outlier::Outlier;

impl ClusterState {
    /// The breaker's state to hand over to a successor; `None`: there is no breaker.
    #[must_use]
    pub fn breaker_snapshot(&self) -> Option<breaker::Snapshot> {
        self.breaker.as_ref().map(Breaker::snapshot)
    }

    /// Resumes the breaker's state, if a breaker is configured and no endpoint may be good that the predecessor did not
    /// know. Called before the first dial.
    pub fn resume_breaker(&mut self, snapshot: breaker::Snapshot, now: Instant) {
        if let Some(settings) = self.settings.breaker.filter(|_| !self.has_untested_or_good()) {
            self.breaker = Some(Breaker::resume(settings, snapshot, now));
        }
    }

    /// Resumes the state of an endpoint that has just joined, as far as the settings give it a meaning. Returns whether
    /// it is ejected.
    pub fn resume(&mut self, id: Id, snapshot: Snapshot, now: Instant) -> bool {
        let Some(position) = self.position(id) else { return false };
        let endpoint_state = &mut self.endpoints[position];
        let Snapshot { admin, health, outlier, is_failing, dial_time, success_time, back_since, last_error } =
            snapshot;
        endpoint_state.is_failing = is_failing;
        (endpoint_state.admin, endpoint_state.health, endpoint_state.back_since, endpoint_state.last_error) =
            (admin, health, back_since, last_error);
        for (average, told) in
            [(&mut endpoint_state.ewma, dial_time), (&mut endpoint_state.success_time, success_time)]
        {
            if let Some((seconds, at)) = told {
                *average = Ewma::default();
                average.seed(seconds, at);
            }
        }
        if let Some(settings) = &self.settings.outlier {
            endpoint_state.outlier = Outlier::resume(settings, outlier, now);
        }
        !endpoint_state.outlier.is_admitted()
    }
}
