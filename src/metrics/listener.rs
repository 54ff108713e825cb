//! What is recorded where sessions come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

use super::names::{ACCEPT_ERRORS, ACCEPTED, CONNECTIONS, RECEIVED_BYTES, SENT_BYTES, SESSIONS_ACTIVE};
use super::series_guard::SeriesGuard;
use crate::name::{ClusterName, ListenerName};
use crate::outcome::Outcome;

/// What a listener records.
#[derive(Clone)]
pub(crate) struct ListenerMetrics {
    /// A connection was accepted.
    pub accepted: Counter,
    /// accept(2) failed.
    pub accept_errors: Counter,
    _living: Arc<SeriesGuard>,
    ended: BTreeMap<Outcome, Counter>,
}

/// What is recorded of the sessions between a listener and a cluster. It may outlive both, for its sums to go on when they come
/// back, and so it keeps neither's series in sight.
#[derive(Clone)]
pub(crate) struct DestinationMetrics {
    /// A session came or went.
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
    /// The handles of one listener.
    #[must_use]
    pub(crate) fn new(listener: &ListenerName) -> Self {
        let listener = listener.to_string();
        let ended = |outcome: Outcome| counter!(CONNECTIONS, "listener" => listener.clone(), "outcome" => outcome.label());
        Self {
            _living: SeriesGuard::of("listener", &listener),
            accepted: counter!(ACCEPTED, "listener" => listener.clone()),
            accept_errors: counter!(ACCEPT_ERRORS, "listener" => listener.clone()),
            ended: Outcome::ALL.into_iter().map(|outcome| (outcome, ended(outcome))).collect(),
        }
    }

    /// A connection ended so.
    pub(crate) fn record_end(&self, outcome: Outcome) {
        if let Some(counter) = self.ended.get(&outcome) {
            counter.increment(1);
        }
    }
}
