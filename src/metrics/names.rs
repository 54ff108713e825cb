//! Every metric, one row each: its name, its kind, its help and its buckets. All else is derived from the table.

use super::values::Bounds;

/// The prefix of all names, except those of the process (`process_*`).
pub(super) const PREFIX: &str = "ambassador_";

/// A row of the table.
pub(super) struct Metric {
    pub(super) name: &'static str,
    kind: Kind,
    pub(super) help: &'static str,
}

enum Kind {
    Counter,
    Gauge,
    /// A gauge that is added up over processes while they live.
    LiveGauge,
    /// A gauge in seconds since 1970.
    Timestamp,
    /// Of seconds, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}
use Kind::{Counter, Gauge, Histogram, LiveGauge, Timestamp};

/// From a tenth of a millisecond, for a dial on the same host, to ten seconds, the default deadline.
#[derive(Debug, Default)]
pub(crate) struct DialBounds;
impl Bounds for DialBounds {
    const BOUNDS: &'static [f64] = &[
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        10.0,
    ];
}
/// From a query to a day: database sessions live for hours.
#[derive(Debug, Default)]
pub(crate) struct SessionBounds;
impl Bounds for SessionBounds {
    const BOUNDS: &'static [f64] =
        &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0];
}

/// Makes a static of each row, and [`METRICS`] of all.
macro_rules! metrics {
    ($($constant:ident: $name:literal, $kind:expr, $help:literal;)*) => {
        $(pub(super) static $constant: Metric = Metric { name: $name, kind: $kind, help: $help };)*

        const METRICS: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    ACCEPTED: "ambassador_accepted_total", Counter, "Connections accepted.";
    CONNECTIONS: "ambassador_connections_total", Counter, "Connections ended, by outcome.";
    SESSIONS_ACTIVE: "ambassador_sessions_active", LiveGauge, "Sessions between accept and close.";
    SESSION_DURATION: "ambassador_session_duration_seconds", Histogram(SessionBounds::BOUNDS),
        "From accept to close, of sessions that relayed.";
    SENT_BYTES: "ambassador_sent_bytes_total", Counter, "Bytes to the upstream, those of live sessions included.";
    RECEIVED_BYTES: "ambassador_received_bytes_total", Counter,
        "Bytes from the upstream, those of live sessions included.";
    CONNECT_ATTEMPTS: "ambassador_connect_attempts_total", Counter, "Attempts to reach an endpoint, by result.";
    CONNECT_DURATION: "ambassador_connect_duration_seconds", Histogram(DialBounds::BOUNDS),
        "TCP connect of attempts that got that far.";
    HANDSHAKE_DURATION: "ambassador_handshake_duration_seconds", Histogram(DialBounds::BOUNDS),
        "Upgrade and TLS handshake of attempts that succeeded.";
    TLS_HANDSHAKES: "ambassador_tls_handshakes_total", Counter,
        "TLS handshakes that succeeded: full ones, and ones that resumed a session.";
    RESUMPTION_REFUSED: "ambassador_tls_resumption_refused_total", Counter,
        "Handshakes that the server ended because they offered to resume a session.";
    FIRST_BYTE: "ambassador_first_byte_seconds", Histogram(DialBounds::BOUNDS),
        "From accept to the first byte of the upstream.";
    ENDPOINT_SESSIONS: "ambassador_endpoint_sessions", LiveGauge, "Live sessions on the endpoint.";
    ENDPOINT_HEALTHY: "ambassador_endpoint_healthy", Gauge,
        "0 where health checks say that the endpoint is down, and where it is not probed any more; else 1.";
    HEALTH_CHECKS: "ambassador_health_checks_total", Counter, "Probes that ended, by result.";
    CALLER_CONNECTIONS: "ambassador_caller_connections_total", Counter,
        "Connections whose caller was looked up, by its unit.";
    CALLER_REFUSED: "ambassador_caller_refused_total", Counter,
        "Those that were denied, or over a cap of the listener or of their caller, by unit.";
    CALLER_SESSIONS: "ambassador_caller_sessions", LiveGauge,
        "Sessions between accept and close, by the caller's unit.";
    PRECONNECTED: "ambassador_preconnected", Gauge, "Upstream connections that are ready for sessions to come.";
    PRECONNECTS: "ambassador_preconnects_total", Counter,
        "Sessions that found one ready (hit) or not (miss), and those that were replaced (retired) or ended by the server (died).";
    ENDPOINT_EJECTED: "ambassador_endpoint_ejected", Gauge,
        "1 while failures of its dials or sessions set the endpoint aside.";
    EJECTIONS: "ambassador_ejections_total", Counter, "Times that the endpoint was set aside, by what it did wrong.";
    BREAKER_STATE: "ambassador_breaker_state", Gauge,
        "0 closed (sessions pass), 1 half-open (the endpoints are being tried), 2 open.";
    BREAKER_TRANSITIONS: "ambassador_breaker_transitions_total", Counter,
        "Changes of the cluster's breaker, by the new state.";
    RETRY_BUDGET_EXHAUSTED: "ambassador_retry_budget_exhausted_total", Counter,
        "Retries that had to wait for want of retry budget.";
    HEDGED_DIALS: "ambassador_hedged_dials_total", Counter,
        "Attempts begun beside one that did not answer, by what became of them.";
    TRIALS: "ambassador_trials_total", Counter,
        "Dials of our own to endpoints that were set aside or all failed, by result.";
    UNCLEAN_TLS_ENDS: "ambassador_unclean_tls_ends_total", Counter,
        "Sessions whose server ended TLS without close_notify, before its client had ended.";
    CLUSTER_PANIC: "ambassador_cluster_panic", Gauge,
        "1 while health checks find every endpoint down and all are used all the same.";
    PENDING_DIALS: "ambassador_pending_dials", Gauge, "Dials in flight.";
    WAITING_SESSIONS: "ambassador_waiting_sessions", Gauge,
        "Sessions that wait for room in a full cluster, or for one that is down to come back.";
    WAIT_DURATION: "ambassador_wait_duration_seconds", Histogram(DialBounds::BOUNDS),
        "How long those waited that got room.";
    ACCEPT_ERRORS: "ambassador_accept_errors_total", Counter,
        "Connections that could not be accepted, and accepts that had to wait.";
    CERTIFICATE_EXPIRY: "ambassador_certificate_expiry_timestamp_seconds", Timestamp,
        "When the certificate ends, in seconds since 1970.";
    CREDENTIAL_RELOADS: "ambassador_credential_reloads_total", Counter,
        "Credentials whose files changed: replaced while in use, or kept for want of good ones.";
    LOGIN_EXPIRY: "ambassador_login_expiry_timestamp_seconds", Timestamp,
        "When the credential for signing in ends, in seconds since 1970; only of sources that say so.";
    LOGIN_SUCCESS: "ambassador_login_last_success_timestamp_seconds", Timestamp,
        "When a source last gave a credential for signing in, in seconds since 1970.";
    LOGIN_FETCHES: "ambassador_login_fetches_total", Counter,
        "Credentials for signing in that a source was asked for, by result.";
    LOGINS: "ambassador_logins_total", Counter, "Logins to servers in the place of clients, by result.";
    INSECURE: "ambassador_tls_verification_disabled", Gauge, "1 where insecure_skip_verify is set.";
    DISCOVERY: "ambassador_discovery_total", Counter,
        "Questions about a cluster's endpoints, by what became of them.";
    DISCOVERY_FAILING: "ambassador_discovery_failing", Gauge,
        "Names, records, files and servers of the cluster whose last answer was no good.";
    DISCOVERY_SUCCESS: "ambassador_discovery_last_success_timestamp_seconds", Timestamp,
        "When the last good answer about the cluster's endpoints came, in seconds since 1970.";
    DISCOVERY_KEPT: "ambassador_discovery_kept_timestamp_seconds", Timestamp,
        "Only while a cluster uses endpoints that were kept on disk: when they were written, in seconds since 1970.";
    LOST_LINES: "ambassador_log_lines_lost_total", Counter,
        "Log lines that could not be written, or not as fast as they came, by the kind of output.";
    CONFIG_RELOADS: "ambassador_config_reloads_total", Counter, "Reloads of the configuration, by result.";
    CONFIG_LOADED: "ambassador_config_last_loaded_timestamp_seconds", Timestamp,
        "When the configuration in force was loaded, in seconds since 1970.";
    PARTED: "ambassador_drained_sessions_total", Counter,
        "Sessions that a drain ended: in a moment of silence, or by force at the end of its time.";
    REPLACEMENTS: "ambassador_replacements_total", Counter,
        "Replacements of the running process, by result: `ok` counts in the new one.";
    TASKS: "ambassador_tasks", Gauge,
        "Tasks that run: of sessions and the sockets they come by, and of all that looks after them.";
    BUILD_INFO: "ambassador_build_info", Gauge, "1, with the version.";
}

impl Metric {
    /// What is added to its name, in each of its series.
    pub(super) const fn parts(&self) -> &'static [&'static str] {
        match self.kind {
            Counter | Gauge | LiveGauge | Timestamp => &[""],
            Histogram(_) => &["_bucket", "_sum", "_count"],
        }
    }

    /// The word of its `TYPE` line.
    pub(super) const fn type_word(&self) -> &'static str {
        match self.kind {
            Counter => "counter",
            Gauge | LiveGauge | Timestamp => "gauge",
            Histogram(_) => "histogram",
        }
    }
}

/// Every histogram, with the upper bounds of its buckets.
pub(super) fn histograms() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    METRICS.iter().filter_map(|metric| match metric.kind {
        Histogram(bounds) => Some((metric.name, bounds)),
        Counter | Gauge | LiveGauge | Timestamp => None,
    })
}

/// Whether it is a gauge that is added up over processes.
pub(super) fn is_live(name: &str) -> bool {
    METRICS.iter().any(|metric| matches!(metric.kind, LiveGauge) && metric.name == name)
}
