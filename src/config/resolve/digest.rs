//! The digest of a section, by which a reload finds out what has changed: every value, defaults included. The position
//! in the file and the notation do not count; nor do the files that it names, which are followed while in use. The
//! host's resolution of names when the file is read does count: the user id of `alice`, and the number of interface
//! `eth0`.

use std::net::SocketAddr;

use super::SettingsBuilder;
use super::identity::NamedIdentities;
use crate::cluster::{EndpointSettings, Host, Source, Target};
use crate::config::raw::Section;
use crate::digest::{Digest, Digester};
use crate::policy::admission::Rule;
use crate::tls::Originator;

/// The resolution of the host's names.
pub(super) struct ResolvedNames<'a> {
    pub(super) tls: Option<&'a Originator>,
    pub(super) endpoints: &'a [EndpointSettings],
    pub(super) source: Option<&'a Source>,
}

impl SettingsBuilder<'_> {
    /// The digest of a cluster, and that of its TLS alone with the identities that it takes.
    pub(super) fn digests(
        &self,
        identities: &NamedIdentities,
        name: &str,
        cluster: &Section,
        looked_up: &ResolvedNames<'_>,
    ) -> (Digest, Digest) {
        let mut of_tls = Digester::default();
        // An identity without a name of its own has the cluster's.
        of_tls.add(name.as_bytes());
        if let Some(tls) = cluster.section("tls").filter(|_| cluster.is_given("tls")) {
            self.add(tls, &mut of_tls);
            let used = tls.texts().filter_map(|text| identities.digest(text));
            used.for_each(|identity| of_tls.add(identity.as_ref()));
        }
        looked_up.tls.iter().flat_map(|tls| tls.identities().rules()).for_each(|rule| ids(rule, &mut of_tls));
        let mut of_all = of_tls.clone();
        self.add(cluster, &mut of_all);
        looked_up.scopes().for_each(|scope| of_all.add(&scope.to_le_bytes()));
        (of_all.digest(), of_tls.digest())
    }

    /// The digest of one section alone.
    pub(super) fn digest_of(&self, section: &Section) -> Digest {
        let mut digester = Digester::default();
        self.add(section, &mut digester);
        digester.digest()
    }

    fn add(&self, section: &Section, digester: &mut Digester) {
        let mut parts = Vec::new();
        section.add_to(&mut parts);
        digester.add(&parts);
        // A relative path means another file when the configuration moves.
        digester.add(self.path("").as_os_str().as_encoded_bytes());
    }
}

impl ResolvedNames<'_> {
    /// The interfaces of link-local addresses, by number.
    fn scopes(&self) -> impl Iterator<Item = u32> {
        let known = self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter());
        let known = known.filter_map(|address| match address {
            SocketAddr::V6(address) => Some(address.scope_id()),
            SocketAddr::V4(_) => None,
        });
        let listed = self.source.map(Source::listed).unwrap_or_default();
        known.chain(listed.iter().filter_map(scope))
    }
}

const fn scope(target: &Target) -> Option<u32> {
    match target.address.host {
        Host::LinkLocal { scope, .. } => Some(scope),
        Host::Ip(_) | Host::Name(_) => None,
    }
}

/// The numbers of a rule's user and group.
fn ids(rule: &Rule, digester: &mut Digester) {
    for id in [rule.user, rule.group] {
        digester.add(&id.map_or_else(Vec::new, |id| id.to_le_bytes().to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::ServerName;

    use super::*;
    use crate::cluster::Address;
    use crate::config::Config;

    /// A recreated interface has another number; a reload kept the old one, because the text was the same.
    #[test]
    fn the_interface_of_a_link_local_address_counts_by_its_number() {
        let listed = |scope| {
            let host = Host::LinkLocal { ip: "fe80::1".parse().unwrap(), interface: "eth0".into(), scope };
            let server_name = ServerName::try_from("db").unwrap();
            let target = Target { address: Address { host, port: 1 }, weight: 1, priority: 0, server_name };
            Source::Listed(vec![target])
        };
        let scopes = |source: &Source| {
            ResolvedNames { tls: None, endpoints: &[], source: Some(source) }.scopes().collect::<Vec<_>>()
        };
        assert_eq!((scopes(&listed(2)), scopes(&listed(3))), (vec![2], vec![3]));
        let text = "listeners: { app: { bind: '127.0.0.1:1', cluster: up } }\nclusters: { up: { endpoints: ['[fe80::1%7]:1'] } }\n";
        let config = Config::parse(text, Path::new("l.yaml"), &|_| None).unwrap();
        let endpoints = &config.clusters[0].endpoints;
        let known = ResolvedNames { tls: None, endpoints, source: None };
        assert_eq!(known.scopes().collect::<Vec<_>>(), [7]);
    }

    /// The order of a section's keys counted, where one of them was a text.
    #[test]
    fn what_counts_is_every_value_and_no_notation() {
        let of = |cluster: &str| {
            let text = format!(
                "listeners: {{ app: {{ bind: '127.0.0.1:1', cluster: up }} }}\nclusters: {{ up: {{ {cluster} }} }}\n"
            );
            let config = Config::parse(&text, Path::new("/etc/l.yaml"), &|_| None).unwrap();
            config.clusters[0].digest
        };
        let written = "endpoints: ['127.0.0.1:2'], protocol: tcp, balance: random";
        for same in [
            "balance: random, protocol: 'tcp', endpoints: [\"127.0.0.1:2\"]",
            "balance: random, endpoints: ['127.0.0.1:2']",
            "balance: random, endpoints: ['127.0.0.1:2'], slow_start: 0ms, limits: {}",
        ] {
            assert_eq!(of(written), of(same), "{same}");
        }
        for other in [
            "endpoints: ['127.0.0.1:2'], protocol: tcp",
            "endpoints: ['127.0.0.1:3'], balance: random",
            "endpoints: ['127.0.0.1:2', '127.0.0.1:3'], balance: random",
            "endpoints: ['127.0.0.1:2'], balance: random, slow_start: 1ms",
            "endpoints: ['127.0.0.1:2'], balance: random, limits: { max_pending: 7 }",
        ] {
            assert_ne!(of(written), of(other), "{other}");
        }
    }

    #[test]
    fn whom_a_name_is_counts_by_the_number() {
        let of = |rule: Rule| {
            let mut digester = Digester::default();
            ids(&rule, &mut digester);
            digester.digest()
        };
        let user = |user| Rule { user, ..Rule::default() };
        assert_ne!(of(user(Some(1))), of(user(Some(2))));
        assert_ne!(of(user(Some(1))), of(Rule { group: Some(1), ..Rule::default() }));
        assert_ne!(of(user(Some(0))), of(user(None)));
    }
}
