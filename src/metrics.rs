//! Every metric: name, help and labels defined once, handles resolved when an object is made.
//!
//! Label values come from the configuration and from closed enums, never from the text of an error, so the
//! number of series is bounded by the file; the callers' units are an exception, limited to the first hundred.

mod caller;
mod cluster;
mod endpoint;
mod exposition;
mod inherited;
mod label_guard;
mod listener;
mod names;
mod openmetrics;

use metrics::{counter, gauge};

pub(crate) use caller::{CallerMetrics, CallerSeries};
pub(crate) use cluster::{ClusterMetrics, CredentialMetrics, DiscoveryMetrics, LoginMetrics};
pub(crate) use endpoint::{CheckMetrics, EndpointMetrics};
pub(crate) use exposition::{Exposition, MetricsError, count_lost_lines};
pub(crate) use inherited::AllInherited;
pub(crate) use listener::{DestinationMetrics, ListenerMetrics};
pub(crate) use openmetrics::{OPENMETRICS, TEXT, openmetrics, prefers_openmetrics};

use names::{CONFIG_LOADED, CONFIG_RELOADS, PARTED, REPLACEMENTS};

/// Records that the configuration was loaded at that time, in seconds since 1970; `is_first` at the start.
pub(crate) fn record_config_loaded(at: f64, is_first: bool) {
    gauge!(CONFIG_LOADED).set(at);
    // Both series exist from the start, so that an increase can be seen.
    counter!(CONFIG_RELOADS, "result" => "ok").increment(u64::from(!is_first));
    counter!(CONFIG_RELOADS, "result" => "failed").increment(0);
    for result in ["ok", "failed"] {
        counter!(REPLACEMENTS, "result" => result).increment(0);
    }
    record_drain(0, 0);
}

/// Records the end of a drain: how many sessions ended while idle, and how many by force.
pub(crate) fn record_drain(quiet: usize, forced: usize) {
    counter!(PARTED, "how" => "quiet").increment(quiet as u64);
    counter!(PARTED, "how" => "forced").increment(forced as u64);
}

/// Records that this process took over from another, or that its successor did not start.
pub(crate) fn record_replacement(is_ok: bool) {
    counter!(REPLACEMENTS, "result" => if is_ok { "ok" } else { "failed" }).increment(1);
}

/// Records a refused reload.
pub(crate) fn record_config_refused() {
    counter!(CONFIG_RELOADS, "result" => "failed").increment(1);
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
