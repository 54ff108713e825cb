//! What is recorded of a cluster: its sessions and dials, its credentials, the search for its endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::names::{
    BREAKER_STATE, BREAKER_TRANSITIONS, CERTIFICATE_EXPIRY, CLUSTER_PANIC, CREDENTIAL_RELOADS, DISCOVERY,
    DISCOVERY_FAILING, DISCOVERY_SUCCESS, FIRST_BYTE, HEDGED_DIALS, INSECURE, PENDING_DIALS, PRECONNECTED,
    PRECONNECTS, RETRY_BUDGET_EXHAUSTED, SESSION_DURATION, TRIALS, UNCLEAN_TLS_ENDS, WAIT_DURATION,
    WAITING_SESSIONS,
};
use super::series_guard::SeriesGuard;
use crate::name::ClusterName;

/// What a cluster records.
#[derive(Clone)]
pub(crate) struct ClusterMetrics {
    _living: Arc<SeriesGuard>,
    /// Dials in flight.
    pub pending_dials: Gauge,
    /// Sessions that wait for room.
    pub waiting: Gauge,
    /// How long those waited that got room.
    pub wait_duration: Histogram,
    /// Upstream connections that are ready.
    pub preconnected: Gauge,
    /// Sessions that found one.
    pub preconnect_hits: Counter,
    /// Sessions that did not.
    pub preconnect_misses: Counter,
    /// Connections that nobody wants any more.
    pub preconnects_retired: Counter,
    /// Connections that the server ended.
    pub preconnects_died: Counter,
    /// A dial got no further attempt for want of retry budget.
    pub retry_budget_exhausted: Counter,
    hedged: BTreeMap<&'static str, Counter>,
    trials: BTreeMap<&'static str, Counter>,
    /// Sessions whose server ended TLS without close_notify.
    pub unclean_tls_ends: Counter,
    panic: Gauge,
    breaker_state: Gauge,
    breaker_transitions: BTreeMap<&'static str, Counter>,
    session_duration: Histogram,
    first_byte: Histogram,
}

impl ClusterMetrics {
    /// The handles of one cluster, with every state that its breaker may have.
    #[must_use]
    pub(crate) fn new(cluster: &ClusterName, breaker: &[&'static str]) -> Self {
        let cluster = cluster.to_string();
        let preconnects =
            |result: &'static str| counter!(PRECONNECTS, "cluster" => cluster.clone(), "result" => result);
        let counters = |name: &'static str, results: [&'static str; 3]| {
            let counter = |result| counter!(name, "cluster" => cluster.clone(), "result" => result);
            results.map(|result| (result, counter(result))).into()
        };
        let transitions =
            |to: &'static str| counter!(BREAKER_TRANSITIONS, "cluster" => cluster.clone(), "to" => to);
        Self {
            _living: SeriesGuard::of("cluster", &cluster),
            preconnected: gauge!(PRECONNECTED, "cluster" => cluster.clone()),
            preconnect_hits: preconnects("hit"),
            preconnect_misses: preconnects("miss"),
            preconnects_retired: preconnects("retired"),
            preconnects_died: preconnects("died"),
            panic: gauge!(CLUSTER_PANIC, "cluster" => cluster.clone()),
            retry_budget_exhausted: counter!(RETRY_BUDGET_EXHAUSTED, "cluster" => cluster.clone()),
            hedged: counters(HEDGED_DIALS, ["won", "lost", "failed"]),
            trials: counters(TRIALS, ["ok", "failed", "untold"]),
            unclean_tls_ends: counter!(UNCLEAN_TLS_ENDS, "cluster" => cluster.clone()),
            breaker_state: gauge!(BREAKER_STATE, "cluster" => cluster.clone()),
            breaker_transitions: breaker.iter().map(|to| (*to, transitions(to))).collect(),
            pending_dials: gauge!(PENDING_DIALS, "cluster" => cluster.clone()),
            waiting: gauge!(WAITING_SESSIONS, "cluster" => cluster.clone()),
            wait_duration: histogram!(WAIT_DURATION, "cluster" => cluster.clone()),
            session_duration: histogram!(SESSION_DURATION, "cluster" => cluster.clone()),
            first_byte: histogram!(FIRST_BYTE, "cluster" => cluster),
        }
    }

    /// An attempt that was begun beside another one came to that.
    pub(crate) fn record_hedge(&self, result: &'static str) {
        self.hedged.get(result).into_iter().for_each(|counter| counter.increment(1));
    }

    /// A trial of ours came to that.
    pub(crate) fn record_trial(&self, result: &'static str) {
        self.trials.get(result).into_iter().for_each(|counter| counter.increment(1));
    }

    /// The breaker has come to that state.
    pub(crate) fn record_breaker_transition(&self, to: &'static str) {
        if let Some(counter) = self.breaker_transitions.get(to) {
            counter.increment(1);
        }
    }

    /// Where the breaker is, by its number, and whether health does not count because it leaves nobody.
    pub(crate) fn set_state(&self, breaker: u8, is_in_panic: bool) {
        self.breaker_state.set(f64::from(breaker));
        self.panic.set(if is_in_panic { 1.0 } else { 0.0 });
    }

    /// A session that relayed has ended.
    pub(crate) fn record_session(&self, lasted: Duration, first_byte: Option<Duration>) {
        self.session_duration.record(lasted);
        if let Some(first_byte) = first_byte {
            self.first_byte.record(first_byte);
        }
    }

    /// What the cluster's TLS settings say once and for all.
    pub(crate) fn record_tls_settings(cluster: &ClusterName, is_verified: bool) {
        gauge!(INSECURE, "cluster" => cluster.to_string()).set(if is_verified { 0.0 } else { 1.0 });
    }
}

/// What a credential records.
#[derive(Clone)]
pub(crate) struct CredentialMetrics {
    /// What its files hold now is in use.
    pub replaced: Counter,
    /// What its files hold now cannot be used.
    pub failed: Counter,
}

impl CredentialMetrics {
    /// The handles of one credential.
    #[must_use]
    pub(crate) fn new(kind: &'static str, name: &str) -> Self {
        let reloads = |result: &'static str| counter!(CREDENTIAL_RELOADS, "kind" => kind, "name" => name.to_owned(), "result" => result);
        Self { replaced: reloads("ok"), failed: reloads("failed") }
    }

    /// When what a cluster uses in that role ends, in seconds since 1970.
    pub(crate) fn record_expiry(cluster: &ClusterName, role: &'static str, at: f64) {
        gauge!(CERTIFICATE_EXPIRY, "cluster" => cluster.to_string(), "role" => role).set(at);
    }
}

/// What the search for a cluster's endpoints records.
pub(crate) struct DiscoveryMetrics {
    answers: BTreeMap<&'static str, Counter>,
    failing: Gauge,
    succeeded: Gauge,
}

impl DiscoveryMetrics {
    /// The handles of one cluster, with everything that may become of a question.
    #[must_use]
    pub(crate) fn new(cluster: &ClusterName, results: [&'static str; 3]) -> Self {
        let cluster = cluster.to_string();
        let answer =
            |result: &'static str| counter!(DISCOVERY, "cluster" => cluster.clone(), "result" => result);
        Self {
            answers: results.map(|result| (result, answer(result))).into(),
            failing: gauge!(DISCOVERY_FAILING, "cluster" => cluster.clone()),
            succeeded: gauge!(DISCOVERY_SUCCESS, "cluster" => cluster),
        }
    }

    /// A question came to that.
    pub(crate) fn record_answer(&self, result: &'static str) {
        if let Some(counter) = self.answers.get(result) {
            counter.increment(1);
        }
    }

    /// A good answer came at that time.
    pub(crate) fn record_success(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.succeeded.set(since.as_secs_f64());
    }

    /// So many of what is asked for go without.
    pub(crate) fn set_failing(&self, origins: usize) {
        self.failing.set(u32::try_from(origins).unwrap_or(u32::MAX));
    }
}
