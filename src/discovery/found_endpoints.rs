//! Makes endpoints of targets and the known addresses of their names. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::name::KnownName;
use crate::cluster::{Addresses, ENDPOINTS_MAX, EndpointSettings as Settings, Host, Target};
use crate::name::EndpointName;

/// The endpoints, at most [`ENDPOINTS_MAX`].
#[derive(Debug)]
pub(super) struct FoundEndpoints {
    pub(super) endpoints: Vec<Settings>,
    pub(super) leaves_some_out: bool,
}

/// Makes an endpoint of each address of each target, in their order; names without known addresses give none.
///
/// A name with one address of each family is one host, and so one endpoint with two addresses. With more of either, it
/// is unknown which belong together, so each is an endpoint of its own. Of two endpoints with the same address the
/// first counts, unless `has_tls` and their server names differ, which may select different servers.
pub(super) fn endpoints(
    targets: &[Target],
    names: &BTreeMap<String, KnownName>,
    has_tls: bool,
) -> FoundEndpoints {
    let each = targets.iter().flat_map(|target| match &target.address.host {
        Host::Name(name) => names.get(name).map_or_else(Vec::new, |known| of_name(target, name, known)),
        Host::Ip(_) | Host::LinkLocal { .. } => literal(target).into_iter().collect(),
    });
    let mut seen = BTreeSet::new();
    let mut each = each.filter(|one| {
        let server_name = if has_tls { one.server_name.to_str() } else { "".into() };
        seen.insert((one.name.clone(), server_name.into_owned()))
    });
    let endpoints = each.by_ref().take(ENDPOINTS_MAX).collect();
    FoundEndpoints { endpoints, leaves_some_out: each.next().is_some() }
}

/// The endpoint of a target that is an address; `None` if it is a name to resolve.
#[must_use]
pub(crate) fn literal(target: &Target) -> Option<Settings> {
    let address = target.address.known()?;
    let name = EndpointName::from(&*target.address.to_string());
    Some(settings(target, name, Addresses::one(address), None))
}

fn of_name(target: &Target, name: &str, known: &KnownName) -> Vec<Settings> {
    let at = |ip: IpAddr| SocketAddr::new(ip, target.address.port);
    // Named by its IPv4 address if it has both: most hosts have had that for longer.
    let of = |addresses: Addresses, ip| {
        settings(target, EndpointName::from(&*at(ip).to_string()), addresses, Some(name))
    };
    match known.pair() {
        Some((v4, v6)) => vec![of(Addresses::pair(at(v6), at(v4)), v4)],
        None => known.addresses().map(|ip| of(Addresses::one(at(ip)), ip)).collect(),
    }
}

fn settings(target: &Target, name: EndpointName, addresses: Addresses, host: Option<&str>) -> Settings {
    Settings {
        name,
        addresses,
        host: host.map(|host| host.trim_end_matches('.').into()),
        weight: target.weight,
        priority: target.priority,
        server_name: target.server_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastrand::Rng;
    use rustls::pki_types::ServerName;

    use super::super::name::{FamilyAnswer, NameAnswer};
    use super::*;
    use crate::cluster::Address;

    fn target(host: Host, port: u16) -> Target {
        Target {
            address: Address { host, port },
            weight: 3,
            priority: 1,
            server_name: ServerName::try_from("db").unwrap(),
        }
    }

    fn named(name: &str) -> Target {
        target(Host::Name(name.into()), 5432)
    }

    fn half(addresses: &[&str]) -> FamilyAnswer {
        match addresses {
            [] => FamilyAnswer::Absent(String::new()),
            some => FamilyAnswer::Found(
                some.iter().map(|ip| ip.parse().unwrap()).collect(),
                Duration::from_secs(1),
            ),
        }
    }

    fn known(names: &[(&str, &[&str], &[&str])]) -> BTreeMap<String, KnownName> {
        let known = |(name, v4, v6): &(&str, &[&str], &[&str])| {
            let now = crate::clock::now();
            let mut known = KnownName::new(now);
            known.learn(NameAnswer { v4: half(v4), v6: half(v6) }, now, &mut Rng::with_seed(0));
            ((*name).to_owned(), known)
        };
        names.iter().map(known).collect()
    }

    fn names(endpoints: &[Settings]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect()
    }

    #[test]
    fn each_address_of_a_name_is_an_endpoint_with_the_names_share() {
        let names_known = known(&[("db.", &["10.0.0.1", "10.0.0.2"], &["fd00::1"])]);
        let found =
            endpoints(&[named("db."), target(Host::Ip([10, 0, 0, 9].into()), 1)], &names_known, false)
                .endpoints;
        assert_eq!(names(&found), ["10.0.0.1:5432", "10.0.0.2:5432", "[fd00::1]:5432", "10.0.0.9:1"]);
        assert!(found.iter().all(|endpoint| (endpoint.weight, endpoint.priority) == (3, 1)));
        let hosts: Vec<_> = found.iter().map(|endpoint| endpoint.host.as_deref()).collect();
        assert_eq!(hosts, [Some("db"), Some("db"), Some("db"), None]);
    }

    #[test]
    fn a_host_with_one_address_of_each_family_is_one_endpoint() {
        let found =
            endpoints(&[named("db")], &known(&[("db", &["10.0.0.1"], &["fd00::1"])]), false).endpoints;
        assert_eq!(names(&found), ["10.0.0.1:5432"]);
        let addresses: Vec<_> = found[0].addresses.iter().map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["[fd00::1]:5432", "10.0.0.1:5432"], "IPv6 is tried first (RFC 8305)");
    }

    #[test]
    fn a_name_of_which_nothing_is_known_has_no_endpoint() {
        assert!(endpoints(&[named("db")], &BTreeMap::new(), false).endpoints.is_empty());
        assert!(endpoints(&[named("db")], &known(&[("db", &[], &[])]), false).endpoints.is_empty());
    }

    #[test]
    fn names_that_lead_to_one_address_are_one_endpoint_unless_tls_tells_them_apart() {
        let other = Target { server_name: ServerName::try_from("other").unwrap(), ..named("b") };
        let known = known(&[("a", &["10.0.0.1"], &[]), ("b", &["10.0.0.1"], &[])]);
        let count =
            |second: Target, has_tls| endpoints(&[named("a"), second], &known, has_tls).endpoints.len();
        assert_eq!(count(other.clone(), false), 1);
        assert_eq!(count(other, true), 2);
        assert_eq!(count(named("b"), true), 1);
    }

    #[test]
    fn there_is_an_end_to_a_list() {
        let many: Vec<_> = (0..5000_u16).map(|port| target(Host::Ip([10, 0, 0, 1].into()), port)).collect();
        let found = endpoints(&many, &BTreeMap::new(), false);
        assert_eq!((found.endpoints.len(), found.leaves_some_out), (ENDPOINTS_MAX, true));
        assert!(!endpoints(&many[..ENDPOINTS_MAX], &BTreeMap::new(), false).leaves_some_out);
    }
}
