//! A claim on an endpoint, from the pick to the end of the session.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::failure::DialError;
use super::{Cluster, State};

/// Room reserved on an endpoint. It is told exactly once what became of the dial; dropped before that, it
/// counts as cancelled and nobody is blamed. Whatever happens, the room is given back on drop.
#[derive(Debug)]
pub struct Lease {
    cluster: Arc<Cluster>,
    index: usize,
    state: LeaseState,
}

/// Exits: `Dialling` to any other, once; the others have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    Dialling,
    Established,
    Failed,
}

impl Lease {
    pub(super) const fn dialling(cluster: Arc<Cluster>, index: usize) -> Self {
        Self { cluster, index, state: LeaseState::Dialling }
    }

    /// The endpoint's place in the cluster.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The cluster.
    pub(super) const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.cluster.endpoints[self.index]
    }

    /// The dial succeeded: from here it counts as a session.
    pub(super) fn established(&mut self) {
        self.leave_dialling(LeaseState::Established, |state, index| {
            state.roster.established(index);
            state.last_errors[index] = None;
        });
        self.endpoint().metrics().sessions.increment(1);
        self.endpoint().metrics().attempted(DialError::OK);
    }

    /// The dial failed.
    pub(super) fn failed(mut self, error: &DialError) {
        self.leave_dialling(LeaseState::Failed, |state, index| {
            state.roster.abandoned(index);
            state.last_errors[index] = Some(error.to_string());
        });
        self.endpoint().metrics().attempted(error.label());
    }

    fn leave_dialling(&mut self, to: LeaseState, note: impl FnOnce(&mut State, usize)) {
        debug_assert_eq!(self.state, LeaseState::Dialling, "a lease is told once");
        note(&mut self.cluster.state(), self.index);
        self.state = to;
        self.cluster.metrics.pending_dials.decrement(1);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.state {
            LeaseState::Failed => {}
            LeaseState::Dialling => {
                self.leave_dialling(LeaseState::Failed, |state, index| state.roster.abandoned(index));
                self.endpoint().metrics().attempted(DialError::CANCELLED);
            }
            LeaseState::Established => {
                self.cluster.state().roster.ended(self.index);
                self.endpoint().metrics().sessions.decrement(1);
            }
        }
    }
}
