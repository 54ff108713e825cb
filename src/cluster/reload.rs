//! A reload: the same cluster under new settings.
//!
//! A new object around the same state. Every decision reads the settings of its own object, so old and new are never
//! mixed; live sessions keep the object that they began with.

use std::sync::Arc;

use crate::clock;
use crate::policy::endpoint_state::Admin;
use crate::policy::health::HealthStatus;

use super::source::Source;
use super::spares::Spares;
use super::{Cluster, Settings, State, show_tls};

impl Cluster {
    /// Whether one is the other's successor, over any number of reloads; they share endpoint ids then. A cluster that
    /// was removed from the configuration and put back is another one, with new ids.
    #[must_use]
    pub(crate) fn is_same_lineage(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// The same cluster under new settings. The state of endpoints that stay is kept, and the load still counts. After
    /// this call, the cluster's tasks must run for the new object instead of the old one.
    #[must_use]
    pub(crate) fn with_settings(&self, mut settings: Settings) -> Arc<Self> {
        let keeps_tls = self.settings.tls_digest == settings.tls_digest;
        if keeps_tls {
            settings.tls.clone_from(&self.settings.tls);
        }
        if let (Some(login), Some(earlier)) = (&settings.login, &self.settings.login) {
            login.adopt(earlier);
        }
        show_tls(&settings, &self.metrics);
        let identity = |settings: &Settings| settings.source.as_ref().and_then(Source::identity);
        let is_same_source = match (identity(&self.settings), identity(&settings)) {
            (Some(before), Some(now)) => before.is_same(&now),
            _ => false,
        };
        let rhythm = settings.health_check.as_ref().map(|check| check.rhythm);
        let cluster = Arc::new(Self {
            metrics: Arc::clone(&self.metrics),
            state: Arc::clone(&self.state),
            changes: Arc::clone(&self.changes),
            trials: Arc::clone(&self.trials),
            probe_table: rhythm
                .map(|rhythm| self.probe_table.with_settings(rhythm, clock::now()))
                .unwrap_or_default(),
            // Spares of the old settings end with the old object.
            spares: Spares::default(),
            // Known endpoints stay in use until discovery finds others.
            discovery: self.discovery.successor(settings.source.is_none(), is_same_source),
            settings,
        });
        cluster.renew(keeps_tls);
        if self.settings.health_check.is_some() && rhythm.is_none() {
            // Without checks, health is undecided.
            for endpoint in cluster.endpoints() {
                cluster.set_health(endpoint.id(), HealthStatus::Undecided, Err(None));
            }
        }
        if cluster.settings.source.is_none() {
            cluster.set_endpoints(cluster.settings.endpoints.clone());
        }
        cluster
    }

    /// Applies the new settings to the shared state, for sessions that begin from now on. Endpoints keep their ids.
    fn renew(&self, keeps_tls: bool) {
        self.decide(|State { cluster_state, endpoint_map, wait_queue: line, .. }| {
            cluster_state.reconfigure(self.settings.decisions());
            line.reconfigure(self.settings.queue());
            endpoint_map.renew(|known| {
                let originator = if keeps_tls {
                    known.shared_originator()
                } else {
                    self.settings.tls.as_ref().map(|tls| Arc::new(tls.for_endpoint()))
                };
                self.make_endpoint(known.id(), known.settings().clone(), originator)
            });
            let (mut probed, mut others) = (Vec::new(), Vec::new());
            for state in cluster_state.endpoints() {
                let Some(endpoint) = endpoint_map.get(state.id()) else { continue };
                let is_probed = state.is_present() && state.admin() != Admin::Disabled;
                match endpoint.check_metrics().filter(|_| is_probed) {
                    Some(checks) => probed.push((checks, state.health())),
                    None => others.push(endpoint),
                }
            }
            // The probed last: one that has left may have the name of one that stays, and so its metrics.
            others.iter().for_each(|endpoint| endpoint.metrics().checks.remove());
            for (checks, health) in probed {
                checks.restore(health != HealthStatus::Unhealthy);
            }
        });
    }
}
