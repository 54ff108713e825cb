//! The names of all metrics, their help, and the buckets of histograms.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The prefix of all names, except those of the process (`process_*`).
pub(super) const PREFIX: &str = "ambassador_";
pub(super) const ACCEPTED: &str = "ambassador_accepted_total";
pub(super) const CONNECTIONS: &str = "ambassador_connections_total";
pub(super) const SESSIONS_ACTIVE: &str = "ambassador_sessions_active";
pub(super) const SESSION_DURATION: &str = "ambassador_session_duration_seconds";
pub(super) const SENT_BYTES: &str = "ambassador_sent_bytes_total";
pub(super) const RECEIVED_BYTES: &str = "ambassador_received_bytes_total";
pub(super) const CONNECT_ATTEMPTS: &str = "ambassador_connect_attempts_total";
pub(super) const CONNECT_DURATION: &str = "ambassador_connect_duration_seconds";
pub(super) const HANDSHAKE_DURATION: &str = "ambassador_handshake_duration_seconds";
pub(super) const TLS_HANDSHAKES: &str = "ambassador_tls_handshakes_total";
pub(super) const RESUMPTION_REFUSED: &str = "ambassador_tls_resumption_refused_total";
pub(super) const FIRST_BYTE: &str = "ambassador_first_byte_seconds";
pub(super) const ENDPOINT_SESSIONS: &str = "ambassador_endpoint_sessions";
pub(super) const ENDPOINT_HEALTHY: &str = "ambassador_endpoint_healthy";
pub(super) const HEALTH_CHECKS: &str = "ambassador_health_checks_total";
pub(super) const CALLER_CONNECTIONS: &str = "ambassador_caller_connections_total";
pub(super) const CALLER_REFUSED: &str = "ambassador_caller_refused_total";
pub(super) const CALLER_SESSIONS: &str = "ambassador_caller_sessions";
pub(super) const PRECONNECTED: &str = "ambassador_preconnected";
pub(super) const PRECONNECTS: &str = "ambassador_preconnects_total";
pub(super) const ENDPOINT_EJECTED: &str = "ambassador_endpoint_ejected";
pub(super) const EJECTIONS: &str = "ambassador_ejections_total";
pub(super) const BREAKER_STATE: &str = "ambassador_breaker_state";
pub(super) const BREAKER_TRANSITIONS: &str = "ambassador_breaker_transitions_total";
pub(super) const RETRY_BUDGET_EXHAUSTED: &str = "ambassador_retry_budget_exhausted_total";
pub(super) const HEDGED_DIALS: &str = "ambassador_hedged_dials_total";
pub(super) const TRIALS: &str = "ambassador_trials_total";
pub(super) const UNCLEAN_TLS_ENDS: &str = "ambassador_unclean_tls_ends_total";
pub(super) const CLUSTER_PANIC: &str = "ambassador_cluster_panic";
pub(super) const PENDING_DIALS: &str = "ambassador_pending_dials";
pub(super) const WAITING_SESSIONS: &str = "ambassador_waiting_sessions";
pub(super) const WAIT_DURATION: &str = "ambassador_wait_duration_seconds";
pub(super) const ACCEPT_ERRORS: &str = "ambassador_accept_errors_total";
pub(super) const CERTIFICATE_EXPIRY: &str = "ambassador_certificate_expiry_timestamp_seconds";
pub(super) const CREDENTIAL_RELOADS: &str = "ambassador_credential_reloads_total";
pub(super) const INSECURE: &str = "ambassador_tls_verification_disabled";
pub(super) const DISCOVERY: &str = "ambassador_discovery_total";
pub(super) const DISCOVERY_FAILING: &str = "ambassador_discovery_failing";
pub(super) const DISCOVERY_SUCCESS: &str = "ambassador_discovery_last_success_timestamp_seconds";
pub(super) const LOST_LINES: &str = "ambassador_log_lines_lost_total";
pub(super) const CONFIG_RELOADS: &str = "ambassador_config_reloads_total";
pub(super) const CONFIG_LOADED: &str = "ambassador_config_last_loaded_timestamp_seconds";
pub(super) const PARTED: &str = "ambassador_drained_sessions_total";
pub(super) const REPLACEMENTS: &str = "ambassador_replacements_total";
pub(super) const TASKS: &str = "ambassador_tasks";
pub(super) const BUILD_INFO: &str = "ambassador_build_info";

/// From a tenth of a millisecond, for a dial on the same host, to ten seconds, the default deadline.
const DIAL_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a query to a day: database sessions live for hours.
const SESSION_BUCKETS: &[f64] =
    &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0];

/// The upper bounds of every histogram's buckets.
pub(super) const BUCKETS: [(&str, &[f64]); 5] = [
    (SESSION_DURATION, SESSION_BUCKETS),
    (CONNECT_DURATION, DIAL_BUCKETS),
    (HANDSHAKE_DURATION, DIAL_BUCKETS),
    (FIRST_BYTE, DIAL_BUCKETS),
    (WAIT_DURATION, DIAL_BUCKETS),
];

/// Describes all metrics to the recorder.
pub(super) fn describe() {
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
    describe_counter!(
        CALLER_REFUSED,
        "Those that were denied, or over a cap of the listener or of their caller, by unit."
    );
    describe_gauge!(CALLER_SESSIONS, "Sessions between accept and close, by the caller's unit.");
    describe_gauge!(PRECONNECTED, "Upstream connections that are ready for sessions to come.");
    describe_counter!(
        PRECONNECTS,
        "Sessions that found one ready (hit) or not (miss), and those that were replaced (retired) or ended by the server (died)."
    );
    describe_gauge!(ENDPOINT_EJECTED, "1 while failures of its dials or sessions set the endpoint aside.");
    describe_counter!(
        RESUMPTION_REFUSED,
        "Handshakes that the server ended because they offered to resume a session."
    );
    describe_counter!(EJECTIONS, "Times that the endpoint was set aside, by what it did wrong.");
    describe_gauge!(
        BREAKER_STATE,
        "0 closed (sessions pass), 1 half-open (the endpoints are being tried), 2 open."
    );
    describe_counter!(BREAKER_TRANSITIONS, "Changes of the cluster's breaker, by the new state.");
    describe_counter!(RETRY_BUDGET_EXHAUSTED, "Retries that had to wait for want of retry budget.");
    describe_counter!(HEDGED_DIALS, "Attempts begun beside one that did not answer, by what became of them.");
    describe_counter!(TRIALS, "Dials of our own to endpoints that were set aside or all failed, by result.");
    describe_counter!(
        UNCLEAN_TLS_ENDS,
        "Sessions whose server ended TLS without close_notify, before its client had ended."
    );
    describe_gauge!(
        CLUSTER_PANIC,
        "1 while health checks find every endpoint down and all are used all the same."
    );
    describe_gauge!(PENDING_DIALS, "Dials in flight.");
    describe_gauge!(
        WAITING_SESSIONS,
        "Sessions that wait for room in a full cluster, or for one that is down to come back."
    );
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
    describe_counter!(
        LOST_LINES,
        "Log lines that could not be written, or not as fast as they came, by the kind of output."
    );
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
    describe_gauge!(
        TASKS,
        "Tasks that run: of sessions and the sockets they come by, and of all that looks after them."
    );
    describe_gauge!(BUILD_INFO, "1, with the version.");
}
