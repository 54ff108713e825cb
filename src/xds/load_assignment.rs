//! What a ClusterLoadAssignment says: endpoints with weights and priorities. Pure.
//!
//! docs/XDS.md says of each field whether it is used, ignored or refused. An assignment is good as a whole or refused as a whole, as by
//! Envoy, so that a control plane hears of it.

use prost::Message as _;

use super::message::{Any, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, SocketAddress};
use super::wire;
use crate::escape::escaped;

/// The type of what is asked for.
pub(super) const TYPE_URL: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// The highest priority of an endpoint (endpoint_components.proto).
const PRIORITY_MAX: u32 = 128;
/// The most endpoints, those that may not be used and localities without any included. A cluster has no more (`ENDPOINTS_MAX`).
const ENDPOINTS_MAX: usize = 4096;
/// The largest weight of an endpoint of ours. Larger ones are made smaller in proportion.
const WEIGHT_MAX: u32 = 65_535;

/// The endpoints of a cluster that may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LoadAssignment {
    pub(crate) endpoints: Vec<XdsEndpoint>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct XdsEndpoint {
    /// An address, or a name.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// UNKNOWN and HEALTHY.
    Usable,
    /// Used where all others fail.
    Degraded,
    /// UNHEALTHY, TIMEOUT and DRAINING: no new sessions.
    Unusable,
}

impl LoadAssignment {
    /// With one endpoint.
    #[cfg(test)]
    pub(crate) fn at(host: &str, port: u16) -> Self {
        Self { endpoints: vec![XdsEndpoint { host: host.into(), port, weight: 1, priority: 0 }] }
    }

    /// Reads the assignment of the cluster of that name.
    ///
    /// # Errors
    /// Why it is refused, in words.
    pub(super) fn read(name: &str, any: &Any) -> Result<Self, String> {
        if any.type_url != TYPE_URL {
            return Err(format!("it is a {}", escaped(&any.type_url)));
        }
        let localities = || wire::fields(&any.value).filter(|field| field.tag == 2);
        let endpoints = localities().flat_map(|locality| wire::fields(locality.value));
        let count = localities().count().max(endpoints.filter(|field| field.tag == 2).count());
        if count > ENDPOINTS_MAX {
            return Err(format!("it has {count} endpoints or localities, and {ENDPOINTS_MAX} are the most"));
        }
        let assignment = ClusterLoadAssignment::decode(&any.value[..])
            .map_err(|error| format!("it is no ClusterLoadAssignment: {error}"))?;
        if assignment.cluster_name != name {
            return Err(format!("it is of cluster {}", escaped(&assignment.cluster_name)));
        }
        let drops = assignment.policy.iter().flat_map(|policy| &policy.drop_overloads);
        let mut dropped =
            drops.filter(|drop| drop.drop_percentage.as_ref().is_some_and(|part| part.numerator > 0));
        if let Some(drop) = dropped.next() {
            return Err(format!(
                "policy.drop_overloads (category {}) is not supported",
                escaped(&drop.category)
            ));
        }
        Self::of(&assignment.endpoints)
    }

    fn of(localities: &[LocalityLbEndpoints]) -> Result<Self, String> {
        let mut read = Vec::with_capacity(localities.iter().map(|one| one.lb_endpoints.len()).sum());
        for locality in localities {
            if locality.leds_cluster_locality_config.is_some() || locality.load_balancer_endpoints.is_some() {
                return Err(
                    "leds_cluster_locality_config and load_balancer_endpoints are not supported".into()
                );
            }
            if locality.priority > PRIORITY_MAX {
                return Err(format!("priority {} is more than {PRIORITY_MAX}", locality.priority));
            }
            for endpoint in &locality.lb_endpoints {
                read.push((XdsEndpoint::read(endpoint, locality.priority)?, health(endpoint.health_status)));
            }
        }
        let last = read.iter().map(|(endpoint, _)| endpoint.priority).max().unwrap_or_default() + 1;
        let heaviest = read.iter().map(|(endpoint, _)| endpoint.weight).max().unwrap_or_default();
        let usable = read.into_iter().filter(|(_, health)| *health != Health::Unusable);
        let endpoints = usable.map(|(endpoint, health)| XdsEndpoint {
            weight: in_proportion(endpoint.weight, heaviest),
            priority: if health == Health::Degraded { last } else { endpoint.priority },
            ..endpoint
        });
        Ok(Self { endpoints: endpoints.collect() })
    }
}

impl XdsEndpoint {
    fn read(endpoint: &LbEndpoint, priority: u32) -> Result<Self, String> {
        if !endpoint.endpoint_name.is_empty() {
            return Err("endpoint_name is not supported".into());
        }
        let address = endpoint.endpoint.as_ref().and_then(|endpoint| endpoint.address.as_ref());
        let address = address.ok_or("an endpoint has no address")?;
        if address.pipe.is_some() || address.envoy_internal_address.is_some() {
            return Err("an endpoint is a pipe or an internal listener, which is not supported".into());
        }
        let socket = address.socket_address.as_ref().ok_or("an endpoint has no socket_address")?;
        let of = |what: String| format!("endpoint {}: {what}", escaped(&socket.address));
        let (host, port) = (host(socket).map_err(of)?, port(socket).map_err(of)?);
        let weight = endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
        if weight == 0 {
            return Err(of("load_balancing_weight is 0".into()));
        }
        Ok(Self { host, port, weight, priority })
    }
}

fn host(socket: &SocketAddress) -> Result<String, String> {
    let further = [
        ("named_port", &socket.named_port),
        ("resolver_name", &socket.resolver_name),
        ("network_namespace_filepath", &socket.network_namespace_filepath),
    ];
    if let Some((name, _)) = further.iter().find(|(_, value)| !value.is_empty()) {
        return Err(format!("{name} is not supported"));
    }
    match (socket.protocol, socket.address.as_str()) {
        (0, "") => Err("its address is empty".into()),
        (0, address) => Ok(address.to_owned()),
        _ => Err("its protocol is not TCP".into()),
    }
}

fn port(socket: &SocketAddress) -> Result<u16, String> {
    let port = u16::try_from(socket.port_value).ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("{} is no port", socket.port_value))
}

const fn health(status: i32) -> Health {
    match status {
        2..=4 => Health::Unusable,
        5 => Health::Degraded,
        // What is not known yet is no reason to use nothing.
        _ => Health::Usable,
    }
}

/// The weight, where the heaviest of all has at most [`WEIGHT_MAX`].
fn in_proportion(weight: u32, heaviest: u32) -> u32 {
    if heaviest <= WEIGHT_MAX {
        return weight;
    }
    let smaller = u64::from(weight) * u64::from(WEIGHT_MAX) / u64::from(heaviest);
    u32::try_from(smaller).unwrap_or(WEIGHT_MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::message::{
        Address, DropOverload, Endpoint, FractionalPercent, Policy, UInt32Value, Unread,
    };
    use super::*;

    fn at(address: &str, port: u32) -> LbEndpoint {
        let socket_address =
            SocketAddress { address: address.into(), port_value: port, ..SocketAddress::default() };
        of_address(Address { socket_address: Some(socket_address), ..Address::default() })
    }

    fn of_address(address: Address) -> LbEndpoint {
        LbEndpoint { endpoint: Some(Endpoint { address: Some(address) }), ..LbEndpoint::default() }
    }

    fn with(adjust: impl FnOnce(&mut SocketAddress)) -> LbEndpoint {
        let mut socket =
            SocketAddress { address: "10.0.0.1".into(), port_value: 1, ..SocketAddress::default() };
        adjust(&mut socket);
        of_address(Address { socket_address: Some(socket), ..Address::default() })
    }

    fn of(priority: u32, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
        LocalityLbEndpoints { lb_endpoints, priority, ..LocalityLbEndpoints::default() }
    }

    fn read(assignment: &ClusterLoadAssignment) -> Result<Vec<String>, String> {
        let any = Any { type_url: TYPE_URL.into(), value: assignment.encode_to_vec() };
        let read = LoadAssignment::read("orders", &any)?;
        let shown = |one: &XdsEndpoint| format!("{}:{} {}/{}", one.host, one.port, one.weight, one.priority);
        Ok(read.endpoints.iter().map(shown).collect())
    }

    fn assignment(endpoints: Vec<LocalityLbEndpoints>) -> ClusterLoadAssignment {
        ClusterLoadAssignment { cluster_name: "orders".into(), endpoints, policy: None }
    }

    #[test]
    fn weights_priorities_and_health_say_who_is_used() {
        let weighing = |weight: u32, one: LbEndpoint| LbEndpoint {
            load_balancing_weight: Some(UInt32Value { value: weight }),
            ..one
        };
        let in_state = |health_status: i32| LbEndpoint { health_status, ..at("10.0.0.9", 9) };
        for (localities, expected) in [
            (vec![], vec![]),
            (
                vec![of(0, vec![at("10.0.0.1", 1), at("db.test", 65535)])],
                vec!["10.0.0.1:1 1/0", "db.test:65535 1/0"],
            ),
            (
                vec![of(1, vec![at("::1", 1)]), of(0, vec![weighing(7, at("10.0.0.1", 1))])],
                vec!["::1:1 1/1", "10.0.0.1:1 7/0"],
            ),
            (
                vec![of(0, (0..=6).map(in_state).collect())],
                vec!["10.0.0.9:9 1/0", "10.0.0.9:9 1/0", "10.0.0.9:9 1/1", "10.0.0.9:9 1/0"],
            ),
            (
                vec![of(
                    0,
                    vec![
                        weighing(u32::MAX, at("10.0.0.1", 1)),
                        weighing(1 << 31, at("10.0.0.2", 1)),
                        at("10.0.0.3", 1),
                    ],
                )],
                vec!["10.0.0.1:1 65535/0", "10.0.0.2:1 32767/0", "10.0.0.3:1 1/0"],
            ),
        ] {
            assert_eq!(read(&assignment(localities)).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_in_words() {
        let endpoints = |endpoint: LbEndpoint| assignment(vec![of(0, vec![at("10.0.0.2", 1), endpoint])]);
        let leds = LocalityLbEndpoints { leds_cluster_locality_config: Some(Unread {}), ..of(0, vec![]) };
        let list = LocalityLbEndpoints { load_balancer_endpoints: Some(Unread {}), ..of(0, vec![]) };
        let drop = |numerator| ClusterLoadAssignment {
            policy: Some(Policy {
                drop_overloads: vec![DropOverload {
                    category: "lb".into(),
                    drop_percentage: Some(FractionalPercent { numerator }),
                }],
            }),
            ..assignment(vec![])
        };
        for (assignment, expected) in [
            (
                ClusterLoadAssignment { cluster_name: "else".into(), ..assignment(vec![]) },
                "it is of cluster else",
            ),
            (drop(1), "policy.drop_overloads (category lb) is not supported"),
            (assignment(vec![leds]), "leds_cluster_locality_config"),
            (assignment(vec![list]), "load_balancer_endpoints are not supported"),
            (assignment(vec![of(0, vec![at("10.0.0.1", 1); 4097])]), "it has 4097 endpoints"),
            (
                assignment(vec![of(0, vec![]); 4097]),
                "it has 4097 endpoints or localities, and 4096 are the most",
            ),
            (assignment(vec![of(129, vec![])]), "priority 129 is more than 128"),
            (endpoints(LbEndpoint::default()), "has no address"),
            (endpoints(LbEndpoint { endpoint_name: "x".into(), ..LbEndpoint::default() }), "endpoint_name"),
            (endpoints(of_address(Address { pipe: Some(Unread {}), ..Address::default() })), "is a pipe"),
            (endpoints(of_address(Address::default())), "no socket_address"),
            (endpoints(at("10.0.0.1", 0)), "endpoint 10.0.0.1: 0 is no port"),
            (endpoints(at("10.0.0.1", 65536)), "65536 is no port"),
            (endpoints(at("", 1)), "its address is empty"),
            (endpoints(with(|socket| socket.protocol = 1)), "its protocol is not TCP"),
            (endpoints(with(|socket| socket.named_port = "http".into())), "named_port is not supported"),
            (endpoints(with(|socket| socket.resolver_name = "x".into())), "resolver_name"),
            (endpoints(with(|socket| socket.network_namespace_filepath = "/x".into())), "network_namespace"),
            (
                endpoints(LbEndpoint {
                    load_balancing_weight: Some(UInt32Value { value: 0 }),
                    ..at("10.0.0.1", 1)
                }),
                "load_balancing_weight is 0",
            ),
        ] {
            let error = read(&assignment).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert_eq!(read(&drop(0)), Ok(vec![]));
        let any = |type_url: &str, value: &[u8]| {
            LoadAssignment::read("orders", &Any { type_url: type_url.into(), value: value.to_vec() })
        };
        assert_eq!(any("type.googleapis.com/x", b"").unwrap_err(), "it is a type.googleapis.com/x");
        assert!(any(TYPE_URL, b"\xff").unwrap_err().contains("it is no ClusterLoadAssignment"));
    }
}
