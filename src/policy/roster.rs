//! Who carries what in a cluster, and who is next: the limits, eligibility, the balance and the session's earlier attempts
//! put together. Every count of a cluster changes here and nowhere else.

use std::time::Instant;

use fastrand::Rng;

use super::balance::Policy;
use super::eligibility::{self, Mode, Nobody};
use super::health::Status;
use super::limits::{Full, Load, Settings as Limits};
use super::retry::Plan;
use super::slot::{Admin, Id, Member, Slot};

/// The endpoints of a cluster, with what they carry.
#[derive(Debug)]
pub struct Roster {
    limits: Limits,
    balance: Policy,
    total: Load,
    /// In the order of their ids. Those that have left stay until nothing is on them.
    slots: Vec<Slot>,
    next_id: Id,
    /// Scratch of a pick: places in `slots`.
    candidates: Vec<usize>,
}

/// Why there is nothing to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// A cap is reached.
    #[error("{0}")]
    Full(#[from] Full),
    /// There is nobody.
    #[error("{0}")]
    Nobody(#[from] Nobody),
}

impl Roster {
    /// Without an endpoint.
    #[must_use]
    pub const fn new(balance: Policy, limits: Limits) -> Self {
        Self {
            limits,
            balance,
            total: Load { sessions: 0, dials: 0 },
            slots: Vec::new(),
            next_id: Id::FIRST,
            candidates: Vec::new(),
        }
    }

    /// From now on these count. What is carried already stays, over a lower cap too.
    pub const fn reconfigure(&mut self, balance: Policy, limits: Limits) {
        self.balance = balance;
        self.limits = limits;
    }

    /// Makes these its endpoints, in this order: those with an id stay (or come back) with all that is known of them, the
    /// others join, and who is not named leaves: it is not picked any more, and forgotten when its last session ends. Gives
    /// the ids, in the same order.
    pub fn rearrange(&mut self, members: &[Member], now: Instant) -> Vec<Id> {
        let were: Vec<_> = self.slots.iter_mut().map(|slot| std::mem::take(&mut slot.is_member)).collect();
        let ids = members.iter().enumerate().map(|(place, member)| {
            let known = member.id.and_then(|id| self.position(id));
            let position = known.unwrap_or_else(|| {
                self.slots.push(Slot::new(self.next_id, member.weight, now));
                self.next_id = self.next_id.next();
                self.slots.len() - 1
            });
            let slot = &mut self.slots[position];
            (slot.is_member, slot.place, slot.weight) = (true, place, member.weight);
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

    /// An operator's order. Whether it changed anything.
    pub fn set_admin(&mut self, id: Id, admin: Admin, now: Instant) -> bool {
        self.change(id, |slot| {
            let is_news = std::mem::replace(&mut slot.admin, admin) != admin;
            slot.changed = if is_news { now } else { slot.changed };
            is_news
        })
    }

    /// What active checks have come to. Whether it changed anything.
    pub fn set_health(&mut self, id: Id, health: Status, now: Instant) -> bool {
        self.change(id, |slot| {
            let is_news = std::mem::replace(&mut slot.health, health) != health;
            slot.changed = if is_news { now } else { slot.changed };
            is_news
        })
    }

    /// Why the last attempt or probe failed, if it did.
    pub fn note_error(&mut self, id: Id, error: Option<String>) {
        self.change(id, |slot| {
            slot.last_error = error.map(String::into_boxed_str);
            true
        });
    }

    fn change(&mut self, id: Id, how: impl FnOnce(&mut Slot) -> bool) -> bool {
        self.position(id).is_some_and(|position| how(&mut self.slots[position]))
    }

    /// Picks among the endpoints that may be used and have room one of those that this session tried least often, and
    /// counts the dial on it. It ends in [`Roster::established`] or [`Roster::abandoned`].
    ///
    /// # Errors
    /// Why there is none.
    pub fn begin(&mut self, plan: &mut Plan, rng: &mut Rng) -> Result<Id, Unavailable> {
        self.limits.admit(self.total)?;
        let mode = eligibility::mode(&self.slots)?;
        let mut least = usize::MAX;
        self.candidates.clear();
        for (position, slot) in self.slots.iter().enumerate() {
            if !has_room(&self.limits, slot, mode) {
                continue;
            }
            let tries = plan.tries(slot.id);
            if tries < least {
                least = tries;
                self.candidates.clear();
            }
            if tries == least {
                self.candidates.push(position);
            }
        }
        let full = Full::Endpoints(self.limits.max_connections_per_endpoint);
        let picked = self.balance.pick(&mut self.slots, &self.candidates, rng).ok_or(full)?;
        Ok(self.reserve(plan, picked))
    }

    /// [`Roster::begin`] where the choice is made already: the caller wants that endpoint and no other. Neither caps nor
    /// its state count: it is there to cancel, which makes room.
    ///
    /// # Errors
    /// When it has left and nothing is on it.
    pub fn begin_at(&mut self, endpoint: Id, plan: &mut Plan) -> Result<(), Nobody> {
        let position = self.position(endpoint).ok_or(Nobody::Forgotten)?;
        self.reserve(plan, position);
        Ok(())
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
    pub fn has_untried(&self, plan: &Plan) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots) else { return false };
        self.slots.iter().any(|slot| has_room(&self.limits, slot, mode) && plan.tries(slot.id) == 0)
    }

    /// Whether that endpoint may take a session now, were there room.
    #[must_use]
    pub fn may_pick(&self, endpoint: Id) -> bool {
        let Ok(mode) = eligibility::mode(&self.slots) else { return false };
        self.slot(endpoint).is_some_and(|slot| eligibility::may_take(slot, mode))
    }

    /// Whether an endpoint is usable as far as anybody knows.
    #[must_use]
    pub fn has_usable(&self) -> bool {
        eligibility::mode(&self.slots) == Ok(Mode::Normal)
    }

    /// A dial became a session.
    pub fn established(&mut self, endpoint: Id) {
        self.total.dials -= 1;
        self.total.sessions += 1;
        if let Some(position) = self.position(endpoint) {
            let load = &mut self.slots[position].load;
            load.dials -= 1;
            load.sessions += 1;
        }
    }

    /// A dial came to nothing.
    pub fn abandoned(&mut self, endpoint: Id) {
        self.total.dials -= 1;
        self.release(endpoint, |load| load.dials -= 1);
    }

    /// A session ended.
    pub fn ended(&mut self, endpoint: Id) {
        self.total.sessions -= 1;
        self.release(endpoint, |load| load.sessions -= 1);
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

const fn has_room(limits: &Limits, slot: &Slot, mode: Mode) -> bool {
    eligibility::may_take(slot, mode) && limits.endpoint_has_room(slot.load)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::retry::Settings as Retry;
    use super::*;
    use crate::clock;

    const LIMITS: Limits = Limits { max_connections: 100, max_pending: 100, max_connections_per_endpoint: 3 };

    fn member(id: Option<Id>) -> Member {
        Member { id, weight: 1 }
    }

    fn roster(endpoints: usize) -> (Roster, Vec<Id>) {
        let mut roster = Roster::new(Policy::LeastConnections, LIMITS);
        let ids = roster.rearrange(&vec![member(None); endpoints], clock::now());
        (roster, ids)
    }

    fn plan() -> Plan {
        let wait = Duration::from_millis(1);
        Plan::new(Retry { attempts: 9, backoff_base: wait, backoff_max: wait })
    }

    fn pick(roster: &mut Roster, plan: &mut Plan) -> Result<Id, Unavailable> {
        roster.begin(plan, &mut Rng::with_seed(1))
    }

    #[test]
    fn an_untried_endpoint_goes_before_those_tried_and_those_before_ones_tried_twice() {
        let (mut roster, ids) = roster(2);
        let mut plan = plan();
        let first = pick(&mut roster, &mut plan).unwrap();
        assert!(roster.has_untried(&plan));
        let second = pick(&mut roster, &mut plan).unwrap();
        assert_ne!(first, second);
        assert!(!roster.has_untried(&plan));
        plan.begin(ids[0]);
        assert_eq!(pick(&mut roster, &mut plan), Ok(ids[1]));
    }

    #[test]
    fn an_untried_endpoint_without_room_is_no_reason_to_hurry() {
        let (mut roster, ids) = roster(2);
        (0..3).for_each(|_| roster.begin_at(ids[1], &mut plan()).unwrap());
        let mut plan = plan();
        assert_eq!(pick(&mut roster, &mut plan), Ok(ids[0]));
        assert!(!roster.has_untried(&plan));
    }

    #[test]
    fn an_endpoint_that_left_is_not_picked_and_is_forgotten_with_its_last_session() {
        let (mut roster, ids) = roster(2);
        let on_second = |roster: &mut Roster| {
            roster.begin_at(ids[1], &mut plan()).unwrap();
            roster.established(ids[1]);
        };
        on_second(&mut roster);
        on_second(&mut roster);
        assert_eq!(roster.rearrange(&[member(Some(ids[0]))], clock::now()), [ids[0]]);
        for _ in 0..3 {
            assert_eq!(pick(&mut roster, &mut plan()), Ok(ids[0]));
        }
        assert_eq!(
            pick(&mut roster, &mut plan()),
            Err(Unavailable::Full(Full::Endpoints(3))),
            "the room that is left is on one that has left"
        );
        roster.ended(ids[1]);
        assert_eq!(roster.slot(ids[1]).unwrap().load().sessions, 1);
        roster.ended(ids[1]);
        assert!(roster.slot(ids[1]).is_none());
        assert_eq!(roster.begin_at(ids[1], &mut plan()), Err(Nobody::Forgotten));
        assert_eq!(roster.total(), Load { sessions: 0, dials: 3 });
    }

    #[test]
    fn who_comes_back_while_its_sessions_live_is_the_same() {
        let (mut roster, ids) = roster(1);
        roster.begin_at(ids[0], &mut plan()).unwrap();
        assert_eq!(roster.rearrange(&[], clock::now()), []);
        assert_eq!(pick(&mut roster, &mut plan()), Err(Unavailable::Nobody(Nobody::Empty)));
        assert_eq!(roster.rearrange(&[member(Some(ids[0]))], clock::now()), [ids[0]]);
        assert_eq!(roster.slot(ids[0]).unwrap().load().dials, 1);
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let (mut roster, ids) = roster(2);
        roster.rearrange(&[], clock::now());
        let later = roster.rearrange(&[member(Some(ids[0])), member(None)], clock::now());
        assert!(later.iter().all(|id| !ids.contains(id)), "{ids:?}, then {later:?}");
    }

    #[test]
    fn orders_and_health_say_who_is_picked() {
        let (mut roster, ids) = roster(2);
        assert!(roster.set_admin(ids[0], Admin::Draining, clock::now()));
        assert!(!roster.set_admin(ids[0], Admin::Draining, clock::now()));
        assert_eq!(pick(&mut roster, &mut plan()), Ok(ids[1]));
        assert!(roster.set_health(ids[1], Status::Unhealthy, clock::now()));
        assert_eq!(pick(&mut roster, &mut plan()), Ok(ids[1]), "nobody better is enabled");
        roster.set_admin(ids[0], Admin::Enabled, clock::now());
        assert_eq!(pick(&mut roster, &mut plan()), Ok(ids[0]));
        assert!(ids.iter().all(|id| roster.set_admin(*id, Admin::Disabled, clock::now())));
        assert_eq!(pick(&mut roster, &mut plan()), Err(Unavailable::Nobody(Nobody::NoneEnabled)));
    }
}
