//! Events: what a decision changed, logged and counted once the lock is released.

use std::sync::Arc;

use crate::policy::breaker::{self, StateLabel};
use crate::policy::cluster_state::ClusterEvent;
use crate::policy::eligibility::Mode;
use crate::policy::outlier::Ejection;

use super::endpoint::Endpoint;
use super::{Cluster, State};

/// An event, and its endpoint, if it has one that is still present.
type ReportedEvent = (ClusterEvent, Option<Arc<Endpoint>>);

impl Cluster {
    /// Runs the decision under the lock, calls a waiting session if there is room now, and reports the events outside
    /// the lock.
    pub(super) fn decide<T>(&self, decision: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let decided = decision(&mut state);
        state.call_next();
        let events = state.cluster_state.take_events();
        if events.is_empty() {
            return decided;
        }
        let reported: Vec<_> = events.into_iter().map(|event| (event, state.endpoint_of(&event))).collect();
        drop(state);
        reported.iter().for_each(|event| self.report(event));
        self.trials.notify_one();
        if reported.iter().any(|(event, _)| event.is_recovery()) {
            // The preconnect task waits for recoveries.
            self.changes.send_replace(());
        }
        decided
    }

    /// Updates the gauges of states, for a scrape. Events cannot set them: of two successive decisions, the first may
    /// report last.
    pub(crate) fn publish_state(&self) {
        let state = self.state();
        let breaker = state.cluster_state.breaker().map_or(0, |breaker| breaker.label().number());
        // Under the lock, so that of two scrapes none overwrites a newer state with an older one.
        self.metrics.set_state(breaker, state.cluster_state.is_in_panic());
    }

    fn report(&self, (event, endpoint): &ReportedEvent) {
        match (event, endpoint) {
            (ClusterEvent::Ejected { ejection, .. }, Some(endpoint)) => {
                self.report_ejected(endpoint, ejection)
            }
            (ClusterEvent::Returned { .. }, Some(endpoint)) => {
                endpoint.metrics().ejected.decrement();
                let (cluster, endpoint) = (&self.settings.name, &endpoint.settings().name);
                tracing::info!(%cluster, %endpoint, "endpoint returned: it serves again");
            }
            (ClusterEvent::Breaker(transition), _) => self.report_breaker(transition),
            (ClusterEvent::Mode { from, to }, _) => self.report_mode(*from, *to),
            // The endpoint has left meanwhile, and its state with it.
            (ClusterEvent::Ejected { .. } | ClusterEvent::Returned { .. }, None) => {}
        }
    }

    fn report_ejected(&self, endpoint: &Endpoint, ejection: &Ejection) {
        let Ejection { fault, failures, lasts, times, again } = ejection;
        endpoint.metrics().record_ejection(fault.label(), !again);
        let (cluster, endpoint) = (&self.settings.name, &endpoint.settings().name);
        let fault = fault.label();
        if *again {
            tracing::debug!(%cluster, %endpoint, fault, ?lasts, times, "endpoint stays ejected: its trial failed");
        } else {
            tracing::warn!(%cluster, %endpoint, fault, failures, ?lasts, times, "endpoint ejected");
        }
    }

    fn report_breaker(&self, transition: &breaker::Transition) {
        let breaker::Transition { from, to, .. } = transition;
        // A failed round of trials does not count as opening.
        if (from, to) != (&StateLabel::HalfOpen, &StateLabel::Open) {
            self.metrics.record_breaker_transition(to.label());
        }
        let (cluster, wait) = (&self.settings.name, self.settings.queue_timeout);
        match (from, to) {
            (StateLabel::Closed, StateLabel::Open) => tracing::warn!(
                %cluster,
                "breaker open: every endpoint fails; they are being tried, and sessions wait for that up to {wait:?}"
            ),
            (_, StateLabel::Open) => tracing::debug!(%cluster, "breaker open: the trials failed"),
            (_, StateLabel::HalfOpen) => tracing::debug!(%cluster, "breaker half-open: trying the endpoints"),
            (_, StateLabel::Closed) => tracing::info!(%cluster, "breaker closed: an endpoint serves again"),
        }
    }

    fn report_mode(&self, from: Mode, to: Mode) {
        let (cluster, from, to) = (&self.settings.name, from.label(), to);
        match to {
            Mode::Panic => {
                tracing::warn!(%cluster, from, "panic: health checks find every endpoint down; using all of them");
            }
            Mode::DespiteEjection => {
                tracing::warn!(%cluster, from, "every remaining endpoint is ejected; ejections are ignored");
            }
            Mode::Normal => tracing::info!(%cluster, from, "there are usable endpoints again"),
        }
    }
}

impl State {
    fn endpoint_of(&self, event: &ClusterEvent) -> Option<Arc<Endpoint>> {
        let id = match event {
            ClusterEvent::Ejected { endpoint, .. } | ClusterEvent::Returned { endpoint } => *endpoint,
            ClusterEvent::Breaker(_) | ClusterEvent::Mode { .. } => return None,
        };
        self.cluster_state.endpoint(id).filter(|endpoint_state| endpoint_state.is_present())?;
        self.endpoint_map.get(id).cloned()
    }
}
