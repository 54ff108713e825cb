//! Every metric: name, help and labels defined once; the values belong to the objects that they are about.
//!
//! Label values come from the configuration and from closed enums, never from the text of an error, so the
//! number of series is bounded by the file; the callers' units are an exception, limited to the first hundred. A series
//! begins to exist with its first sample, and leaves a while after its object.

mod caller;
mod cluster;
mod endpoint;
mod exposition;
mod inherited;
mod listener;
mod names;
mod openmetrics;
mod process;
mod registry;
mod text;
mod values;

pub(crate) use caller::{CallerMetrics, CallerSeries};
pub(crate) use cluster::{ClusterMetrics, CredentialMetrics, DiscoveryMetrics, LoginMetrics};
pub(crate) use endpoint::{CheckMetrics, EndpointMetrics};
pub(crate) use exposition::Exposition;
pub(crate) use inherited::AllInherited;
pub(crate) use listener::{DestinationMetrics, ListenerMetrics};
pub(crate) use openmetrics::{OPENMETRICS, TEXT, openmetrics, prefers_openmetrics};
pub(crate) use process::{
    count_lost_lines, record_config_loaded, record_config_refused, record_drain, record_replacement,
};
pub(crate) use values::Timestamp;

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
