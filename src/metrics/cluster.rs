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
use super::registry::{Dropped, Family, ReadPurpose, Registry};
use super::text::{Text, labels};
use super::values::{Counter, Gauge, Histogram, Tally, Timestamp};
use crate::name::ClusterName;

static CLUSTERS: Registry<ClusterMetrics> = Registry::new(FAMILIES);
static CREDENTIALS: Registry<CredentialMetrics> = Registry::new(FAMILIES_OF_CREDENTIALS);
static CERTIFICATES: Registry<Timestamp> = Registry::new(FAMILIES_OF_CERTIFICATES);
static LOGIN_SOURCES: Registry<LoginMetrics> = Registry::new(FAMILIES_OF_LOGIN_SOURCES);
static LOGIN_ENDS: Registry<Timestamp> = Registry::new(FAMILIES_OF_LOGIN_ENDS);
static DISCOVERIES: Registry<DiscoveryMetrics> = Registry::new(FAMILIES_OF_DISCOVERIES);

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
}

impl LoginMetrics {
    /// Those of one source of a cluster's logins.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName, source: &'static str) -> Arc<Self> {
        LOGIN_SOURCES.of(&labels([("cluster", cluster.as_str()), ("source", source)]))
    }

    /// Records that the source gave a credential at that time.
    pub(crate) fn record_fetched(&self, at: SystemTime) {
        self.fetched.increment(1);
        self.succeeded.set(at);
    }

    /// When that user's credential ends, for as long as this is held: several users may have one source each. Only sources whose user
    /// is in the file say when it ends, so that users are as few as there.
    #[must_use]
    pub(crate) fn expiry(cluster: &ClusterName, source: &'static str, user: &str) -> Arc<Timestamp> {
        LOGIN_ENDS.of(&labels([("cluster", cluster.as_str()), ("source", source), ("user", user)]))
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

const FAMILIES: &[Family<ClusterMetrics>] = &[
    (&SESSION_DURATION, |its, series| series.histogram(&its.session_duration)),
    (&FIRST_BYTE, |its, series| series.histogram(&its.first_byte)),
    (&PRECONNECTED, |its, series| series.gauge(&its.preconnected)),
    (&PRECONNECTS, |its, series| {
        let (hits, misses) = (its.preconnect_hits.get(), its.preconnect_misses.get());
        let (retired, died) = (its.preconnects_retired.get(), its.preconnects_died.get());
        let results = [("hit", hits), ("miss", misses), ("retired", retired), ("died", died)];
        series.counts("result", results, false);
    }),
    (&BREAKER_STATE, |its, series| series.gauge(&its.breaker_state)),
    (&BREAKER_TRANSITIONS, |its, series| series.tally("to", &its.breaker_transitions)),
    (&RETRY_BUDGET_EXHAUSTED, |its, series| series.counter(&its.retry_budget_exhausted)),
    (&HEDGED_DIALS, |its, series| series.tally("result", &its.hedged)),
    (&TRIALS, |its, series| series.tally("result", &its.trials)),
    (&UNCLEAN_TLS_ENDS, |its, series| series.counter(&its.unclean_tls_ends)),
    (&CLUSTER_PANIC, |its, series| series.gauge(&its.panic)),
    (&PENDING_DIALS, |its, series| series.gauge(&its.pending_dials)),
    (&WAITING_SESSIONS, |its, series| series.gauge(&its.waiting)),
    (&WAIT_DURATION, |its, series| series.histogram(&its.wait_duration)),
    (&LOGINS, |its, series| series.tally("result", &its.logins)),
    (&INSECURE, |its, series| series.gauge(&its.is_unverified)),
];

const FAMILIES_OF_CREDENTIALS: &[Family<CredentialMetrics>] = &[(&CREDENTIAL_RELOADS, |its, series| {
    series.counts("result", [("ok", its.replaced.get()), ("failed", its.failed.get())], false);
})];

const FAMILIES_OF_CERTIFICATES: &[Family<Timestamp>] =
    &[(&CERTIFICATE_EXPIRY, |end, series| series.timestamp(end))];

const FAMILIES_OF_LOGIN_SOURCES: &[Family<LoginMetrics>] = &[
    (&LOGIN_SUCCESS, |its, series| series.timestamp(&its.succeeded)),
    (&LOGIN_FETCHES, |its, series| {
        series.counts("result", [("ok", its.fetched.get()), ("failed", its.failed.get())], false);
    }),
];

const FAMILIES_OF_LOGIN_ENDS: &[Family<Timestamp>] = &[(&LOGIN_EXPIRY, |end, series| series.timestamp(end))];

const FAMILIES_OF_DISCOVERIES: &[Family<DiscoveryMetrics>] = &[
    (&DISCOVERY, |its, series| series.tally("result", &its.answers)),
    (&DISCOVERY_FAILING, |its, series| series.gauge(&its.failing)),
    (&DISCOVERY_SUCCESS, |its, series| series.timestamp(&its.succeeded)),
    (&DISCOVERY_KEPT, |its, series| series.timestamp(&its.kept)),
];

/// Writes those of all clusters; returns the clusters' labels.
pub(super) fn write(text: &mut Text<'_>, purpose: ReadPurpose) -> BTreeSet<Arc<str>> {
    let all = CLUSTERS.read(purpose);
    CLUSTERS.write(text, &all);
    CERTIFICATES.write(text, &CERTIFICATES.read(purpose));
    CREDENTIALS.write(text, &CREDENTIALS.read(purpose));
    LOGIN_ENDS.write(text, &LOGIN_ENDS.read(purpose));
    LOGIN_SOURCES.write(text, &LOGIN_SOURCES.read(purpose));
    DISCOVERIES.write(text, &DISCOVERIES.read(purpose));
    all.into_iter().map(|(labels, _)| labels).collect()
}

/// Drops what nobody asks for.
pub(super) fn upkeep(dropped: &mut Vec<Dropped>) {
    CLUSTERS.upkeep(dropped);
    CREDENTIALS.upkeep(dropped);
    CERTIFICATES.upkeep(dropped);
    LOGIN_SOURCES.upkeep(dropped);
    LOGIN_ENDS.upkeep(dropped);
    DISCOVERIES.upkeep(dropped);
}
