//! Where our own listeners accept, by the cluster that they lead to: an endpoint found there would dial itself, each session
//! one more, until a limit stops it.
//!
//! The configuration refuses such an address where it is written down; a name shows only when it is resolved. Lacks loops
//! over two listeners, or over another proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::name::ClusterName;
use crate::sys;

/// The addresses, as of the last change of the configuration.
#[derive(Debug, Default)]
pub struct OwnAddresses(Mutex<BTreeMap<ClusterName, Vec<SocketAddr>>>);

impl OwnAddresses {
    /// From now on these.
    pub fn set(&self, all: impl Iterator<Item = (ClusterName, SocketAddr)>) {
        let mut by_cluster: BTreeMap<ClusterName, Vec<SocketAddr>> = BTreeMap::new();
        all.for_each(|(cluster, address)| by_cluster.entry(cluster).or_default().push(address));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = by_cluster;
    }

    /// The listener's address at which that cluster would meet itself if it dialled there.
    pub(super) fn met_at(&self, cluster: &ClusterName, endpoint: SocketAddr) -> Option<SocketAddr> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(cluster)?.iter().copied();
        own.into_iter().find(|own| leads_to(endpoint, *own, sys::is_own))
    }
}

/// Whether a connection to `endpoint` arrives at `own`. Nobody's address means this host when it is dialled, and every address
/// of this host when it is listened on; `[::]` is IPv6 alone here.
#[must_use]
pub fn leads_to(endpoint: SocketAddr, own: SocketAddr, is_own: impl Fn(IpAddr) -> bool) -> bool {
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
