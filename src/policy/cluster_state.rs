//! Who carries what in a cluster, and who is next: breaker, limits, retry budget, eligibility, balance and the session's
//! earlier attempts put together. All that changes in a cluster changes here and nowhere else. Who is next is decided in
//! `picking`; what is learnt from how it went, in `outcomes`.
//!
//! Every dial that begins has a [`DialTicket`], and ends in exactly one of [`ClusterState::record_established`], [`ClusterState::record_failure`] and
//! [`ClusterState::record_abandoned`]; a session ends in [`ClusterState::record_session_end`]. What we try on our own account is in [`trials`]. What all this
//! decides about endpoints and the breaker is kept as [`ClusterEvent`]s until it is taken, to be logged and counted where that may
//! be done.

mod outcomes;
mod picking;
mod resume;
pub mod trials;

use std::time::{Duration, Instant};

use super::balance::Policy;
use super::breaker::{self, Breaker, BreakerOpen, StateLabel};
use super::budget::{self, Budget};
use super::eligibility::{Mode, NoEndpoint, Panic};
use super::endpoint_state::{Admin, EndpointSpec, EndpointState, Id};
use super::health::HealthStatus;
use super::hedge;
use super::limits::{LimitReached, Load, Settings as Limits};
use super::outlier::{self, Ejection, Fault, Outlier};

/// By what a cluster decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Which endpoint takes the next session.
    pub balance: Policy,
    /// How many of them.
    pub limits: Limits,
    /// When an endpoint is set aside; `None`: never.
    pub outlier: Option<outlier::Settings>,
    /// When the cluster refuses; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// How many attempts may be retries; `None`: all.
    pub retry_budget: Option<budget::Settings>,
    /// When an attempt that does not answer is called slow; `None`: never.
    pub hedge: Option<hedge::Settings>,
    /// What to do when active checks find every endpoint down.
    pub panic: Panic,
    /// How long an endpoint that came back takes fewer sessions; zero: not at all.
    pub slow_start: Duration,
    /// What a failed dial counts for in the average of an endpoint's times.
    pub penalty: Duration,
}

/// The endpoints of a cluster, with all that is known of them.
#[derive(Debug)]
pub struct ClusterState {
    settings: Settings,
    total: Load,
    /// In the order of their ids. Those that have left stay until nothing is on them.
    endpoints: Vec<EndpointState>,
    next_id: Id,
    breaker: Option<Breaker>,
    budget: Option<Budget>,
    /// Dials on their way that are not the first of their session.
    retries: u32,
    /// What counted at the last pick.
    mode: Mode,
    events: Vec<ClusterEvent>,
    /// Scratch of a pick: places in `endpoint_states`.
    candidates: Vec<usize>,
}

/// What a dial that began has to show when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialTicket {
    /// When it began; `None`: nothing is learnt from it.
    begun: Option<Instant>,
    is_retry: bool,
}

/// Why there is nothing to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The breaker refuses.
    #[error("{0}")]
    Breaker(#[from] BreakerOpen),
    /// A cap is reached.
    #[error("{0}")]
    Full(#[from] LimitReached),
    /// There is nobody.
    #[error("{0}")]
    Nobody(#[from] NoEndpoint),
    /// This would be a retry, and enough were made for now.
    #[error("connect.retry_budget is used up")]
    Budget,
}

impl ClusterEvent {
    /// Whether something serves again that did not.
    #[must_use]
    pub const fn is_recovery(&self) -> bool {
        match self {
            Self::Returned { .. } | Self::Breaker(breaker::Transition { to: StateLabel::Closed, .. }) => true,
            Self::Ejected { .. } | Self::Breaker(_) | Self::Mode { .. } => false,
        }
    }
}

impl Unavailable {
    /// Whether it may be over soon, so that a session may wait for that.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Breaker(_) | Self::Full(_) | Self::Nobody(NoEndpoint::AllDown { .. }) => true,
            // The budget is waited for elsewhere.
            Self::Budget
            | Self::Nobody(NoEndpoint::Empty | NoEndpoint::NoneEnabled | NoEndpoint::Forgotten) => false,
        }
    }
}

/// Something changed by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClusterEvent {
    /// An endpoint was set aside.
    Ejected {
        /// Which.
        endpoint: Id,
        /// Why, and for how long.
        ejection: Ejection,
    },
    /// An endpoint is among the others again.
    Returned {
        /// Which.
        endpoint: Id,
    },
    /// The breaker changed.
    Breaker(breaker::Transition),
    /// What counts of what is known about endpoints changed.
    Mode {
        /// What counted.
        from: Mode,
        /// What counts.
        to: Mode,
    },
}

impl ClusterState {
    /// Without an endpoint.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            total: Load::default(),
            endpoints: Vec::new(),
            next_id: Id::FIRST,
            breaker: settings.breaker.map(Breaker::new),
            budget: settings.retry_budget.map(Budget::new),
            retries: 0,
            mode: Mode::Normal,
            events: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// From now on these count. What is carried already stays, over a lower cap too; what is known stays where it still has
    /// a meaning: without outlier detection nobody is ejected, and without a breaker nothing is refused.
    pub fn reconfigure(&mut self, settings: Settings) {
        match (&mut self.breaker, settings.breaker) {
            (Some(breaker), Some(settings)) => breaker.reconfigure(settings),
            (breaker, settings) => {
                let before = breaker.as_ref().map_or(StateLabel::Closed, |breaker| breaker.state().label());
                *breaker = settings.map(Breaker::new);
                if before != StateLabel::Closed {
                    let turned = breaker::Transition { from: before, to: StateLabel::Closed, open_for: None };
                    self.events.push(ClusterEvent::Breaker(turned));
                }
            }
        }
        if settings.outlier.is_none() {
            for endpoint_state in
                self.endpoints.iter_mut().filter(|endpoint_state| !endpoint_state.outlier.is_admitted())
            {
                endpoint_state.outlier = Outlier::new();
                self.events.push(ClusterEvent::Returned { endpoint: endpoint_state.id });
            }
        }
        if settings.retry_budget != self.settings.retry_budget {
            self.budget = settings.retry_budget.map(Budget::new);
        }
        self.settings = settings;
    }

    /// Makes these its endpoints, in this order: those with an id stay (or come back) with all that is known of them, the
    /// others join, and who is not named leaves: it is not picked any more, and forgotten when its last session ends. Gives
    /// the ids, in the same order.
    pub fn set_endpoints(&mut self, specs: &[EndpointSpec], now: Instant) -> Vec<Id> {
        let ids = self.place_endpoints(specs, now);
        self.reconsider();
        ids
    }

    /// The same, before anything is known of those that join: who knows something says so, and then calls
    /// [`ClusterState::reconsider`].
    pub fn place_endpoints(&mut self, specs: &[EndpointSpec], now: Instant) -> Vec<Id> {
        let is_first = self.endpoints.iter().all(|endpoint_state| !endpoint_state.is_member);
        let were: Vec<_> = self
            .endpoints
            .iter_mut()
            .map(|endpoint_state| std::mem::take(&mut endpoint_state.is_member))
            .collect();
        let ids = specs.iter().enumerate().map(|(place, spec)| {
            let known = spec.id.and_then(|id| self.position(id));
            let position = known.unwrap_or_else(|| {
                let back_since = (!is_first).then_some(now);
                self.endpoints.push(EndpointState { back_since, ..EndpointState::new(self.next_id, now) });
                self.next_id = self.next_id.next();
                self.endpoints.len() - 1
            });
            let endpoint_state = &mut self.endpoints[position];
            (endpoint_state.is_member, endpoint_state.place) = (true, place);
            (endpoint_state.weight, endpoint_state.priority, endpoint_state.key) =
                (spec.weight, spec.priority, spec.key);
            endpoint_state.id
        });
        let ids = ids.collect();
        let known = self.endpoints.iter_mut().zip(were);
        known
            .filter(|(endpoint_state, was)| endpoint_state.is_member != *was)
            .for_each(|(endpoint_state, _)| endpoint_state.changed = now);
        self.endpoints.retain(|endpoint_state| endpoint_state.is_member || endpoint_state.load.total() > 0);
        ids
    }

    /// All that the cluster carries.
    #[must_use]
    pub const fn total(&self) -> Load {
        self.total
    }

    /// One endpoint; `None` when it has left and nothing is on it.
    #[must_use]
    pub fn endpoint(&self, id: Id) -> Option<&EndpointState> {
        self.position(id).map(|position| &self.endpoints[position])
    }

    /// All of them, those that have left but carry sessions still among them.
    #[must_use]
    pub fn endpoints(&self) -> &[EndpointState] {
        &self.endpoints
    }

    /// Where the breaker is; `None`: there is none.
    #[must_use]
    pub fn breaker(&self) -> Option<breaker::State> {
        self.breaker.as_ref().map(Breaker::state)
    }

    /// What counted at the last pick.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// What changed by itself since they were last taken, in order.
    pub fn take_events(&mut self) -> Vec<ClusterEvent> {
        std::mem::take(&mut self.events)
    }

    /// An operator's order. Whether it changed anything.
    pub fn set_admin(&mut self, id: Id, admin: Admin, now: Instant) -> bool {
        let is_news = self
            .change(id, now, |endpoint_state| std::mem::replace(&mut endpoint_state.admin, admin) != admin);
        self.reconsider();
        is_news
    }

    /// What active checks have come to. `proven`: the probe that has just ended succeeded, and reached as far as that. Whether
    /// it changed what they have come to.
    pub fn set_health(&mut self, id: Id, health: HealthStatus, proven: Option<Fault>, now: Instant) -> bool {
        let is_news = self.change(id, now, |endpoint_state| {
            let before = std::mem::replace(&mut endpoint_state.health, health);
            if before == HealthStatus::Unhealthy && health == HealthStatus::Healthy {
                endpoint_state.back_since = Some(now);
            }
            endpoint_state.is_failing |= health == HealthStatus::Unhealthy;
            before != health
        });
        if let Some(proven) = proven {
            self.record_probe_success(id, (proven, is_news), now);
        }
        is_news
    }

    fn change(&mut self, id: Id, now: Instant, how: impl FnOnce(&mut EndpointState) -> bool) -> bool {
        let Some(position) = self.position(id) else { return false };
        let endpoint_state = &mut self.endpoints[position];
        let is_news = how(endpoint_state);
        if is_news {
            endpoint_state.changed = now;
        }
        is_news
    }

    /// Why the last attempt or probe failed, if it did.
    pub fn note_error(&mut self, id: Id, error: Option<String>) {
        if let Some(position) = self.position(id) {
            self.endpoints[position].last_error = error.map(String::into_boxed_str);
        }
    }

    /// Whether an endpoint is left whose last evidence is no failure.
    fn has_hope(&self) -> bool {
        self.endpoints.iter().any(|endpoint_state| endpoint_state.is_enabled() && !endpoint_state.is_failing)
    }

    /// An endpoint that may be good is not to wait for a trial: the breaker closes.
    pub fn reconsider(&mut self) {
        if self.has_hope()
            && let Some(breaker) = &mut self.breaker
            && breaker.check().is_err()
        {
            self.events.extend(breaker.close().map(ClusterEvent::Breaker));
        }
    }

    fn position(&self, id: Id) -> Option<usize> {
        self.endpoints.binary_search_by_key(&id, EndpointState::id).ok()
    }
}

#[cfg(test)]
mod tests;
