//! What is learnt from dials and sessions when they end, and what they took given back.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Event, Id, Roster, Ticket};
use crate::policy::eligibility::{self, Standing};
use crate::policy::limits::Load;
use crate::policy::outlier::Fault;
use crate::policy::slot::Slot;

impl Roster {
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

    pub(super) fn returned(&mut self, position: usize, is_back: bool, now: Instant) {
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

    /// The server turned a session away in its own words: nothing is held against it, but others are asked first for a while.
    pub fn turned_away(&mut self, endpoint: Id, now: Instant) {
        if let Some(position) = self.position(endpoint) {
            self.slots[position].turned_away = Some(now);
        }
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
}
