//! One connection's entry in the session table, and the guard that removes it on drop.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::identified::IdentifiedCaller;
use super::record::{Record, SessionId};
use super::route::{Destination, REFUSING_MAX, Route};
use super::table::DestinationCounters;
use crate::caller::Caller;
use crate::clock;
use crate::outcome::{Outcome, Side};
use crate::policy::credential_rotation::SessionActivity;
use crate::relay::LiveSession;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::Generation;
use crate::upstream::{Cluster, EndpointId, Lease};

/// A live session, as its table has it.
#[derive(Debug)]
pub(super) struct SessionEntry {
    pub(super) session: SessionId,
    pub(super) accepted: Instant,
    /// The number, within its table, of the route that accepted it.
    pub(super) route: u32,
    /// Milliseconds from the accept to the end of the dial; before that, to when we last began to wait for its
    /// client's opening.
    phase_began_ms: AtomicU32,
    /// Set once it is known.
    destination: OnceLock<Arc<Destination>>,
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

    fn age_ms(&self) -> u32 {
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

    fn lock_caller(&self) -> MutexGuard<'_, Option<Box<IdentifiedCaller>>> {
        self.caller.lock()
    }

    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.destination.get().map(|destination| &destination.cluster)
    }

    /// Whether it goes to that cluster, or to a predecessor or successor of it: these share endpoints.
    pub(super) fn is_of(&self, cluster: &Cluster) -> bool {
        self.cluster().is_some_and(|own| own.is_same_lineage(cluster))
    }

    pub(super) fn counts_for(&self, counters: &Arc<DestinationCounters>) -> bool {
        self.destination.get().is_some_and(|own| Arc::ptr_eq(&own.counters, counters))
    }
}

/// A connection that was entered in the session table, with its record.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) guard: SessionGuard,
    pub(super) record: Record,
}

/// Removes the session from its table, by [`SessionGuard::vacate`] or on drop.
#[derive(Debug)]
pub(super) struct SessionGuard {
    route: Arc<Route>,
    entry: Arc<SessionEntry>,
    /// It has been removed already.
    is_vacant: bool,
}

impl SessionGuard {
    pub(super) const fn new(route: Arc<Route>, entry: Arc<SessionEntry>) -> Self {
        Self { route, entry, is_vacant: false }
    }

    /// Whether its dial succeeded.
    pub(super) fn has_endpoint(&self) -> bool {
        self.entry.endpoint.get().is_some()
    }

    pub(super) const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// `None` until the cluster is known.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.entry.cluster()
    }

    /// `index`: of the route's clusters.
    pub(super) fn set_destination(&self, index: usize) {
        let destination = self.route.destination(index);
        if self.entry.destination.set(Arc::clone(destination)).is_ok() {
            destination.counters.metrics.active.increment(1);
        }
    }

    pub(super) fn live(&self) -> &LiveSession {
        &self.entry.live
    }

    /// Whether it counts against the listener's cap. If not, it is to be refused.
    pub(super) fn has_room(&self) -> bool {
        self.entry.live.has_room()
    }

    /// It is to be refused, and no longer counts against the cap. False: too many are being refused, so it is to be
    /// reset.
    pub(super) fn turn_away(&self) -> bool {
        let mut sessions = self.route.sessions();
        if self.entry.live.give_up_room() {
            sessions.refusing += 1;
        }
        sessions.refusing <= REFUSING_MAX
    }

    /// `None` for a stranger, and where callers are not looked up.
    pub(super) fn caller(&self) -> Option<Arc<Caller>> {
        self.entry.caller()
    }

    /// Stores what is known of its client; a look-up that still runs continues in a task of its own.
    pub(super) fn set_caller(&self, identified: IdentifiedCaller) {
        *self.entry.lock_caller() = Some(Box::new(identified));
        if let Some(waiting) = self.caller_lookup() {
            self.route.admission().wait_beside(waiting);
        }
    }

    /// Waits, for a bounded time, for the look-up of its client and stores the result; `None`: none runs. Boxed: only
    /// the first session of a caller has a look-up.
    pub(super) fn caller_lookup(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let question = Arc::clone(self.entry.lock_caller().as_ref()?.lookup()?);
        let (route, entry) = (Arc::clone(&self.route), Arc::clone(&self.entry));
        Some(Box::pin(async move {
            let caller = question.resolve().await;
            if let Some(identified) = &mut *entry.lock_caller() {
                route.admission().note_described(identified, caller);
            }
        }))
    }

    /// Counts a refusal for its caller, after admission.
    pub(super) fn note_refused(&self) {
        if let Some(identified) = &mut *self.entry.lock_caller() {
            identified.note_refused();
        }
    }

    /// Its client's opening has arrived.
    pub(super) fn note_opened(&self) {
        self.entry.live.note_opened();
    }

    /// Its client has got the reply to its CONNECT request and has to send its opening: its silence counts from now.
    pub(super) fn await_opening(&self) {
        self.entry.phase_began_ms.store(self.entry.age_ms(), Ordering::Relaxed);
        self.entry.live.await_opening();
    }

    /// Its dial succeeded; `identity`: the generation of the identity that the endpoint was shown.
    pub(super) fn note_established(&self, endpoint: EndpointId, identity: Option<Generation>) {
        if let Some(identity) = identity {
            self.entry.live.set_identity(identity);
        }
        // Dialled once, so it is never set twice.
        let _ = self.entry.endpoint.set(endpoint);
        self.entry.phase_began_ms.store(self.entry.age_ms(), Ordering::Relaxed);
    }

    /// Since the dial was done.
    pub(super) fn lifetime(&self) -> Duration {
        let established = Duration::from_millis(self.entry.phase_began_ms.load(Ordering::Relaxed).into());
        clock::now().saturating_duration_since(self.entry.accepted + established)
    }

    /// Reports to the lease whether the endpoint reset the session or, where `early_close` is configured, closed it
    /// early. Only an endpoint that closes without having sent a byte is at fault: one that has answered may have
    /// closed because of what the client sent.
    pub(super) fn blame(&self, record: &Record, lease: &Lease) {
        if record.outcome == Outcome::UpstreamReset {
            lease.suspect();
        }
        if record.outcome == Outcome::UpstreamRefused {
            lease.record_turned_away(record.error.as_deref().unwrap_or_default().to_owned());
        }
        let Some(outlier) = self.cluster().and_then(|cluster| cluster.settings().outlier) else { return };
        if outlier.early_close.is_zero() {
            return;
        }
        let lived = self.lifetime();
        let by_the_endpoint = record.closed_by == Side::Upstream
            // Many servers ask for a certificate without requiring one, so an early close is a fault even if it is
            // recorded as a missing certificate.
            && (record.is_uncertified || matches!(record.outcome, Outcome::Completed | Outcome::UpstreamReset))
            && record.received() == 0;
        let closed_early = by_the_endpoint && lived < outlier.early_close;
        // A session that its client ended early proves nothing either way.
        if closed_early || lived >= outlier.early_close || record.received() > 0 {
            lease.record_session_age(closed_early);
        }
    }
}

impl SessionGuard {
    /// Its session is over: removes it from the table and adds its bytes to the sums. The entry, with what is known of
    /// its client, stays until the guard is dropped.
    pub(super) fn vacate(&mut self) {
        if std::mem::replace(&mut self.is_vacant, true) {
            return;
        }
        let mut sessions = self.route.sessions();
        sessions.live.remove(&self.entry.session);
        sessions.refusing -= u32::from(!self.has_room());
        let destination = self.entry.destination.get();
        if let Some(counters) = destination.map(|destination| &destination.counters) {
            counters.sent.fetch_add(self.entry.live.sent(), Ordering::Relaxed);
            counters.received.fetch_add(self.entry.live.received(), Ordering::Relaxed);
        }
        sessions.sent += self.entry.live.sent();
        sessions.received += self.entry.live.received();
        drop(sessions);
        if let Some(destination) = destination {
            destination.counters.metrics.active.decrement(1);
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.vacate();
        if let Some(identified) = &mut *self.entry.lock_caller() {
            self.route.admission().note_left(identified);
        }
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
