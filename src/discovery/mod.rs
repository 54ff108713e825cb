//! Where a cluster's endpoints come from, when not all of them are addresses in the configuration: host names, an SRV
//! record, a file, or a server that is asked (Consul, etcd, Kubernetes). [`follow()`] is the task that finds them and keeps them up to date.
//!
//! All modules but `resolver`, `servers`, `file`, `remote`, `kept`, `keeping`, `loop_detection` and [`mod@follow`] are pure. Lacks the
//! status, which the cluster holds, and the treatment of sessions whose endpoint is removed: that is the cluster's.

mod aside;
mod consul;
mod etcd;
mod file;
mod follow;
mod found_endpoints;
mod keeping;
mod kept;
mod kubernetes;
mod loop_detection;
mod name;
mod query_result;
mod remote;
mod resolv_conf;
mod resolver;
mod server_access;
mod servers;
mod source_update;
mod srv;
mod words;
mod xds_streams;

pub(crate) use consul::{ConsulQuery, ConsulSettings};
pub(crate) use etcd::{EtcdQuery, EtcdSettings, ParseValue};
pub(crate) use follow::{DiscoveryServices, follow, settle};
pub(crate) use found_endpoints::literal;
pub(crate) use kubernetes::{EndpointChoice, KubernetesQuery, KubernetesSettings, PortChoice};
pub(crate) use loop_detection::{DialLoop, ListenerEdge, LoopGraph};
