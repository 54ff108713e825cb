//! Every metric: name, help and labels once, handles resolved when an object is made.
//!
//! Label values come from the configuration and from closed enums, never from the text of an error, so the
//! number of series is bounded by the file; units of callers are the exception, and the first hundred are all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
};
use metrics::{gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::caller;
use crate::name::{ClusterName, EndpointName, ListenerName};
use crate::outcome::Outcome;

const ACCEPTED: &str = "ambassador_accepted_total";
const CONNECTIONS: &str = "ambassador_connections_total";
const SESSIONS_ACTIVE: &str = "ambassador_sessions_active";
const SESSION_DURATION: &str = "ambassador_session_duration_seconds";
const SENT_BYTES: &str = "ambassador_sent_bytes_total";
const RECEIVED_BYTES: &str = "ambassador_received_bytes_total";
const CONNECT_ATTEMPTS: &str = "ambassador_connect_attempts_total";
const CONNECT_DURATION: &str = "ambassador_connect_duration_seconds";
const HANDSHAKE_DURATION: &str = "ambassador_handshake_duration_seconds";
const TLS_HANDSHAKES: &str = "ambassador_tls_handshakes_total";
const FIRST_BYTE: &str = "ambassador_first_byte_seconds";
const ENDPOINT_SESSIONS: &str = "ambassador_endpoint_sessions";
const ENDPOINT_HEALTHY: &str = "ambassador_endpoint_healthy";
const HEALTH_CHECKS: &str = "ambassador_health_checks_total";
const CALLER_CONNECTIONS: &str = "ambassador_caller_connections_total";
const CALLER_REFUSED: &str = "ambassador_caller_refused_total";
const CALLER_SESSIONS: &str = "ambassador_caller_sessions";
const PRECONNECTED: &str = "ambassador_preconnected";
const PRECONNECTS: &str = "ambassador_preconnects_total";
const ENDPOINT_EJECTED: &str = "ambassador_endpoint_ejected";
const EJECTIONS: &str = "ambassador_ejections_total";
const BREAKER_STATE: &str = "ambassador_breaker_state";
const BREAKER_TRANSITIONS: &str = "ambassador_breaker_transitions_total";
const RETRY_BUDGET_EXHAUSTED: &str = "ambassador_retry_budget_exhausted_total";
const CLUSTER_PANIC: &str = "ambassador_cluster_panic";
const PENDING_DIALS: &str = "ambassador_pending_dials";
const WAITING_SESSIONS: &str = "ambassador_waiting_sessions";
const WAIT_DURATION: &str = "ambassador_wait_duration_seconds";
const ACCEPT_ERRORS: &str = "ambassador_accept_errors_total";
const CERTIFICATE_EXPIRY: &str = "ambassador_certificate_expiry_timestamp_seconds";
const CREDENTIAL_RELOADS: &str = "ambassador_credential_reloads_total";
const INSECURE: &str = "ambassador_tls_verification_disabled";
const DISCOVERY: &str = "ambassador_discovery_total";
const DISCOVERY_FAILING: &str = "ambassador_discovery_failing";
const DISCOVERY_SUCCESS: &str = "ambassador_discovery_last_success_timestamp_seconds";
const LOST_LINES: &str = "ambassador_log_lines_lost_total";
const CONFIG_RELOADS: &str = "ambassador_config_reloads_total";
const CONFIG_LOADED: &str = "ambassador_config_last_loaded_timestamp_seconds";
const PARTED: &str = "ambassador_drained_sessions_total";
const REPLACEMENTS: &str = "ambassador_replacements_total";
const BUILD_INFO: &str = "ambassador_build_info";

/// From a tenth of a millisecond, a dial on the same host, to the ten seconds of a default deadline.
const DIAL_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a query to a day: database sessions live for hours.
const SESSION_BUCKETS: &[f64] =
    &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0];

/// The process-wide recorder and what is only read from it.
#[derive(Debug, Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the metrics: {0}")]
pub struct MetricsError(String);

impl Exposition {
    /// Installs the process' one recorder, or finds it installed (tests start several daemons).
    ///
    /// # Errors
    /// When some other recorder is in place.
    pub fn install() -> Result<Self, MetricsError> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = match INSTALLED.get() {
            Some(handle) => handle.clone(),
            None => {
                let handle = builder()
                    .and_then(PrometheusBuilder::install_recorder)
                    .map_err(|error| MetricsError(error.to_string()))?;
                INSTALLED.get_or_init(|| handle).clone()
            }
        };
        describe();
        let process = metrics_process::Collector::default();
        process.describe();
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle, process })
    }

    /// Folds the samples that histograms hold into their buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        if let Some(lost) = LOST.get() {
            counter!(LOST_LINES).absolute(lost() as u64);
        }
        self.handle.run_upkeep();
        self.handle.render()
    }
}

type Count = Box<dyn Fn() -> usize + Send + Sync>;
static LOST: OnceLock<Count> = OnceLock::new();

/// Where the count of dropped log lines is read at each scrape; the first one given counts.
pub fn count_lost_lines(count: impl Fn() -> usize + Send + Sync + 'static) {
    LOST.get_or_init(|| Box::new(count));
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(SESSION_DURATION), SESSION_BUCKETS)?
        .set_buckets_for_metric(full(CONNECT_DURATION), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(HANDSHAKE_DURATION), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(FIRST_BYTE), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(WAIT_DURATION), DIAL_BUCKETS)
}

fn describe() {
    describe_counter!(ACCEPTED, "Connections accepted.");
    describe_counter!(CONNECTIONS, "Connections ended, by outcome.");
    describe_gauge!(SESSIONS_ACTIVE, "Sessions between accept and close.");
    describe_histogram!(SESSION_DURATION, Unit::Seconds, "From accept to close, of sessions that relayed.");
    describe_counter!(SENT_BYTES, "Bytes to the upstream, those of live sessions included.");
    describe_counter!(RECEIVED_BYTES, "Bytes from the upstream, those of live sessions included.");
    describe_counter!(CONNECT_ATTEMPTS, "Attempts to reach an endpoint, by result.");
    describe_histogram!(CONNECT_DURATION, Unit::Seconds, "TCP connect of attempts that got that far.");
    describe_histogram!(
        HANDSHAKE_DURATION,
        Unit::Seconds,
        "Upgrade and TLS handshake of attempts that succeeded."
    );
    describe_counter!(
        TLS_HANDSHAKES,
        "TLS handshakes that succeeded: full ones, and ones that resumed a session."
    );
    describe_histogram!(FIRST_BYTE, Unit::Seconds, "From accept to the first byte of the upstream.");
    describe_gauge!(ENDPOINT_SESSIONS, "Live sessions on the endpoint.");
    describe_gauge!(
        ENDPOINT_HEALTHY,
        "0 where health checks say that the endpoint is down, and where it is not probed any more; else 1."
    );
    describe_counter!(HEALTH_CHECKS, "Probes that ended, by result.");
    describe_counter!(CALLER_CONNECTIONS, "Connections whose caller was looked up, by its unit.");
    describe_counter!(CALLER_REFUSED, "Those that were denied, or over a cap of the listener, by unit.");
    describe_gauge!(CALLER_SESSIONS, "Sessions between accept and close, by the caller's unit.");
    describe_gauge!(PRECONNECTED, "Upstream connections that are ready for sessions to come.");
    describe_counter!(
        PRECONNECTS,
        "Sessions that found one ready (hit) or not (miss), and those that were replaced (retired) or ended by the server (died)."
    );
    describe_gauge!(ENDPOINT_EJECTED, "1 while failures of its dials or sessions set the endpoint aside.");
    describe_counter!(EJECTIONS, "Times that the endpoint was set aside, by what it did wrong.");
    describe_gauge!(BREAKER_STATE, "0 closed (sessions pass), 1 half-open, 2 open (sessions are refused).");
    describe_counter!(BREAKER_TRANSITIONS, "Changes of the cluster's breaker, by the new state.");
    describe_counter!(RETRY_BUDGET_EXHAUSTED, "Dials that got no further attempt for want of retry budget.");
    describe_gauge!(
        CLUSTER_PANIC,
        "1 while health checks find every endpoint down and all are used all the same."
    );
    describe_gauge!(PENDING_DIALS, "Dials in flight.");
    describe_gauge!(WAITING_SESSIONS, "Sessions that wait for room in a full cluster.");
    describe_histogram!(WAIT_DURATION, Unit::Seconds, "How long those waited that got room.");
    describe_counter!(ACCEPT_ERRORS, "Connections that could not be accepted, and accepts that had to wait.");
    describe_gauge!(CERTIFICATE_EXPIRY, Unit::Seconds, "When the certificate ends, in seconds since 1970.");
    describe_counter!(
        CREDENTIAL_RELOADS,
        "Credentials whose files changed: replaced while in use, or kept for want of good ones."
    );
    describe_gauge!(INSECURE, "1 where insecure_skip_verify is set.");
    describe_counter!(DISCOVERY, "Questions about a cluster's endpoints, by what became of them.");
    describe_gauge!(
        DISCOVERY_FAILING,
        "Names, records and files of the cluster whose last answer was no good."
    );
    describe_gauge!(
        DISCOVERY_SUCCESS,
        Unit::Seconds,
        "When the last good answer about the cluster's endpoints came, in seconds since 1970."
    );
    describe_counter!(LOST_LINES, "Log lines dropped because nobody read stderr fast enough.");
    describe_counter!(CONFIG_RELOADS, "Reloads of the configuration, by result.");
    describe_gauge!(
        CONFIG_LOADED,
        Unit::Seconds,
        "When the configuration in force was loaded, in seconds since 1970."
    );
    describe_counter!(
        PARTED,
        "Sessions that a drain ended: in a moment of silence, or by force at the end of its time."
    );
    describe_counter!(
        REPLACEMENTS,
        "Replacements of the running process, by result: `ok` counts in the new one."
    );
    describe_gauge!(BUILD_INFO, "1, with the version.");
}

/// The configuration was loaded at that moment, in seconds since 1970; `is_first` at the start.
pub fn config_loaded(at: f64, is_first: bool) {
    gauge!(CONFIG_LOADED).set(at);
    // Both are there from the start, so that an increase can be seen.
    counter!(CONFIG_RELOADS, "result" => "ok").increment(u64::from(!is_first));
    counter!(CONFIG_RELOADS, "result" => "failed").increment(0);
}

/// A drain ended so many sessions while they were quiet, and so many by force.
pub fn parted(quiet: usize, forced: usize) {
    counter!(PARTED, "how" => "quiet").increment(quiet as u64);
    counter!(PARTED, "how" => "forced").increment(forced as u64);
}

/// This process took over from another, or a successor of it did not start.
pub fn replaced(is_ok: bool) {
    counter!(REPLACEMENTS, "result" => if is_ok { "ok" } else { "failed" }).increment(1);
}

/// A reload was refused, and changed nothing.
pub fn config_refused() {
    counter!(CONFIG_RELOADS, "result" => "failed").increment(1);
}

/// What a listener records.
#[derive(Clone)]
pub struct ListenerMetrics {
    /// A connection was accepted.
    pub accepted: Counter,
    /// accept(2) failed.
    pub accept_errors: Counter,
    ended: BTreeMap<Outcome, Counter>,
}

/// What is recorded of the sessions between a listener and a cluster.
#[derive(Clone)]
pub struct DestinationMetrics {
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
    pub fn new(listener: &ListenerName, cluster: &ClusterName) -> Self {
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
    pub fn new(listener: &ListenerName) -> Self {
        let listener = listener.to_string();
        let ended = |outcome: Outcome| counter!(CONNECTIONS, "listener" => listener.clone(), "outcome" => outcome.label());
        Self {
            accepted: counter!(ACCEPTED, "listener" => listener.clone()),
            accept_errors: counter!(ACCEPT_ERRORS, "listener" => listener.clone()),
            ended: Outcome::ALL.into_iter().map(|outcome| (outcome, ended(outcome))).collect(),
        }
    }

    /// A connection ended so.
    pub fn ended(&self, outcome: Outcome) {
        if let Some(counter) = self.ended.get(&outcome) {
            counter.increment(1);
        }
    }
}

/// What is recorded of callers, by their unit. There are no more series than `UNITS_MAX` and three: what users run by
/// themselves is one (they may make as many units as they like), callers without a unit and strangers are one, and the
/// units that come after the first are one.
#[derive(Default)]
pub struct CallerMetrics(Mutex<BTreeMap<String, Arc<CallerSeries>>>);

/// Units that have series of their own.
const UNITS_MAX: usize = 100;

/// What is recorded of one unit's callers.
pub struct CallerSeries {
    connections: Counter,
    refused: Counter,
    sessions: Gauge,
}

impl CallerMetrics {
    /// The series of a unit.
    #[must_use]
    pub fn of(&self, unit: Option<&caller::Unit>) -> Arc<CallerSeries> {
        let label = match unit {
            None => "none",
            Some(unit) if unit.is_session() => "users",
            Some(unit) => unit.as_str(),
        };
        let mut series = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let label = if series.contains_key(label) || series.len() < UNITS_MAX { label } else { "other" };
        match series.get(label) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(
                series.entry(label.to_owned()).or_insert_with(|| Arc::new(CallerSeries::new(label))),
            ),
        }
    }
}

impl CallerSeries {
    fn new(unit: &str) -> Self {
        let unit = unit.to_owned();
        Self {
            connections: counter!(CALLER_CONNECTIONS, "unit" => unit.clone()),
            refused: counter!(CALLER_REFUSED, "unit" => unit.clone()),
            sessions: gauge!(CALLER_SESSIONS, "unit" => unit),
        }
    }

    /// A connection of the unit was looked up.
    pub fn began(&self) {
        self.connections.increment(1);
        self.sessions.increment(1);
    }

    /// It was turned away.
    pub fn refused(&self) {
        self.refused.increment(1);
    }

    /// It ended.
    pub fn ended(&self) {
        self.sessions.decrement(1);
    }
}

/// What a cluster records.
#[derive(Clone)]
pub struct ClusterMetrics {
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
    /// 1 while health does not count, because it leaves nobody.
    pub panic: Gauge,
    /// A dial got no further attempt for want of retry budget.
    pub retry_budget_exhausted: Counter,
    breaker_state: Gauge,
    breaker_transitions: BTreeMap<&'static str, Counter>,
    session_duration: Histogram,
    first_byte: Histogram,
}

impl ClusterMetrics {
    /// The handles of one cluster, with every state that its breaker may have.
    #[must_use]
    pub fn new(cluster: &ClusterName, breaker: &[&'static str]) -> Self {
        let cluster = cluster.to_string();
        let preconnects =
            |result: &'static str| counter!(PRECONNECTS, "cluster" => cluster.clone(), "result" => result);
        let transitions =
            |to: &'static str| counter!(BREAKER_TRANSITIONS, "cluster" => cluster.clone(), "to" => to);
        Self {
            preconnected: gauge!(PRECONNECTED, "cluster" => cluster.clone()),
            preconnect_hits: preconnects("hit"),
            preconnect_misses: preconnects("miss"),
            preconnects_retired: preconnects("retired"),
            preconnects_died: preconnects("died"),
            panic: gauge!(CLUSTER_PANIC, "cluster" => cluster.clone()),
            retry_budget_exhausted: counter!(RETRY_BUDGET_EXHAUSTED, "cluster" => cluster.clone()),
            breaker_state: gauge!(BREAKER_STATE, "cluster" => cluster.clone()),
            breaker_transitions: breaker.iter().map(|to| (*to, transitions(to))).collect(),
            pending_dials: gauge!(PENDING_DIALS, "cluster" => cluster.clone()),
            waiting: gauge!(WAITING_SESSIONS, "cluster" => cluster.clone()),
            wait_duration: histogram!(WAIT_DURATION, "cluster" => cluster.clone()),
            session_duration: histogram!(SESSION_DURATION, "cluster" => cluster.clone()),
            first_byte: histogram!(FIRST_BYTE, "cluster" => cluster),
        }
    }

    /// The breaker has come to that state, `number` in the gauge.
    pub fn breaker_turned(&self, to: &'static str, number: u8) {
        self.breaker_state.set(f64::from(number));
        if let Some(counter) = self.breaker_transitions.get(to) {
            counter.increment(1);
        }
    }

    /// A session that relayed has ended.
    pub fn session_ended(&self, lasted: Duration, first_byte: Option<Duration>) {
        self.session_duration.record(lasted);
        if let Some(first_byte) = first_byte {
            self.first_byte.record(first_byte);
        }
    }

    /// What the cluster's TLS settings say once and for all.
    pub fn tls(cluster: &ClusterName, is_verified: bool) {
        gauge!(INSECURE, "cluster" => cluster.to_string()).set(if is_verified { 0.0 } else { 1.0 });
    }
}

/// What a credential records.
#[derive(Clone)]
pub struct CredentialMetrics {
    /// What its files hold now is in use.
    pub replaced: Counter,
    /// What its files hold now cannot be used.
    pub failed: Counter,
}

impl CredentialMetrics {
    /// The handles of one credential.
    #[must_use]
    pub fn new(kind: &'static str, name: &str) -> Self {
        let reloads = |result: &'static str| counter!(CREDENTIAL_RELOADS, "kind" => kind, "name" => name.to_owned(), "result" => result);
        Self { replaced: reloads("ok"), failed: reloads("failed") }
    }

    /// When what a cluster uses in that role ends, in seconds since 1970.
    pub fn ends(cluster: &ClusterName, role: &'static str, at: f64) {
        gauge!(CERTIFICATE_EXPIRY, "cluster" => cluster.to_string(), "role" => role).set(at);
    }
}

/// What the search for a cluster's endpoints records.
pub struct DiscoveryMetrics {
    answers: BTreeMap<&'static str, Counter>,
    failing: Gauge,
    succeeded: Gauge,
}

impl DiscoveryMetrics {
    /// The handles of one cluster, with everything that may become of a question.
    #[must_use]
    pub fn new(cluster: &ClusterName, results: [&'static str; 3]) -> Self {
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
    pub fn answered(&self, result: &'static str) {
        if let Some(counter) = self.answers.get(result) {
            counter.increment(1);
        }
    }

    /// A good answer came at that time.
    pub fn succeeded(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.succeeded.set(since.as_secs_f64());
    }

    /// So many of what is asked for go without.
    pub fn failing(&self, origins: usize) {
        self.failing.set(u32::try_from(origins).unwrap_or(u32::MAX));
    }
}

/// What an endpoint records.
#[derive(Clone)]
pub struct EndpointMetrics {
    /// Live sessions.
    pub sessions: Gauge,
    /// TCP connect.
    pub connect_duration: Histogram,
    /// 1 while it is set aside.
    pub ejected: Gauge,
    ejections: BTreeMap<&'static str, Counter>,
    handshake_duration: Histogram,
    full_handshakes: Counter,
    resumed_handshakes: Counter,
    attempts: BTreeMap<&'static str, Counter>,
}

impl EndpointMetrics {
    /// The handles of one endpoint, with every result an attempt may have and every fault of an endpoint.
    #[must_use]
    pub fn new(
        cluster: &ClusterName,
        endpoint: &EndpointName,
        results: &[&'static str],
        faults: &[&'static str],
    ) -> Self {
        let (cluster, endpoint) = (cluster.to_string(), endpoint.to_string());
        let attempt = |result: &'static str| {
            counter!(CONNECT_ATTEMPTS,
                "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "result" => result)
        };
        let ejection = |fault: &'static str| counter!(EJECTIONS, "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "fault" => fault);
        let handshakes = |kind: &'static str| counter!(TLS_HANDSHAKES, "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "kind" => kind);
        let of = |name: &'static str| histogram!(name, "cluster" => cluster.clone(), "endpoint" => endpoint.clone());
        Self {
            sessions: gauge!(ENDPOINT_SESSIONS, "cluster" => cluster.clone(), "endpoint" => endpoint.clone()),
            connect_duration: of(CONNECT_DURATION),
            ejected: gauge!(ENDPOINT_EJECTED, "cluster" => cluster.clone(), "endpoint" => endpoint.clone()),
            ejections: faults.iter().map(|fault| (*fault, ejection(fault))).collect(),
            handshake_duration: of(HANDSHAKE_DURATION),
            full_handshakes: handshakes("full"),
            resumed_handshakes: handshakes("resumed"),
            attempts: results.iter().map(|result| (*result, attempt(result))).collect(),
        }
    }

    /// TLS is established; the time is that of upgrade and handshake.
    pub fn secured(&self, took: Duration, resumed: bool) {
        self.handshake_duration.record(took);
        if resumed { &self.resumed_handshakes } else { &self.full_handshakes }.increment(1);
    }

    /// It was set aside for that; `is_news`: it had not been before.
    pub fn ejected(&self, fault: &'static str, is_news: bool) {
        if is_news {
            self.ejected.increment(1);
        }
        if let Some(counter) = self.ejections.get(fault) {
            counter.increment(1);
        }
    }

    /// An attempt ended so.
    pub fn attempted(&self, result: &'static str) {
        if let Some(counter) = self.attempts.get(result) {
            counter.increment(1);
        }
    }
}

/// What the health checks of an endpoint record.
#[derive(Clone)]
pub struct CheckMetrics {
    healthy: Gauge,
    results: BTreeMap<&'static str, Counter>,
}

impl CheckMetrics {
    /// The handles of one endpoint, with every result that a probe may have.
    #[must_use]
    pub fn new(
        cluster: &ClusterName,
        endpoint: &EndpointName,
        results: impl Iterator<Item = &'static str>,
    ) -> Self {
        let (cluster, endpoint) = (cluster.to_string(), endpoint.to_string());
        let healthy = gauge!(ENDPOINT_HEALTHY, "cluster" => cluster.clone(), "endpoint" => endpoint.clone());
        healthy.set(1.0);
        let counter = |result: &'static str| {
            counter!(HEALTH_CHECKS,
                "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "result" => result)
        };
        Self { healthy, results: results.map(|result| (result, counter(result))).collect() }
    }

    /// A probe ended so, and it leaves the endpoint usable or not.
    pub fn checked(&self, result: &'static str, is_usable: bool) {
        self.healthy.set(if is_usable { 1.0 } else { 0.0 });
        if let Some(counter) = self.results.get(result) {
            counter.increment(1);
        }
    }

    /// It is not probed any more.
    pub fn gone(&self) {
        self.healthy.set(0.0);
    }
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(
    CallerMetrics,
    CallerSeries,
    ListenerMetrics,
    DestinationMetrics,
    ClusterMetrics,
    CredentialMetrics,
    DiscoveryMetrics,
    EndpointMetrics,
    CheckMetrics
);
