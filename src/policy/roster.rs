//! Who carries what in a cluster, and who is next: breaker, limits, retry budget, eligibility, balance and the session's
//! earlier attempts put together. All that changes in a cluster changes here and nowhere else.
//!
//! Every dial that begins has a [`Ticket`], and ends in exactly one of [`Roster::established`], [`Roster::failed`] and
//! [`Roster::abandoned`]; a session ends in [`Roster::ended`]. What we try on our own account is in [`trials`]. What all this
//! decides about endpoints and the breaker is kept as [`Event`]s until it is taken, to be logged and counted where that may
//! be done.

mod resume;
pub mod trials;

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::balance::{Choice, Policy};
use super::breaker::{self, Breaker, Label, Refused};
use super::budget::{self, Budget};
use super::eligibility::{self, Mode, Nobody, Panic, Standing};
use super::health::Status;
use super::hedge;
use super::limits::{Full, Load, Settings as Limits};
use super::outlier::{self, Ejection, Fault, Outlier};
use super::retry::Plan;
use super::slot::{Admin, Id, Member, Slot};

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
pub struct Roster {
    settings: Settings,
    total: Load,
    /// In the order of their ids. Those that have left stay until nothing is on them.
    slots: Vec<Slot>,
    next_id: Id,
    breaker: Option<Breaker>,
    budget: Option<Budget>,
    /// Dials on their way that are not the first of their session.
    retries: u32,
    /// What counted at the last pick.
    mode: Mode,
    events: Vec<Event>,
    /// Scratch of a pick: places in `slots`.
    candidates: Vec<usize>,
}

/// What a dial that began has to show when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// When it began; `None`: nothing is learnt from it.
    begun: Option<Instant>,
    is_retry: bool,
}

/// Why there is nothing to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The breaker refuses.
    #[error("{0}")]
    Breaker(#[from] Refused),
    /// A cap is reached.
    #[error("{0}")]
    Full(#[from] Full),
    /// There is nobody.
    #[error("{0}")]
    Nobody(#[from] Nobody),
    /// This would be a retry, and enough were made for now.
    #[error("connect.retry_budget is used up")]
    Budget,
}

impl Event {
    /// Whether something serves again that did not.
    #[must_use]
    pub const fn is_recovery(&self) -> bool {
        match self {
            Self::Returned { .. } | Self::Breaker(breaker::Transition { to: Label::Closed, .. }) => true,
            Self::Ejected { .. } | Self::Breaker(_) | Self::Mode { .. } => false,
        }
    }
}

impl Unavailable {
    /// Whether it may be over soon, so that a session may wait for that.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Breaker(_) | Self::Full(_) | Self::Nobody(Nobody::AllDown { .. }) => true,
            // The budget is waited for elsewhere.
            Self::Budget | Self::Nobody(Nobody::Empty | Nobody::NoneEnabled | Nobody::Forgotten) => false,
        }
    }
}

/// Something changed by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
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

impl Roster {
    /// Without an endpoint.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            total: Load::default(),
            slots: Vec::new(),
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
                let before = breaker.as_ref().map_or(Label::Closed, |breaker| breaker.state().label());
                *breaker = settings.map(Breaker::new);
                if before != Label::Closed {
                    let turned = breaker::Transition { from: before, to: Label::Closed, open_for: None };
                    self.events.push(Event::Breaker(turned));
                }
            }
        }
        if settings.outlier.is_none() {
            for slot in self.slots.iter_mut().filter(|slot| !slot.outlier.is_in()) {
                slot.outlier = Outlier::new();
                self.events.push(Event::Returned { endpoint: slot.id });
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
    pub fn rearrange(&mut self, members: &[Member], now: Instant) -> Vec<Id> {
        let ids = self.seat(members, now);
        self.reconsider();
        ids
    }

    /// The same, before anything is known of those that join: who knows something says so, and then calls
    /// [`Roster::reconsider`].
    pub fn seat(&mut self, members: &[Member], now: Instant) -> Vec<Id> {
        let is_first = self.slots.iter().all(|slot| !slot.is_member);
        let were: Vec<_> = self.slots.iter_mut().map(|slot| std::mem::take(&mut slot.is_member)).collect();
        let ids = members.iter().enumerate().map(|(place, member)| {
            let known = member.id.and_then(|id| self.position(id));
            let position = known.unwrap_or_else(|| {
                let back_since = (!is_first).then_some(now);
                self.slots.push(Slot { back_since, ..Slot::new(self.next_id, now) });
                self.next_id = self.next_id.next();
                self.slots.len() - 1
            });
            let slot = &mut self.slots[position];
            (slot.is_member, slot.place) = (true, place);
            (slot.weight, slot.priority, slot.key) = (member.weight, member.priority, member.key);
            slot.id
        });
        let ids = ids.collect();
        let known = self.slots.iter_mut().zip(were);
        known.filter(|(slot, was)| slot.is_member != *was).for_each(|(slot, _)| slot.changed = now);
        self.slots.retain(|slot| slot.is_member || slot.load.total() > 0);
        ids
    }

    /// All that the cluster carries.
    #[must_use]
    pub const fn total(&self) -> Load {
        self.total
    }

    /// One endpoint; `None` when it has left and nothing is on it.
    #[must_use]
    pub fn slot(&self, id: Id) -> Option<&Slot> {
        self.position(id).map(|position| &self.slots[position])
    }

    /// All of them, those that have left but carry sessions still among them.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
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
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// An operator's order. Whether it changed anything.
    pub fn set_admin(&mut self, id: Id, admin: Admin, now: Instant) -> bool {
        let is_news = self.change(id, now, |slot| std::mem::replace(&mut slot.admin, admin) != admin);
        self.reconsider();
        is_news
    }

    /// What active checks have come to. `proven`: the probe that has just ended succeeded, and reached as far as that. Whether
    /// it changed what they have come to.
    pub fn set_health(&mut self, id: Id, health: Status, proven: Option<Fault>, now: Instant) -> bool {
        let is_news = self.change(id, now, |slot| {
            let before = std::mem::replace(&mut slot.health, health);
            if before == Status::Unhealthy && health == Status::Healthy {
                slot.back_since = Some(now);
            }
            slot.is_failing |= health == Status::Unhealthy;
            before != health
        });
        if let Some(proven) = proven {
            self.probe_succeeded(id, (proven, is_news), now);
        }
        is_news
    }

    fn change(&mut self, id: Id, now: Instant, how: impl FnOnce(&mut Slot) -> bool) -> bool {
        let Some(position) = self.position(id) else { return false };
        let slot = &mut self.slots[position];
        let is_news = how(slot);
        if is_news {
            slot.changed = now;
        }
        is_news
    }

    /// Why the last attempt or probe failed, if it did.
    pub fn note_error(&mut self, id: Id, error: Option<String>) {
        if let Some(position) = self.position(id) {
            self.slots[position].last_error = error.map(String::into_boxed_str);
        }
    }

    /// Picks among the endpoints that have room one of those that this session tried least often, of those the best by
    /// standing, of the first priority that has any, and counts the dial on it. The first attempt keeps to the endpoints that
    /// nothing speaks against, while there are any; a session that was turned down goes on to whatever could still serve.
    /// `key`: what `source_hash` keeps together.
    ///
    /// # Errors
    /// Why there is none.
    pub fn begin(
        &mut self,
        plan: &mut Plan,
        key: Option<u64>,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<(Id, Ticket), Unavailable> {
        if let Some(breaker) = &self.breaker {
            breaker.check()?;
        }
        self.settings.limits.admit(self.total)?;
        let mode = eligibility::mode(&self.slots, self.settings.panic)?;
        self.note_mode(mode);
        let is_retry = plan.attempts() > 0;
        self.find_candidates(plan, eligibility::lowest(mode, is_retry, self.settings.panic));
        let picked = self.pick(key, now, rng)?;
        if !is_retry {
            self.budget.iter_mut().for_each(|budget| budget.session(now));
        } else if !self.may_retry(plan, picked, now) {
            return Err(Unavailable::Budget);
        }
        Ok((self.reserve(plan, picked, is_retry), Ticket { begun: Some(now), is_retry }))
    }

    fn pick(&mut self, key: Option<u64>, now: Instant, rng: &mut Rng) -> Result<usize, Full> {
        let full = Full::Endpoints(self.settings.limits.max_connections_per_endpoint);
        let choice = Choice { key, slow_start: self.settings.slow_start, now };
        self.settings.balance.pick(&mut self.slots, &self.candidates, &choice, rng).ok_or(full)
    }

    /// The budget keeps retries from becoming a storm. The only one on its way is none, and neither is the first dial to an endpoint
    /// by a session whose last one cost nobody anything: that is the dial that it would have begun with.
    fn may_retry(&mut self, plan: &Plan, picked: usize, now: Instant) -> bool {
        let is_first_there = plan.was_free() && plan.tries(self.slots[picked].id) == 0;
        let Some(budget) = &mut self.budget else { return true };
        is_first_there || self.retries == 0 || budget.take(now)
    }

    /// How long the attempt on that endpoint, which this session has just begun, is to be alone; `None`: for good.
    #[must_use]
    pub fn hedge_after(&self, endpoint: Id, plan: &Plan) -> Option<Duration> {
        let hedge = self.settings.hedge.filter(|_| plan.has_attempt_left())?;
        let slot = self.slot(endpoint)?;
        // Who is not usable now may be so by then.
        let is_other = |slot: &Slot| slot.is_enabled() && plan.tries(slot.id) == 0;
        self.slots.iter().any(is_other).then(|| hedge.after(slot.success_time.seconds()))
    }

    /// [`Roster::begin`] for a dial beside one that does not answer: to an endpoint that nothing speaks against and that this session
    /// has not tried, where the budget of retries has something left.
    pub fn begin_hedge(
        &mut self,
        plan: &mut Plan,
        key: Option<u64>,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<(Id, Ticket)> {
        if self.settings.limits.admit(self.total).is_err()
            || self.breaker.as_ref().is_some_and(|breaker| breaker.check().is_err())
            || !plan.has_attempt_left()
        {
            return None;
        }
        let first =
            self.slots.iter().filter(|slot| self.may_hedge(slot, plan)).map(|slot| slot.priority).min()?;
        let is_candidate = |slot: &Slot| slot.priority == first && self.may_hedge(slot, plan);
        let candidates =
            (0..self.slots.len()).filter(|position| is_candidate(&self.slots[*position])).collect();
        self.candidates = candidates;
        let picked = self.pick(key, now, rng).ok()?;
        let may = self.budget.as_mut().is_none_or(|budget| budget.take(now));
        may.then(|| (self.reserve(plan, picked, true), Ticket { begun: Some(now), is_retry: true }))
    }

    fn may_hedge(&self, slot: &Slot, plan: &Plan) -> bool {
        self.may_take(slot, Standing::Usable) && plan.tries(slot.id) == 0
    }

    fn may_take(&self, slot: &Slot, lowest: Standing) -> bool {
        self.settings.limits.endpoint_has_room(slot.load)
            && eligibility::standing(slot).is_some_and(|standing| standing <= lowest)
    }

    /// Whether the cluster has room for one session more, without beginning its dial: what [`Roster::begin`] would say.
    ///
    /// # Errors
    /// Why there is none.
    pub fn room(&self) -> Result<(), Unavailable> {
        if let Some(breaker) = &self.breaker {
            breaker.check()?;
        }
        let limits = &self.settings.limits;
        limits.admit(self.total)?;
        let mode = eligibility::mode(&self.slots, self.settings.panic)?;
        let lowest = eligibility::lowest(mode, false, self.settings.panic);
        let has_room = self.slots.iter().any(|slot| self.may_take(slot, lowest));
        if has_room { Ok(()) } else { Err(Full::Endpoints(limits.max_connections_per_endpoint).into()) }
    }

    fn note_mode(&mut self, mode: Mode) {
        let from = std::mem::replace(&mut self.mode, mode);
        if from != mode {
            self.events.push(Event::Mode { from, to: mode });
        }
    }

    fn find_candidates(&mut self, plan: &Plan, lowest: Standing) {
        let mut best = (usize::MAX, Standing::Down, u32::MAX);
        self.candidates.clear();
        for (position, slot) in self.slots.iter().enumerate() {
            let Some(standing) = eligibility::standing(slot).filter(|standing| *standing <= lowest) else {
                continue;
            };
            if !self.settings.limits.endpoint_has_room(slot.load) {
                continue;
            }
            let rank = (plan.tries(slot.id), standing, slot.priority);
            if rank < best {
                best = rank;
                self.candidates.clear();
            }
            if rank == best {
                self.candidates.push(position);
            }
        }
    }

    /// [`Roster::begin`] where the choice is made already: the caller wants that endpoint and no other. Neither caps nor
    /// its state nor the breaker count, and neither learns from it: it is there to cancel, which makes room.
    ///
    /// # Errors
    /// When it has left and nothing is on it.
    pub fn begin_at(&mut self, endpoint: Id, plan: &mut Plan) -> Result<Ticket, Nobody> {
        let position = self.position(endpoint).ok_or(Nobody::Forgotten)?;
        self.reserve(plan, position, false);
        Ok(Ticket { begun: None, is_retry: false })
    }

    fn reserve(&mut self, plan: &mut Plan, position: usize, is_retry: bool) -> Id {
        let slot = &mut self.slots[position];
        plan.begin(slot.id);
        slot.load.dials += 1;
        self.total.dials += 1;
        self.retries += u32::from(is_retry);
        slot.id
    }

    /// Whether an endpoint that this session has not tried could take its next attempt now: no reason to wait.
    #[must_use]
    pub fn has_untried(&self, plan: &Plan) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots, self.settings.panic) else { return false };
        let lowest = eligibility::lowest(mode, plan.attempts() > 0, self.settings.panic);
        self.slots.iter().any(|slot| self.may_take(slot, lowest) && plan.tries(slot.id) == 0)
    }

    /// Whether that endpoint may take a session now, were there room.
    #[must_use]
    pub fn may_pick(&self, endpoint: Id) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots, self.settings.panic) else { return false };
        let lowest = eligibility::lowest(mode, false, self.settings.panic);
        self.slot(endpoint).and_then(eligibility::standing).is_some_and(|standing| standing <= lowest)
    }

    /// Whether a dial that is under way to that endpoint is better given up: checks find it down, or it is no longer to be
    /// used, and another one could be tried.
    #[must_use]
    pub fn is_given_up(&self, endpoint: Id, plan: &Plan) -> bool {
        let standing = self.slot(endpoint).and_then(eligibility::standing);
        standing.is_none_or(|standing| standing == Standing::Down)
            && plan.has_attempt_left()
            && self.slots.iter().any(|slot| self.may_hedge(slot, plan))
    }

    /// Whether active checks find every endpoint down, and all are used for that.
    #[must_use]
    pub fn is_in_panic(&self) -> bool {
        eligibility::mode(&self.slots, self.settings.panic) == Ok(Mode::Panic)
    }

    /// Whether an endpoint is usable as far as anybody knows.
    #[must_use]
    pub fn has_usable(&self) -> bool {
        eligibility::mode(&self.slots, self.settings.panic) == Ok(Mode::Normal)
    }

    /// A dial became a session; it took so long.
    pub fn established(&mut self, endpoint: Id, ticket: Ticket, took: Duration, now: Instant) {
        self.total.dials -= 1;
        self.total.sessions += 1;
        self.retries -= u32::from(ticket.is_retry);
        if let Some(position) = self.position(endpoint) {
            let slot = &mut self.slots[position];
            slot.load.dials -= 1;
            slot.load.sessions += 1;
            if ticket.begun.is_some() {
                slot.ewma.sample(took, now);
                slot.success_time.sample(took, now);
            }
        }
        if ticket.begun.is_some() {
            self.answered(endpoint, now);
        }
    }

    /// The server has greeted, and its client goes on from there. It is there; what becomes of TLS is another matter.
    pub fn greeted(&mut self, endpoint: Id, ticket: Ticket, now: Instant) {
        let Some(position) = self.position(endpoint).filter(|_| ticket.begun.is_some()) else { return };
        let is_back = self.slots[position].outlier.greeted(now);
        self.returned(position, is_back, now);
        if let Some(breaker) = &mut self.breaker
            && breaker.check().is_err()
        {
            self.events.extend(breaker.close().map(Event::Breaker));
        }
    }

    /// A session's dial shows that the endpoint serves.
    fn answered(&mut self, endpoint: Id, now: Instant) {
        if let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.succeeded().map(Event::Breaker));
        }
        let Some(position) = self.position(endpoint) else { return };
        let slot = &mut self.slots[position];
        slot.last_error = None;
        slot.is_failing = false;
        let is_back = slot.outlier.succeeded(now);
        self.returned(position, is_back, now);
    }

    fn returned(&mut self, position: usize, is_back: bool, now: Instant) {
        if is_back {
            let slot = &mut self.slots[position];
            (slot.back_since, slot.proven_at) = (Some(now), Some(now));
            self.events.push(Event::Returned { endpoint: slot.id });
        }
    }

    /// A dial failed, by that fault of the endpoint's; `None`: it is not to blame.
    pub fn failed(
        &mut self,
        endpoint: Id,
        ticket: Ticket,
        fault: Option<Fault>,
        now: Instant,
        rng: &mut Rng,
    ) {
        // A burst of old timeouts would set aside again who has just come back.
        let proven_at = self.slot(endpoint).and_then(|slot| slot.proven_at);
        let counts = ticket.begun.is_some_and(|begun| proven_at.is_none_or(|proven| proven < begun));
        if let Some(fault) = fault.filter(|_| counts) {
            if let Some(position) = self.position(endpoint) {
                let slot = &mut self.slots[position];
                slot.ewma.sample(self.settings.penalty, now);
                slot.is_failing = true;
            }
            self.blame(endpoint, fault, now, rng);
            let is_last_hope = !self.has_hope();
            if let Some(breaker) = &mut self.breaker {
                self.events.extend(breaker.failed(is_last_hope, now, rng).map(Event::Breaker));
            }
        }
        self.release_dial(endpoint, ticket);
    }

    /// A dial came to nothing, and nobody is to blame.
    pub fn abandoned(&mut self, endpoint: Id, ticket: Ticket) {
        self.release_dial(endpoint, ticket);
    }

    /// A session ended.
    pub fn ended(&mut self, endpoint: Id) {
        self.total.sessions -= 1;
        self.release(endpoint, |load| load.sessions -= 1);
    }

    /// A session that the endpoint has not ended by then proves it; one that it did end young is a fault.
    pub fn lasted(&mut self, endpoint: Id, died_young: bool, now: Instant, rng: &mut Rng) {
        if died_young {
            self.blame(endpoint, Fault::EarlyClose, now, rng);
        } else if let Some(position) = self.position(endpoint) {
            let is_back = self.slots[position].outlier.lasted(now);
            self.returned(position, is_back, now);
        }
    }

    /// Ejects the endpoint where that is due and another one is usable.
    fn blame(&mut self, endpoint: Id, fault: Fault, now: Instant, rng: &mut Rng) {
        let (Some(position), Some(settings)) = (self.position(endpoint), &self.settings.outlier) else {
            return;
        };
        let is_usable = |slot: &Slot| eligibility::standing(slot) == Some(Standing::Usable);
        let may_eject = self.slots.iter().any(|slot| slot.id != endpoint && is_usable(slot));
        let ejection = self.slots[position].outlier.failed(settings, fault, may_eject, now, rng);
        self.events.extend(ejection.map(|ejection| Event::Ejected { endpoint, ejection }));
    }

    /// Whether an endpoint is left whose last evidence is no failure.
    fn has_hope(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_enabled() && !slot.is_failing)
    }

    /// An endpoint that may be good is not to wait for a trial: the breaker closes.
    pub fn reconsider(&mut self) {
        if self.has_hope()
            && let Some(breaker) = &mut self.breaker
            && breaker.check().is_err()
        {
            self.events.extend(breaker.close().map(Event::Breaker));
        }
    }

    fn release_dial(&mut self, endpoint: Id, ticket: Ticket) {
        self.total.dials -= 1;
        self.retries -= u32::from(ticket.is_retry);
        self.release(endpoint, |load| load.dials -= 1);
    }

    fn release(&mut self, endpoint: Id, one: impl FnOnce(&mut Load)) {
        let Some(position) = self.position(endpoint) else { return };
        let slot = &mut self.slots[position];
        one(&mut slot.load);
        if !slot.is_member && slot.load.total() == 0 {
            self.slots.remove(position);
        }
    }

    fn position(&self, id: Id) -> Option<usize> {
        self.slots.binary_search_by_key(&id, Slot::id).ok()
    }
}

#[cfg(test)]
mod tests;
