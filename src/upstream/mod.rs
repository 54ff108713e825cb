//! Clusters, and how a session gets a stream from one.
//!
//! Decisions (which endpoint, is there room, wait how long) happen under the cluster's one short lock and
//! are the policies'; effects (connect, upgrade, handshake) happen outside it, in [`dial()`]. Between
//! the two goes a [`Lease`].

mod attempt;
mod connect;
mod dial;
pub(crate) mod discovery;
mod endpoint;
mod endpoint_map;
mod events;
mod failure;
mod first_words;
mod future_set;
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
pub(crate) use attempt::try_endpoint;
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
    /// Its name.
    pub name: ClusterName,
    /// All that the file says of it: by this a reload sees a change.
    pub digest: Digest,
    /// The same of its TLS alone.
    pub tls_digest: Digest,
    /// What its servers speak.
    pub protocol: Arc<dyn Protocol>,
    /// Those it begins with; no two with the same name. None, where they are found out later.
    pub endpoints: Vec<EndpointSettings>,
    /// Where its endpoints are found out; `None`: they are those it begins with, for good.
    pub source: Option<discovery::Source>,
    /// Which of them takes the next session.
    pub balance: balance::Policy,
    /// `None`: plaintext.
    pub tls: Option<tls::Originator>,
    /// How a session's upstream connection comes about.
    pub dial: DialSettings,
    /// The PROXY header that its servers get; `None`: none.
    pub send_proxy: Option<SendProxy>,
    /// How many of them.
    pub limits: limits::Settings,
    /// How long a session may wait for room, or for the breaker to close; zero: it is refused at once.
    pub queue_timeout: Duration,
    /// Whether callers take turns in that: then each is looked up.
    pub takes_turns: bool,
    /// When the cluster refuses; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// When an endpoint is set aside; `None`: never.
    pub outlier: Option<outlier::Settings>,
    /// How many attempts may be retries; `None`: all.
    pub retry_budget: Option<budget::Settings>,
    /// When an attempt that does not answer is called slow; `None`: never.
    pub hedge: Option<hedge::Settings>,
    /// Whether the next endpoint is tried beside it then. If not, it is only given up where its endpoint is found down.
    pub hedges: bool,
    /// What to do when active checks find every endpoint down.
    pub panic: eligibility::Panic,
    /// How long an endpoint that came back takes fewer sessions; zero: not at all.
    pub slow_start: Duration,
    /// When sessions end with their endpoint.
    pub eviction: EvictionSettings,
    /// Whether sessions end whose identity has been replaced, within the same closing time, once they rest.
    pub drains_on_rotation: bool,
    /// Socket options of both legs.
    pub socket: sys::Options,
    /// The timers of its sessions.
    pub session: relay::Settings,
    /// Whether its servers learn the caller's unit, where the protocol has a place for it.
    pub announce_caller: bool,
    /// `None`: nobody probes its endpoints.
    pub health_check: Option<health_check::Settings>,
}

impl Settings {
    /// Where those are that it begins with.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter()).collect()
    }

    /// What it wants to know of callers, if anything.
    #[must_use]
    pub fn wants_of_callers(&self) -> Option<Needs> {
        let tells = self.announce_caller || matches!(self.send_proxy, Some(SendProxy::V2 { .. }));
        let to_tell = tells.then_some(Needs { unit: true, groups: false });
        let to_choose = self.tls.as_ref().and_then(|tls| tls.identities().needs());
        let to_take_turns = self.takes_turns.then_some(Needs { unit: true, groups: false });
        [to_tell, to_choose, to_take_turns].into_iter().flatten().reduce(Needs::and)
    }

    /// Whether that caller has an identity towards its servers.
    fn identifies(&self, caller: Option<&Caller>) -> Result<(), NoIdentity> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.identities().choose(caller).map(drop))
    }
}

/// A named group of interchangeable endpoints under one configuration. What is known of them outlives a change of that:
/// see [`Cluster::with_settings`].
#[derive(Debug)]
pub(crate) struct Cluster {
    settings: Settings,
    metrics: ClusterMetrics,
    /// Shared with those before it.
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<()>>,
    /// Told when there may be something to try on our own account.
    trials: Arc<Notify>,
    probe_table: health_check::ProbeTable,
    spares: preconnect::Spares,
    discovery: discovery::DiscoveryStatusCell,
}

/// What changes, behind the lock.
#[derive(Debug)]
struct State {
    cluster_state: ClusterState,
    rng: Rng,
    endpoint_map: EndpointMap,
    wait_queue: WaitQueue,
}

impl Cluster {
    /// With the generator that its random choices come from.
    #[must_use]
    pub(crate) fn new(settings: Settings, rng: Rng) -> Arc<Self> {
        Self::resume(settings, rng, Snapshot::default())
    }

    /// The same, going on from what another process knew.
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

    /// What is fixed about it.
    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub(crate) const fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    /// Where its breaker is; `None`: it has none.
    #[must_use]
    pub(crate) fn breaker(&self) -> Option<breaker::State> {
        self.state().cluster_state.breaker()
    }

    /// What counted of what is known about its endpoints when one was last picked.
    #[must_use]
    pub(crate) fn mode(&self) -> eligibility::Mode {
        self.state().cluster_state.mode()
    }

    /// What it carries, without what is kept ready.
    #[must_use]
    pub(crate) fn load(&self) -> Load {
        let ready = self.spares.by_endpoint().values().sum();
        let load = self.state().cluster_state.total();
        Load { sessions: load.sessions.saturating_sub(ready), ..load }
    }

    /// What its probes have observed.
    const fn probe_table(&self) -> &health_check::ProbeTable {
        &self.probe_table
    }

    /// How the search for its endpoints goes.
    #[must_use]
    pub(crate) fn discovery(&self) -> Arc<discovery::DiscoveryStatus> {
        self.discovery.status()
    }

    /// Waits for the first answer about its endpoints where nothing is known yet, and tells how long that took.
    async fn found(&self, deadline: Instant) -> Option<Duration> {
        if self.discovery.is_known() {
            return None;
        }
        let begun = clock::now();
        let _ = alarm::timeout_at(deadline, self.discovery.wait_known()).await;
        Some(clock::now() - begun)
    }

    /// What is kept ready.
    const fn spares(&self) -> &preconnect::Spares {
        &self.spares
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The next endpoint to try, with room reserved on it. `turn`: of one who was called, and comes. A connection that is kept
    /// ready, and that this session cannot have, makes way.
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
        // Where others wait, what it gives up is theirs.
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
                        // Whoever was called and finds no room is still the one that was.
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

    /// An endpoint to try beside one that does not answer, with room reserved on it.
    fn lease_hedge(self: &Arc<Self>, request: &DialRequest<'_>, plan: &mut retry::Plan) -> Option<Lease> {
        let (endpoint, ticket) = self.decide(|State { cluster_state, rng, endpoint_map, .. }| {
            let (id, ticket) = cluster_state.begin_hedge(plan, request.affinity, clock::now(), rng)?;
            Some((Arc::clone(endpoint_map.get(id)?), ticket))
        })?;
        self.metrics.pending_dials.increment(1);
        Some(Lease::dialling(Arc::clone(self), endpoint, ticket))
    }

    /// Whether a dial that is under way to that endpoint is better given up.
    fn is_given_up(&self, endpoint: EndpointId, plan: &retry::Plan) -> bool {
        self.state().cluster_state.is_given_up(endpoint, plan)
    }

    /// How long to wait before the next attempt. `is_unpaid`: the budget had nothing for it.
    fn wait(&self, target: DialTarget, plan: &mut retry::Plan, is_unpaid: bool) -> Duration {
        let State { cluster_state, rng, .. } = &mut *self.state();
        if is_unpaid {
            return plan.wait_for_budget(rng);
        }
        let has_untried = matches!(target, DialTarget::Any) && cluster_state.has_untried(plan);
        plan.wait(has_untried, rng)
    }

    /// Whether an endpoint is left that may be tried and was not.
    fn has_untried(&self, target: DialTarget, plan: &retry::Plan) -> bool {
        matches!(target, DialTarget::Any) && self.state().cluster_state.has_untried(plan)
    }
}

impl Settings {
    /// Whether its servers speak before TLS begins, and how long that takes is theirs to say.
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

/// What the settings say about TLS once and for all.
fn show_tls(settings: &Settings) {
    if let Some(tls) = &settings.tls {
        ClusterMetrics::record_tls_settings(&settings.name, tls.verifies());
    }
}
