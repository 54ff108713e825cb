//! Who carries what in a cluster, and who is next: breaker, limits, retry budget, eligibility, balance and the session's
//! earlier attempts put together. All that changes in a cluster changes here and nowhere else.
//!
//! Every dial that begins has a [`Ticket`], and ends in exactly one of [`Roster::established`], [`Roster::failed`] and
//! [`Roster::abandoned`]; a session ends in [`Roster::ended`]. What these decide about endpoints and the breaker is kept
//! as [`Event`]s until it is taken, to be logged and counted where that may be done.

mod resume;

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::balance::{Choice, Policy};
use super::breaker::{self, Breaker, Label, Permit, Refused};
use super::budget::{self, Budget};
use super::eligibility::{self, Mode, Nobody, Panic};
use super::health::Status;
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
    /// What counted at the last pick.
    mode: Mode,
    events: Vec<Event>,
    /// Scratch of a pick: places in `slots`.
    candidates: Vec<usize>,
}

/// What a dial that began has to show when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    permit: Option<Permit>,
    on_trial: bool,
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
    /// This would be a retry, and enough were made.
    #[error("connect.retry_budget is used up")]
    Budget,
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
        self.change(id, now, |slot| std::mem::replace(&mut slot.admin, admin) != admin)
    }

    /// What active checks have come to. Whether it changed anything.
    pub fn set_health(&mut self, id: Id, health: Status, now: Instant) -> bool {
        self.change(id, now, |slot| {
            let before = std::mem::replace(&mut slot.health, health);
            if before == Status::Unhealthy && health == Status::Healthy {
                slot.back_since = Some(now);
            }
            before != health
        })
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

    /// Picks among the endpoints that may be used and have room one of those that this session tried least often, of the
    /// first priority that has any, and counts the dial on it. `key`: what `source_hash` keeps together.
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
            breaker.check(now)?;
        }
        self.settings.limits.admit(self.total)?;
        let mode = eligibility::mode(&self.slots, self.settings.panic, now)?;
        self.note_mode(mode);
        self.find_candidates(plan, mode, now);
        let full = Full::Endpoints(self.settings.limits.max_connections_per_endpoint);
        let choice = Choice { key, slow_start: self.settings.slow_start, now };
        let picked =
            self.settings.balance.pick(&mut self.slots, &self.candidates, &choice, rng).ok_or(full)?;
        if let Some(budget) = &mut self.budget {
            if plan.attempts() == 0 {
                budget.session(now);
            } else if !budget.take(now) {
                return Err(Unavailable::Budget);
            }
        }
        let permit = self.breaker.as_mut().map(|breaker| {
            let (permit, transition) = breaker.begin(now);
            self.events.extend(transition.map(Event::Breaker));
            permit
        });
        let on_trial = self.slots[picked].outlier.begin(now);
        Ok((self.reserve(plan, picked), Ticket { permit, on_trial }))
    }

    /// Whether the cluster has room for one dial more, without beginning it: what [`Roster::begin`] would say, but for the
    /// budget of retries.
    ///
    /// # Errors
    /// Why there is none.
    pub fn room(&self, now: Instant) -> Result<(), Unavailable> {
        if let Some(breaker) = &self.breaker {
            breaker.check(now)?;
        }
        let limits = &self.settings.limits;
        limits.admit(self.total)?;
        let mode = eligibility::mode(&self.slots, self.settings.panic, now)?;
        let may_take =
            |slot: &Slot| limits.endpoint_has_room(slot.load) && eligibility::may_take(slot, mode, now);
        let has_room = self.slots.iter().any(may_take);
        if has_room { Ok(()) } else { Err(Full::Endpoints(limits.max_connections_per_endpoint).into()) }
    }

    fn note_mode(&mut self, mode: Mode) {
        let from = std::mem::replace(&mut self.mode, mode);
        if from != mode {
            self.events.push(Event::Mode { from, to: mode });
        }
    }

    fn find_candidates(&mut self, plan: &Plan, mode: Mode, now: Instant) {
        let mut best = (usize::MAX, u32::MAX);
        self.candidates.clear();
        for (position, slot) in self.slots.iter().enumerate() {
            if !self.settings.limits.endpoint_has_room(slot.load) || !eligibility::may_take(slot, mode, now) {
                continue;
            }
            let rank = (plan.tries(slot.id), slot.priority);
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
        self.reserve(plan, position);
        Ok(Ticket { permit: None, on_trial: false })
    }

    fn reserve(&mut self, plan: &mut Plan, position: usize) -> Id {
        let slot = &mut self.slots[position];
        plan.begin(slot.id);
        slot.load.dials += 1;
        self.total.dials += 1;
        slot.id
    }

    /// Whether an endpoint that this session has not tried could take a dial now: no reason to wait.
    #[must_use]
    pub fn has_untried(&self, plan: &Plan, now: Instant) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots, self.settings.panic, now) else { return false };
        let limits = &self.settings.limits;
        let may_take =
            |slot: &&Slot| limits.endpoint_has_room(slot.load) && eligibility::may_take(slot, mode, now);
        self.slots.iter().filter(may_take).any(|slot| plan.tries(slot.id) == 0)
    }

    /// Whether that endpoint may take a session now, were there room.
    #[must_use]
    pub fn may_pick(&self, endpoint: Id, now: Instant) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots, self.settings.panic, now) else { return false };
        self.slot(endpoint).is_some_and(|slot| eligibility::may_take(slot, mode, now))
    }

    /// Whether an endpoint is usable as far as anybody knows.
    #[must_use]
    pub fn has_usable(&self, now: Instant) -> bool {
        eligibility::mode(&self.slots, self.settings.panic, now) == Ok(Mode::Normal)
    }

    /// A dial became a session; it took so long.
    pub fn established(&mut self, endpoint: Id, ticket: Ticket, took: Duration, now: Instant) {
        self.total.dials -= 1;
        self.total.sessions += 1;
        if let (Some(breaker), Some(permit)) = (&mut self.breaker, ticket.permit) {
            self.events.extend(breaker.succeeded(permit).map(Event::Breaker));
        }
        let Some(position) = self.position(endpoint) else { return };
        let slot = &mut self.slots[position];
        slot.load.dials -= 1;
        slot.load.sessions += 1;
        slot.last_error = None;
        slot.ewma.sample(took, now);
        if slot.outlier.succeeded(ticket.on_trial) {
            slot.back_since = Some(now);
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
        let Some(fault) = fault else { return self.abandoned(endpoint, ticket, now) };
        if let (Some(breaker), Some(permit)) = (&mut self.breaker, ticket.permit) {
            self.events.extend(breaker.failed(permit, now, rng).map(Event::Breaker));
        }
        if let Some(position) = self.position(endpoint) {
            self.slots[position].ewma.sample(self.settings.penalty, now);
        }
        self.blame(endpoint, (fault, ticket.on_trial), now, rng);
        self.release_dial(endpoint);
    }

    /// A dial came to nothing, and nobody is to blame.
    pub fn abandoned(&mut self, endpoint: Id, ticket: Ticket, now: Instant) {
        if let (Some(breaker), Some(permit)) = (&mut self.breaker, ticket.permit) {
            breaker.untold(permit);
        }
        if ticket.on_trial
            && let Some(position) = self.position(endpoint)
        {
            self.slots[position].outlier.untold(now);
        }
        self.release_dial(endpoint);
    }

    /// A session ended.
    pub fn ended(&mut self, endpoint: Id) {
        self.total.sessions -= 1;
        self.release(endpoint, |load| load.sessions -= 1);
    }

    /// A session that the endpoint has not ended by then proves it; one that it did end young is a fault.
    pub fn lasted(&mut self, endpoint: Id, died_young: bool, now: Instant, rng: &mut Rng) {
        if died_young {
            self.blame(endpoint, (Fault::EarlyClose, false), now, rng);
        } else if let Some(position) = self.position(endpoint) {
            self.slots[position].outlier.lasted();
        }
    }

    /// Ejects the endpoint where that is due and another one is usable.
    fn blame(&mut self, endpoint: Id, fault: (Fault, bool), now: Instant, rng: &mut Rng) {
        let (Some(position), Some(settings)) = (self.position(endpoint), &self.settings.outlier) else {
            return;
        };
        let may_eject = self.slots.iter().any(|slot| slot.id != endpoint && slot.is_usable());
        let ejection = self.slots[position].outlier.failed(settings, fault, may_eject, now, rng);
        self.events.extend(ejection.map(|ejection| Event::Ejected { endpoint, ejection }));
    }

    fn release_dial(&mut self, endpoint: Id) {
        self.total.dials -= 1;
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
