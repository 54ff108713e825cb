//! The endpoints of a cluster. They come and go while sessions live: one that has left is not picked any more, but the
//! leases of its sessions keep it.
//!
//! Tasks that act on changes (end sessions, begin or end probes) watch [`Cluster::changes`] and then read the whole
//! state, so changes need no queue and none is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock;
use crate::metrics::EndpointMetrics;
use crate::name::EndpointName;
use crate::outcome::Outcome;
use crate::policy::balance;
use crate::policy::endpoint_state::{Admin, EndpointSpec, EndpointState};
use crate::policy::health::HealthStatus;
use crate::policy::limits::Load;
use crate::policy::outlier::{self, Fault};
use crate::tls::EndpointOriginator;

use super::endpoint::{Endpoint, Settings};
use super::probe_table::ObservedHealth;
use super::snapshot::EndpointSnapshot;
use super::{Cluster, EndpointId, State};

/// The endpoints behind the ids of the cluster's state.
#[derive(Debug, Default)]
pub(super) struct EndpointMap {
    /// The present endpoints, in configured order.
    current: Vec<Arc<Endpoint>>,
    /// The present endpoints, and those that have left but still have state.
    known: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// State from another process, of endpoints not yet discovered here.
    pub(super) restored: Vec<EndpointSnapshot>,
    /// When `restored` expires; an endpoint that joins later is a new one.
    pub(super) restored_until: Option<Instant>,
}

/// An endpoint with its state, for reading.
#[derive(Debug)]
pub(crate) struct EndpointView {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// Whether it is still in the cluster. If not, its last sessions may still run.
    pub is_present: bool,
    /// Its share of the sessions.
    pub weight: u32,
    /// Endpoints of a higher number are used only if none of a lower one can be.
    pub priority: u32,
    /// Whether it is ejected, until when, and why.
    pub outlier: outlier::State,
    /// How long its dials take; `None` before the first.
    pub dial_time: Option<Duration>,
    /// The state that an operator set.
    pub admin: Admin,
    /// The verdict of active checks.
    pub health: HealthStatus,
    /// Details of the checks; `None`: there are none.
    pub observed: Option<ObservedHealth>,
    /// Its load, without spares.
    pub load: Load,
    /// The number of spares.
    pub ready: u32,
    /// The error of the last failed attempt or probe; a success clears it.
    pub last_error: Option<String>,
}

/// What happens to sessions whose endpoint takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEndpointLoss {
    /// They go on.
    Keep,
    /// They are ended one by one.
    Close,
}

/// When sessions end with their endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvictionSettings {
    /// When active checks find it down.
    pub on_unhealthy: OnEndpointLoss,
    /// When it leaves the cluster, or an operator disables it.
    pub on_removed: OnEndpointLoss,
    /// How long until the last session has ended. The ends are evenly spread, so that clients do not all reconnect at
    /// once.
    pub closing_time: Duration,
}

/// An endpoint whose sessions are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EvictedEndpoint {
    /// Its id.
    pub endpoint: EndpointId,
    /// When it was lost; younger sessions go on.
    pub since: Instant,
    /// The outcome of the ended sessions.
    pub outcome: Outcome,
}

impl EndpointMap {
    /// Drops restored state once it has expired.
    pub(super) fn forget_restored(&mut self, now: Instant) {
        if self.restored_until.is_some_and(|until| until <= now) {
            self.restored.clear();
        }
    }

    pub(super) fn get(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.known.get(&id)
    }

    /// Replaces each endpoint's object; the new one must have the same id.
    pub(super) fn renew(&mut self, mut renewed: impl FnMut(&Endpoint) -> Endpoint) {
        for endpoint in self.known.values_mut() {
            *endpoint = Arc::new(renewed(endpoint));
        }
        for endpoint in &mut self.current {
            if let Some(renewed) = self.known.get(&endpoint.id()) {
                *endpoint = Arc::clone(renewed);
            }
        }
    }

    /// Matches a list with the known endpoints; duplicates are left out.
    fn recognise(&self, endpoints: Vec<Settings>) -> Vec<(Settings, EndpointSpec)> {
        let mut by_name: BTreeMap<EndpointName, Vec<&Arc<Endpoint>>> = BTreeMap::new();
        for known in self.known.values() {
            by_name.entry(known.settings().name.clone()).or_default().push(known);
        }
        let mut seen: BTreeMap<EndpointName, Vec<Settings>> = BTreeMap::new();
        let mut target = Vec::new();
        for settings in endpoints {
            let namesakes = seen.entry(settings.name.clone()).or_default();
            if namesakes.iter().any(|other| other.is_same(&settings)) {
                continue;
            }
            namesakes.push(settings.clone());
            let known = by_name.get(&settings.name).into_iter().flatten();
            let same = known.copied().find(|known| known.settings().is_same(&settings));
            let member = EndpointSpec {
                id: same.map(|known| known.id()),
                weight: settings.weight,
                priority: settings.priority,
                key: balance::hash(settings.name.as_str().as_bytes()),
            };
            target.push((settings, member));
        }
        target
    }
}

impl Cluster {
    /// Replaces the endpoints, in this order. An endpoint that is the same server as before (name, addresses, TLS name)
    /// keeps its state, and its weight and priority change in place; one that is not listed any more takes no further
    /// session. Of duplicates the first counts.
    pub(crate) fn set_endpoints(&self, endpoints: Vec<Settings>) {
        let (joined, left) = self.arrange(endpoints);
        for (endpoints, what) in [(joined, "endpoint joined"), (left, "endpoint left")] {
            for endpoint in endpoints {
                tracing::info!(cluster = %self.settings.name, endpoint = %endpoint.settings().name, "{what}");
            }
        }
        self.notify_changed();
    }

    /// Applies the list. Returns the endpoints that joined, and those that left.
    pub(super) fn arrange(&self, endpoints: Vec<Settings>) -> (Vec<Arc<Endpoint>>, Vec<Arc<Endpoint>>) {
        let State { cluster_state, endpoint_map, .. } = &mut *self.state();
        let target = endpoint_map.recognise(endpoints);
        let ejected: BTreeSet<_> = cluster_state
            .endpoints()
            .iter()
            .filter(|endpoint_state| !endpoint_state.outlier().is_admitted())
            .map(EndpointState::id)
            .collect();
        let ids = cluster_state
            .place_endpoints(&target.iter().map(|(_, member)| *member).collect::<Vec<_>>(), clock::now());
        endpoint_map.forget_restored(clock::now());
        let before = std::mem::take(&mut endpoint_map.current);
        for (id, (settings, _)) in ids.into_iter().zip(target) {
            let known = endpoint_map.known.get(&id).map(Arc::clone);
            let endpoint = known.unwrap_or_else(|| {
                let endpoint = self.join(id, settings);
                self.resume_endpoint(&endpoint, cluster_state, &mut endpoint_map.restored);
                endpoint
            });
            endpoint_map.known.insert(id, Arc::clone(&endpoint));
            endpoint_map.current.push(endpoint);
        }
        // Only after all have joined: an endpoint restored as failing must not close a restored open breaker.
        cluster_state.reconsider();
        let (joined, left) = (less(&endpoint_map.current, &before), less(&before, &endpoint_map.current));
        // An endpoint stays ejected while it is absent, and may come back ejected.
        let is_ejected = |endpoint: &&Arc<Endpoint>| ejected.contains(&endpoint.id());
        left.iter().filter(is_ejected).for_each(|endpoint| endpoint.metrics().ejected.decrement());
        joined.iter().filter(is_ejected).for_each(|endpoint| endpoint.metrics().ejected.increment());
        endpoint_map.known.retain(|id, _| cluster_state.endpoint(*id).is_some());
        (joined, left)
    }

    fn join(&self, id: EndpointId, settings: Settings) -> Arc<Endpoint> {
        let originator = self.settings.tls.as_ref().map(|tls| Arc::new(tls.for_endpoint()));
        Arc::new(self.make_endpoint(id, settings, originator))
    }

    /// An endpoint's object, with the metrics of its name.
    pub(super) fn make_endpoint(
        &self,
        id: EndpointId,
        settings: Settings,
        originator: Option<Arc<EndpointOriginator>>,
    ) -> Endpoint {
        let metrics = EndpointMetrics::of(&self.settings.name, &settings.name);
        let is_probed = self.settings.health_check.is_some();
        if is_probed {
            metrics.checks.begin();
        }
        Endpoint::new(id, settings, originator, metrics, is_probed)
    }

    /// Sets the operator's state of every endpoint of that name: with TLS there is one for each TLS name. Returns
    /// whether there is any.
    pub(crate) fn set_admin(&self, name: &str, admin: Admin) -> bool {
        let mut namesakes = self.endpoints();
        namesakes.retain(|endpoint| endpoint.settings().name.as_str() == name);
        let now = clock::now();
        let changed = {
            let cluster_state = &mut self.state().cluster_state;
            let is_news = |endpoint: &&Arc<Endpoint>| cluster_state.set_admin(endpoint.id(), admin, now);
            namesakes.iter().filter(is_news).count()
        };
        if changed > 0 {
            let state = admin.label();
            tracing::info!(cluster = %self.settings.name, endpoint = name, endpoints = changed, state, "ordered");
            self.notify_changed();
        }
        !namesakes.is_empty()
    }

    /// Sets the verdict of active checks on an endpoint. `seen`: how far the last probe reached if it succeeded, else
    /// its error, if there was a probe. Returns whether the verdict changed.
    pub(crate) fn set_health(
        &self,
        endpoint: EndpointId,
        health: HealthStatus,
        seen: Result<Fault, Option<&str>>,
    ) -> bool {
        let why = seen.err().flatten();
        let (is_news, known, is_broken) = self.decide(|State { cluster_state, endpoint_map, .. }| {
            let is_news = cluster_state.set_health(endpoint, health, seen.ok(), clock::now());
            cluster_state.note_error(endpoint, why.map(str::to_owned));
            let known = is_news.then(|| endpoint_map.get(endpoint).map(Arc::clone)).flatten();
            (is_news, known, cluster_state.is_broken())
        });
        // Besides news and events, which notify by themselves, a result only expedites the trials of an open breaker.
        // To ask for the next trial would look at every endpoint for each probe.
        if is_broken {
            self.trials.notify_one();
        }
        if let Some(known) = known {
            let (cluster, name, state) = (&self.settings.name, &known.settings().name, health.label());
            match health {
                HealthStatus::Unhealthy => {
                    tracing::warn!(%cluster, endpoint = %name, state, why, "health changed")
                }
                HealthStatus::Healthy | HealthStatus::Undecided => {
                    tracing::info!(%cluster, endpoint = %name, state, why, "health changed");
                }
            }
            self.notify_changed();
        }
        is_news
    }

    /// The present endpoints, in configured order. There may be none for a while.
    #[must_use]
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.state().endpoint_map.current.clone()
    }

    /// A present endpoint, or one that has left but still has state.
    #[must_use]
    pub(crate) fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.state().endpoint_map.get(id).cloned()
    }

    /// The endpoint, if there is exactly one.
    #[must_use]
    pub(crate) fn only_endpoint(&self) -> Option<EndpointId> {
        match &self.state().endpoint_map.current[..] {
            [only] => Some(only.id()),
            _ => None,
        }
    }

    /// The endpoints with their state: the present ones in configured order, then those that have left.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<EndpointView> {
        let now = clock::now();
        let ready = self.spares.by_endpoint();
        let state = self.state();
        let view = |endpoint_state: &EndpointState| {
            let ready = ready.get(&endpoint_state.id()).copied().unwrap_or_default();
            let load = endpoint_state.load();
            Some(EndpointView {
                endpoint: Arc::clone(state.endpoint_map.get(endpoint_state.id())?),
                is_present: endpoint_state.is_present(),
                weight: endpoint_state.weight(),
                priority: endpoint_state.priority(),
                outlier: endpoint_state.outlier().state(),
                dial_time: endpoint_state.dial_seconds().map(Duration::from_secs_f64),
                admin: endpoint_state.admin(),
                health: endpoint_state.health(),
                observed: self.probe_table.observed(endpoint_state.id(), now),
                // `saturating`: spares and load are not read at the same moment.
                load: Load { sessions: load.sessions.saturating_sub(ready), ..load },
                ready,
                last_error: endpoint_state.last_error().map(str::to_owned),
            })
        };
        let mut slots: Vec<_> = state.cluster_state.endpoints().iter().collect();
        slots.sort_by_key(|endpoint_state| (!endpoint_state.is_present(), endpoint_state.index()));
        slots.into_iter().filter_map(view).collect()
    }

    /// The endpoints whose sessions are to end, by [`EvictionSettings`].
    #[must_use]
    pub(crate) fn evicted_endpoints(&self) -> Vec<EvictedEndpoint> {
        let EvictionSettings { on_unhealthy, on_removed, .. } = self.settings.eviction;
        let outcome = |endpoint_state: &EndpointState| {
            if !endpoint_state.is_present() || endpoint_state.admin() == Admin::Disabled {
                return (on_removed == OnEndpointLoss::Close).then_some(Outcome::EndpointRemoved);
            }
            (on_unhealthy == OnEndpointLoss::Close && endpoint_state.health() == HealthStatus::Unhealthy)
                .then_some(Outcome::EndpointDown)
        };
        let evicted = |endpoint_state: &EndpointState| {
            let outcome = outcome(endpoint_state)?;
            Some(EvictedEndpoint {
                endpoint: endpoint_state.id(),
                since: endpoint_state.changed_at(),
                outcome,
            })
        };
        self.state().cluster_state.endpoints().iter().filter_map(evicted).collect()
    }

    /// Notified after every change of membership, an operator's state or health, and after recoveries.
    #[must_use]
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn notify_changed(&self) {
        // Checks the queue: there may be room now, or nothing left to wait for.
        self.decide(|_| ());
        self.changes.send_replace(());
        // An endpoint that was taken out, or came back, may be due for a trial.
        self.trials.notify_one();
    }
}

/// The endpoints of `all` that are not in `others`.
fn less(all: &[Arc<Endpoint>], others: &[Arc<Endpoint>]) -> Vec<Arc<Endpoint>> {
    let others: BTreeSet<_> = others.iter().map(|other| other.id()).collect();
    all.iter().filter(|one| !others.contains(&one.id())).cloned().collect()
}
