//! Where our own listeners accept, and which clusters they lead to: an endpoint found there may be the way back to the cluster that
//! it is of, at once or over other listeners. Each session would dial one more, until a limit stops them.
//!
//! The configuration refuses such addresses where they are written down; a name shows only when it is resolved. Lacks loops over
//! another proxy, and those that a client makes itself by what it asks of a listener for CONNECT requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::name::ClusterName;
use crate::sync::{Mutex, MutexGuard};
use crate::sys;

/// The ways among our own listeners, as of the last change of the configuration, with what has been found since.
#[derive(Debug, Default)]
pub struct OwnAddresses(Mutex<Ways>);

/// An address at which a listener accepts, and a cluster that its sessions go to.
#[derive(Debug, Clone)]
pub struct Entrance {
    /// Where it accepts.
    pub address: SocketAddr,
    /// Where its sessions go.
    pub cluster: ClusterName,
    /// Whether all of them do; if not, each one's CONNECT request says where.
    pub is_only: bool,
}

/// The entrances, and what stands behind them.
#[derive(Debug, Default)]
pub struct Ways {
    entrances: Vec<Entrance>,
    endpoints: BTreeMap<ClusterName, Vec<SocketAddr>>,
}

/// How a cluster would meet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// At that address of a listener that leads to it.
    At(SocketAddr),
    /// At that address of a listener to another cluster, which leads back to it.
    Over(SocketAddr),
}

impl OwnAddresses {
    /// From now on these entrances, and these endpoints of clusters that have no others; those of other clusters stay.
    pub fn set(&self, entrances: Vec<Entrance>, fixed: impl Iterator<Item = (ClusterName, Vec<SocketAddr>)>) {
        let mut ways = self.ways();
        ways.endpoints.retain(|cluster, _| entrances.iter().any(|entrance| entrance.cluster == *cluster));
        ways.endpoints.extend(fixed);
        ways.entrances = entrances;
    }

    /// These are that cluster's endpoints now.
    pub(super) fn found(&self, cluster: &ClusterName, endpoints: Vec<SocketAddr>) {
        self.ways().endpoints.insert(cluster.clone(), endpoints);
    }

    pub(super) fn met_at(&self, cluster: &ClusterName, endpoint: SocketAddr) -> Option<Meeting> {
        self.ways().meeting(cluster, endpoint, sys::is_own)
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.0.lock()
    }
}

impl Ways {
    /// With these entrances, and these endpoints of each cluster.
    #[must_use]
    pub const fn new(entrances: Vec<Entrance>, endpoints: BTreeMap<ClusterName, Vec<SocketAddr>>) -> Self {
        Self { entrances, endpoints }
    }

    /// How the cluster would meet itself if it dialled there.
    pub fn meeting(
        &self,
        cluster: &ClusterName,
        endpoint: SocketAddr,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Option<Meeting> {
        let met = |at: SocketAddr| {
            self.entrances
                .iter()
                .filter(|entrance| leads_to(at, entrance.address, &is_own))
                .collect::<Vec<_>>()
        };
        let first = met(endpoint);
        if let Some(own) = first.iter().find(|entrance| entrance.cluster == *cluster) {
            return Some(Meeting::At(own.address));
        }
        for entrance in first.into_iter().filter(|entrance| entrance.is_only) {
            let mut seen = BTreeSet::from([&entrance.cluster]);
            let mut open = vec![&entrance.cluster];
            while let Some(next) = open.pop() {
                let endpoints = self.endpoints.get(next).into_iter().flatten();
                for beyond in endpoints.flat_map(|at| met(*at)).filter(|entrance| entrance.is_only) {
                    if beyond.cluster == *cluster {
                        return Some(Meeting::Over(entrance.address));
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

/// Whether a connection to `endpoint` arrives at `own`. Nobody's address means this host when it is dialled, and every address
/// of this host when it is listened on; `[::]` is IPv6 alone here.
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

    /// Two listeners that lead to each other take all connections of both with one client.
    #[test]
    fn a_way_back_over_other_listeners_is_found() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let entrance = |port: u16, cluster: &str, is_only| Entrance {
            address: at(port),
            cluster: cluster.into(),
            is_only,
        };
        let entrances = vec![
            entrance(1, "a", true),
            entrance(2, "b", true),
            entrance(3, "c", true),
            entrance(4, "asked", false),
            entrance(4, "other", false),
        ];
        let behind =
            [("b", vec![at(9), at(3)]), ("c", vec![at(1)]), ("other", vec![at(1)]), ("asked", vec![])];
        let behind = behind.into_iter().map(|(cluster, endpoints)| (cluster.into(), endpoints));
        let ways = Ways::new(entrances, behind.collect());
        let meeting = |cluster: &str, port| ways.meeting(&cluster.into(), at(port), |_| false);
        assert_eq!(meeting("a", 1), Some(Meeting::At(at(1))));
        assert_eq!(meeting("a", 2), Some(Meeting::Over(at(2))), "over b and c");
        assert_eq!(meeting("a", 3), Some(Meeting::Over(at(3))), "over c");
        assert_eq!(meeting("x", 2), None, "a chain");
        assert_eq!(meeting("a", 4), None, "the client says where to");
        assert_eq!(meeting("a", 9), None);
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
