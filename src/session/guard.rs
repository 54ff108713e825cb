//! How a connection is entered in the session table, and the guard that removes it on drop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::entry::SessionEntry;
use super::identified::IdentifiedCaller;
use super::record::Record;
use super::route::Route;
use super::table::REFUSING_MAX;
use crate::caller::Caller;
use crate::clock;
use crate::cluster::{Cluster, EndpointId, Lease};
use crate::outcome::{Outcome, Side};
use crate::relay::LiveSession;
use crate::sys::Peer;
use crate::tls::Generation;

/// A connection that was entered in the session table, with its record.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) guard: SessionGuard,
    pub(super) record: Record,
}

impl Admitted {
    /// When the connection was accepted.
    pub(crate) fn accepted(&self) -> Instant {
        self.record.accepted()
    }
}

impl Route {
    /// Enters an accepted connection. Over the cap it is entered all the same, to be sent a refusal.
    ///
    /// # Errors
    /// Its record, if [`REFUSING_MAX`] connections are being refused already: this one is to be reset.
    pub(crate) fn admit(self: &Arc<Self>, peer: Peer) -> Result<Admitted, Box<Record>> {
        let entry = self.enter().map_err(|entry| {
            self.record_end(Outcome::ListenerFull);
            let mut record = Record::begin(Arc::clone(self), entry, peer);
            let most = self.max_connections();
            let reason = format!("the listener is far over max_connections ({most})");
            record.end(Outcome::ListenerFull, Side::Ambassador, Some(reason));
            Box::new(record)
        })?;
        let record = Record::begin(Arc::clone(self), Arc::clone(&entry), peer);
        let guard = SessionGuard::new(Arc::clone(self), entry);
        if !self.settings().context {
            guard.set_destination(0);
        }
        Ok(Admitted { guard, record })
    }
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
            destination.counters.metrics.active.increment();
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

    /// Counts its end in the metrics.
    pub(super) fn record_end(&self, record: &Record, ended: Instant) {
        self.route.record_end(record.outcome);
        if let Some(cluster) = self.cluster().filter(|_| self.entry.endpoint.get().is_some()) {
            let first_byte = record.first_byte.map(|at| at - record.accepted());
            cluster.metrics().record_session(ended - record.accepted(), first_byte);
            cluster.metrics().unclean_tls_ends.increment(record.unclean_tls_end.into());
        }
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
            destination.counters.metrics.active.decrement();
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
