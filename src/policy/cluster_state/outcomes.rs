//! Records how dials and sessions ended, and releases the load that they took.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{ClusterEvent, ClusterState, DialTicket, Id};
use crate::policy::eligibility::{self, Standing};
use crate::policy::endpoint_state::EndpointState;
use crate::policy::limits::Load;
use crate::policy::outlier::Fault;

impl ClusterState {
    /// A dial became a session after `took`.
    pub fn record_established(&mut self, endpoint: Id, ticket: DialTicket, took: Duration, now: Instant) {
        self.total.dials -= 1;
        self.total.sessions += 1;
        self.retries -= u32::from(ticket.is_retry);
        if let Some(position) = self.position(endpoint) {
            let endpoint_state = &mut self.endpoints[position];
            endpoint_state.load.dials -= 1;
            endpoint_state.load.sessions += 1;
            if ticket.begun.is_some() {
                endpoint_state.ewma.sample(took, now);
                endpoint_state.success_time.sample(took, now);
            }
        }
        if ticket.begun.is_some() {
            self.record_served(endpoint, now);
        }
    }

    /// The server sent its greeting, and the session continues from there with its client. TLS may still fail.
    pub fn record_greeting(&mut self, endpoint: Id, ticket: DialTicket, now: Instant) {
        let Some(position) = self.position(endpoint).filter(|_| ticket.begun.is_some()) else { return };
        let is_back = self.endpoints[position].outlier.record_greeting(now);
        self.record_return(position, is_back, now);
        if let Some(breaker) = &mut self.breaker
            && breaker.check().is_err()
        {
            self.events.extend(breaker.close().map(ClusterEvent::Breaker));
        }
    }

    /// A session's dial succeeded: the endpoint serves.
    fn record_served(&mut self, endpoint: Id, now: Instant) {
        if let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.record_success().map(ClusterEvent::Breaker));
        }
        let Some(position) = self.position(endpoint) else { return };
        let endpoint_state = &mut self.endpoints[position];
        endpoint_state.last_error = None;
        endpoint_state.is_failing = false;
        let is_back = endpoint_state.outlier.record_success(now);
        self.record_return(position, is_back, now);
    }

    pub(super) fn record_return(&mut self, position: usize, is_back: bool, now: Instant) {
        if is_back {
            let endpoint_state = &mut self.endpoints[position];
            (endpoint_state.back_since, endpoint_state.proven_at) = (Some(now), Some(now));
            self.events.push(ClusterEvent::Returned { endpoint: endpoint_state.id });
        }
    }

    /// A dial failed by that fault of the endpoint; `None`: the failure is not its fault.
    pub fn record_failure(
        &mut self,
        endpoint: Id,
        ticket: DialTicket,
        fault: Option<Fault>,
        now: Instant,
        rng: &mut Rng,
    ) {
        // Otherwise timeouts of earlier dials would eject an endpoint again that has just come back.
        let proven_at = self.endpoint(endpoint).and_then(|endpoint_state| endpoint_state.proven_at);
        let counts = ticket.begun.is_some_and(|begun| proven_at.is_none_or(|proven| proven < begun));
        if let Some(fault) = fault.filter(|_| counts) {
            if let Some(position) = self.position(endpoint) {
                let endpoint_state = &mut self.endpoints[position];
                endpoint_state.ewma.sample(self.settings.penalty, now);
                endpoint_state.is_failing = true;
            }
            self.blame(endpoint, fault, now, rng);
            let is_last_good = !self.has_untested_or_good();
            if let Some(breaker) = &mut self.breaker {
                self.events.extend(breaker.record_failure(is_last_good, now, rng).map(ClusterEvent::Breaker));
            }
        }
        self.release_dial(endpoint, ticket);
    }

    /// The server refused a session by a message of its own protocol. That is no fault, but others are picked first for
    /// a while.
    pub fn record_turned_away(&mut self, endpoint: Id, now: Instant) {
        if let Some(position) = self.position(endpoint) {
            self.endpoints[position].turned_away = Some(now);
        }
    }

    /// A dial ended without a result, and the endpoint is not at fault.
    pub fn record_abandoned(&mut self, endpoint: Id, ticket: DialTicket) {
        self.release_dial(endpoint, ticket);
    }

    /// Releases a session's load.
    pub fn record_session_end(&mut self, endpoint: Id) {
        self.total.sessions -= 1;
        self.release(endpoint, |load| load.sessions -= 1);
    }

    /// A session lived long enough to be evidence of health; or, `closed_early`, the endpoint ended it early: a fault.
    pub fn record_session_age(&mut self, endpoint: Id, closed_early: bool, now: Instant, rng: &mut Rng) {
        if closed_early {
            self.blame(endpoint, Fault::EarlyClose, now, rng);
        } else if let Some(position) = self.position(endpoint) {
            let is_back = self.endpoints[position].outlier.record_lasting_session(now);
            self.record_return(position, is_back, now);
        }
    }

    /// Records a fault, and ejects the endpoint if that is due and another one is usable.
    fn blame(&mut self, endpoint: Id, fault: Fault, now: Instant, rng: &mut Rng) {
        let (Some(position), Some(settings)) = (self.position(endpoint), &self.settings.outlier) else {
            return;
        };
        let is_usable =
            |endpoint_state: &EndpointState| eligibility::standing(endpoint_state) == Some(Standing::Usable);
        let may_eject = self
            .endpoints
            .iter()
            .any(|endpoint_state| endpoint_state.id != endpoint && is_usable(endpoint_state));
        let ejection = self.endpoints[position].outlier.record_failure(settings, fault, may_eject, now, rng);
        self.events.extend(ejection.map(|ejection| ClusterEvent::Ejected { endpoint, ejection }));
    }

    fn release_dial(&mut self, endpoint: Id, ticket: DialTicket) {
        self.total.dials -= 1;
        self.retries -= u32::from(ticket.is_retry);
        self.release(endpoint, |load| load.dials -= 1);
    }

    fn release(&mut self, endpoint: Id, one: impl FnOnce(&mut Load)) {
        let Some(position) = self.position(endpoint) else { return };
        let endpoint_state = &mut self.endpoints[position];
        one(&mut endpoint_state.load);
        if !endpoint_state.is_member && endpoint_state.load.total() == 0 {
            self.endpoints.remove(position);
        }
    }
}
