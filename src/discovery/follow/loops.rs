//! Endpoints that are our own listeners and lead back to the cluster: they are left out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Following;
use crate::cluster::EndpointSettings as Settings;
use crate::discovery::loop_detection::DialLoop;

impl Following {
    /// Leaves out endpoints at our own listeners that lead back to this cluster.
    pub(super) fn leave_out_loops(&mut self, found: &mut Vec<Settings>) {
        let mut loops = BTreeMap::new();
        found.retain(|one| {
            let Some(dial_loop) = one.addresses.iter().find_map(|address| self.loop_at(address)) else {
                return true;
            };
            let host = one.host.as_deref().unwrap_or(one.name.as_str()).to_owned();
            let way = match dial_loop {
                DialLoop::At(own) => format!("our own listener's address {own}"),
                DialLoop::Over(own) => {
                    format!("the address {own} of a listener of ours that leads back here")
                }
            };
            loops.insert(host, format!("{} is {way}: it would dial itself", one.name));
            false
        });
        let cluster = &self.cluster.settings().name;
        for (host, error) in loops.iter().filter(|(host, _)| !self.loops.contains_key(*host)) {
            tracing::warn!(%cluster, origin = host, error = error, "an endpoint is left out");
        }
        self.loops = loops;
    }

    pub(super) fn is_loop(&self, one: &Settings) -> bool {
        one.addresses.iter().any(|address| self.loop_at(address).is_some())
    }

    pub(super) fn loop_at(&self, address: SocketAddr) -> Option<DialLoop> {
        self.services.own.loop_at(&self.cluster.settings().name, address)
    }
}
