//! One EndpointSlice as the API server writes it, and what its fields mean (discovery.k8s.io/v1). Lacks hints for nodes, which are
//! for proxies on a node. Pure.

use std::fmt;

use serde::Deserialize;

use crate::escape::escaped;

/// A part of a service's endpoints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<SliceEndpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

/// One of its endpoints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    target_ref: Option<TargetRef>,
    hints: Option<Hints>,
}

#[derive(Debug, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct TargetRef {
    uid: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<ForZone>>,
}

#[derive(Debug, Deserialize)]
struct ForZone {
    name: String,
}

/// One of its ports.
#[derive(Debug, Deserialize)]
pub(super) struct SlicePort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
}

/// Which of a service's ports is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortChoice {
    /// The only one that there is.
    Only,
    /// That of the Service's name.
    Named(String),
    /// That number, which is the pods' own.
    Number(u16),
}

/// How an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    /// It ends, and is used while none is ready.
    Terminating,
    Ready,
}

impl EndpointSlice {
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Its version, which is not needed any more.
    pub(super) fn take_version(&mut self) -> String {
        std::mem::take(&mut self.metadata.resource_version)
    }

    /// Whether its addresses are of IPv6; `None`: of a type that is not known here.
    pub(super) fn is_v6(&self) -> Option<bool> {
        match &*self.address_type {
            "IPv6" => Some(true),
            "IPv4" | "FQDN" => Some(false),
            _ => None,
        }
    }

    pub(super) fn endpoints(&self) -> &[SliceEndpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }

    pub(super) fn tcp_ports(&self) -> impl Iterator<Item = &SlicePort> {
        let ports = self.ports.as_deref().unwrap_or_default().iter();
        ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
    }

    /// The number of that port, if the slice has it. A port without a number stands for all of them, and so do no ports at all:
    /// those of a headless Service without `ports`.
    pub(super) fn port(&self, choice: &PortChoice) -> Option<u16> {
        match choice {
            PortChoice::Only => self.tcp_ports().find_map(SlicePort::number),
            PortChoice::Named(name) => self.tcp_ports().find(|port| port.name() == name)?.number(),
            PortChoice::Number(number) => {
                let is_open = self.ports.as_deref().unwrap_or_default().is_empty();
                let has = |port: &SlicePort| port.port.is_none() || port.number() == Some(*number);
                (is_open || self.tcp_ports().any(has)).then_some(*number)
            }
        }
    }
}

impl SliceEndpoint {
    /// The first; further ones have no meaning.
    pub(super) fn address(&self) -> Option<&str> {
        self.addresses.as_ref()?.first().map(String::as_str)
    }

    /// `None`: it is not to be used. What is not said is ready and serving, and not terminating.
    pub(super) fn readiness(&self) -> Option<Readiness> {
        let conditions = self.conditions.as_ref();
        let said = |read: fn(&Conditions) -> Option<bool>| conditions.and_then(read);
        let is_ready = said(|its| its.ready).unwrap_or(true);
        let is_serving = said(|its| its.serving).unwrap_or(true);
        match said(|its| its.terminating).unwrap_or(false) {
            false => is_ready.then_some(Readiness::Ready),
            // Ready nevertheless: the Service has `publishNotReadyAddresses`.
            true => (is_serving || is_ready).then_some(Readiness::Terminating),
        }
    }

    pub(super) fn pod(&self) -> Option<&str> {
        self.target_ref.as_ref()?.uid.as_deref()
    }

    pub(super) fn zones(&self) -> impl Iterator<Item = &str> {
        let zones = self.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
        zones.unwrap_or_default().iter().map(|zone| zone.name.as_str())
    }

    pub(super) fn is_for(&self, zone: &str) -> bool {
        self.zones().any(|one| one == zone)
    }
}

impl SlicePort {
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn number(&self) -> Option<u16> {
        self.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
    }
}

impl fmt::Display for SlicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number().map_or_else(|| "any".into(), |number| number.to_string());
        match self.name() {
            "" => f.write_str(&number),
            name => write!(f, "{} {number}", escaped(name)),
        }
    }
}
