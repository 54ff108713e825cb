//! One address of a cluster.

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

/// Where a server is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// A host, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// An IPv6 address that means something only on one interface.
    LinkLocal {
        ip: Ipv6Addr,
        /// The interface's name, or its number.
        interface: String,
        /// The interface's number.
        scope: u32,
    },
    /// A DNS name (or one of `/etc/hosts`).
    Name(String),
}

/// Where an endpoint is: at one address, or at two that are the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    first: SocketAddr,
    second: Option<SocketAddr>,
}

/// One endpoint as configured or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `ADDRESS:PORT`; the IPv4 one where there are two.
    pub name: EndpointName,
    /// Where it is.
    pub addresses: Addresses,
    /// The name that it was found by; `None`: it was named by its address.
    pub host: Option<Box<str>>,
    /// Its share of the sessions, 1 to 65535. It may change while the endpoint stays.
    pub weight: u32,
    /// Those of a higher number are for when nobody of a lower one can be used. It may change too.
    pub priority: u32,
    /// The name sent and verified in TLS: the endpoint's own, else the cluster's, else its host.
    pub server_name: ServerName<'static>,
}

/// One endpoint with what belongs to it alone and never changes; what changes is behind the cluster's lock.
#[derive(Debug)]
pub(crate) struct Endpoint {
    id: EndpointId,
    settings: Settings,
    /// With a ticket store of its own; `None` is plaintext.
    originator: Option<Arc<EndpointOriginator>>,
    metrics: EndpointMetrics,
    /// `None`: it is not probed.
    checks: Option<CheckMetrics>,
    /// Of two addresses, whether the second was the last to answer. It is tried first then (RFC 8305 section 4).
    prefers_second: AtomicBool,
    /// With which credentials a probe got through, if the last one did that waited for what the server makes of them.
    let_pass: Mutex<Option<CredentialGenerations>>,
    /// Whether it was said that it takes long to greet.
    was_silent: AtomicBool,
}

impl Settings {
    /// Its host as HTTP's `Host` has it, with that port.
    pub(super) fn authority(&self, port: u16) -> String {
        match &self.host {
            Some(host) => format!("{host}:{port}"),
            None => SocketAddr::new(self.addresses.first.ip(), port).to_string(),
        }
    }

    /// Whether both mean the same server, known by the same name to the same TLS. The rest may change in place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.addresses == other.addresses && self.server_name == other.server_name
    }
}

impl Endpoint {
    pub(super) const fn new(
        id: EndpointId,
        settings: Settings,
        originator: Option<Arc<EndpointOriginator>>,
        metrics: EndpointMetrics,
        checks: Option<CheckMetrics>,
    ) -> Self {
        Self {
            id,
            settings,
            originator,
            metrics,
            checks,
            prefers_second: AtomicBool::new(false),
            let_pass: Mutex::new(None),
            was_silent: AtomicBool::new(false),
        }
    }

    /// Names it within its cluster.
    #[must_use]
    pub(crate) const fn id(&self) -> EndpointId {
        self.id
    }

    /// As it was when it joined.
    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its address, and the one to try beside it, in the order in which to try them.
    pub(super) fn address_order(&self) -> (SocketAddr, Option<SocketAddr>) {
        let Addresses { first, second } = self.settings.addresses;
        match second {
            Some(second) if self.prefers_second.load(Ordering::Relaxed) => (second, Some(first)),
            _ => (first, second),
        }
    }

    pub(super) fn note_answered(&self, address: SocketAddr) {
        if self.settings.addresses.second.is_some() {
            let is_second = address.ip() != self.settings.addresses.first.ip();
            self.prefers_second.store(is_second, Ordering::Relaxed);
        }
    }

    pub(super) fn originator(&self) -> Option<&EndpointOriginator> {
        self.originator.as_deref()
    }

    /// As whom that caller's connection to it is made: by the rules of its own TLS. Those of the cluster that a session began
    /// with may have been others, if a reload came in between.
    pub(super) fn identity_for(&self, caller: Option<&Caller>) -> Result<IdentityChoice, NoIdentity> {
        self.originator().map_or(Ok(IdentityChoice::ONLY), |originator| originator.for_caller(caller))
    }

    /// The same where no caller is there.
    #[must_use]
    pub(super) fn identity_for_nobody(&self) -> IdentityChoice {
        self.originator().map_or(IdentityChoice::ONLY, EndpointOriginator::for_nobody)
    }

    /// The same for another object of this endpoint.
    pub(super) fn shared_originator(&self) -> Option<Arc<EndpointOriginator>> {
        self.originator.clone()
    }

    /// The credentials of its last probe, where that passed.
    pub(super) fn probed_generations(&self) -> Option<CredentialGenerations> {
        *self.let_pass.lock()
    }

    /// A probe passed with those; `None`: it did not.
    pub(super) fn set_probed_generations(&self, shown: Option<CredentialGenerations>) {
        *self.let_pass.lock() = shown;
    }

    /// It takes long to greet. Whether that is news.
    pub(super) fn note_slow_greeting(&self) -> bool {
        !self.was_silent.swap(true, Ordering::Relaxed)
    }

    pub(super) const fn metrics(&self) -> &EndpointMetrics {
        &self.metrics
    }

    pub(super) const fn check_metrics(&self) -> Option<&CheckMetrics> {
        self.checks.as_ref()
    }
}

impl Address {
    /// `None` where somebody has to be asked.
    pub(super) const fn known(&self) -> Option<SocketAddr> {
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
    /// At one address.
    #[must_use]
    pub const fn one(address: SocketAddr) -> Self {
        Self { first: address, second: None }
    }

    /// At either, the first by preference.
    #[must_use]
    pub const fn pair(first: SocketAddr, second: SocketAddr) -> Self {
        Self { first, second: Some(second) }
    }

    /// Each.
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
