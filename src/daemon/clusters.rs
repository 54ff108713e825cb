//! The clusters in force, each with its background tasks: health checks, trials, preconnect, discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;

use crate::cluster::Cluster;
use crate::cluster::snapshot::Snapshot;
use crate::config::Config;
use crate::credentials::follow_login;
use crate::dial::{preconnect, trials};
use crate::drain::ChildDrain;
use crate::name::ClusterName;
use crate::{discovery, health};

use super::services::Services;

/// All clusters of the configuration in force.
#[derive(Debug)]
pub(super) struct ClusterManager {
    active: BTreeMap<ClusterName, ActiveCluster>,
    /// The clusters' snapshots from another process, until the first configuration is in force.
    restored: BTreeMap<ClusterName, Snapshot>,
}

/// A cluster with its background tasks.
#[derive(Debug)]
struct ActiveCluster {
    cluster: Arc<Cluster>,
    tasks: ChildDrain,
}

impl ClusterManager {
    /// Has no clusters yet.
    pub(super) const fn new(restored: BTreeMap<ClusterName, Snapshot>) -> Self {
        Self { active: BTreeMap::new(), restored }
    }

    /// The cluster of that name, which must be in the configuration.
    pub(super) fn get(&self, name: &ClusterName) -> &Arc<Cluster> {
        &self.active[name].cluster
    }

    /// Forgets the snapshots of clusters that are not in the configuration.
    pub(super) fn forget_restored(&mut self) {
        self.restored.clear();
    }

    /// Starts clusters that are new, and gives new settings to those that have changed. Removed ones stay until
    /// [`Self::remove_absent`], because listeners still lead to them.
    pub(super) fn apply(
        &mut self,
        config: &Config,
        services: &Services,
        rng: &mut Rng,
        is_start: bool,
        changes: &mut Vec<String>,
    ) {
        for settings in &config.clusters {
            let name = &settings.name;
            let cluster = match self.active.get(name) {
                Some(active_cluster) if active_cluster.cluster.settings().digest == settings.digest => {
                    continue;
                }
                Some(active_cluster) => {
                    changes.push(format!("cluster {name} changed"));
                    active_cluster.tasks.stop();
                    active_cluster.cluster.with_settings(settings.clone())
                }
                None => {
                    if !is_start {
                        changes.push(format!("cluster {name} added"));
                    }
                    let restored = self.restored.remove(name).unwrap_or_default();
                    Cluster::resume(settings.clone(), rng.fork(), restored)
                }
            };
            if let Some(tls) = &cluster.settings().tls {
                services.credentials.follow(name, tls);
            }
            let tasks = services.admin.child();
            if let Some(login) = &cluster.settings().login {
                services.credentials.follow_logins(login);
                for credential in login.followed() {
                    let following = follow_login(Arc::downgrade(credential), rng.fork(), tasks.watch());
                    services.admin.spawn(following);
                }
            }
            let probing = health::run(Arc::clone(&cluster), rng.fork(), tasks.watch());
            services.admin.spawn(probing);
            services.admin.spawn(trials::run(Arc::clone(&cluster), tasks.watch()));
            let draining = services.sessions.watch();
            let replaced = services.credentials.replacements();
            let dialling =
                preconnect::run(Arc::clone(&cluster), rng.fork(), tasks.watch(), draining, replaced);
            services.admin.spawn(dialling);
            // Not on a worker: lookups use timers that would make each round of the worker's event loop read the clock.
            let discovery = services.discovery.clone();
            let finding = discovery::follow(Arc::clone(&cluster), discovery, rng.fork(), tasks.watch());
            services.admin.spawn(finding);
            let active_cluster = ActiveCluster { cluster, tasks };
            self.active.insert(name.clone(), active_cluster);
        }
    }

    /// Removes the clusters that are no longer in the configuration. Their sessions end as `on_removed` says.
    pub(super) fn remove_absent(&mut self, config: &Config, changes: &mut Vec<String>) {
        let present: BTreeSet<_> = config.clusters.iter().map(|cluster| &cluster.name).collect();
        self.active.retain(|name, active_cluster| {
            let stays = present.contains(name);
            if !stays {
                changes.push(format!("cluster {name} removed"));
                active_cluster.tasks.stop();
                active_cluster.cluster.set_endpoints(Vec::new());
            }
            stays
        });
    }

    /// The addresses of clusters whose endpoints are not discovered.
    pub(super) fn fixed_endpoints(&self) -> impl Iterator<Item = (ClusterName, Vec<SocketAddr>)> {
        let fixed = self.active.values().filter(|known| known.cluster.settings().source.is_none());
        fixed.map(|known| {
            let endpoints = known.cluster.endpoints();
            let addresses = endpoints.iter().flat_map(|endpoint| endpoint.settings().addresses.iter());
            (known.cluster.settings().name.clone(), addresses.collect())
        })
    }
}
