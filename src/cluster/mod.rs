//! Clusters: what one holds and decides. Settings, endpoints with their state, leases and the queue, and the stores that
//! tasks work by: when each endpoint is probed next, connections kept ready, how far discovery is.
//!
//! The policies decide (which endpoint, is there room, wait how long) under the cluster's one short lock, which nobody
//! outside sees; a [`Lease`] is what a dial gets. Lacks effects: those who connect, probe or ask name servers are
//! `dial`, `health` and `discovery`, and this module knows none of them.
//!
//! The methods of [`Cluster`], by file:
//!
//! | file | methods |
//! |---|---|
//! | here | `new`, `resume`, `settings`, `metrics`, `breaker`, `mode`, `load`, the stores, `wait_found` |
//! | `lease` | `lease_hedge`, `is_given_up`, `retry_delay`, `has_untried` |
//! | `wait_queue` | `lease_in_turn`, `waiting` |
//! | `endpoint_map` | `set_endpoints`, `set_admin`, `set_health`, `endpoints`, `endpoint`, `only_endpoint`, `view`, `evicted_endpoints`, `changes` |
//! | `events` | `decide`, under the lock; `publish_state` |
//! | `trials` | `forget_trials`, `begin_trials`, `record_trial`, `trial_due` |
//! | `spares` | `take_spare`, `retire_spares`, `may_refill` |
//! | `reload` | `with_settings`, `is_same_lineage` |
//! | `snapshot` | `snapshot`, and what restores one |

mod dial_error;
mod discovery_status;
mod endpoint;
mod endpoint_map;
mod events;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod health_check;
mod lease;
mod probe_table;
mod ready;
mod reload;
mod settings;
pub(crate) mod snapshot;
mod source;
mod spares;
mod trials;
mod wait_queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::{Notify, watch};

use crate::alarm;
use crate::clock;
use crate::metrics::ClusterMetrics;
use crate::policy::cluster_state::ClusterState;
use crate::policy::limits::Load;
use crate::policy::{breaker, eligibility};
use crate::sync::{Mutex, MutexGuard};

pub(crate) use crate::policy::endpoint_state::Id as EndpointId;
pub(crate) use dial_error::{AttemptBound, AttemptStep, DialError};
pub(crate) use discovery_status::{DiscoveryStatus, DiscoveryStatusCell, Origin, OriginKind};
pub(crate) use endpoint::{Address, Addresses, Endpoint, Host, Settings as EndpointSettings};
use endpoint_map::EndpointMap;
pub(crate) use endpoint_map::{EndpointView, EvictedEndpoint, EvictionSettings, OnEndpointLoss};
pub(crate) use lease::{DialTarget, Lease, LeaseRequest, Purpose};
use probe_table::ProbeTable;
pub(crate) use ready::Ready;
pub(crate) use settings::{DialSettings, PreconnectSettings, SendProxy, Settings};
use snapshot::Snapshot;
pub(crate) use source::{
    ControlPlane, ENDPOINTS_MAX, EndpointsFile, MakeQuery, RemoteAnswer, RemoteProgress, RemoteQuery,
    RemoteQuestion, RemoteReads, RemoteRequest, RemoteSource, Source, SourceIdentity, SrvService, Target,
    ToTarget, XdsQuestion,
};
use spares::Spares;
pub(crate) use spares::{PORTION, Spare, SpareLogin};
use wait_queue::WaitQueue;
pub(crate) use wait_queue::{NoLease, NoRoom};

/// A named group of interchangeable endpoints under one configuration. The endpoints' state survives a change of
/// configuration: see [`Cluster::with_settings`].
#[derive(Debug)]
pub(crate) struct Cluster {
    settings: Settings,
    metrics: Arc<ClusterMetrics>,
    /// Shared with this cluster's earlier configurations.
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<()>>,
    /// Notified when a trial may be due.
    trials: Arc<Notify>,
    probe_table: ProbeTable,
    spares: Spares,
    discovery: DiscoveryStatusCell,
}

/// The mutable state, behind the lock.
#[derive(Debug)]
struct State {
    cluster_state: ClusterState,
    rng: Rng,
    endpoint_map: EndpointMap,
    wait_queue: WaitQueue,
}

impl Cluster {
    /// `rng` makes the random choices.
    #[must_use]
    pub(crate) fn new(settings: Settings, rng: Rng) -> Arc<Self> {
        Self::resume(settings, rng, Snapshot::default())
    }

    /// A cluster that continues from the snapshot of another process.
    #[must_use]
    pub(crate) fn resume(settings: Settings, rng: Rng, snapshot: Snapshot) -> Arc<Self> {
        let wait_queue = WaitQueue::new(settings.queue());
        let cluster_state = ClusterState::new(settings.decisions());
        let state = State { cluster_state, rng, endpoint_map: EndpointMap::default(), wait_queue };
        let metrics = ClusterMetrics::of(&settings.name);
        show_tls(&settings, &metrics);
        let endpoints = settings.endpoints.clone();
        let (changes, _) = watch::channel(());
        let (state, changes) = (Arc::new(Mutex::new(state)), Arc::new(changes));
        let probe_table = ProbeTable::default();
        let spares = Spares::default();
        let search = DiscoveryStatusCell::new(settings.source.is_none(), settings.endpoints.len());
        let trials = Arc::default();
        let cluster = Arc::new(Self {
            settings,
            metrics,
            state,
            changes,
            trials,
            probe_table,
            spares,
            discovery: search,
        });
        cluster.restore(snapshot.endpoints);
        cluster.arrange(endpoints);
        cluster.resume_breaker(snapshot.breaker);
        cluster
    }

    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub(crate) fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    /// The breaker's state; `None`: there is no breaker.
    #[must_use]
    pub(crate) fn breaker(&self) -> Option<breaker::State> {
        self.state().cluster_state.breaker()
    }

    /// Which endpoint states counted in the last pick.
    #[must_use]
    pub(crate) fn mode(&self) -> eligibility::Mode {
        self.state().cluster_state.mode()
    }

    /// The current load, without spares.
    #[must_use]
    pub(crate) fn load(&self) -> Load {
        let ready = self.spares.by_endpoint().values().sum();
        let load = self.state().cluster_state.total();
        Load { sessions: load.sessions.saturating_sub(ready), ..load }
    }

    /// When each endpoint is probed next, and what its probes found.
    pub(crate) const fn probe_table(&self) -> &ProbeTable {
        &self.probe_table
    }

    /// Expedites the next probe of an endpoint after evidence against it.
    fn suspect(&self, endpoint: EndpointId) {
        self.probe_table.suspect(endpoint, clock::now());
    }

    /// The progress of discovery.
    #[must_use]
    pub(crate) fn discovery(&self) -> Arc<DiscoveryStatus> {
        self.discovery.status()
    }

    /// Waits for the first discovery result, or the deadline. Returns the wait; `None` if a result was known.
    pub(crate) async fn wait_found(&self, deadline: Instant) -> Option<Duration> {
        if self.discovery.is_known() {
            return None;
        }
        let begun = clock::now();
        let _ = alarm::timeout_at(deadline, self.discovery.wait_known()).await;
        Some(clock::now() - begun)
    }

    /// Shared with the task that finds the endpoints.
    pub(crate) const fn discovery_cell(&self) -> &DiscoveryStatusCell {
        &self.discovery
    }

    /// The connections kept ready.
    pub(crate) const fn spares(&self) -> &Spares {
        &self.spares
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Records the TLS settings in the metrics; without TLS, nothing is left unverified that could be verified.
fn show_tls(settings: &Settings, metrics: &ClusterMetrics) {
    metrics.record_tls_settings(settings.tls.as_ref().is_none_or(|tls| tls.verifies()));
}
