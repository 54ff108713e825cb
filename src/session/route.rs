//! A listener with the clusters that it leads to, and the sessions that live between them.
//!
//! A session owns its byte counters while it lives (database sessions last for hours); a scrape reads them
//! there, and they fold into the totals when it ends, under one lock, so that no byte is counted twice or
//! lost between the two.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::admission::{Admission, Guest};
use super::record::{Record, SessionId, SessionIds};
use super::totals::{Sums, Totals};
use crate::caller::Caller;
use crate::clock;
use crate::metrics::{DestinationMetrics, ListenerMetrics};
use crate::name::{ClusterName, EndpointName, ListenerName};
use crate::outcome::{Outcome, Side};
use crate::policy::rotation::Seen;
use crate::protocol::CancelKey;
use crate::relay::Live;
use crate::sys::Peer;
use crate::tls::Stamp;
use crate::upstream::{Cluster, DialRecord, EndpointId, Lease, Wanted};

/// What a listener says about the sessions that come in by it.
#[derive(Debug)]
pub struct Settings {
    /// Its name.
    pub listener: ListenerName,
    /// How many may live; more are refused.
    pub max_connections: u32,
    /// Who may connect.
    pub admission: Admission,
    /// Each begins with a PROXY header.
    pub accept_proxy: bool,
    /// Each begins with a CONNECT request, which names one of the route's clusters.
    pub context: bool,
}

/// Where the connections of one listener go under one configuration. The sessions outlive a change of that: a route that
/// succeeds another has the same ledger.
#[derive(Debug)]
pub struct Route {
    settings: Settings,
    /// At least one, and only one where nobody names it.
    destinations: Vec<Arc<Destination>>,
    metrics: ListenerMetrics,
    ids: Arc<SessionIds>,
    ledger: Arc<Ledger>,
}

/// The sessions between a listener and the clusters it leads to, and what those that ended have left.
#[derive(Debug, Default)]
pub struct Ledger {
    sessions: Mutex<Sessions>,
    sums: Sums,
}

impl Ledger {
    /// What it has seen since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sessions = self.sessions();
        let (sent, received) = sessions.bytes();
        let live = sessions.live.len() as u64;
        self.sums.complete(Totals {
            sessions: live,
            accepted: sessions.accepted,
            sent,
            received,
            ..Totals::default()
        })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A cluster that a route leads to.
#[derive(Debug)]
pub struct Destination {
    cluster: Arc<Cluster>,
    tally: Arc<Tally>,
}

/// What is recorded of the sessions between a listener and a cluster, whatever route they went by.
#[derive(Debug)]
pub struct Tally {
    metrics: DestinationMetrics,
    /// Bytes of the sessions that have ended.
    sent: AtomicU64,
    received: AtomicU64,
}

impl Destination {
    /// That cluster, recorded there.
    #[must_use]
    pub const fn new(cluster: Arc<Cluster>, tally: Arc<Tally>) -> Self {
        Self { cluster, tally }
    }
}

impl Tally {
    /// Of that listener and cluster; there must be one only, for its counters to be right.
    #[must_use]
    pub fn of(listener: &ListenerName, cluster: &ClusterName) -> Arc<Self> {
        let metrics = DestinationMetrics::new(listener, cluster);
        Arc::new(Self { metrics, sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }
}

#[derive(Debug, Default)]
struct Sessions {
    live: BTreeMap<SessionId, Arc<Entry>>,
    /// Those of `live` that are being refused, and take nobody's room.
    refusing: u32,
    accepted: u64,
    /// Bytes of the sessions that have ended.
    sent: u64,
    received: u64,
    /// Given to each session that begins from now on: the drain's deadline has passed.
    stopped: Option<Outcome>,
}

/// What is known of a session while it lives.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: SessionId,
    pub(super) accepted: Instant,
    /// Milliseconds from accept to when it had its endpoint.
    established_ms: AtomicU32,
    /// Where it goes, once that is known.
    destination: OnceLock<Arc<Destination>>,
    /// Its endpoint, once it has one.
    endpoint: OnceLock<EndpointId>,
    /// What is known of its client, once somebody has looked. Boxed: often nobody does.
    guest: OnceLock<Box<Guest>>,
    pub(super) live: Live,
}

impl Entry {
    pub(super) fn caller(&self) -> Option<&Arc<Caller>> {
        self.guest.get()?.caller()
    }

    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.destination.get().map(|destination| &destination.cluster)
    }

    /// By its name: a cluster that succeeds another has its endpoints.
    fn is_of(&self, cluster: &Cluster) -> bool {
        self.cluster().is_some_and(|own| own.settings().name == cluster.settings().name)
    }

    fn counts_for(&self, tally: &Arc<Tally>) -> bool {
        self.destination.get().is_some_and(|own| Arc::ptr_eq(&own.tally, tally))
    }
}

/// A session as others see it.
#[derive(Debug)]
pub struct SessionView {
    /// Its id.
    pub session: SessionId,
    /// Its cluster, once that is known.
    pub cluster: Option<ClusterName>,
    /// Its endpoint, once it has one.
    pub endpoint: Option<EndpointName>,
    /// Who connected, where somebody wanted to know and it is no stranger.
    pub caller: Option<Arc<Caller>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Bytes to the upstream so far.
    pub sent: u64,
    /// Bytes from the upstream so far.
    pub received: u64,
}

/// Connections over the cap that may be told so at once; more are reset without a word.
const REFUSING_MAX: u32 = 64;

impl Route {
    /// From a listener to its clusters: at least one, and more only with [`Settings::context`].
    #[must_use]
    pub fn new(
        settings: Settings,
        destinations: Vec<Destination>,
        ids: Arc<SessionIds>,
        ledger: Arc<Ledger>,
    ) -> Arc<Self> {
        let metrics = ListenerMetrics::new(&settings.listener);
        let destinations = destinations.into_iter().map(Arc::new).collect();
        Arc::new(Self { settings, destinations, metrics, ids, ledger })
    }

    /// The listener's name.
    #[must_use]
    pub const fn listener(&self) -> &ListenerName {
        &self.settings.listener
    }

    /// What is fixed about it.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The listener's cap.
    #[must_use]
    pub const fn max_connections(&self) -> u32 {
        self.settings.max_connections
    }

    /// Who may connect.
    pub(super) const fn admission(&self) -> &Admission {
        &self.settings.admission
    }

    /// Where its sessions go, in the file's order.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> + Clone {
        self.destinations.iter().map(|destination| &destination.cluster)
    }

    /// What it records.
    #[must_use]
    pub const fn metrics(&self) -> &ListenerMetrics {
        &self.metrics
    }

    /// Enters an accepted connection. Over the cap it is entered to be refused in words.
    ///
    /// # Errors
    /// Far over the cap not even that: the record is all that is left of it.
    pub fn admit(self: &Arc<Self>, peer: Peer) -> Result<Admitted, Box<Record>> {
        self.metrics.accepted.increment(1);
        let entry = Arc::new(Entry {
            session: self.ids.next(),
            accepted: clock::now(),
            destination: OnceLock::new(),
            established_ms: AtomicU32::new(0),
            endpoint: OnceLock::new(),
            guest: OnceLock::new(),
            live: Live::default(),
        });
        let mut sessions = self.sessions();
        sessions.accepted += 1;
        let serving =
            u32::try_from(sessions.live.len()).unwrap_or(u32::MAX).saturating_sub(sessions.refusing);
        let has_room = serving < self.settings.max_connections;
        if !has_room {
            if sessions.refusing >= REFUSING_MAX {
                drop(sessions);
                self.metrics.ended(Outcome::ListenerFull);
                let mut record = Record::begin(Arc::clone(self), entry, peer);
                let most = self.settings.max_connections;
                let reason = format!("the listener is far over max_connections ({most})");
                record.end(Outcome::ListenerFull, Side::Ambassador, Some(reason));
                return Err(Box::new(record));
            }
            sessions.refusing += 1;
        }
        if let Some(outcome) = sessions.stopped {
            entry.live.stop(outcome);
        }
        sessions.live.insert(entry.session, Arc::clone(&entry));
        drop(sessions);
        let record = Record::begin(Arc::clone(self), Arc::clone(&entry), peer);
        let place = Place { route: Arc::clone(self), entry, has_room: AtomicBool::new(has_room) };
        if !self.settings.context {
            place.leads_to(0);
        }
        Ok(Admitted { place, record })
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.sessions().accepted
    }

    /// Sessions that live.
    #[must_use]
    pub fn active(&self) -> usize {
        self.sessions().live.len()
    }

    /// All sessions that live, in no order that means anything.
    #[must_use]
    pub fn view(&self) -> Vec<SessionView> {
        let endpoint = |entry: &Entry| {
            // The cluster may have been succeeded by another since, which knows its endpoints.
            let cluster = self.clusters().find(|cluster| entry.is_of(cluster)).or_else(|| entry.cluster());
            Some(cluster?.endpoint(*entry.endpoint.get()?)?.settings().name.clone())
        };
        let view = |(session, entry): (&SessionId, &Arc<Entry>)| SessionView {
            session: *session,
            cluster: entry.cluster().map(|cluster| cluster.settings().name.clone()),
            endpoint: endpoint(entry),
            caller: entry.caller().cloned(),
            accepted: entry.accepted,
            sent: entry.live.sent(),
            received: entry.live.received(),
        };
        self.sessions().live.iter().map(view).collect()
    }

    /// Where a cancel with that key has to go within that cluster: to the server of the session that it is for. With one endpoint there is no
    /// question, and the server knows sessions that we have forgotten. Cancels are rare, so there is no table beside the
    /// sessions.
    pub(super) fn owner_of(&self, key: &CancelKey, cluster: &Arc<Cluster>) -> Option<Wanted> {
        let sessions = self.sessions();
        let mut of_cluster = sessions.live.values().filter(|entry| entry.is_of(cluster));
        let owner = of_cluster.find(|entry| entry.live.answers_to(key));
        let owner = owner.and_then(|owner| Some((*owner.endpoint.get()?, owner.live.cancelled_at())));
        match owner {
            Some((id, address)) => Some(Wanted::Endpoint { id, address }),
            None => cluster.only_endpoint().map(|id| Wanted::Endpoint { id, address: None }),
        }
    }

    /// Tells those to end so whose client has said nothing in so long a time: it has nothing to lose, and would hold up a
    /// drain for its whole time.
    pub fn stop_unopened(&self, outcome: Outcome, silent: Duration) {
        let now = clock::now();
        let sessions = self.sessions();
        let unopened = sessions.live.values().filter(|entry| {
            !entry.live.is_opened() && now.saturating_duration_since(entry.accepted) >= silent
        });
        unopened.for_each(|entry| entry.live.stop(outcome));
    }

    /// Tells those with an endpoint of that cluster of whom that is true to end so.
    pub(super) fn stop_where(
        &self,
        cluster: &Arc<Cluster>,
        outcome: Outcome,
        is_meant: impl Fn(SessionId, Instant, EndpointId) -> bool,
    ) {
        for entry in self.sessions().live.values().filter(|entry| entry.is_of(cluster)) {
            if let Some(endpoint) = entry.endpoint.get()
                && is_meant(entry.session, entry.accepted, *endpoint)
            {
                entry.live.stop(outcome);
            }
        }
    }

    /// Every session that lives, with the bytes that it has moved so far.
    #[must_use]
    pub fn activity(&self) -> Vec<(SessionId, u64)> {
        let moved = |entry: &Arc<Entry>| entry.live.sent().wrapping_add(entry.live.received());
        self.sessions().live.iter().map(|(session, entry)| (*session, moved(entry))).collect()
    }

    /// Tells that session to end so, be it still on its way to an endpoint. Whether it lives.
    pub fn stop(&self, session: SessionId, outcome: Outcome) -> bool {
        let sessions = self.sessions();
        let entry = sessions.live.get(&session);
        entry.inspect(|entry| entry.live.stop(outcome)).is_some()
    }

    /// Tells those sessions to end so that live now.
    pub fn stop_live(&self, outcome: Outcome) -> usize {
        let sessions = self.sessions();
        sessions.live.values().for_each(|entry| entry.live.stop(outcome));
        sessions.live.len()
    }

    /// Those of that cluster whose upstream has seen an identity, and none of these.
    pub(super) fn outdated(&self, cluster: &Cluster, current: &[Stamp]) -> Vec<(SessionId, Seen)> {
        let sessions = self.sessions();
        let outdated =
            sessions.live.values().filter(|entry| entry.is_of(cluster) && entry.live.is_outdated(current));
        let seen = |live: &Live| Seen {
            moved: live.sent().wrapping_add(live.received()),
            owes_answer: live.owes_answer(),
        };
        outdated.map(|entry| (entry.session, seen(&entry.live))).collect()
    }

    /// Tells those of these that still live to end so.
    pub(super) fn stop_these(&self, these: &[SessionId], outcome: Outcome) {
        let sessions = self.sessions();
        these
            .iter()
            .filter_map(|session| sessions.live.get(session))
            .for_each(|entry| entry.live.stop(outcome));
    }

    /// Tells every session to end so, and those that begin later too.
    pub fn stop_all(&self, outcome: Outcome) -> usize {
        let mut sessions = self.sessions();
        sessions.stopped = Some(outcome);
        sessions.live.values().for_each(|entry| entry.live.stop(outcome));
        sessions.live.len()
    }

    /// Brings the byte counters up to date, live sessions included.
    pub fn publish_bytes(&self) {
        let sessions = self.sessions();
        for destination in &self.destinations {
            let tally = &destination.tally;
            let (sent, received) = sessions.bytes_of(tally);
            // Under the lock, so that two scrapes cannot set an older count over a newer one.
            tally.metrics.sent.absolute(sent);
            tally.metrics.received.absolute(received);
        }
    }

    pub(super) fn dialled(&self, dial: &DialRecord) {
        self.ledger.sums.dialled(dial);
    }

    pub(super) fn ended(&self, record: &Record, place: &Place, ended: Instant) {
        self.metrics.ended(record.outcome);
        self.ledger.sums.ended(record.outcome);
        if let Some(cluster) = place.cluster().filter(|_| place.entry.endpoint.get().is_some()) {
            let first_byte = record.first_byte.map(|at| at - record.accepted());
            cluster.metrics().session_ended(ended - record.accepted(), first_byte);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.ledger.sessions()
    }
}

impl Sessions {
    /// Bytes to and from the upstreams, those of live sessions included.
    fn bytes(&self) -> (u64, u64) {
        sum((self.sent, self.received), self.live.values())
    }

    /// The same of one tally.
    fn bytes_of(&self, tally: &Arc<Tally>) -> (u64, u64) {
        let ended = (tally.sent.load(Ordering::Relaxed), tally.received.load(Ordering::Relaxed));
        sum(ended, self.live.values().filter(|entry| entry.counts_for(tally)))
    }
}

fn sum<'a>(ended: (u64, u64), live: impl Iterator<Item = &'a Arc<Entry>>) -> (u64, u64) {
    live.fold(ended, |(sent, received), entry| (sent + entry.live.sent(), received + entry.live.received()))
}

/// A connection that was entered, and the record that it is to leave.
#[derive(Debug)]
pub struct Admitted {
    pub(super) place: Place,
    pub(super) record: Record,
}

/// A connection's place among the live sessions; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    route: Arc<Route>,
    entry: Arc<Entry>,
    /// If not, it is here to be refused.
    has_room: AtomicBool,
}

impl Place {
    /// Where it goes.
    pub(super) const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The cluster that it goes to, once that is known.
    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.entry.cluster()
    }

    /// It goes to the route's cluster at that place.
    pub(super) fn leads_to(&self, index: usize) {
        let destination = &self.route.destinations[index];
        if self.entry.destination.set(Arc::clone(destination)).is_ok() {
            destination.tally.metrics.active.increment(1);
        }
    }

    /// Its counters and its stop order.
    pub(super) fn live(&self) -> &Live {
        &self.entry.live
    }

    /// Whether it is under the listener's cap, and was not turned away; if not, it is here to be refused.
    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }

    /// From here on it is here to be refused, and takes nobody's room. False: too many are, it is to go without a word.
    pub(super) fn turn_away(&self) -> bool {
        let mut sessions = self.route.sessions();
        if self.has_room.swap(false, Ordering::Relaxed) {
            sessions.refusing += 1;
        }
        sessions.refusing <= REFUSING_MAX
    }

    /// Who connected, where somebody wanted to know and it is no stranger.
    pub(super) fn caller(&self) -> Option<&Arc<Caller>> {
        self.entry.caller()
    }

    /// Its client was looked up.
    pub(super) fn identified(&self, guest: Guest) {
        // Looked up once, so it is never set twice.
        let _ = self.entry.guest.set(Box::new(guest));
    }

    /// Its client has said what it wants.
    pub(super) fn opened(&self) {
        self.entry.live.opened();
    }

    /// It has its endpoint, which has seen that content of an identity.
    pub(super) fn established(&self, endpoint: EndpointId, identity: Option<Stamp>) {
        if let Some(identity) = identity {
            self.entry.live.made_with(identity);
        }
        // Dialled once, so it is never set twice.
        let _ = self.entry.endpoint.set(endpoint);
        let after = clock::now().saturating_duration_since(self.entry.accepted).as_millis();
        self.entry.established_ms.store(u32::try_from(after).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Tells the lease whether the endpoint ended the session young, where that is looked at. Only an endpoint that ends it
    /// without a byte is to blame: one that has answered may have had a reason in what the client said.
    pub(super) fn blame(&self, record: &Record, lease: &Lease) {
        let Some(outlier) = self.cluster().and_then(|cluster| cluster.settings().outlier) else { return };
        if outlier.early_close.is_zero() {
            return;
        }
        let established = Duration::from_millis(self.entry.established_ms.load(Ordering::Relaxed).into());
        let lived = clock::now().saturating_duration_since(self.entry.accepted + established);
        let by_the_endpoint = record.closed_by == Side::Upstream
            && matches!(record.outcome, Outcome::Completed | Outcome::UpstreamReset)
            && record.received() == 0;
        let died_young = by_the_endpoint && lived < outlier.early_close;
        // One that its client ended young proves nothing either way.
        if died_young || lived >= outlier.early_close || record.received() > 0 {
            lease.lasted(died_young);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.route.sessions();
        sessions.live.remove(&self.entry.session);
        sessions.refusing -= u32::from(!self.has_room());
        let destination = self.entry.destination.get();
        if let Some(tally) = destination.map(|destination| &destination.tally) {
            tally.sent.fetch_add(self.entry.live.sent(), Ordering::Relaxed);
            tally.received.fetch_add(self.entry.live.received(), Ordering::Relaxed);
        }
        sessions.sent += self.entry.live.sent();
        sessions.received += self.entry.live.received();
        drop(sessions);
        if let Some(guest) = self.entry.guest.get() {
            self.route.admission().left(guest);
        }
        if let Some(destination) = destination {
            destination.tally.metrics.active.decrement(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/DECISIONS.md, "What a resting session weighs": with its two counts of references, an allocation of 160 bytes.
    #[test]
    fn what_is_known_of_a_resting_session_is_small() {
        assert!(size_of::<Entry>() <= 144, "{}", size_of::<Entry>());
    }
}
