//! A claim on an endpoint, from the pick to the end of the session.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::clock;
use crate::policy::cluster_state::DialTicket;

use super::dial_error::DialError;
use super::endpoint::Endpoint;
use super::{Cluster, EndpointId, State};

/// Which endpoint a dial is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DialTarget {
    /// The endpoint that the cluster picks.
    #[default]
    Any,
    /// This endpoint only, regardless of caps: for a cancel.
    Endpoint {
        id: EndpointId,
        /// Which of its addresses, if that is known.
        address: Option<SocketAddr>,
    },
}

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A waiting session.
    Session,
    Spare,
}

/// What a dial asks of the cluster: where to, and under which conditions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseRequest<'a> {
    /// Which endpoint.
    pub target: DialTarget,
    pub purpose: Purpose,
    /// The hash for `source_hash`.
    pub affinity: Option<u64>,
    /// The caller, if known: the queue is fair between callers.
    pub caller: Option<&'a Caller>,
    /// The client's address, over TCP.
    pub from: Option<IpAddr>,
    /// How many sessions of the same caller may wait for room; `None`: the cluster's number.
    pub max_queued: Option<u32>,
}

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
    pub(crate) const fn hedge_delay(&self) -> Option<Duration> {
        self.patience
    }

    pub(crate) const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    #[must_use]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The server has greeted, and waits for the client's reply: the endpoint counts as serving, however long that
    /// takes.
    pub(crate) fn record_greeting(&self) {
        if let LeaseState::Dialling(ticket) = self.state {
            self.cluster.decide(|state| {
                state.cluster_state.record_greeting(self.endpoint.id(), ticket, clock::now())
            });
        }
    }

    /// The dial succeeded: from here it counts as a session. `took`: connect, greeting and handshake, without waits for
    /// the client.
    pub(crate) fn record_established(&mut self, took: Duration) {
        self.leave_dialling(LeaseState::Established, DialError::OK, |state, id, ticket| {
            state.cluster_state.record_established(id, ticket, took, clock::now());
        });
        self.endpoint.metrics().sessions.increment(1);
    }

    /// The dial of a spare succeeded. It counts against the limits like a session.
    pub(crate) fn record_kept(&mut self, took: Duration) {
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

    pub(crate) fn record_failure(mut self, error: &DialError) {
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

    /// Records whether the endpoint kept the session: `died_young` if the server ended it at once, without sending
    /// anything. Call this before the lease is dropped.
    pub(crate) fn record_survival(&self, died_young: bool) {
        self.cluster.decide(|state| {
            state.cluster_state.record_survival(self.endpoint.id(), died_young, clock::now(), &mut state.rng);
        });
        if died_young {
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
