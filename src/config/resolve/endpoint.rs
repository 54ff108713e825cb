//! The `endpoints` of a cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::{Resolver, address};
use crate::config::mistakes::{At, quoted};
use crate::config::raw::Section;
use crate::name::EndpointName;
use crate::upstream::{Address, EndpointSettings, Host};

/// What the rest of the cluster means for its endpoints.
pub(super) struct Surroundings {
    /// Whether there is TLS at all.
    pub(super) has_tls: bool,
    /// The name for those without one of their own.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Where their connections come from.
    pub(super) local_address: Option<IpAddr>,
}

impl Resolver<'_> {
    pub(super) fn endpoints(
        &mut self,
        cluster: &Section,
        around: &Surroundings,
    ) -> Option<Vec<EndpointSettings>> {
        let items = cluster.list("endpoints")?;
        if items.is_empty() {
            self.findings.mistake(&cluster.at("endpoints"), "the list is empty; a cluster needs an endpoint");
        }
        let mut known = BTreeSet::new();
        let endpoints: Vec<_> = items
            .iter()
            .map(|item| {
                let (endpoint, at) = match (item.text(), item.section()) {
                    (Some(text), _) => (self.plain(text, &item.at, around), item.at.clone()),
                    (None, section) => (self.detailed(section?, around), section?.at("address")),
                };
                let endpoint = endpoint?;
                if !known.insert(endpoint.address.to_string().to_lowercase()) {
                    let message = format!("{} is in the list already", quoted(endpoint.name.as_str()));
                    self.findings.mistake(&at, message);
                }
                Some(endpoint)
            })
            .collect();
        endpoints.into_iter().collect()
    }

    fn plain(&mut self, text: &str, at: &At, around: &Surroundings) -> Option<EndpointSettings> {
        let address = self.address(text, at, around)?;
        settings(text, address, 1, around.server_name.clone())
    }

    fn detailed(&mut self, section: &Section, around: &Surroundings) -> Option<EndpointSettings> {
        let at = section.at("server_name");
        let server_name = section.optional_text("server_name").and_then(|text| {
            let parsed = text.map(address::server_name).transpose();
            parsed.map_err(|reason| self.findings.mistake(&at, reason)).ok()
        });
        if section.is_given("server_name") && !around.has_tls {
            self.findings.mistake(&at, "has no effect: the cluster has no `tls`");
        }
        let text = section.text("address")?;
        let address = self.address(text, &section.at("address"), around)?;
        let server_name = server_name?.or_else(|| around.server_name.clone());
        settings(text, address, section.integer("weight")?, server_name)
    }

    fn address(&mut self, text: &str, at: &At, around: &Surroundings) -> Option<Address> {
        let address = address::upstream(text).map_err(|reason| self.findings.mistake(at, reason)).ok()?;
        if let (Host::Ip(ip), Some(local)) = (&address.host, around.local_address)
            && ip.is_ipv4() != local.is_ipv4()
        {
            let message =
                format!("{ip} cannot be reached from `connect.local_address` {local}: one is IPv4, one IPv6");
            self.findings.mistake(at, message);
        }
        Some(address)
    }
}

/// With the name for TLS: what was given, else the host.
fn settings(
    name: &str,
    address: Address,
    weight: u32,
    server_name: Option<ServerName<'static>>,
) -> Option<EndpointSettings> {
    let server_name = match (server_name, &address.host) {
        (Some(name), _) => name,
        (None, Host::Ip(ip)) => ServerName::from(*ip),
        (None, Host::Name(name)) => address::server_name(name).ok()?,
    };
    Some(EndpointSettings { name: EndpointName::from(name), address, weight, server_name })
}
