//! What is known of a live session, as its table has it: where it goes, and who its client is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::identified::IdentifiedCaller;
use super::session_id::SessionId;
use crate::caller::Caller;
use crate::clock;
use crate::cluster::{Cluster, EndpointId};
use crate::metrics::DestinationMetrics;
use crate::name::{ClusterName, ListenerName};
use crate::policy::credential_rotation::SessionActivity;
use crate::relay::LiveSession;
use crate::sync::{Mutex, MutexGuard};

/// A live session, as its table has it.
#[derive(Debug)]
pub(super) struct SessionEntry {
    pub(super) session: SessionId,
    pub(super) accepted: Instant,
    /// The number, within its table, of the route that accepted it.
    pub(super) route: u32,
    /// Milliseconds from the accept to the end of the dial; before that, to when we last began to wait for its
    /// client's opening.
    pub(super) phase_began_ms: AtomicU32,
    /// Set once it is known.
    pub(super) destination: OnceLock<Arc<Destination>>,
    /// Set when the dial is done.
    pub(super) endpoint: OnceLock<EndpointId>,
    /// Set when its client has been looked up. Boxed: often it is not.
    caller: Mutex<Option<Box<IdentifiedCaller>>>,
    pub(super) live: LiveSession,
}

impl SessionEntry {
    pub(super) fn activity(&self) -> SessionActivity {
        SessionActivity {
            moved: self.live.sent().wrapping_add(self.live.received()),
            owes_answer: self.live.owes_answer(),
        }
    }

    /// For a connection that is accepted now; `route`: its route's number within the table.
    pub(super) fn new(session: SessionId, route: u32) -> Self {
        Self {
            session,
            accepted: clock::now(),
            route,
            destination: OnceLock::new(),
            phase_began_ms: AtomicU32::new(0),
            endpoint: OnceLock::new(),
            caller: Mutex::default(),
            live: LiveSession::default(),
        }
    }

    /// Whether it counts against the listener's cap and its client has been silent for at least `silent`.
    pub(super) fn is_silent_for(&self, silent: Duration, now: Instant) -> bool {
        self.live.has_room()
            && self.silent_since().is_some_and(|since| now.saturating_duration_since(since) >= silent)
    }

    pub(super) fn age_ms(&self) -> u32 {
        let age = clock::now().saturating_duration_since(self.accepted).as_millis();
        u32::try_from(age).unwrap_or(u32::MAX)
    }

    /// Since when its client's opening is awaited; `None`: it has arrived, or none is needed.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let awaited = Duration::from_millis(self.phase_began_ms.load(Ordering::Relaxed).into());
        (!self.live.is_opened()).then(|| self.accepted + awaited)
    }

    pub(super) fn caller(&self) -> Option<Arc<Caller>> {
        self.lock_caller().as_ref()?.caller().cloned()
    }

    pub(super) fn lock_caller(&self) -> MutexGuard<'_, Option<Box<IdentifiedCaller>>> {
        self.caller.lock()
    }

    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.destination.get().map(|destination| &destination.cluster)
    }

    /// Whether it goes to that cluster, or to a predecessor or successor of it: these share endpoints.
    pub(super) fn is_of(&self, cluster: &Cluster) -> bool {
        self.cluster().is_some_and(|own| own.is_same_lineage(cluster))
    }

    pub(super) fn counters(&self) -> Option<&Arc<DestinationCounters>> {
        self.destination.get().map(|destination| &destination.counters)
    }
}

/// A cluster that a route leads to, with the counters of this listener and cluster.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(super) cluster: Arc<Cluster>,
    pub(super) counters: Arc<DestinationCounters>,
}

impl Destination {
    #[must_use]
    pub(crate) const fn new(cluster: Arc<Cluster>, counters: Arc<DestinationCounters>) -> Self {
        Self { cluster, counters }
    }
}

/// Metrics and byte counts of the sessions from one listener to one cluster, over all routes.
#[derive(Debug)]
pub(crate) struct DestinationCounters {
    pub(super) metrics: Arc<DestinationMetrics>,
    /// Bytes of ended sessions.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl DestinationCounters {
    /// There must be only one for a listener and cluster, as it sets the metrics' absolute values.
    #[must_use]
    pub(crate) fn of(listener: &ListenerName, cluster: &ClusterName) -> Arc<Self> {
        let metrics = DestinationMetrics::of(listener, cluster);
        Arc::new(Self { metrics, sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/DECISIONS.md, "What a resting session weighs": with the two reference counts, an allocation of 160 bytes.
    #[test]
    fn what_is_known_of_a_resting_session_is_small() {
        assert!(size_of::<SessionEntry>() <= 144, "{}", size_of::<SessionEntry>());
    }
}
