//! Clusters, and how a session gets a stream from one.
//!
//! The policies decide (which endpoint, is there room, wait how long) under the cluster's one short lock; effects
//! (connect, upgrade, handshake) happen outside it, in [`dial()`]. A [`Lease`] connects the two.

mod attempt;
mod attempt_deadline;
mod connect;
mod dial;
pub(crate) mod discovery;
mod endpoint;
mod endpoint_map;
mod events;
mod failure;
mod first_words;
pub(crate) mod health_check;
mod hedging;
mod lease;
pub(crate) mod preconnect;
mod probe;
mod proxy_header;
mod reload;
mod server_first;
pub(crate) mod snapshot;
pub(crate) mod trials;
mod upgrade;
mod wait_queue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::{Notify, watch};

use crate::alarm;
use crate::caller::Caller;
use crate::clock;
use crate::digest::Digest;
use crate::metrics::ClusterMetrics;
use crate::name::ClusterName;
use crate::policy::admission::Needs;
use crate::policy::cluster_state::{self, ClusterState, Unavailable};
use crate::policy::eligibility::NoEndpoint;
use crate::policy::limits::{self, LimitReached, Load};
use crate::policy::{balance, breaker, budget, eligibility, hedge, outlier, queue, retry};
use crate::protocol::Protocol;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::{self, NoIdentity};
use crate::{relay, sys};

pub(crate) use crate::policy::endpoint_state::Id as EndpointId;
pub(crate) use attempt::examine_endpoint;
use dial::Purpose;
pub(crate) use dial::{
    DialOverrides, DialRecord, DialRequest, DialTarget, Dialled, Ready, Settings as DialSettings, dial,
};
pub(crate) use endpoint::{Address, Endpoint, Host, Settings as EndpointSettings};
use endpoint_map::EndpointMap;
pub(crate) use endpoint_map::{EndpointView, EvictedEndpoint, EvictionSettings, OnEndpointLoss};
pub(crate) use failure::{AttemptStep, DialError, DialFailure};
pub(crate) use lease::Lease;
pub(crate) use probe::{finish_dialogue, late_rejection, probe};
pub(crate) use proxy_header::{ProxyInfo, SendProxy};
pub(crate) use server_first::ServerFirstUpgrade;
use snapshot::Snapshot;
use wait_queue::WaitQueue;

/// One cluster, complete and consistent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Digest of the whole configuration of the cluster; a reload detects changes by it.
    pub digest: Digest,
    /// Digest of its TLS configuration alone.
    pub tls_digest: Digest,
    /// The protocol of its servers.
    pub protocol: Arc<dyn Protocol>,
    /// The initial endpoints, with distinct names. Empty if discovery is to find them.
    pub endpoints: Vec<EndpointSettings>,
    /// Where endpoints are discovered; `None`: the initial ones are final.
    pub source: Option<discovery::Source>,
    /// Which endpoint takes the next session.
    pub balance: balance::Policy,
    /// `None`: plaintext.
    pub tls: Option<tls::Originator>,
    /// The bounds and retries of a dial.
    pub dial: DialSettings,
    /// The PROXY header sent to its servers; `None`: none.
    pub send_proxy: Option<SendProxy>,
    /// Caps on connections and pending dials; the latter also caps the queue.
    pub limits: limits::Settings,
    /// How long a session may wait for room or for an endpoint to come back; zero: it is refused at once.
    pub queue_timeout: Duration,
    /// Whether the queue is fair between callers; each caller is looked up then.
    pub takes_turns: bool,
    /// When the breaker opens; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// When an endpoint is ejected; `None`: never.
    pub outlier: Option<outlier::Settings>,
    /// How many attempts may be retries; `None`: all.
    pub retry_budget: Option<budget::Settings>,
    /// When an attempt without an answer counts as slow; `None`: never.
    pub hedge: Option<hedge::Settings>,
    /// Whether a slow attempt is hedged. If not, it is only given up when its endpoint is found down, or has not
    /// greeted.
    pub hedges: bool,
    /// What to do when active checks find every endpoint down.
    pub panic: eligibility::Panic,
    /// How long an endpoint that came back takes fewer sessions; zero: it takes its full share at once.
    pub slow_start: Duration,
    /// When sessions end with their endpoint.
    pub eviction: EvictionSettings,
    /// Whether sessions with a replaced identity are ended once idle, within the same closing time.
    pub drains_on_rotation: bool,
    /// Socket options of both legs.
    pub socket: sys::Options,
    /// The timers of its sessions.
    pub session: relay::Settings,
    /// Whether the caller's unit is sent to servers, where the protocol has a field for it.
    pub announce_caller: bool,
    /// `None`: its endpoints are not probed.
    pub health_check: Option<health_check::Settings>,
}

impl Settings {
    /// The addresses of the initial endpoints.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter()).collect()
    }

    /// What must be looked up about callers, if anything.
    #[must_use]
    pub fn wants_of_callers(&self) -> Option<Needs> {
        let tells = self.announce_caller || matches!(self.send_proxy, Some(SendProxy::V2 { .. }));
        let to_tell = tells.then_some(Needs { unit: true, groups: false });
        let to_choose = self.tls.as_ref().and_then(|tls| tls.identities().needs());
        let to_take_turns = self.takes_turns.then_some(Needs { unit: true, groups: false });
        [to_tell, to_choose, to_take_turns].into_iter().flatten().reduce(Needs::and)
    }

    /// Checks that an identity can be chosen for the caller.
    fn identifies(&self, caller: Option<&Caller>) -> Result<(), NoIdentity> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.identities().choose(caller).map(drop))
    }
}

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
    probe_table: health_check::ProbeTable,
    spares: preconnect::Spares,
    discovery: discovery::DiscoveryStatusCell,
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
        let probe_table = health_check::ProbeTable::default();
        let spares = preconnect::Spares::default();
        let search = discovery::DiscoveryStatusCell::new(settings.source.is_none(), settings.endpoints.len());
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

    const fn probe_table(&self) -> &health_check::ProbeTable {
        &self.probe_table
    }

    /// The progress of discovery.
    #[must_use]
    pub(crate) fn discovery(&self) -> Arc<discovery::DiscoveryStatus> {
        self.discovery.status()
    }

    /// Waits for the first discovery result, or the deadline. Returns the wait; `None` if a result was known.
    async fn found(&self, deadline: Instant) -> Option<Duration> {
        if self.discovery.is_known() {
            return None;
        }
        let begun = clock::now();
        let _ = alarm::timeout_at(deadline, self.discovery.wait_known()).await;
        Some(clock::now() - begun)
    }

    const fn spares(&self) -> &preconnect::Spares {
        &self.spares
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The next endpoint to try, with room reserved on it. `turn`: the ticket of a session called from the queue. In a
    /// full cluster, the oldest spare is closed to make room for a session.
    fn lease(
        self: &Arc<Self>,
        request: &DialRequest<'_>,
        plan: &mut retry::Plan,
        turn: Option<&queue::QueueTicket>,
        purpose: Purpose,
    ) -> Result<Lease, Unavailable> {
        let leased = self.lease_now(request, plan, turn);
        let takes_a_session = matches!(
            leased,
            Err(Unavailable::Full(LimitReached::Connections(_) | LimitReached::Endpoints(_)))
        );
        // The room of a closed spare would go to the sessions that wait.
        let may_evict = takes_a_session && purpose == Purpose::Session && self.waiting() == 0;
        if may_evict && self.close_oldest_spare() { self.lease_now(request, plan, turn) } else { leased }
    }

    fn lease_now(
        self: &Arc<Self>,
        request: &DialRequest<'_>,
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
    fn lease_hedge(self: &Arc<Self>, request: &DialRequest<'_>, plan: &mut retry::Plan) -> Option<Lease> {
        let (endpoint, ticket) = self.decide(|State { cluster_state, rng, endpoint_map, .. }| {
            let (id, ticket) = cluster_state.begin_hedge(plan, request.affinity, clock::now(), rng)?;
            Some((Arc::clone(endpoint_map.get(id)?), ticket))
        })?;
        self.metrics.pending_dials.increment(1);
        Some(Lease::dialling(Arc::clone(self), endpoint, ticket))
    }

    /// Whether a running attempt at the endpoint should be given up.
    fn is_given_up(&self, endpoint: EndpointId, plan: &retry::Plan) -> bool {
        self.state().cluster_state.is_given_up(endpoint, plan)
    }

    /// How long to wait before the next attempt. `is_unpaid`: the retry budget was exhausted.
    fn wait(&self, target: DialTarget, plan: &mut retry::Plan, is_unpaid: bool) -> Duration {
        let State { cluster_state, rng, .. } = &mut *self.state();
        if is_unpaid {
            return plan.wait_for_budget(rng);
        }
        let has_untried = matches!(target, DialTarget::Any) && cluster_state.has_untried(plan);
        plan.wait(has_untried, rng)
    }

    /// Whether an eligible endpoint is left untried.
    fn has_untried(&self, target: DialTarget, plan: &retry::Plan) -> bool {
        matches!(target, DialTarget::Any) && self.state().cluster_state.has_untried(plan)
    }
}

impl Settings {
    /// Whether its servers greet before TLS begins; the delay is theirs to choose.
    pub(crate) fn awaits_greetings(&self) -> bool {
        let upgrades = self.tls.as_ref().is_some_and(|settings| settings.start() == tls::TlsStart::Upgrade);
        upgrades && self.protocol.server_greets() && self.protocol.upgrade().is_some()
    }

    const fn decisions(&self) -> cluster_state::Settings {
        cluster_state::Settings {
            balance: self.balance,
            limits: self.limits,
            outlier: self.outlier,
            breaker: self.breaker,
            retry_budget: self.retry_budget,
            hedge: self.hedge,
            panic: self.panic,
            slow_start: self.slow_start,
            penalty: self.dial.connect_timeout,
        }
    }
}

/// Records the fixed TLS settings in the metrics.
fn show_tls(settings: &Settings) {
    if let Some(tls) = &settings.tls {
        ClusterMetrics::record_tls_settings(&settings.name, tls.verifies());
    }
}
