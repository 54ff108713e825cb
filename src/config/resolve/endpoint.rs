//! The `endpoints` of a cluster: a list, or a source to discover them from.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::{HostView, SettingsBuilder, address};
use crate::cluster::{
    Address, ENDPOINTS_MAX, EndpointSettings, EndpointsFile, Host, Source, SrvService, Target,
};
use crate::config::mistakes::{Findings, SourceLocation, headline, quoted};
use crate::config::raw::{DocumentReader, Item, Section};
use crate::config::{document, spec};
use crate::discovery::literal;

/// The settings of the cluster that its endpoints depend on.
#[derive(Clone)]
pub(super) struct ClusterContext {
    pub(super) name: String,
    /// Whether the cluster uses TLS.
    pub(super) has_tls: bool,
    /// The name for endpoints without one of their own.
    pub(super) server_name: Option<ServerName<'static>>,
    /// The source address of connections.
    pub(super) local_address: Option<IpAddr>,
}

/// The keys of which one says where endpoints are discovered.
const SOURCES: [&str; 6] = ["srv", "file", "consul", "etcd", "kubernetes", "xds"];

/// The endpoints that a cluster begins with, and the source of others.
pub(super) struct Endpoints {
    pub(super) known: Vec<EndpointSettings>,
    pub(super) source: Option<Source>,
}

impl SettingsBuilder<'_> {
    pub(super) fn endpoints(&mut self, cluster: &Section, around: &ClusterContext) -> Option<Endpoints> {
        if let Some(section) = cluster.section("endpoints") {
            let source = self.source(section, around)?;
            return Some(Endpoints { known: Vec::new(), source: Some(source) });
        }
        let items = cluster.list("endpoints")?;
        if items.is_empty() {
            self.findings.mistake(&cluster.at("endpoints"), "the list is empty; a cluster needs an endpoint");
        }
        let targets = self.targets(items, around)?;
        let known: Vec<_> = targets.iter().filter_map(literal).collect();
        let is_all = known.len() == targets.len();
        Some(Endpoints { known, source: (!is_all).then_some(Source::Listed(targets)) })
    }

    fn source(&mut self, section: &Section, around: &ClusterContext) -> Option<Source> {
        let given: Vec<_> = SOURCES.iter().filter(|key| section.is_given(key)).collect();
        match given[..] {
            [&"srv"] => {
                let at = section.at("srv");
                let name = section.optional_text("srv")??;
                let name =
                    address::service(name).map_err(|reason| self.findings.mistake(&at, reason)).ok()?;
                let server_name = around.server_name.clone();
                let own_domain_only = around.has_tls && server_name.is_none();
                Some(Source::Service(SrvService { name, server_name, own_domain_only }))
            }
            [&"file"] => {
                let file = section.optional_text("file")??;
                let (path, around) = (self.readable(file, &section.at("file"))?, around.clone());
                let from = path.clone();
                let parse = Arc::new(move |bytes: &[u8]| parse(bytes, &from, &around));
                Some(Source::File(EndpointsFile { path, parse }))
            }
            [&"consul"] => self.consul(section.section("consul")?, around).map(Source::Remote),
            [&"etcd"] => self.etcd(section.section("etcd")?, around).map(Source::Remote),
            [&"kubernetes"] => self.kubernetes(section.section("kubernetes")?, around).map(Source::Remote),
            [&"xds"] => self.xds_endpoints(section.section("xds")?, around).map(Source::Remote),
            [] => {
                let (last, others) = SOURCES.split_last().expect("there are sources");
                let words = format!("write a list, or one of `{}` and `{last}`", others.join("`, `"));
                self.findings.mistake(&section.at, words);
                None
            }
            [first, second, ..] => {
                self.findings
                    .mistake(&section.at(second), format!("`{first}` and `{second}` do not go together"));
                None
            }
            [_] => None,
        }
    }

    fn targets(&mut self, items: &[Item], around: &ClusterContext) -> Option<Vec<Target>> {
        let mut known = BTreeSet::new();
        let targets: Vec<_> = items
            .iter()
            .map(|item| {
                let (target, at) = match (item.text(), item.section()) {
                    (Some(text), _) => (self.endpoint_text(text, &item.at, around), item.at.clone()),
                    (None, section) => (self.endpoint_section(section?, around), section?.at("address")),
                };
                let target = target?;
                let name = target.address.to_string();
                if !known.insert(name.to_lowercase()) {
                    self.findings.mistake(&at, format!("{} is in the list already", quoted(&name)));
                }
                Some(target)
            })
            .collect();
        targets.into_iter().collect()
    }

    fn endpoint_text(&mut self, text: &str, at: &SourceLocation, around: &ClusterContext) -> Option<Target> {
        let address = self.address(text, at, around)?;
        target(address, (1, 0), around.server_name.clone())
    }

    fn endpoint_section(&mut self, section: &Section, around: &ClusterContext) -> Option<Target> {
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
        let share = (section.integer("weight")?, section.integer("priority")?);
        target(address, share, server_name)
    }

    fn address(&mut self, text: &str, at: &SourceLocation, around: &ClusterContext) -> Option<Address> {
        let address = address::upstream(text).map_err(|reason| self.findings.mistake(at, reason)).ok()?;
        let ip = match &address.host {
            Host::Ip(ip) => Some(*ip),
            Host::LinkLocal { ip, .. } => Some((*ip).into()),
            Host::Name(_) => None,
        };
        if let (Some(ip), Some(local)) = (ip, around.local_address)
            && ip.is_ipv4() != local.is_ipv4()
        {
            let message =
                format!("{ip} cannot be reached from `connect.local_address` {local}: one is IPv4, one IPv6");
            self.findings.mistake(at, message);
        }
        Some(address)
    }
}

/// With the name for TLS: the given one, else the host.
pub(super) fn target(
    address: Address,
    (weight, priority): (u32, u32),
    server_name: Option<ServerName<'static>>,
) -> Option<Target> {
    let server_name = match (server_name, &address.host) {
        (Some(name), _) => name,
        (None, Host::Ip(ip)) => ServerName::from(*ip),
        (None, Host::LinkLocal { ip, .. }) => ServerName::from(IpAddr::V6(*ip)),
        (None, Host::Name(name)) => address::server_name(name.trim_end_matches('.')).ok()?,
    };
    Some(Target { address, weight, priority, server_name })
}

/// How many mistakes of an endpoints file one message names.
const MISTAKES_SHOWN: usize = 3;

/// Compiles an endpoints file, or what is written as one elsewhere. Unlike the configuration's own list, it may be empty.
pub(super) fn parse(bytes: &[u8], file: &Path, around: &ClusterContext) -> Result<Vec<Target>, String> {
    let in_words = |at: &SourceLocation, message: &str| headline(file, Some(at.position), &at.path, message);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        format!("{}:{line}: is not UTF-8 text", file.display())
    })?;
    let document = document::parse(text).map_err(|(at, message)| in_words(&at, &message))?;
    let mut findings = Findings::default();
    let root = DocumentReader { environment: None, findings: &mut findings }
        .root(&spec::table::ENDPOINTS_FILE, &document);
    let items = root.list("endpoints");
    if let Some((items, beyond)) = items.and_then(|items| Some((items, items.get(ENDPOINTS_MAX)?))) {
        let message =
            format!("there are {}, and a cluster has at most {ENDPOINTS_MAX} endpoints", items.len());
        findings.mistake(&beyond.at, message);
    }
    let targets = items.and_then(|items| {
        SettingsBuilder {
            file,
            environment: &|_| None,
            file_access: None,
            is_confined: false,
            host: HostView::default(),
            xds: super::XdsSection::Absent,
            findings: &mut findings,
        }
        .targets(items, around)
    });
    match targets {
        Some(targets) if findings.mistakes.is_empty() => Ok(targets),
        _ => {
            findings.mistakes.sort_by_key(|(at, _)| at.position);
            let shown = findings.mistakes.iter().take(MISTAKES_SHOWN);
            let words: Vec<_> = shown.map(|(at, message)| in_words(at, message)).collect();
            let more = findings.mistakes.len().saturating_sub(MISTAKES_SHOWN);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            Err(format!("{}{more}", words.join("; ")))
        }
    }
}
