//! The metrics of a listener and its destinations.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

use super::label_guard::LabelGuard;
use super::names::{ACCEPT_ERRORS, ACCEPTED, CONNECTIONS, RECEIVED_BYTES, SENT_BYTES, SESSIONS_ACTIVE};
use crate::name::{ClusterName, ListenerName};
use crate::outcome::Outcome;

#[derive(Clone)]
pub(crate) struct ListenerMetrics {
    pub accepted: Counter,
    pub accept_errors: Counter,
    _guard: Arc<LabelGuard>,
    ended: BTreeMap<Outcome, Counter>,
}

/// The metrics of sessions between a listener and a cluster. They may outlive both, so that sums continue when these
/// come back, and so they hold no [`LabelGuard`] of either.
#[derive(Clone)]
pub(crate) struct DestinationMetrics {
    pub active: Gauge,
    /// Bytes to the upstream, as an absolute count.
    pub sent: Counter,
    /// Bytes from the upstream, as an absolute count.
    pub received: Counter,
}

impl DestinationMetrics {
    /// The handles of one listener and one of its clusters.
    #[must_use]
    pub(crate) fn new(listener: &ListenerName, cluster: &ClusterName) -> Self {
        let (listener, cluster) = (listener.to_string(), cluster.to_string());
        Self {
            active: gauge!(SESSIONS_ACTIVE, "listener" => listener.clone(), "cluster" => cluster.clone()),
            sent: counter!(SENT_BYTES, "listener" => listener.clone(), "cluster" => cluster.clone()),
            received: counter!(RECEIVED_BYTES, "listener" => listener, "cluster" => cluster),
        }
    }
}

impl ListenerMetrics {
    #[must_use]
    pub(crate) fn new(listener: &ListenerName) -> Self {
        let listener = listener.to_string();
        let ended = |outcome: Outcome| counter!(CONNECTIONS, "listener" => listener.clone(), "outcome" => outcome.label());
        Self {
            _guard: LabelGuard::of("listener", &listener),
            accepted: counter!(ACCEPTED, "listener" => listener.clone()),
            accept_errors: counter!(ACCEPT_ERRORS, "listener" => listener.clone()),
            ended: Outcome::ALL.into_iter().map(|outcome| (outcome, ended(outcome))).collect(),
        }
    }

    /// Records the outcome of a connection.
    pub(crate) fn record_end(&self, outcome: Outcome) {
        if let Some(counter) = self.ended.get(&outcome) {
            counter.increment(1);
        }
    }
}
