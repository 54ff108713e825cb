//! A claim on an endpoint, from the pick to the end of the session; and what a dial asks of its cluster between two
//! claims.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::clock;
use crate::policy::cluster_state::{DialTicket, Unavailable};
use crate::policy::eligibility::NoEndpoint;
use crate::policy::limits::LimitReached;
use crate::policy::{queue, retry};

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
        self.endpoint.metrics().sessions.increment();
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
        self.endpoint().metrics().sessions.increment();
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
        self.cluster.metrics.pending_dials.decrement();
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
                self.endpoint.metrics().sessions.decrement();
            }
        }
    }
}

impl Cluster {
    /// The next endpoint to try, with room reserved on it. `turn`: the ticket of a session called from the queue. In a
    /// full cluster, the oldest spare is closed to make room for a session.
    pub(super) fn lease(
        self: &Arc<Self>,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        turn: Option<&queue::QueueTicket>,
    ) -> Result<Lease, Unavailable> {
        let leased = self.lease_now(request, plan, turn);
        let takes_a_session = matches!(
            leased,
            Err(Unavailable::Full(LimitReached::Connections(_) | LimitReached::Endpoints(_)))
        );
        // The room of a closed spare would go to the sessions that wait.
        let may_evict = takes_a_session && request.purpose == Purpose::Session && self.waiting() == 0;
        if may_evict && self.close_oldest_spare() { self.lease_now(request, plan, turn) } else { leased }
    }

    fn lease_now(
        self: &Arc<Self>,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        turn: Option<&queue::QueueTicket>,
    ) -> Result<Lease, Unavailable> {
        let (endpoint, ticket, patience) =
            self.decide(|State { cluster_state, rng, endpoint_map, wait_queue }| {
                let (id, ticket) = match request.target {
                    DialTarget::Any => {
                        if let Some(cap) =
                            wait_queue.before(turn).filter(|_| !self.settings.queue_timeout.is_zero())
                        {
                            cluster_state.room()?;
                            return Err(cap);
                        }
                        // A called session that finds no room stays the called one: `leave` only after success.
                        let begun = cluster_state.begin(plan, request.affinity, clock::now(), rng)?;
                        if let Some(turn) = turn {
                            wait_queue.leave(turn);
                        }
                        begun
                    }
                    DialTarget::Endpoint { id, .. } => (id, cluster_state.begin_at(id, plan)?),
                };
                let endpoint = endpoint_map.get(id).ok_or(NoEndpoint::Removed)?;
                let patience = (request.target == DialTarget::Any)
                    .then(|| cluster_state.hedge_after(id, plan))
                    .flatten();
                Ok::<_, Unavailable>((Arc::clone(endpoint), ticket, patience))
            })?;
        self.metrics.pending_dials.increment();
        Ok(Lease::dialling(Arc::clone(self), endpoint, ticket).with_hedge_delay(patience))
    }

    /// An endpoint for a hedge, with room reserved on it.
    pub(crate) fn lease_hedge(
        self: &Arc<Self>,
        affinity: Option<u64>,
        plan: &mut retry::Plan,
    ) -> Option<Lease> {
        let (endpoint, ticket) = self.decide(|State { cluster_state, rng, endpoint_map, .. }| {
            let (id, ticket) = cluster_state.begin_hedge(plan, affinity, clock::now(), rng)?;
            Some((Arc::clone(endpoint_map.get(id)?), ticket))
        })?;
        self.metrics.pending_dials.increment();
        Some(Lease::dialling(Arc::clone(self), endpoint, ticket))
    }

    /// Whether a running attempt at the endpoint should be given up.
    pub(crate) fn is_given_up(&self, endpoint: EndpointId, plan: &retry::Plan) -> bool {
        self.state().cluster_state.is_given_up(endpoint, plan)
    }

    /// How long to wait before the next attempt. `is_unpaid`: the retry budget was exhausted.
    pub(crate) fn retry_delay(
        &self,
        target: DialTarget,
        plan: &mut retry::Plan,
        is_unpaid: bool,
    ) -> Duration {
        let State { cluster_state, rng, .. } = &mut *self.state();
        if is_unpaid {
            return plan.wait_for_budget(rng);
        }
        let has_untried = matches!(target, DialTarget::Any) && cluster_state.has_untried(plan);
        plan.wait(has_untried, rng)
    }

    /// Whether an eligible endpoint is left untried.
    pub(crate) fn has_untried(&self, target: DialTarget, plan: &retry::Plan) -> bool {
        matches!(target, DialTarget::Any) && self.state().cluster_state.has_untried(plan)
    }
}
