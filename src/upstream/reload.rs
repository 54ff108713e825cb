//! The same cluster under new settings: what a reload makes of it.
//!
//! A new object around the same state. Whatever decides reads the settings of its own cluster, so nothing sees old and new
//! mixed; sessions that live keep the cluster that they began with.

use std::sync::Arc;

use crate::clock;
use crate::policy::endpoint_state::Admin;
use crate::policy::health::HealthStatus;

use super::endpoint::Endpoint;
use super::{Cluster, Settings, State, discovery, preconnect, show_tls};

impl Cluster {
    /// Whether one of them has succeeded the other, over however many changes: then they have their endpoints in common. A
    /// cluster that was taken out of the file and put back is another one, and numbers its endpoints anew.
    #[must_use]
    pub(crate) fn is_same_lineage(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// The same cluster under new settings. All that is known of endpoints that stay is kept, and what the cluster carries
    /// still counts. Who looked after the old one looks after the new one instead, from behind this call on.
    #[must_use]
    pub(crate) fn with_settings(&self, mut settings: Settings) -> Arc<Self> {
        let keeps_tls = self.settings.tls_digest == settings.tls_digest;
        if keeps_tls {
            settings.tls.clone_from(&self.settings.tls);
        }
        show_tls(&settings);
        let rhythm = settings.health_check.as_ref().map(|check| check.rhythm);
        let cluster = Arc::new(Self {
            metrics: self.metrics.clone(),
            state: Arc::clone(&self.state),
            changes: Arc::clone(&self.changes),
            trials: Arc::clone(&self.trials),
            probe_table: rhythm
                .map(|rhythm| self.probe_table.with_settings(rhythm, clock::now()))
                .unwrap_or_default(),
            // Those of the old settings end with them.
            spares: preconnect::Spares::default(),
            // Who is known goes on being used until the search has found better.
            discovery: discovery::DiscoveryStatusCell::new(settings.source.is_none(), self.endpoints().len()),
            settings,
        });
        cluster.renew(keeps_tls);
        if self.settings.health_check.is_some() && rhythm.is_none() {
            // Nobody looks any more, so nobody knows.
            for endpoint in cluster.endpoints() {
                cluster.set_health(endpoint.id(), HealthStatus::Undecided, Err(None));
            }
        }
        if cluster.settings.source.is_none() {
            cluster.set_endpoints(cluster.settings.endpoints.clone());
        }
        cluster
    }

    /// Sessions that begin from now on go by the new settings; each endpoint is who it was.
    fn renew(&self, keeps_tls: bool) {
        self.decide(|State { cluster_state, endpoint_map, wait_queue: line, .. }| {
            cluster_state.reconfigure(self.settings.decisions());
            line.reconfigure(self.settings.queue());
            endpoint_map.renew(|known, measured| {
                let originator = if keeps_tls {
                    known.shared_originator()
                } else {
                    self.settings.tls.as_ref().map(|tls| Arc::new(tls.for_endpoint()))
                };
                let (metrics, checks) = self.endpoint_metrics(known.settings(), measured);
                Endpoint::new(known.id(), known.settings().clone(), originator, metrics, checks)
            });
            for endpoint_state in cluster_state.endpoints() {
                if let Some(checks) =
                    endpoint_map.get(endpoint_state.id()).and_then(|endpoint| endpoint.check_metrics())
                {
                    let is_probed = endpoint_state.is_present() && endpoint_state.admin() != Admin::Disabled;
                    checks.restore(is_probed && endpoint_state.health() != HealthStatus::Unhealthy);
                }
            }
        });
    }
}
