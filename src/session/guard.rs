//! One connection's place among the live sessions of its route: what is known of it while it lives, given back on drop.

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
use crate::policy::rotation::SessionActivity;
use crate::relay::LiveSession;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::Generation;
use crate::upstream::{Cluster, EndpointId, Lease};

/// What is known of a session while it lives.
#[derive(Debug)]
pub(super) struct SessionEntry {
    pub(super) session: SessionId,
    pub(super) accepted: Instant,
    /// The number of the route that it came by, among those of its ledger.
    pub(super) route: u32,
    /// Milliseconds from accept to when it had its endpoint, and before that to when its client was last waited for.
    reached_ms: AtomicU32,
    /// Where it goes, once that is known.
    destination: OnceLock<Arc<Destination>>,
    /// Its endpoint, once it has one.
    pub(super) endpoint: OnceLock<EndpointId>,
    /// What is known of its client, once somebody has looked. Boxed: often nobody does.
    caller: Mutex<Option<Box<IdentifiedCaller>>>,
    pub(super) live: LiveSession,
}

impl SessionEntry {
    /// What can be seen of what it moves.
    pub(super) fn activity(&self) -> SessionActivity {
        SessionActivity {
            moved: self.live.sent().wrapping_add(self.live.received()),
            owes_answer: self.live.owes_answer(),
        }
    }

    /// Of a connection that is accepted now, by that route of its ledger.
    pub(super) fn new(session: SessionId, route: u32) -> Self {
        Self {
            session,
            accepted: clock::now(),
            route,
            destination: OnceLock::new(),
            reached_ms: AtomicU32::new(0),
            endpoint: OnceLock::new(),
            caller: Mutex::default(),
            live: LiveSession::default(),
        }
    }

    /// Whether it takes somebody's room, and its client has said nothing for so long.
    pub(super) fn is_silent_for(&self, silent: Duration, now: Instant) -> bool {
        self.live.has_room()
            && self.silent_since().is_some_and(|since| now.saturating_duration_since(since) >= silent)
    }

    fn age_ms(&self) -> u32 {
        let age = clock::now().saturating_duration_since(self.accepted).as_millis();
        u32::try_from(age).unwrap_or(u32::MAX)
    }

    /// Since when its client has yet to say what it wants; `None`: it has said so, or need not.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let awaited = Duration::from_millis(self.reached_ms.load(Ordering::Relaxed).into());
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

    /// Or of one that it has succeeded, or that has succeeded it: those have its endpoints.
    pub(super) fn is_of(&self, cluster: &Cluster) -> bool {
        self.cluster().is_some_and(|own| own.is_same_lineage(cluster))
    }

    pub(super) fn counts_for(&self, counters: &Arc<DestinationCounters>) -> bool {
        self.destination.get().is_some_and(|own| Arc::ptr_eq(&own.counters, counters))
    }
}

/// A connection that was entered, and the record that it is to leave.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) guard: SessionGuard,
    pub(super) record: Record,
}

/// A connection's place among the live sessions; given back on drop, if not before.
#[derive(Debug)]
pub(super) struct SessionGuard {
    route: Arc<Route>,
    entry: Arc<SessionEntry>,
    /// Others have it.
    is_vacant: bool,
}

impl SessionGuard {
    pub(super) const fn new(route: Arc<Route>, entry: Arc<SessionEntry>) -> Self {
        Self { route, entry, is_vacant: false }
    }

    /// Whether it got as far as to an endpoint.
    pub(super) fn has_endpoint(&self) -> bool {
        self.entry.endpoint.get().is_some()
    }

    pub(super) const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The cluster that it goes to, once that is known.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.entry.cluster()
    }

    /// It goes to the route's cluster at that place.
    pub(super) fn set_destination(&self, index: usize) {
        let destination = self.route.destination(index);
        if self.entry.destination.set(Arc::clone(destination)).is_ok() {
            destination.counters.metrics.active.increment(1);
        }
    }

    /// Its counters and its stop order.
    pub(super) fn live(&self) -> &LiveSession {
        &self.entry.live
    }

    /// Whether it is under the listener's cap, and was not turned away; if not, it is here to be refused.
    pub(super) fn has_room(&self) -> bool {
        self.entry.live.has_room()
    }

    /// From here on it is here to be refused, and takes nobody's room. False: too many are, it is to go without a word.
    pub(super) fn turn_away(&self) -> bool {
        let mut sessions = self.route.sessions();
        if self.entry.live.give_up_room() {
            sessions.refusing += 1;
        }
        sessions.refusing <= REFUSING_MAX
    }

    /// Who connected, where somebody wanted to know and it is no stranger.
    pub(super) fn caller(&self) -> Option<Arc<Caller>> {
        self.entry.caller()
    }

    /// Its client was looked up, or is being looked up beside it.
    pub(super) fn set_caller(&self, identified: IdentifiedCaller) {
        *self.entry.lock_caller() = Some(Box::new(identified));
        if let Some(waiting) = self.caller_lookup() {
            self.route.admission().wait_beside(waiting);
        }
    }

    /// Waits for what is still asked about its client, for a bounded time, and notes it; `None`: nothing is. Boxed: the first
    /// of a kind has some.
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

    /// For who its client is, it is not served, though it was let in.
    pub(super) fn note_refused(&self) {
        if let Some(identified) = &mut *self.entry.lock_caller() {
            identified.note_refused();
        }
    }

    /// Its client has said what it wants.
    pub(super) fn note_opened(&self) {
        self.entry.live.note_opened();
    }

    /// It has an answer, and is to say more: only from now on is it silent.
    pub(super) fn note_unopened(&self) {
        self.entry.reached_ms.store(self.entry.age_ms(), Ordering::Relaxed);
        self.entry.live.note_unopened();
    }

    /// It has its endpoint, which has seen that content of an identity.
    pub(super) fn note_established(&self, endpoint: EndpointId, identity: Option<Generation>) {
        if let Some(identity) = identity {
            self.entry.live.set_identity(identity);
        }
        // Dialled once, so it is never set twice.
        let _ = self.entry.endpoint.set(endpoint);
        self.entry.reached_ms.store(self.entry.age_ms(), Ordering::Relaxed);
    }

    /// Since it had its endpoint.
    pub(super) fn lifetime(&self) -> Duration {
        let established = Duration::from_millis(self.entry.reached_ms.load(Ordering::Relaxed).into());
        clock::now().saturating_duration_since(self.entry.accepted + established)
    }

    /// Tells the lease whether the endpoint reset the session, or ended it young, where that is looked at. Only an endpoint that ends it
    /// without a byte is to blame: one that has answered may have had a reason in what the client said.
    pub(super) fn blame(&self, record: &Record, lease: &Lease) {
        if record.outcome == Outcome::UpstreamReset {
            lease.suspect();
        }
        let Some(outlier) = self.cluster().and_then(|cluster| cluster.settings().outlier) else { return };
        if outlier.early_close.is_zero() {
            return;
        }
        let lived = self.lifetime();
        let by_the_endpoint = record.closed_by == Side::Upstream
            // Many ask for a certificate and want none: that it ended the session early is a fault whatever it is told as.
            && (record.is_uncertified || matches!(record.outcome, Outcome::Completed | Outcome::UpstreamReset))
            && record.received() == 0;
        let died_young = by_the_endpoint && lived < outlier.early_close;
        // One that its client ended young proves nothing either way.
        if died_young || lived >= outlier.early_close || record.received() > 0 {
            lease.record_survival(died_young);
        }
    }
}

impl SessionGuard {
    /// Its session is over: it is no longer among those that live, and takes nobody's room. What is known of its client stays
    /// until it is dropped.
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

    /// docs/DECISIONS.md, "What a resting session weighs": with its two counts of references, an allocation of 160 bytes.
    #[test]
    fn what_is_known_of_a_resting_session_is_small() {
        assert!(size_of::<SessionEntry>() <= 144, "{}", size_of::<SessionEntry>());
    }
}
