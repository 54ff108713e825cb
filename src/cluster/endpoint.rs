//! One endpoint of a cluster: its addresses, its TLS and metrics. Its changing state is the cluster's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::ServerName;

use crate::caller::Caller;
use crate::metrics::{CheckMetrics, EndpointMetrics};
use crate::name::EndpointName;
use crate::policy::endpoint_state::Id as EndpointId;
use crate::sync::Mutex;
use crate::tls::{CredentialGenerations, EndpointOriginator, IdentityChoice, NoIdentity};

/// A configured or discovered server address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The host, by address or name.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// A host, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// An IPv6 address that is valid on one interface only.
    LinkLocal {
        ip: Ipv6Addr,
        /// The interface's name or number, as configured.
        interface: String,
        /// The interface's number.
        scope: u32,
    },
    /// A DNS name, or one from `/etc/hosts`.
    Name(String),
}

/// An endpoint's address, or the two addresses of the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    first: SocketAddr,
    second: Option<SocketAddr>,
}

/// One endpoint as configured or discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `ADDRESS:PORT`; of two addresses, the IPv4 one.
    pub name: EndpointName,
    /// Its one or two addresses.
    pub addresses: Addresses,
    /// The host name it was resolved from; `None`: it was configured by address.
    pub host: Option<Box<str>>,
    /// Its share of the sessions, 1 to 65535. It may change while the endpoint stays.
    pub weight: u32,
    /// Endpoints of a higher number are used only if none of a lower one can be. It may change too.
    pub priority: u32,
    /// The name sent and verified in TLS: the endpoint's own, else the cluster's, else its host.
    pub server_name: ServerName<'static>,
}

/// The endpoint's own data, which lives outside the cluster's lock. Its policy state is behind that lock.
#[derive(Debug)]
pub(crate) struct Endpoint {
    id: EndpointId,
    settings: Settings,
    /// Has its own session ticket store; `None`: plaintext.
    originator: Option<Arc<EndpointOriginator>>,
    metrics: Arc<EndpointMetrics>,
    is_probed: bool,
    /// Whether the second of two addresses answered last. It is then tried first (RFC 8305 section 4).
    prefers_second: AtomicBool,
    /// The credentials of the last probe that waited for the server's verdict on them; `None`: it failed.
    let_pass: Mutex<Option<CredentialGenerations>>,
    /// Whether its slow greeting was logged.
    was_silent: AtomicBool,
}

impl Settings {
    /// The value of HTTP's `Host` for that port.
    pub(crate) fn authority(&self, port: u16) -> String {
        match &self.host {
            Some(host) => format!("{host}:{port}"),
            None => SocketAddr::new(self.addresses.first.ip(), port).to_string(),
        }
    }

    /// Whether both are the same server, with the same TLS name. The rest may change in place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.addresses == other.addresses && self.server_name == other.server_name
    }
}

impl Endpoint {
    pub(super) const fn new(
        id: EndpointId,
        settings: Settings,
        originator: Option<Arc<EndpointOriginator>>,
        metrics: Arc<EndpointMetrics>,
        is_probed: bool,
    ) -> Self {
        Self {
            id,
            settings,
            originator,
            metrics,
            is_probed,
            prefers_second: AtomicBool::new(false),
            let_pass: Mutex::new(None),
            was_silent: AtomicBool::new(false),
        }
    }

    /// The id within its cluster.
    #[must_use]
    pub(crate) const fn id(&self) -> EndpointId {
        self.id
    }

    /// The settings it joined with.
    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its addresses, in the order to try them.
    pub(crate) fn address_order(&self) -> (SocketAddr, Option<SocketAddr>) {
        let Addresses { first, second } = self.settings.addresses;
        match second {
            Some(second) if self.prefers_second.load(Ordering::Relaxed) => (second, Some(first)),
            _ => (first, second),
        }
    }

    pub(crate) fn note_answered(&self, address: SocketAddr) {
        if self.settings.addresses.second.is_some() {
            let is_second = address.ip() != self.settings.addresses.first.ip();
            self.prefers_second.store(is_second, Ordering::Relaxed);
        }
    }

    pub(crate) fn originator(&self) -> Option<&EndpointOriginator> {
        self.originator.as_deref()
    }

    /// The identity for the caller's connection, by the endpoint's own TLS rules. After a reload they may differ from
    /// those of the cluster that the session began with.
    pub(crate) fn identity_for(&self, caller: Option<&Caller>) -> Result<IdentityChoice, NoIdentity> {
        self.originator().map_or(Ok(IdentityChoice::ONLY), |originator| originator.for_caller(caller))
    }

    /// The identity without a caller.
    #[must_use]
    pub(crate) fn identity_for_nobody(&self) -> IdentityChoice {
        self.originator().map_or(IdentityChoice::ONLY, EndpointOriginator::for_nobody)
    }

    /// The originator, for this endpoint's next object after a reload.
    pub(super) fn shared_originator(&self) -> Option<Arc<EndpointOriginator>> {
        self.originator.clone()
    }

    /// The credentials of its last probe, if that passed.
    pub(crate) fn probed_generations(&self) -> Option<CredentialGenerations> {
        *self.let_pass.lock()
    }

    /// Records that a probe passed with these credentials; `None`: it failed.
    pub(crate) fn set_probed_generations(&self, shown: Option<CredentialGenerations>) {
        *self.let_pass.lock() = shown;
    }

    /// Notes a slow greeting. Returns whether it is the first.
    pub(crate) fn note_slow_greeting(&self) -> bool {
        !self.was_silent.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    /// `None`: it is not probed.
    pub(crate) fn check_metrics(&self) -> Option<&CheckMetrics> {
        self.is_probed.then_some(&self.metrics.checks)
    }
}

impl Address {
    /// `None` if the host must be resolved.
    pub(crate) const fn known(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::LinkLocal { ip, scope, .. } => {
                Some(SocketAddr::V6(SocketAddrV6::new(*ip, self.port, 0, *scope)))
            }
            Host::Name(_) => None,
        }
    }
}

impl Addresses {
    /// A single address.
    #[must_use]
    pub const fn one(address: SocketAddr) -> Self {
        Self { first: address, second: None }
    }

    /// Two addresses, the preferred one first.
    #[must_use]
    pub const fn pair(first: SocketAddr, second: SocketAddr) -> Self {
        Self { first, second: Some(second) }
    }

    /// All addresses, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.first).chain(self.second)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::LinkLocal { ip, interface, .. } => write!(f, "[{ip}%{interface}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}
