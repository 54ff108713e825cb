//! The trials of a cluster: which are due, and what their results mean to its endpoints.

use std::sync::Arc;
use std::time::Instant;

use crate::clock;
use crate::policy::cluster_state::trials::{Trial, TrialVerdict};

use super::dial_error::DialError;
use super::endpoint::Endpoint;
use super::{Cluster, State};

impl Cluster {
    /// Forgets the trials in flight: the task that began them is gone.
    pub(crate) fn forget_trials(&self) {
        self.decide(|State { cluster_state, .. }| cluster_state.forget_trials(clock::now()));
    }

    /// Begins the due trials. Returns them with their endpoints, and when to look again; `None`: another event will
    /// come first.
    pub(crate) fn begin_trials(&self) -> (Vec<(Trial, Arc<Endpoint>)>, Option<Instant>) {
        self.decide(|State { cluster_state, rng, endpoint_map, .. }| {
            let now = clock::now();
            let trials = if cluster_state.next_trial().is_some_and(|next| next <= now) {
                cluster_state.begin_trials(now, rng)
            } else {
                Vec::new()
            };
            let begun = trials
                .into_iter()
                .filter_map(|trial| Some((trial, Arc::clone(endpoint_map.get(trial.endpoint)?))));
            (begun.collect(), cluster_state.next_trial())
        })
    }

    /// Records the result of a trial; `error`: why it failed, if it did.
    pub(crate) fn record_trial(&self, trial: Trial, verdict: TrialVerdict, error: Option<&DialError>) {
        self.decide(|State { cluster_state, rng, .. }| {
            if let Some(error) = error {
                cluster_state.note_error(trial.endpoint, Some(error.to_string()));
            }
            cluster_state.record_trial(trial, verdict, clock::now(), rng);
        });
    }

    /// Waits until a trial may be due.
    pub(crate) async fn trial_due(&self) {
        self.trials.notified().await;
    }
}
