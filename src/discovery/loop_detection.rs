//! Detects endpoints that are our own listeners and lead back to the same cluster, directly or over other listeners. In
//! such a loop each session would dial another one, until a limit stops them.
//!
//! The configuration's check refuses such literal addresses; those of a name are known only when it is resolved. Lacks
//! loops over another proxy, and those that a client makes by its CONNECT requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::name::ClusterName;
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

/// The graph of our own listeners as of the last change of the configuration, with the endpoints discovered since.
#[derive(Debug, Default)]
pub(crate) struct LoopDetector(Mutex<LoopGraph>);

/// An address at which a listener accepts, and a cluster that its sessions go to.
#[derive(Debug, Clone)]
pub(crate) struct ListenerEdge {
    /// The listener's address.
    pub address: SocketAddr,
    /// The cluster of its sessions.
    pub cluster: ClusterName,
    /// Whether all sessions go to that cluster; if not, each one's CONNECT request names its cluster.
    pub is_only: bool,
}

/// Listener edges, and the endpoints of the clusters that they lead to.
#[derive(Debug, Default)]
pub(crate) struct LoopGraph {
    /// By port.
    listener_edges: BTreeMap<u16, Vec<ListenerEdge>>,
    endpoints: BTreeMap<ClusterName, Vec<SocketAddr>>,
}

/// How a dial would come back to its own cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialLoop {
    /// Directly: this is the address of a listener that leads to the cluster.
    At(SocketAddr),
    /// Indirectly: this is the address of a listener to another cluster, which leads back to it.
    Over(SocketAddr),
}

impl LoopDetector {
    /// Replaces the listener edges, and the endpoints of clusters in `fixed`. Discovered endpoints of clusters that still
    /// have a listener edge stay.
    pub(crate) fn set(
        &self,
        listener_edges: Vec<ListenerEdge>,
        fixed: impl Iterator<Item = (ClusterName, Vec<SocketAddr>)>,
    ) {
        let mut graph = self.graph();
        let led_to: BTreeSet<_> = listener_edges.iter().map(|edge| &edge.cluster).collect();
        graph.endpoints.retain(|cluster, _| led_to.contains(cluster));
        graph.endpoints.extend(fixed);
        graph.listener_edges = by_port(listener_edges);
    }

    /// Replaces the endpoints of a cluster.
    pub(super) fn set_endpoints(&self, cluster: &ClusterName, endpoints: Vec<SocketAddr>) {
        self.graph().endpoints.insert(cluster.clone(), endpoints);
    }

    pub(super) fn loop_at(&self, cluster: &ClusterName, endpoint: SocketAddr) -> Option<DialLoop> {
        self.graph().find_loop(cluster, endpoint, sys::is_own)
    }

    fn graph(&self) -> MutexGuard<'_, LoopGraph> {
        self.0.lock()
    }
}

impl LoopGraph {
    /// From the listener edges and each cluster's endpoints.
    #[must_use]
    pub(crate) fn new(
        listener_edges: Vec<ListenerEdge>,
        endpoints: BTreeMap<ClusterName, Vec<SocketAddr>>,
    ) -> Self {
        Self { listener_edges: by_port(listener_edges), endpoints }
    }

    /// How a dial of the cluster to `endpoint` would come back to the cluster, if it would.
    pub(crate) fn find_loop(
        &self,
        cluster: &ClusterName,
        endpoint: SocketAddr,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Option<DialLoop> {
        let met = |at: SocketAddr| {
            let of_port = self.listener_edges.get(&at.port()).into_iter().flatten();
            of_port.filter(|edge| leads_to(at, edge.address, &is_own)).collect::<Vec<_>>()
        };
        let first = met(endpoint);
        if let Some(own) = first.iter().find(|edge| edge.cluster == *cluster) {
            return Some(DialLoop::At(own.address));
        }
        for edge in first.into_iter().filter(|edge| edge.is_only) {
            let mut seen = BTreeSet::from([&edge.cluster]);
            let mut open = vec![&edge.cluster];
            while let Some(next) = open.pop() {
                let endpoints = self.endpoints.get(next).into_iter().flatten();
                for beyond in endpoints.flat_map(|at| met(*at)).filter(|edge| edge.is_only) {
                    if beyond.cluster == *cluster {
                        return Some(DialLoop::Over(edge.address));
                    }
                    if seen.insert(&beyond.cluster) {
                        open.push(&beyond.cluster);
                    }
                }
            }
        }
        None
    }
}

fn by_port(listener_edges: Vec<ListenerEdge>) -> BTreeMap<u16, Vec<ListenerEdge>> {
    let mut by_port = BTreeMap::<u16, Vec<ListenerEdge>>::new();
    listener_edges.into_iter().for_each(|edge| by_port.entry(edge.address.port()).or_default().push(edge));
    by_port
}

/// Whether a connection to `endpoint` arrives at `own`. The unspecified address means this host in a dial, and every
/// address of this host in a bind; `[::]` is bound to IPv6 alone here.
fn leads_to(endpoint: SocketAddr, own: SocketAddr, is_own: impl Fn(IpAddr) -> bool) -> bool {
    let (to, at) = (endpoint.ip().to_canonical(), own.ip().to_canonical());
    if endpoint.port() != own.port() || to.is_ipv4() != at.is_ipv4() {
        return false;
    }
    match (to.is_unspecified(), at.is_unspecified()) {
        (true, true) => true,
        // Linux dials the loopback address instead.
        (true, false) => at.is_loopback(),
        (false, true) => to.is_loopback() || is_own(to),
        (false, false) => to == at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between two listeners that lead to each other, one client uses up all connections of both.
    #[test]
    fn a_way_back_over_other_listeners_is_found() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let edge = |port: u16, cluster: &str, is_only| ListenerEdge {
            address: at(port),
            cluster: cluster.into(),
            is_only,
        };
        let listener_edges = vec![
            edge(1, "a", true),
            edge(2, "b", true),
            edge(3, "c", true),
            edge(4, "asked", false),
            edge(4, "other", false),
        ];
        let behind =
            [("b", vec![at(9), at(3)]), ("c", vec![at(1)]), ("other", vec![at(1)]), ("asked", vec![])];
        let behind = behind.into_iter().map(|(cluster, endpoints)| (cluster.into(), endpoints));
        let graph = LoopGraph::new(listener_edges, behind.collect());
        let dial_loop = |cluster: &str, port| graph.find_loop(&cluster.into(), at(port), |_| false);
        assert_eq!(dial_loop("a", 1), Some(DialLoop::At(at(1))));
        assert_eq!(dial_loop("a", 2), Some(DialLoop::Over(at(2))), "over b and c");
        assert_eq!(dial_loop("a", 3), Some(DialLoop::Over(at(3))), "over c");
        assert_eq!(dial_loop("x", 2), None, "a chain");
        assert_eq!(dial_loop("a", 4), None, "the client says where to");
        assert_eq!(dial_loop("a", 9), None);
    }

    #[test]
    fn what_meets_a_listener_and_what_does_not() {
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        for (endpoint, own, meets) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:2", "127.0.0.1:1", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("127.0.0.2:1", "0.0.0.0:1", true),
            ("192.0.2.1:1", "0.0.0.0:1", true),
            ("192.0.2.2:1", "0.0.0.0:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "192.0.2.1:1", false),
            ("0.0.0.0:1", "0.0.0.0:1", true),
            ("[::1]:1", "[::1]:1", true),
            ("[::1]:1", "[::]:1", true),
            ("[::]:1", "[::1]:1", true),
            ("127.0.0.1:1", "[::]:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ] {
            let (to, at) = (endpoint.parse().unwrap(), own.parse().unwrap());
            assert_eq!(leads_to(to, at, |ip| ip == local), meets, "{endpoint} at {own}");
        }
    }
}
