//! Ends the sessions whose identity has been replaced, where the cluster's settings say so.
//!
//! It runs after each replacement until no session with an old identity is left. Each session has a moment within the
//! closing time, by its id, and ends once that has come and it is idle; [`SessionDrain`] ends one that never is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;

use super::record::SessionId;
use super::route::Route;
use crate::alarm;
use crate::clock;
use crate::drain::DrainWatch;
use crate::outcome::Outcome;
use crate::policy::rotation::SessionDrain;
use crate::tls::{Generation, Identity};
use crate::upstream::Cluster;

/// The interval between two looks at the sessions.
const STEP: Duration = Duration::from_millis(250);

/// Runs until the drain begins, which ends sessions by its own schedule. `replaced` changes when any credential is
/// replaced.
pub(crate) async fn end_outdated(
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    mut replaced: Receiver<()>,
    watch: DrainWatch,
) {
    let settings = cluster.settings();
    if !settings.drains_on_rotation {
        return;
    }
    let mut stop = std::pin::pin!(watch.begun());
    let mut draining = BTreeMap::new();
    // A dial that is under way may still become a session with the old identity.
    let mut until = clock::now();
    loop {
        let now = clock::now();
        if replaced.has_changed().unwrap_or(false) {
            replaced.mark_unchanged();
            until = now + settings.dial.deadline;
        }
        route.end_outdated(&cluster, &mut draining, now);
        tokio::select! {
            () = &mut stop => return,
            changed = replaced.changed() => {
                if changed.is_err() {
                    return;
                }
                until = clock::now() + settings.dial.deadline;
            }
            () = alarm::sleep(STEP), if !draining.is_empty() || now < until => {}
        }
    }
}

impl Route {
    fn end_outdated(
        &self,
        cluster: &Cluster,
        draining: &mut BTreeMap<SessionId, SessionDrain>,
        now: Instant,
    ) {
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
