//! What a decision changed, told to people and to metrics once the lock is released.

use std::sync::Arc;

use crate::policy::breaker::{self, Label};
use crate::policy::eligibility::Mode;
use crate::policy::outlier::Ejection;
use crate::policy::roster::Event;

use super::endpoint::Endpoint;
use super::{Cluster, State};

/// An event, and its endpoint, if it has one that the cluster has still.
type Told = (Event, Option<Arc<Endpoint>>);

impl Cluster {
    /// Decides under the lock, calls whoever waits for the room that this may have made, and reports what that changed outside it.
    pub(super) fn decide<T>(&self, decision: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let decided = decision(&mut state);
        state.call_next();
        let events = state.roster.take_events();
        if events.is_empty() {
            return decided;
        }
        let told: Vec<_> = events.into_iter().map(|event| (event, state.endpoint_of(&event))).collect();
        drop(state);
        told.iter().for_each(|told| self.tell(told));
        self.trials.notify_one();
        if told.iter().any(|(event, _)| event.is_recovery()) {
            // Who keeps connections ready waits for that.
            self.changes.send_replace(());
        }
        decided
    }

    /// Brings the gauges up to date that tell a state, for a scrape. Not told as events are: of two that decide one after the
    /// other, the first may tell last.
    pub fn publish_state(&self) {
        let state = self.state();
        let breaker = state.roster.breaker().map_or(0, |breaker| breaker.label().number());
        // Under the lock, so that two scrapes cannot set an older state over a newer one.
        self.metrics.set_state(breaker, state.roster.is_in_panic());
    }

    fn tell(&self, (event, endpoint): &Told) {
        match (event, endpoint) {
            (Event::Ejected { ejection, .. }, Some(endpoint)) => self.tell_ejected(endpoint, ejection),
            (Event::Returned { .. }, Some(endpoint)) => {
                endpoint.metrics().ejected.decrement(1);
                let (cluster, endpoint) = (&self.settings.name, &endpoint.settings().name);
                tracing::info!(%cluster, %endpoint, "endpoint returned: it serves again");
            }
            (Event::Breaker(transition), _) => self.tell_breaker(transition),
            (Event::Mode { from, to }, _) => self.tell_mode(*from, *to),
            // It has left meanwhile, and its state with it.
            (Event::Ejected { .. } | Event::Returned { .. }, None) => {}
        }
    }

    fn tell_ejected(&self, endpoint: &Endpoint, ejection: &Ejection) {
        let Ejection { fault, failures, lasts, times, again } = ejection;
        endpoint.metrics().ejected(fault.label(), !again);
        let (cluster, endpoint) = (&self.settings.name, &endpoint.settings().name);
        let fault = fault.label();
        if *again {
            tracing::debug!(%cluster, %endpoint, fault, ?lasts, times, "endpoint stays ejected: its trial failed");
        } else {
            tracing::warn!(%cluster, %endpoint, fault, failures, ?lasts, times, "endpoint ejected");
        }
    }

    fn tell_breaker(&self, transition: &breaker::Transition) {
        let breaker::Transition { from, to, .. } = transition;
        // A round of trials that failed is no opening.
        if (from, to) != (&Label::HalfOpen, &Label::Open) {
            self.metrics.breaker_turned(to.label());
        }
        let (cluster, wait) = (&self.settings.name, self.settings.queue_timeout);
        match (from, to) {
            (Label::Closed, Label::Open) => tracing::warn!(
                %cluster,
                "breaker open: every endpoint fails; they are being tried, and sessions wait for that up to {wait:?}"
            ),
            (_, Label::Open) => tracing::debug!(%cluster, "breaker open: the trials failed"),
            (_, Label::HalfOpen) => tracing::debug!(%cluster, "breaker half-open: trying the endpoints"),
            (_, Label::Closed) => tracing::info!(%cluster, "breaker closed: an endpoint serves again"),
        }
    }

    fn tell_mode(&self, from: Mode, to: Mode) {
        let (cluster, from, to) = (&self.settings.name, from.label(), to);
        match to {
            Mode::Panic => {
                tracing::warn!(%cluster, from, "panic: health checks find every endpoint down; using all of them");
            }
            Mode::DespiteEjection => {
                tracing::warn!(%cluster, from, "every endpoint left is ejected; using them all the same");
            }
            Mode::Normal => tracing::info!(%cluster, from, "there are usable endpoints again"),
        }
    }
}

impl State {
    fn endpoint_of(&self, event: &Event) -> Option<Arc<Endpoint>> {
        let id = match event {
            Event::Ejected { endpoint, .. } | Event::Returned { endpoint } => *endpoint,
            Event::Breaker(_) | Event::Mode { .. } => return None,
        };
        self.roster.slot(id).filter(|slot| slot.is_member())?;
        self.members.get(id).cloned()
    }
}
