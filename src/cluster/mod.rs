//! Clusters, and how a session gets a stream from one.
//!
//! The policies decide (which endpoint, is there room, wait how long) under the cluster's one short lock; effects
//! (connect, upgrade, handshake) happen outside it, in [`dial()`]. A [`Lease`] connects the two.

mod dial_error;
mod discovery_status;
mod endpoint;
mod endpoint_map;
mod events;
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
use crate::policy::cluster_state::{ClusterState, Unavailable};
use crate::policy::eligibility::NoEndpoint;
use crate::policy::limits::{LimitReached, Load};
use crate::policy::{breaker, eligibility, queue, retry};
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
pub(crate) use source::{EndpointsFile, Source, SrvService, Target};
use spares::Spares;
pub(crate) use spares::{PORTION, Spare};
use wait_queue::WaitQueue;
pub(crate) use wait_queue::{NoLease, NoRoom};

/// A named group of interchangeable endpoints under one configuration. The endpoints' state survives a change of
/// configuration: see [`Cluster::with_settings`].
#[derive(Debug)]
pub(crate) struct Cluster {
    settings: Settings,
    metrics: ClusterMetrics,
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
        show_tls(&settings);
        let wait_queue = WaitQueue::new(settings.queue());
        let cluster_state = ClusterState::new(settings.decisions());
        let state = State { cluster_state, rng, endpoint_map: EndpointMap::default(), wait_queue };
        let metrics =
            ClusterMetrics::new(&settings.name, &breaker::StateLabel::ALL.map(breaker::StateLabel::label));
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
    pub(crate) const fn metrics(&self) -> &ClusterMetrics {
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
    pub(crate) async fn found(&self, deadline: Instant) -> Option<Duration> {
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

    pub(crate) const fn spares(&self) -> &Spares {
        &self.spares
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The next endpoint to try, with room reserved on it. `turn`: the ticket of a session called from the queue. In a
    /// full cluster, the oldest spare is closed to make room for a session.
    fn lease(
        self: &Arc<Self>,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        turn: Option<&queue::QueueTicket>,
    ) -> Result<Lease, Unavailable> {
        let leased = self.lease_now(request, plan, turn);
        let takes_a_session = matches!(
            leased,
            Err(Unavailable::Full(LimitReached::Connections(_) | LimitReached::Endpoints(_)))
        );
        // The room of a closed spare would go to the sessions that wait.
        let may_evict = takes_a_session && request.purpose == Purpose::Session && self.waiting() == 0;
        if may_evict && self.close_oldest_spare() { self.lease_now(request, plan, turn) } else { leased }
    }

    fn lease_now(
        self: &Arc<Self>,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        turn: Option<&queue::QueueTicket>,
    ) -> Result<Lease, Unavailable> {
        let (endpoint, ticket, patience) =
            self.decide(|State { cluster_state, rng, endpoint_map, wait_queue }| {
                let (id, ticket) = match request.target {
                    DialTarget::Any => {
                        if let Some(cap) =
                            wait_queue.before(turn).filter(|_| !self.settings.queue_timeout.is_zero())
                        {
                            cluster_state.room()?;
                            return Err(cap);
                        }
                        // A called session that finds no room stays the called one: `leave` only after success.
                        let begun = cluster_state.begin(plan, request.affinity, clock::now(), rng)?;
                        if let Some(turn) = turn {
                            wait_queue.leave(turn);
                        }
                        begun
                    }
                    DialTarget::Endpoint { id, .. } => (id, cluster_state.begin_at(id, plan)?),
                };
                let endpoint = endpoint_map.get(id).ok_or(NoEndpoint::Removed)?;
                let patience = (request.target == DialTarget::Any)
                    .then(|| cluster_state.hedge_after(id, plan))
                    .flatten();
                Ok::<_, Unavailable>((Arc::clone(endpoint), ticket, patience))
            })?;
        self.metrics.pending_dials.increment(1);
        Ok(Lease::dialling(Arc::clone(self), endpoint, ticket).with_hedge_delay(patience))
    }

    /// An endpoint for a hedge, with room reserved on it.
    pub(crate) fn lease_hedge(
        self: &Arc<Self>,
        affinity: Option<u64>,
        plan: &mut retry::Plan,
    ) -> Option<Lease> {
        let (endpoint, ticket) = self.decide(|State { cluster_state, rng, endpoint_map, .. }| {
            let (id, ticket) = cluster_state.begin_hedge(plan, affinity, clock::now(), rng)?;
            Some((Arc::clone(endpoint_map.get(id)?), ticket))
        })?;
        self.metrics.pending_dials.increment(1);
        Some(Lease::dialling(Arc::clone(self), endpoint, ticket))
    }

    /// Whether a running attempt at the endpoint should be given up.
    pub(crate) fn is_given_up(&self, endpoint: EndpointId, plan: &retry::Plan) -> bool {
        self.state().cluster_state.is_given_up(endpoint, plan)
    }

    /// How long to wait before the next attempt. `is_unpaid`: the retry budget was exhausted.
    pub(crate) fn wait(&self, target: DialTarget, plan: &mut retry::Plan, is_unpaid: bool) -> Duration {
        let State { cluster_state, rng, .. } = &mut *self.state();
        if is_unpaid {
            return plan.wait_for_budget(rng);
        }
        let has_untried = matches!(target, DialTarget::Any) && cluster_state.has_untried(plan);
        plan.wait(has_untried, rng)
    }

    /// Whether an eligible endpoint is left untried.
    pub(crate) fn has_untried(&self, target: DialTarget, plan: &retry::Plan) -> bool {
        matches!(target, DialTarget::Any) && self.state().cluster_state.has_untried(plan)
    }
}

/// Records the fixed TLS settings in the metrics.
fn show_tls(settings: &Settings) {
    if let Some(tls) = &settings.tls {
        ClusterMetrics::record_tls_settings(&settings.name, tls.verifies());
    }
}
