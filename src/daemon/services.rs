//! What the parts of the daemon work with.

use std::sync::Arc;

use crate::admin::AdminState;
use crate::credentials::Credentials;
use crate::discovery;
use crate::drain::Drain;
use crate::session::{AccessLog, CallerLookups};
use crate::workers::Workers;

/// They outlive every change of the configuration.
#[derive(Debug)]
pub(super) struct Services {
    /// Kept until the last session has ended: dropping it ends the threads.
    pub(super) workers: Arc<Workers>,
    pub(super) access: Arc<AccessLog>,
    /// Accept loops and sessions.
    pub(super) sessions: Drain,
    /// The admin server, and the tasks that look after clusters.
    pub(super) admin: Drain,
    pub(super) credentials: Credentials,
    pub(super) discovery: discovery::DiscoveryServices,
    pub(super) lookups: CallerLookups,
    pub(super) admin_state: Arc<AdminState>,
}
