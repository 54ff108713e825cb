//! A claim on an endpoint, from the pick to the end of the session.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::failure::DialError;
use super::{Cluster, EndpointId};
use crate::policy::roster::Roster;

/// Room reserved on an endpoint. It is told exactly once what became of the dial; dropped before that, it
/// counts as cancelled and nobody is blamed. Whatever happens, the room is given back on drop.
#[derive(Debug)]
pub struct Lease {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    state: LeaseState,
}

/// Exits: `Dialling` to any other, once; `Established` and `Failed` have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    Dialling,
    /// Exit: `Established`, by a session that takes it.
    Kept,
    Established,
    Failed,
}

impl Lease {
    pub(super) const fn dialling(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) -> Self {
        Self { cluster, endpoint, state: LeaseState::Dialling }
    }

    /// The cluster.
    pub(super) const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The dial succeeded: from here it counts as a session.
    pub(super) fn established(&mut self) {
        self.leave_dialling(LeaseState::Established, |roster, id| {
            roster.established(id);
            roster.note_error(id, None);
        });
        self.endpoint().metrics().sessions.increment(1);
        self.endpoint().metrics().attempted(DialError::OK);
    }

    /// The dial succeeded, and no session is there yet. It counts in the limits as if one were.
    pub(super) fn kept(&mut self) {
        self.leave_dialling(LeaseState::Kept, |roster, id| {
            roster.established(id);
            roster.note_error(id, None);
        });
        self.endpoint().metrics().attempted(DialError::OK);
    }

    /// A session takes what was kept.
    pub(super) fn taken(&mut self) {
        debug_assert_eq!(self.state, LeaseState::Kept, "it is taken once");
        self.state = LeaseState::Established;
        self.endpoint().metrics().sessions.increment(1);
    }

    /// The dial failed.
    pub(super) fn failed(mut self, error: &DialError) {
        self.leave_dialling(LeaseState::Failed, |roster, id| {
            roster.note_error(id, Some(error.to_string()));
            roster.abandoned(id);
        });
        self.endpoint().metrics().attempted(error.label());
        self.cluster.suspect(self.endpoint.id());
    }

    fn leave_dialling(&mut self, to: LeaseState, note: impl FnOnce(&mut Roster, EndpointId)) {
        debug_assert_eq!(self.state, LeaseState::Dialling, "a lease is told once");
        note(&mut self.cluster.state().roster, self.endpoint.id());
        self.state = to;
        self.cluster.metrics.pending_dials.decrement(1);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.state {
            LeaseState::Failed => {}
            LeaseState::Dialling => {
                self.leave_dialling(LeaseState::Failed, |roster, id| roster.abandoned(id));
                self.endpoint().metrics().attempted(DialError::CANCELLED);
            }
            LeaseState::Kept => self.cluster.state().roster.ended(self.endpoint.id()),
            LeaseState::Established => {
                self.cluster.state().roster.ended(self.endpoint.id());
                self.endpoint().metrics().sessions.decrement(1);
            }
        }
    }
}
