//! The state of a cluster and all decisions about its sessions: breaker, limits, retry budget, eligibility, balancing
//! and the session's earlier attempts together. All of a cluster's state changes here and nowhere else. `picking`
//! decides which endpoint is next; `outcomes` records how dials and sessions ended.
//!
//! Every dial that begins has a [`DialTicket`] and ends in exactly one of [`ClusterState::record_established`],
//! [`ClusterState::record_failure`] and [`ClusterState::record_abandoned`]; a session ends in
//! [`ClusterState::record_session_end`]. Our own attempts without a client are in [`trials`]. State changes of
//! endpoints and of the breaker are kept as [`ClusterEvent`]s until they are taken, to be logged and counted where that
//! may be done.

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

/// The settings of a cluster's decisions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Which endpoint takes the next session.
    pub balance: Policy,
    /// How many sessions and dials there may be.
    pub limits: Limits,
    /// When an endpoint is ejected; `None`: never.
    pub outlier: Option<outlier::Settings>,
    /// When the breaker opens; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// How many attempts may be retries; `None`: no limit.
    pub retry_budget: Option<budget::Settings>,
    /// When a second attempt begins beside one that does not answer; `None`: never.
    pub hedge: Option<hedge::Settings>,
    /// What to do if active checks find every endpoint down.
    pub panic: Panic,
    /// For how long an endpoint that came back takes fewer sessions; zero: not at all.
    pub slow_start: Duration,
    /// The dial time that a failed dial counts as in an endpoint's average.
    pub penalty: Duration,
}

/// The endpoints of a cluster and everything that is known about them.
#[derive(Debug)]
pub struct ClusterState {
    settings: Settings,
    total: Load,
    /// Sorted by id. An endpoint that has left the cluster stays until its last session and dial have ended.
    endpoints: Vec<EndpointState>,
    next_id: Id,
    breaker: Option<Breaker>,
    budget: Option<Budget>,
    /// Dials in progress that are not the first of their session.
    retries: u32,
    /// The mode of the last pick.
    mode: Mode,
    events: Vec<ClusterEvent>,
    /// Scratch memory of a pick: indexes into `endpoints`.
    candidates: Vec<usize>,
}

/// Identifies a dial that began; it is given back when the dial ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialTicket {
    /// When it began; `None`: its result is not recorded.
    begun: Option<Instant>,
    is_retry: bool,
}

/// Why there is no endpoint to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The breaker is open.
    #[error("{0}")]
    Breaker(#[from] BreakerOpen),
    /// A cap is reached.
    #[error("{0}")]
    Full(#[from] LimitReached),
    /// There is no eligible endpoint.
    #[error("{0}")]
    NoEndpoint(#[from] NoEndpoint),
    /// This would be a retry, and the budget has none left.
    #[error("connect.retry_budget is used up")]
    Budget,
}

impl ClusterEvent {
    /// Whether an endpoint or the cluster serves again.
    #[must_use]
    pub const fn is_recovery(&self) -> bool {
        match self {
            Self::Returned { .. } | Self::Breaker(breaker::Transition { to: StateLabel::Closed, .. }) => true,
            Self::Ejected { .. } | Self::Breaker(_) | Self::Mode { .. } => false,
        }
    }
}

impl Unavailable {
    /// Whether this may end soon, so that a session may wait for it.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Breaker(_) | Self::Full(_) | Self::NoEndpoint(NoEndpoint::AllDown { .. }) => true,
            // Sessions wait for the budget elsewhere.
            Self::Budget
            | Self::NoEndpoint(NoEndpoint::Empty | NoEndpoint::NoneEnabled | NoEndpoint::Removed) => false,
        }
    }
}

/// A change of state that the cluster decided by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClusterEvent {
    /// An endpoint was ejected.
    Ejected {
        /// Which endpoint it was.
        endpoint: Id,
        /// The fault, the number of failures, and the time.
        ejection: Ejection,
    },
    /// An endpoint is no longer ejected.
    Returned {
        /// The endpoint that returned.
        endpoint: Id,
    },
    /// The breaker changed its state.
    Breaker(breaker::Transition),
    /// The mode changed: whether ejections and health count.
    Mode {
        /// The mode that was left.
        from: Mode,
        /// The mode that was entered.
        to: Mode,
    },
}

impl ClusterState {
    /// A cluster without endpoints.
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

    /// Replaces the settings. Sessions and dials stay, even over a lower cap. What is known stays if it still has a
    /// meaning: without outlier detection no endpoint is ejected, and without a breaker nothing is refused.
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

    /// Replaces the endpoints by these, in this order. Those with an id stay (or come back) with everything that is
    /// known about them, the others join, and those that are not named leave: they are not picked any more, and are
    /// forgotten when their last session has ended. Returns the ids in the same order.
    pub fn set_endpoints(&mut self, specs: &[EndpointSpec], now: Instant) -> Vec<Id> {
        let ids = self.place_endpoints(specs, now);
        self.reconsider();
        ids
    }

    /// As [`ClusterState::set_endpoints`], but the breaker stays as it is, so that a caller may add what it knows of
    /// new endpoints. It then calls [`ClusterState::reconsider`].
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

    /// The load of the whole cluster.
    #[must_use]
    pub const fn total(&self) -> Load {
        self.total
    }

    /// One endpoint; `None` if it has left and has no session or dial.
    #[must_use]
    pub fn endpoint(&self, id: Id) -> Option<&EndpointState> {
        self.position(id).map(|position| &self.endpoints[position])
    }

    /// All endpoints, including those that have left but still have sessions or dials.
    #[must_use]
    pub fn endpoints(&self) -> &[EndpointState] {
        &self.endpoints
    }

    /// The breaker's state; `None`: there is none.
    #[must_use]
    pub fn breaker(&self) -> Option<breaker::State> {
        self.breaker.as_ref().map(Breaker::state)
    }

    /// Whether the breaker keeps sessions from being dialled.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.breaker.as_ref().is_some_and(|breaker| breaker.check().is_err())
    }

    /// The mode of the last pick.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes the events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<ClusterEvent> {
        std::mem::take(&mut self.events)
    }

    /// Applies an operator's order. Returns whether it changed anything.
    pub fn set_admin(&mut self, id: Id, admin: Admin, now: Instant) -> bool {
        let is_news = self
            .change(id, now, |endpoint_state| std::mem::replace(&mut endpoint_state.admin, admin) != admin);
        self.reconsider();
        is_news
    }

    /// Sets the result of active checks. `proven`: the probe that has just ended succeeded, up to that step. Returns
    /// whether the status changed.
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

    /// Sets or clears the error of the last attempt or probe.
    pub fn note_error(&mut self, id: Id, error: Option<String>) {
        if let Some(position) = self.position(id) {
            self.endpoints[position].last_error = error.map(String::into_boxed_str);
        }
    }

    /// Whether an enabled endpoint is left whose last evidence is not a failure.
    fn has_untested_or_good(&self) -> bool {
        self.endpoints.iter().any(|endpoint_state| endpoint_state.is_enabled() && !endpoint_state.is_failing)
    }

    /// Closes the breaker if an endpoint may be good, so that it need not wait for a trial.
    pub fn reconsider(&mut self) {
        if self.has_untested_or_good()
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
