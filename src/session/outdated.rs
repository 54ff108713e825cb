//! Finds the sessions that were made with an identity that has been replaced, and ends those whose moment has come. Each
//! session has its own moment within the closing time, by its id, and ends once that has come and it is idle.

use std::collections::BTreeMap;
use std::time::Instant;

use super::route::Route;
use super::session_id::SessionId;
use crate::cluster::Cluster;
use crate::outcome::Outcome;
use crate::policy::credential_rotation::SessionDrain;
use crate::tls::{Generation, Identity};

/// Sessions with a replaced identity, until they end.
pub(super) type OutdatedSessions = BTreeMap<SessionId, SessionDrain>;

impl Route {
    /// Ends those that are due now; `draining` holds the others.
    pub(super) fn end_outdated(&self, cluster: &Cluster, draining: &mut OutdatedSessions, now: Instant) {
        let settings = cluster.settings();
        let identities = settings.tls.as_ref().map(|tls| tls.identities().all()).unwrap_or_default();
        let current: Vec<Generation> =
            identities.iter().filter_map(|identity| Identity::generation(identity)).collect();
        let outdated: BTreeMap<_, _> = self.outdated(cluster, &current).into_iter().collect();
        draining.retain(|session, _| outdated.contains_key(session));
        let mut due = Vec::new();
        for (session, seen) in outdated {
            let drain = draining.entry(session).or_insert_with(|| SessionDrain::begin(seen, now));
            if drain.is_due(seen, settings.eviction.closing_time.mul_f64(session.share()), now) {
                due.push(session);
            }
        }
        self.stop_sessions(&due, Outcome::Rotated);
    }
}
