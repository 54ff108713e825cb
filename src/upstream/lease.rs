//! A claim on an endpoint, from the pick to the end of the session.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::policy::cluster_state::DialTicket;

use super::endpoint::Endpoint;
use super::failure::DialError;
use super::{Cluster, EndpointId, State};

/// Room reserved on an endpoint. The dial's result is recorded exactly once; dropped before that, the dial counts as
/// cancelled and the endpoint is not blamed. The room is always given back on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    state: LeaseState,
    /// How long to wait before a hedge; `None`: no hedge.
    patience: Option<Duration>,
}

/// Exits: `Dialling` to any other, once; `Kept` to `Established`; `Established` and `Failed` have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    Dialling(DialTicket),
    /// A spare, until a session takes it.
    Kept,
    Established,
    Failed,
}

impl Lease {
    pub(super) const fn dialling(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, ticket: DialTicket) -> Self {
        Self { cluster, endpoint, state: LeaseState::Dialling(ticket), patience: None }
    }

    pub(super) const fn with_hedge_delay(self, patience: Option<Duration>) -> Self {
        let mut lease = self;
        lease.patience = patience;
        lease
    }

    /// How long to wait before a hedge; `None`: no hedge.
    pub(super) const fn hedge_delay(&self) -> Option<Duration> {
        self.patience
    }

    pub(super) const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    #[must_use]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The server has greeted, and waits for the client's reply: the endpoint counts as serving, however long that
    /// takes.
    pub(super) fn record_greeting(&self) {
        if let LeaseState::Dialling(ticket) = self.state {
            self.cluster.decide(|state| {
                state.cluster_state.record_greeting(self.endpoint.id(), ticket, clock::now())
            });
        }
    }

    /// The dial succeeded: from here it counts as a session. `took`: connect, greeting and handshake, without waits for
    /// the client.
    pub(super) fn record_established(&mut self, took: Duration) {
        self.leave_dialling(LeaseState::Established, DialError::OK, |state, id, ticket| {
            state.cluster_state.record_established(id, ticket, took, clock::now());
        });
        self.endpoint.metrics().sessions.increment(1);
    }

    /// The dial of a spare succeeded. It counts against the limits like a session.
    pub(super) fn record_kept(&mut self, took: Duration) {
        self.leave_dialling(LeaseState::Kept, DialError::OK, |state, id, ticket| {
            state.cluster_state.record_established(id, ticket, took, clock::now());
        });
    }

    /// A session takes the spare.
    pub(super) fn record_taken(&mut self) {
        debug_assert_eq!(self.state, LeaseState::Kept, "it is taken once");
        self.state = LeaseState::Established;
        self.endpoint().metrics().sessions.increment(1);
    }

    pub(super) fn record_failure(mut self, error: &DialError) {
        self.leave_dialling(LeaseState::Failed, error.label(), |state, id, ticket| {
            state.cluster_state.note_error(id, Some(error.to_string()));
            if error.is_refused() {
                state.cluster_state.record_turned_away(id, clock::now());
            }
            state.cluster_state.record_failure(id, ticket, error.fault(), clock::now(), &mut state.rng);
        });
        if error.fault().is_some() {
            self.cluster.suspect(self.endpoint.id());
        }
    }

    /// The server refused a session in its own words after the dial was over: for a while others are preferred.
    pub(crate) fn record_turned_away(&self, why: String) {
        self.cluster.decide(|state| {
            state.cluster_state.note_error(self.endpoint.id(), Some(why));
            state.cluster_state.record_turned_away(self.endpoint.id(), clock::now());
        });
    }

    /// There are signs of a fault of the endpoint: its next health check begins as soon as possible.
    pub(crate) fn suspect(&self) {
        self.cluster.suspect(self.endpoint.id());
    }

    /// Records whether the endpoint kept the session: `closed_early` if the server ended it at once, without sending
    /// anything. Call this before the lease is dropped.
    pub(crate) fn record_session_age(&self, closed_early: bool) {
        self.cluster.decide(|state| {
            state.cluster_state.record_session_age(
                self.endpoint.id(),
                closed_early,
                clock::now(),
                &mut state.rng,
            );
        });
        if closed_early {
            self.cluster.suspect(self.endpoint.id());
        }
    }

    fn leave_dialling(
        &mut self,
        to: LeaseState,
        result: &'static str,
        note: impl FnOnce(&mut State, EndpointId, DialTicket),
    ) {
        let LeaseState::Dialling(ticket) = self.state else {
            debug_assert!(false, "a lease is told once");
            return;
        };
        self.cluster.decide(|state| note(state, self.endpoint.id(), ticket));
        self.state = to;
        self.cluster.metrics.pending_dials.decrement(1);
        self.endpoint.metrics().record_attempt(result);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.state {
            LeaseState::Failed => {}
            LeaseState::Dialling(_) => {
                self.leave_dialling(LeaseState::Failed, DialError::CANCELLED, |state, id, ticket| {
                    state.cluster_state.record_abandoned(id, ticket);
                });
            }
            LeaseState::Kept => {
                self.cluster.decide(|state| state.cluster_state.record_session_end(self.endpoint.id()))
            }
            LeaseState::Established => {
                self.cluster.decide(|state| state.cluster_state.record_session_end(self.endpoint.id()));
                self.endpoint.metrics().sessions.decrement(1);
            }
        }
    }
}
