//! The metrics of a cluster: its sessions and dials, its credentials, its discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::label_guard::LabelGuard;
use super::names::{
    BREAKER_STATE, BREAKER_TRANSITIONS, CERTIFICATE_EXPIRY, CLUSTER_PANIC, CREDENTIAL_RELOADS, DISCOVERY,
    DISCOVERY_FAILING, DISCOVERY_SUCCESS, FIRST_BYTE, HEDGED_DIALS, INSECURE, LOGIN_EXPIRY, LOGIN_FETCHES,
    LOGIN_SUCCESS, LOGINS, PENDING_DIALS, PRECONNECTED, PRECONNECTS, RETRY_BUDGET_EXHAUSTED,
    SESSION_DURATION, TRIALS, UNCLEAN_TLS_ENDS, WAIT_DURATION, WAITING_SESSIONS,
};
use crate::name::ClusterName;

#[derive(Clone)]
pub(crate) struct ClusterMetrics {
    _guard: Arc<LabelGuard>,
    pub pending_dials: Gauge,
    /// Sessions that wait for room.
    pub waiting: Gauge,
    /// How long sessions waited that got room.
    pub wait_duration: Histogram,
    /// Upstream connections that are ready.
    pub preconnected: Gauge,
    /// Sessions that got one.
    pub preconnect_hits: Counter,
    /// Sessions that did not.
    pub preconnect_misses: Counter,
    /// Connections that were closed because they were no longer needed.
    pub preconnects_retired: Counter,
    /// Connections that the server ended.
    pub preconnects_died: Counter,
    /// Dials that got no further attempt because the retry budget was exhausted.
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
    /// The handles of one cluster; `breaker`: every state that its breaker may have.
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
            _guard: LabelGuard::of("cluster", &cluster),
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

    /// Records the result of a hedged attempt.
    pub(crate) fn record_hedge(&self, result: &'static str) {
        self.hedged.get(result).into_iter().for_each(|counter| counter.increment(1));
    }

    /// Records the result of a trial.
    pub(crate) fn record_trial(&self, result: &'static str) {
        self.trials.get(result).into_iter().for_each(|counter| counter.increment(1));
    }

    /// Records a breaker's change to that state.
    pub(crate) fn record_breaker_transition(&self, to: &'static str) {
        if let Some(counter) = self.breaker_transitions.get(to) {
            counter.increment(1);
        }
    }

    /// Sets the breaker's state, by its number, and whether health is ignored because all endpoints are
    /// down.
    pub(crate) fn set_state(&self, breaker: u8, is_in_panic: bool) {
        self.breaker_state.set(f64::from(breaker));
        self.panic.set(if is_in_panic { 1.0 } else { 0.0 });
    }

    /// Records the end of a session that relayed.
    pub(crate) fn record_session(&self, lasted: Duration, first_byte: Option<Duration>) {
        self.session_duration.record(lasted);
        if let Some(first_byte) = first_byte {
            self.first_byte.record(first_byte);
        }
    }

    /// Records a login in the place of a client.
    pub(crate) fn record_login(cluster: &ClusterName, result: &'static str) {
        counter!(LOGINS, "cluster" => cluster.to_string(), "result" => result).increment(1);
    }

    /// Records what the TLS settings determine.
    pub(crate) fn record_tls_settings(cluster: &ClusterName, is_verified: bool) {
        gauge!(INSECURE, "cluster" => cluster.to_string()).set(if is_verified { 0.0 } else { 1.0 });
    }
}

#[derive(Clone)]
pub(crate) struct CredentialMetrics {
    /// The content of its files was replaced, and is in use.
    pub replaced: Counter,
    /// The content of its files cannot be used.
    pub failed: Counter,
}

impl CredentialMetrics {
    #[must_use]
    pub(crate) fn new(kind: &'static str, name: &str) -> Self {
        let reloads = |result: &'static str| counter!(CREDENTIAL_RELOADS, "kind" => kind, "name" => name.to_owned(), "result" => result);
        Self { replaced: reloads("ok"), failed: reloads("failed") }
    }

    /// Records when the cluster's credentials of that role expire, in seconds since 1970.
    pub(crate) fn record_expiry(cluster: &ClusterName, role: &'static str, at: f64) {
        gauge!(CERTIFICATE_EXPIRY, "cluster" => cluster.to_string(), "role" => role).set(at);
    }
}

/// The metrics of a credential for signing in.
pub(crate) struct LoginMetrics {
    cluster: ClusterName,
    source: &'static str,
    fetched: Counter,
    succeeded: Gauge,
    /// Its source gave none, or none that can be used.
    pub failed: Counter,
}

impl LoginMetrics {
    #[must_use]
    pub(crate) fn new(cluster: &ClusterName, source: &'static str) -> Self {
        let fetches = |result: &'static str| counter!(LOGIN_FETCHES, "cluster" => cluster.to_string(), "source" => source, "result" => result);
        Self {
            cluster: cluster.clone(),
            source,
            fetched: fetches("ok"),
            succeeded: gauge!(LOGIN_SUCCESS, "cluster" => cluster.to_string(), "source" => source),
            failed: fetches("failed"),
        }
    }

    /// Records that the source gave a credential at that time, of that user, and when it ends. Only sources whose user is in the
    /// file say the latter, so that users are as few as there.
    pub(crate) fn record_fetched(&self, at: SystemTime, user: &str, expires: Option<SystemTime>) {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.fetched.increment(1);
        self.succeeded.set(since(at).as_secs_f64());
        if let Some(end) = expires {
            let (cluster, user) = (self.cluster.to_string(), user.to_owned());
            gauge!(LOGIN_EXPIRY, "cluster" => cluster, "source" => self.source, "user" => user)
                .set(since(end).as_secs_f64());
        }
    }
}

pub(crate) struct DiscoveryMetrics {
    answers: BTreeMap<&'static str, Counter>,
    failing: Gauge,
    succeeded: Gauge,
}

impl DiscoveryMetrics {
    /// The handles of one cluster; `results`: every result that a query may have.
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

    /// Records the result of a query.
    pub(crate) fn record_answer(&self, result: &'static str) {
        if let Some(counter) = self.answers.get(result) {
            counter.increment(1);
        }
    }

    /// Records the time of a successful answer.
    pub(crate) fn record_success(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.succeeded.set(since.as_secs_f64());
    }

    /// Sets how many of the cluster's sources have no answer.
    pub(crate) fn set_failing(&self, origins: usize) {
        self.failing.set(u32::try_from(origins).unwrap_or(u32::MAX));
    }
}
