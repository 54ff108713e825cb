//! The metrics of a cluster: its sessions and dials, its credentials, its discovery.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::names::{
    BREAKER_STATE, BREAKER_TRANSITIONS, CERTIFICATE_EXPIRY, CLUSTER_PANIC, CREDENTIAL_RELOADS, DISCOVERY,
    DISCOVERY_FAILING, DISCOVERY_KEPT, DISCOVERY_SUCCESS, DialBounds, FIRST_BYTE, HEDGED_DIALS, INSECURE,
    LOGIN_EXPIRY, LOGIN_FETCHES, LOGIN_SUCCESS, LOGINS, PENDING_DIALS, PRECONNECTED, PRECONNECTS,
    RETRY_BUDGET_EXHAUSTED, SESSION_DURATION, SessionBounds, TRIALS, UNCLEAN_TLS_ENDS, WAIT_DURATION,
    WAITING_SESSIONS,
};
use super::registry::{ReadPurpose, Registry};
use super::text::{Text, labels};
use super::values::{Counter, Gauge, Histogram, Tally, Timestamp};
use crate::name::ClusterName;
use crate::sync::Mutex;

static CLUSTERS: Registry<ClusterMetrics> = Registry::new();
static CREDENTIALS: Registry<CredentialMetrics> = Registry::new();
static CERTIFICATES: Registry<Timestamp> = Registry::new();
static LOGIN_SOURCES: Registry<LoginMetrics> = Registry::new();
static LOGIN_ENDS: Registry<Timestamp> = Registry::new();
static DISCOVERIES: Registry<DiscoveryMetrics> = Registry::new();

#[derive(Default)]
pub(crate) struct ClusterMetrics {
    pub pending_dials: Gauge,
    /// Sessions that wait for room.
    pub waiting: Gauge,
    /// How long sessions waited that got room.
    pub wait_duration: Histogram<DialBounds>,
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
    hedged: Tally,
    trials: Tally,
    logins: Tally,
    /// Sessions whose server ended TLS without close_notify.
    pub unclean_tls_ends: Counter,
    panic: Gauge,
    breaker_state: Gauge,
    breaker_transitions: Tally,
    is_unverified: Gauge,
    session_duration: Histogram<SessionBounds>,
    first_byte: Histogram<DialBounds>,
}

/// The label of a cluster.
pub(super) fn label_of(cluster: &ClusterName) -> String {
    labels([("cluster", cluster.as_str())])
}

impl ClusterMetrics {
    /// Those of one cluster; of one that there is already, the same.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName) -> Arc<Self> {
        CLUSTERS.of(&label_of(cluster))
    }

    /// Records the result of a hedged attempt.
    pub(crate) fn record_hedge(&self, result: &'static str) {
        self.hedged.increment(result);
    }

    /// Records the result of a trial.
    pub(crate) fn record_trial(&self, result: &'static str) {
        self.trials.increment(result);
    }

    /// Records a login in the place of a client.
    pub(crate) fn record_login(&self, result: &'static str) {
        self.logins.increment(result);
    }

    /// Records a breaker's change to that state.
    pub(crate) fn record_breaker_transition(&self, to: &'static str) {
        self.breaker_transitions.increment(to);
    }

    /// Sets the breaker's state, by its number, and whether health is ignored because all endpoints are
    /// down.
    pub(crate) fn set_state(&self, breaker: u8, is_in_panic: bool) {
        self.breaker_state.set(breaker.into());
        self.panic.set(is_in_panic.into());
    }

    /// Records the end of a session that relayed.
    pub(crate) fn record_session(&self, lasted: Duration, first_byte: Option<Duration>) {
        self.session_duration.record(lasted);
        if let Some(first_byte) = first_byte {
            self.first_byte.record(first_byte);
        }
    }

    /// Records what the TLS settings determine.
    pub(crate) fn record_tls_settings(&self, is_verified: bool) {
        self.is_unverified.set((!is_verified).into());
    }
}

#[derive(Default)]
pub(crate) struct CredentialMetrics {
    /// The content of its files was replaced, and is in use.
    pub replaced: Counter,
    /// The content of its files cannot be used.
    pub failed: Counter,
}

impl CredentialMetrics {
    /// Those of one credential.
    #[must_use]
    pub(crate) fn of(kind: &'static str, name: &str) -> Arc<Self> {
        CREDENTIALS.of(&labels([("kind", kind), ("name", name)]))
    }

    /// When the cluster's credentials of that role expire.
    #[must_use]
    pub(crate) fn expiry(cluster: &ClusterName, role: &'static str) -> Arc<Timestamp> {
        CERTIFICATES.of(&labels([("cluster", cluster.as_str()), ("role", role)]))
    }
}

/// The metrics of a credential for signing in.
#[derive(Default)]
pub(crate) struct LoginMetrics {
    fetched: Counter,
    succeeded: Timestamp,
    /// Its source gave none, or none that can be used.
    pub failed: Counter,
    /// Of the user whose credential was fetched last.
    expiry: Mutex<Option<Arc<Timestamp>>>,
}

impl LoginMetrics {
    /// Those of one source of a cluster's logins.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName, source: &'static str) -> Arc<Self> {
        LOGIN_SOURCES.of(&labels([("cluster", cluster.as_str()), ("source", source)]))
    }

    /// Records that the source gave a credential at that time, of that user, and when it ends. Only sources whose user is in the
    /// file say the latter, so that users are as few as there.
    pub(crate) fn record_fetched(
        &self,
        cluster: &ClusterName,
        source: &'static str,
        at: SystemTime,
        user: &str,
        expires: Option<SystemTime>,
    ) {
        self.fetched.increment(1);
        self.succeeded.set(at);
        if let Some(end) = expires {
            let its =
                LOGIN_ENDS.of(&labels([("cluster", cluster.as_str()), ("source", source), ("user", user)]));
            its.set(end);
            *self.expiry.lock() = Some(its);
        }
    }
}

#[derive(Default)]
pub(crate) struct DiscoveryMetrics {
    answers: Tally,
    failing: Gauge,
    succeeded: Timestamp,
    kept: Timestamp,
}

impl DiscoveryMetrics {
    /// Those of one cluster's discovery.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName) -> Arc<Self> {
        DISCOVERIES.of(&label_of(cluster))
    }

    /// Records the result of a query.
    pub(crate) fn record_answer(&self, result: &'static str) {
        self.answers.increment(result);
    }

    /// Records the time of a successful answer.
    pub(crate) fn record_success(&self, at: SystemTime) {
        self.succeeded.set(at);
    }

    /// Sets when the endpoints in use were written to disk, if they come from there.
    pub(crate) fn set_kept(&self, written: Option<SystemTime>) {
        match written {
            Some(written) => self.kept.set(written),
            None => self.kept.unset(),
        }
    }

    /// Sets how many of the cluster's sources have no answer.
    pub(crate) fn set_failing(&self, origins: usize) {
        self.failing.set(origins);
    }
}

/// Writes those of all clusters; returns the clusters' labels.
pub(super) fn write(text: &mut Text<'_>, purpose: ReadPurpose) -> BTreeSet<Arc<str>> {
    let all = CLUSTERS.read(purpose);
    text.family(&SESSION_DURATION, &all, |its, series| series.histogram(&its.session_duration));
    text.family(&FIRST_BYTE, &all, |its, series| series.histogram(&its.first_byte));
    text.family(&PRECONNECTED, &all, |its, series| series.gauge(&its.preconnected));
    text.family(&PRECONNECTS, &all, |its, series| {
        let (hits, misses) = (its.preconnect_hits.get(), its.preconnect_misses.get());
        let (retired, died) = (its.preconnects_retired.get(), its.preconnects_died.get());
        let results = [("hit", hits), ("miss", misses), ("retired", retired), ("died", died)];
        series.counts("result", results, false);
    });
    text.family(&BREAKER_STATE, &all, |its, series| series.gauge(&its.breaker_state));
    text.family(&BREAKER_TRANSITIONS, &all, |its, series| series.tally("to", &its.breaker_transitions));
    text.family(&RETRY_BUDGET_EXHAUSTED, &all, |its, series| series.counter(&its.retry_budget_exhausted));
    text.family(&HEDGED_DIALS, &all, |its, series| series.tally("result", &its.hedged));
    text.family(&TRIALS, &all, |its, series| series.tally("result", &its.trials));
    text.family(&UNCLEAN_TLS_ENDS, &all, |its, series| series.counter(&its.unclean_tls_ends));
    text.family(&CLUSTER_PANIC, &all, |its, series| series.gauge(&its.panic));
    text.family(&PENDING_DIALS, &all, |its, series| series.gauge(&its.pending_dials));
    text.family(&WAITING_SESSIONS, &all, |its, series| series.gauge(&its.waiting));
    text.family(&WAIT_DURATION, &all, |its, series| series.histogram(&its.wait_duration));
    text.family(&LOGINS, &all, |its, series| series.tally("result", &its.logins));
    text.family(&INSECURE, &all, |its, series| series.gauge(&its.is_unverified));
    write_credentials(text, purpose);
    let discoveries = DISCOVERIES.read(purpose);
    text.family(&DISCOVERY, &discoveries, |its, series| series.tally("result", &its.answers));
    text.family(&DISCOVERY_FAILING, &discoveries, |its, series| series.gauge(&its.failing));
    text.family(&DISCOVERY_SUCCESS, &discoveries, |its, series| series.timestamp(&its.succeeded));
    text.family(&DISCOVERY_KEPT, &discoveries, |its, series| series.timestamp(&its.kept));
    all.into_iter().map(|(labels, _)| labels).collect()
}

fn write_credentials(text: &mut Text<'_>, purpose: ReadPurpose) {
    text.family(&CERTIFICATE_EXPIRY, &CERTIFICATES.read(purpose), |end, series| series.timestamp(end));
    text.family(&CREDENTIAL_RELOADS, &CREDENTIALS.read(purpose), |its, series| {
        series.counts("result", [("ok", its.replaced.get()), ("failed", its.failed.get())], false);
    });
    text.family(&LOGIN_EXPIRY, &LOGIN_ENDS.read(purpose), |end, series| series.timestamp(end));
    let sources = LOGIN_SOURCES.read(purpose);
    text.family(&LOGIN_SUCCESS, &sources, |its, series| series.timestamp(&its.succeeded));
    text.family(&LOGIN_FETCHES, &sources, |its, series| {
        series.counts("result", [("ok", its.fetched.get()), ("failed", its.failed.get())], false);
    });
}

/// Drops what nobody asks for.
pub(super) fn upkeep() {
    CLUSTERS.upkeep();
    CREDENTIALS.upkeep();
    CERTIFICATES.upkeep();
    LOGIN_SOURCES.upkeep();
    LOGIN_ENDS.upkeep();
    DISCOVERIES.upkeep();
}
