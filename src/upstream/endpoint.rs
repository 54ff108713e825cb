//! One address of a cluster.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

use crate::metrics::{CheckMetrics, EndpointMetrics};
use crate::name::EndpointName;
use crate::policy::slot::Id as EndpointId;
use crate::tls::EndpointOriginator;

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// An address, or a name resolved when dialled.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// A host, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name (or one of `/etc/hosts`).
    Name(String),
}

/// One endpoint as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As written: `host:port`.
    pub name: EndpointName,
    /// The same, understood.
    pub address: Address,
    /// Its share of the sessions, 1 to 65535. It may change while the endpoint stays.
    pub weight: u32,
    /// The name sent and verified in TLS: the endpoint's own, else the cluster's, else its host.
    pub server_name: ServerName<'static>,
}

/// One endpoint with what belongs to it alone and never changes; what changes is behind the cluster's lock.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    settings: Settings,
    /// With a ticket store of its own; `None` is plaintext.
    originator: Option<EndpointOriginator>,
    metrics: EndpointMetrics,
    /// `None`: it is not probed.
    checks: Option<CheckMetrics>,
}

impl Settings {
    /// Whether both mean the same server, known by the same name to the same TLS. The rest may change in place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.address == other.address && self.server_name == other.server_name
    }
}

impl Endpoint {
    pub(super) const fn new(
        id: EndpointId,
        settings: Settings,
        originator: Option<EndpointOriginator>,
        metrics: EndpointMetrics,
        checks: Option<CheckMetrics>,
    ) -> Self {
        Self { id, settings, originator, metrics, checks }
    }

    /// Names it within its cluster.
    #[must_use]
    pub const fn id(&self) -> EndpointId {
        self.id
    }

    /// As it was when it joined.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn originator(&self) -> Option<&EndpointOriginator> {
        self.originator.as_ref()
    }

    pub(super) const fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    pub(super) const fn checks(&self) -> Option<&CheckMetrics> {
        self.checks.as_ref()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}
