//! Which endpoint takes a session: for the first attempt, for retries, and for a hedge.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{ClusterEvent, ClusterState, DialTicket, Id, Unavailable};
use crate::policy::balance::PickContext;
use crate::policy::eligibility::{self, Mode, NoEndpoint, Standing};
use crate::policy::endpoint_state::EndpointState;
use crate::policy::limits::LimitReached;
use crate::policy::retry::Plan;

impl ClusterState {
    /// Picks an endpoint and counts the dial on it. Among the endpoints with room it picks those that this session
    /// tried least often, of those the best by standing, then the first priority, then those that have not turned a
    /// session away lately. The balancing policy picks one of these. The first attempt uses only the endpoints without
    /// adverse evidence, while there are any; a session whose attempt failed goes on to any that could still serve.
    /// `key`: the key of `source_hash`.
    ///
    /// # Errors
    /// Why no endpoint can be dialled.
    pub fn begin(
        &mut self,
        plan: &mut Plan,
        key: Option<u64>,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<(Id, DialTicket), Unavailable> {
        if let Some(breaker) = &self.breaker {
            breaker.check()?;
        }
        self.settings.limits.admit(self.total)?;
        let is_retry = plan.attempts() > 0;
        let (mode, lowest) = self.taken(is_retry)?;
        self.note_mode(mode);
        self.find_candidates(plan, lowest, now);
        let picked = self.pick(key, now, rng)?;
        if !is_retry {
            self.budget.iter_mut().for_each(|budget| budget.deposit(now));
        } else if !self.may_retry(plan, picked, now) {
            return Err(Unavailable::Budget);
        }
        Ok((self.reserve(plan, picked, is_retry), DialTicket { begun: Some(now), is_retry }))
    }

    fn pick(&mut self, key: Option<u64>, now: Instant, rng: &mut Rng) -> Result<usize, LimitReached> {
        let full = LimitReached::Endpoints(self.settings.limits.max_connections_per_endpoint);
        let choice = PickContext { key, slow_start: self.settings.slow_start, now };
        self.settings.balance.pick(&mut self.endpoints, &self.candidates, &choice, rng).ok_or(full)
    }

    /// The budget bounds retries in total. Two kinds are free: a retry while no other is in progress; and the first
    /// dial to another endpoint after an attempt that cost its server nothing, because the session could as well have
    /// begun there.
    fn may_retry(&mut self, plan: &Plan, picked: usize, now: Instant) -> bool {
        let is_first_there = plan.was_free() && plan.tries(self.endpoints[picked].id) == 0;
        let Some(budget) = &mut self.budget else { return true };
        is_first_there || self.retries == 0 || budget.withdraw(now)
    }

    /// How long this session's attempt on that endpoint runs before a hedge begins beside it; `None`: no hedge.
    #[must_use]
    pub fn hedge_after(&self, endpoint: Id, plan: &Plan) -> Option<Duration> {
        let hedge = self.settings.hedge.filter(|_| plan.has_attempt_left())?;
        let endpoint_state = self.endpoint(endpoint)?;
        // An endpoint that is not usable now may be usable by then.
        let is_other = |endpoint_state: &EndpointState| {
            endpoint_state.is_enabled() && plan.tries(endpoint_state.id) == 0
        };
        self.endpoints.iter().any(is_other).then(|| hedge.after(endpoint_state.success_time.seconds()))
    }

    /// As [`ClusterState::begin`], for a hedge: to a usable endpoint that this session has not tried, if the retry
    /// budget allows it.
    pub fn begin_hedge(
        &mut self,
        plan: &mut Plan,
        key: Option<u64>,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<(Id, DialTicket)> {
        if self.settings.limits.admit(self.total).is_err()
            || self.breaker.as_ref().is_some_and(|breaker| breaker.check().is_err())
            || !plan.has_attempt_left()
        {
            return None;
        }
        let rank = |endpoint_state: &EndpointState| (endpoint_state.priority, endpoint_state.turns_away(now));
        let first = self
            .endpoints
            .iter()
            .filter(|endpoint_state| self.may_hedge(endpoint_state, plan))
            .map(rank)
            .min()?;
        let is_candidate = |endpoint_state: &EndpointState| {
            rank(endpoint_state) == first && self.may_hedge(endpoint_state, plan)
        };
        let candidates =
            (0..self.endpoints.len()).filter(|position| is_candidate(&self.endpoints[*position])).collect();
        self.candidates = candidates;
        let picked = self.pick(key, now, rng).ok()?;
        let may = self.budget.as_mut().is_none_or(|budget| budget.withdraw(now));
        may.then(|| (self.reserve(plan, picked, true), DialTicket { begun: Some(now), is_retry: true }))
    }

    fn may_hedge(&self, endpoint_state: &EndpointState, plan: &Plan) -> bool {
        self.may_take(endpoint_state, Standing::Usable) && plan.tries(endpoint_state.id) == 0
    }

    fn may_take(&self, endpoint_state: &EndpointState, lowest: Standing) -> bool {
        self.settings.limits.endpoint_has_room(endpoint_state.load)
            && eligibility::standing(endpoint_state).is_some_and(|standing| standing <= lowest)
    }

    /// Whether the cluster has room for one more session. It gives the errors of [`ClusterState::begin`] without
    /// beginning a dial.
    ///
    /// # Errors
    /// Why no endpoint can be dialled.
    pub fn room(&self) -> Result<(), Unavailable> {
        if let Some(breaker) = &self.breaker {
            breaker.check()?;
        }
        let limits = &self.settings.limits;
        limits.admit(self.total)?;
        let (_, lowest) = self.taken(false)?;
        let has_room = self.endpoints.iter().any(|endpoint_state| self.may_take(endpoint_state, lowest));
        if has_room {
            Ok(())
        } else {
            Err(LimitReached::Endpoints(limits.max_connections_per_endpoint).into())
        }
    }

    /// The current mode, and the worst standing allowed for a first attempt or for a retry.
    fn taken(&self, is_retry: bool) -> Result<(Mode, Standing), NoEndpoint> {
        let mode = eligibility::mode(&self.endpoints, self.settings.panic)?;
        Ok((mode, eligibility::lowest(mode, is_retry, self.settings.panic)))
    }

    fn note_mode(&mut self, mode: Mode) {
        let from = std::mem::replace(&mut self.mode, mode);
        if from != mode {
            self.events.push(ClusterEvent::Mode { from, to: mode });
        }
    }

    fn find_candidates(&mut self, plan: &Plan, lowest: Standing, now: Instant) {
        let mut best = (usize::MAX, Standing::Down, u32::MAX, true);
        self.candidates.clear();
        for (position, endpoint_state) in self.endpoints.iter().enumerate() {
            let Some(standing) = eligibility::standing(endpoint_state).filter(|standing| *standing <= lowest)
            else {
                continue;
            };
            if !self.settings.limits.endpoint_has_room(endpoint_state.load) {
                continue;
            }
            let rank = (
                plan.tries(endpoint_state.id),
                standing,
                endpoint_state.priority,
                endpoint_state.turns_away(now),
            );
            if rank < best {
                best = rank;
                self.candidates.clear();
            }
            if rank == best {
                self.candidates.push(position);
            }
        }
    }

    /// Begins a dial to the endpoint that the caller demands. Caps, the endpoint's state and the breaker do not apply,
    /// and the result is not recorded: such a dial carries a cancel request, which frees room.
    ///
    /// # Errors
    /// If the endpoint has left and has no session or dial.
    pub fn begin_at(&mut self, endpoint: Id, plan: &mut Plan) -> Result<DialTicket, NoEndpoint> {
        let position = self.position(endpoint).ok_or(NoEndpoint::Removed)?;
        self.reserve(plan, position, false);
        Ok(DialTicket { begun: None, is_retry: false })
    }

    fn reserve(&mut self, plan: &mut Plan, position: usize, is_retry: bool) -> Id {
        let endpoint_state = &mut self.endpoints[position];
        plan.begin(endpoint_state.id);
        endpoint_state.load.dials += 1;
        self.total.dials += 1;
        self.retries += u32::from(is_retry);
        endpoint_state.id
    }

    /// Whether an endpoint that this session has not tried could take its next attempt now, so that it need not wait.
    #[must_use]
    pub fn has_untried(&self, plan: &Plan) -> bool {
        let Ok((_, lowest)) = self.taken(plan.attempts() > 0) else { return false };
        self.endpoints
            .iter()
            .any(|endpoint_state| self.may_take(endpoint_state, lowest) && plan.tries(endpoint_state.id) == 0)
    }

    /// Whether that endpoint may take a session now, apart from its room.
    #[must_use]
    pub fn may_pick(&self, endpoint: Id) -> bool {
        let Ok((_, lowest)) = self.taken(false) else { return false };
        self.endpoint(endpoint).and_then(eligibility::standing).is_some_and(|standing| standing <= lowest)
    }

    /// Whether a dial in progress to that endpoint should be given up: checks find it down, or it is no longer enabled,
    /// and another endpoint could be tried.
    #[must_use]
    pub fn is_given_up(&self, endpoint: Id, plan: &Plan) -> bool {
        let standing = self.endpoint(endpoint).and_then(eligibility::standing);
        standing.is_none_or(|standing| standing == Standing::Down)
            && plan.has_attempt_left()
            && self.endpoints.iter().any(|endpoint_state| self.may_hedge(endpoint_state, plan))
    }

    /// Whether active checks find every endpoint down, and all are used therefore.
    #[must_use]
    pub fn is_in_panic(&self) -> bool {
        eligibility::mode(&self.endpoints, self.settings.panic) == Ok(Mode::Panic)
    }

    /// Whether an endpoint is usable, as far as is known.
    #[must_use]
    pub fn has_usable(&self) -> bool {
        self.taken(false).is_ok_and(|(mode, _)| mode == Mode::Normal)
    }
}
