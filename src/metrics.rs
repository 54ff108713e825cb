//! Every metric: name, help and labels once, handles resolved when an object is made.
//!
//! Label values come from the configuration and from closed enums, never from the text of an error, so the
//! number of series is bounded by the file; units of callers are the exception, and the first hundred are all.

mod caller;
mod cluster;
mod endpoint;
mod exposition;
mod inherited;
mod listener;
mod names;
mod openmetrics;
mod series_guard;

use metrics::{counter, gauge};

pub(crate) use caller::{CallerMetrics, CallerSeries};
pub(crate) use cluster::{ClusterMetrics, CredentialMetrics, DiscoveryMetrics};
pub(crate) use endpoint::{CheckMetrics, EndpointMetrics};
pub(crate) use exposition::{Exposition, MetricsError, count_lost_lines};
pub(crate) use inherited::AllInherited;
pub(crate) use listener::{DestinationMetrics, ListenerMetrics};
pub(crate) use openmetrics::{OPENMETRICS, TEXT, openmetrics, prefers_openmetrics};

use names::{CONFIG_LOADED, CONFIG_RELOADS, PARTED, REPLACEMENTS};

/// The configuration was loaded at that moment, in seconds since 1970; `is_first` at the start.
pub(crate) fn record_config_loaded(at: f64, is_first: bool) {
    gauge!(CONFIG_LOADED).set(at);
    // Both are there from the start, so that an increase can be seen.
    counter!(CONFIG_RELOADS, "result" => "ok").increment(u64::from(!is_first));
    counter!(CONFIG_RELOADS, "result" => "failed").increment(0);
    for result in ["ok", "failed"] {
        counter!(REPLACEMENTS, "result" => result).increment(0);
    }
    record_drain(0, 0);
}

/// A drain ended so many sessions while they were quiet, and so many by force.
pub(crate) fn record_drain(quiet: usize, forced: usize) {
    counter!(PARTED, "how" => "quiet").increment(quiet as u64);
    counter!(PARTED, "how" => "forced").increment(forced as u64);
}

/// This process took over from another, or a successor of it did not start.
pub(crate) fn record_replacement(is_ok: bool) {
    counter!(REPLACEMENTS, "result" => if is_ok { "ok" } else { "failed" }).increment(1);
}

/// A reload was refused, and changed nothing.
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
