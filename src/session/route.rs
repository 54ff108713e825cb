//! A listener with the clusters that it leads to, and the sessions that live between them.
//! A route is where connections of a listener go under one configuration, and who is asked about its sessions; the
//! sessions themselves are in its [`SessionTable`].

use std::ops::RangeInclusive;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::admission::Admission;
use super::guard::{Admitted, SessionEntry, SessionGuard};
use super::record::{Record, SessionId, SessionIds};
use super::table::{DestinationCounters, LiveSessions, SessionTable};
use crate::caller::Caller;
use crate::clock;
use crate::metrics::ListenerMetrics;
use crate::name::{ClusterName, EndpointName, ListenerName};
use crate::outcome::{Outcome, Side};
use crate::policy::rotation::SessionActivity;
use crate::policy::sampling::Sampling;
use crate::protocol::CancelKey;
use crate::sys::Peer;
use crate::tls::Generation;
use crate::upstream::{Cluster, DialRecord, DialTarget, EndpointId};

/// What a listener says about the sessions that come in by it.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Its name.
    pub listener: ListenerName,
    /// How many may live; more are refused.
    pub max_connections: u32,
    /// Who may connect.
    pub admission: Admission,
    /// Which leave a record; `None`: none does.
    pub records: Option<Sampling>,
    /// Each begins with a PROXY header.
    pub accept_proxy: bool,
    /// Each begins with a CONNECT request, which names one of the route's clusters.
    pub context: bool,
}

/// Where the connections of one listener go under one configuration. The sessions outlive a change of that: a route that
/// succeeds another has the same ledger, and that one's sessions. So has a listener that was taken out and is back the same
/// ledger; but the sessions of before are those of the route that was taken out, and end with it.
#[derive(Debug)]
pub(crate) struct Route {
    settings: Settings,
    /// At least one, and only one where nobody names it.
    destinations: Vec<Arc<Destination>>,
    metrics: ListenerMetrics,
    ids: Arc<SessionIds>,
    table: Arc<SessionTable>,
    /// Whose sessions are its own, by their number in the ledger: its predecessors' up to itself.
    numbers: RangeInclusive<u32>,
}

/// A cluster that a route leads to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(super) cluster: Arc<Cluster>,
    pub(super) counters: Arc<DestinationCounters>,
}

impl Destination {
    /// That cluster, recorded there.
    #[must_use]
    pub(crate) const fn new(cluster: Arc<Cluster>, counters: Arc<DestinationCounters>) -> Self {
        Self { cluster, counters }
    }
}

/// A session as others see it.
#[derive(Debug)]
pub(crate) struct SessionView {
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
pub(super) const REFUSING_MAX: u32 = 64;

impl Route {
    /// From a listener to its clusters: at least one, and more only with [`Settings::context`]. `before`: what it succeeds;
    /// it takes over the sessions where that has the same ledger.
    #[must_use]
    pub(crate) fn new(
        settings: Settings,
        destinations: Vec<Destination>,
        ids: Arc<SessionIds>,
        table: Arc<SessionTable>,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let metrics = ListenerMetrics::new(&settings.listener);
        let destinations = destinations.into_iter().map(Arc::new).collect();
        let number = table.number_route();
        let before = before.filter(|before| Arc::ptr_eq(&before.table, &table));
        let first = before.map_or(number, |before| *before.numbers.start());
        Arc::new(Self { settings, destinations, metrics, ids, table, numbers: first..=number })
    }

    /// The listener's name.
    #[must_use]
    pub(crate) const fn listener(&self) -> &ListenerName {
        &self.settings.listener
    }

    /// What is fixed about it.
    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The listener's cap.
    #[must_use]
    pub(crate) const fn max_connections(&self) -> u32 {
        self.settings.max_connections
    }

    pub(super) const fn admission(&self) -> &Admission {
        &self.settings.admission
    }

    /// Where its sessions go, in the file's order.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> + Clone {
        self.destinations.iter().map(|destination| &destination.cluster)
    }

    /// That one of them.
    pub(super) fn destination(&self, index: usize) -> &Arc<Destination> {
        &self.destinations[index]
    }

    #[must_use]
    pub(crate) const fn metrics(&self) -> &ListenerMetrics {
        &self.metrics
    }

    /// Enters an accepted connection. Over the cap it is entered to be refused in words.
    ///
    /// # Errors
    /// Far over the cap not even that: the record is all that is left of it.
    pub(crate) fn admit(self: &Arc<Self>, peer: Peer) -> Result<Admitted, Box<Record>> {
        self.metrics.accepted.increment(1);
        let mut sessions = self.sessions();
        sessions.accepted += 1;
        let serving =
            u32::try_from(sessions.live.len()).unwrap_or(u32::MAX).saturating_sub(sessions.refusing);
        // Nobody who keeps silent takes the room of one who has come to speak.
        let has_room = serving < self.settings.max_connections || sessions.make_room();
        let entry = Arc::new(SessionEntry::new(self.ids.next(), *self.numbers.end()));
        if !has_room {
            entry.live.give_up_room();
            if sessions.refusing >= REFUSING_MAX {
                drop(sessions);
                self.metrics.record_end(Outcome::ListenerFull);
                self.table.own_counters().record_end(Outcome::ListenerFull);
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
        let guard = SessionGuard::new(Arc::clone(self), entry);
        if !self.settings.context {
            guard.set_destination(0);
        }
        Ok(Admitted { guard, record })
    }

    /// Connections accepted so far.
    #[must_use]
    pub(crate) fn accepted(&self) -> u64 {
        self.sessions().accepted
    }

    /// Its sessions that live.
    #[must_use]
    pub(crate) fn active(&self) -> usize {
        self.own(&self.sessions()).count()
    }

    /// Those of the ledger's that came by this route, or by one that it has succeeded.
    fn own<'a>(&self, sessions: &'a LiveSessions) -> impl Iterator<Item = &'a Arc<SessionEntry>> + use<'a> {
        let numbers = self.numbers.clone();
        sessions.live.values().filter(move |entry| numbers.contains(&entry.route))
    }

    /// All its sessions that live, in no order that means anything.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<SessionView> {
        let endpoint = |entry: &SessionEntry| {
            // The cluster may have been succeeded by another since, which knows its endpoints.
            let cluster = self.clusters().find(|cluster| entry.is_of(cluster)).or_else(|| entry.cluster());
            Some(cluster?.endpoint(*entry.endpoint.get()?)?.settings().name.clone())
        };
        let view = |entry: &Arc<SessionEntry>| SessionView {
            session: entry.session,
            cluster: entry.cluster().map(|cluster| cluster.settings().name.clone()),
            endpoint: endpoint(entry),
            caller: entry.caller(),
            accepted: entry.accepted,
            sent: entry.live.sent(),
            received: entry.live.received(),
        };
        self.own(&self.sessions()).map(view).collect()
    }

    /// Where a cancel with that key has to go within that cluster, and as whose: to the server of the session that it is for,
    /// and as that session's caller. With one endpoint there is no question of where, and the server knows sessions that we
    /// have forgotten; such a cancel is its sender's own, and takes room as a session of his would. Cancels are rare, so there is
    /// no table beside the sessions.
    pub(super) fn cancel_target(
        &self,
        key: &CancelKey,
        cluster: &Arc<Cluster>,
    ) -> Option<(DialTarget, Option<Arc<Caller>>)> {
        let sessions = self.sessions();
        let mut of_cluster = sessions.live.values().filter(|entry| entry.is_of(cluster));
        let owner = of_cluster.find(|entry| entry.live.has_cancel_key(key));
        let owner = owner.and_then(|owner| {
            let target =
                DialTarget::Endpoint { id: *owner.endpoint.get()?, address: owner.live.cancel_address() };
            Some((target, owner.caller()))
        });
        owner.or_else(|| cluster.only_endpoint().map(|_| (DialTarget::Any, None)))
    }

    /// Tells those to end so whose client has said nothing in so long a time: it has nothing to lose, and would hold up a
    /// drain for its whole time.
    pub(crate) fn stop_unopened(&self, outcome: Outcome, silent: Duration) {
        let now = clock::now();
        let sessions = self.sessions();
        let unopened = self.own(&sessions).filter(|entry| {
            entry.silent_since().is_some_and(|since| now.saturating_duration_since(since) >= silent)
        });
        unopened.for_each(|entry| entry.live.stop(outcome));
    }

    /// The sessions on that endpoint of the cluster that were accepted until then.
    pub(super) fn activity_on(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: EndpointId,
        until: Instant,
    ) -> Vec<(SessionId, SessionActivity)> {
        let sessions = self.sessions();
        let meant = self.own(&sessions).filter(|entry| {
            entry.is_of(cluster) && entry.endpoint.get() == Some(&endpoint) && entry.accepted <= until
        });
        meant.map(|entry| (entry.session, entry.activity())).collect()
    }

    /// Every session of its that lives.
    #[must_use]
    pub(crate) fn activity(&self) -> Vec<(SessionId, SessionActivity)> {
        self.own(&self.sessions()).map(|entry| (entry.session, entry.activity())).collect()
    }

    /// Tells that session of its to end so, be it still on its way to an endpoint. Whether it lives.
    pub(crate) fn stop(&self, session: SessionId, outcome: Outcome) -> bool {
        let sessions = self.sessions();
        let entry = sessions.live.get(&session).filter(|entry| self.numbers.contains(&entry.route));
        entry.inspect(|entry| entry.live.stop(outcome)).is_some()
    }

    /// Tells those of its sessions to end so that live now.
    pub(crate) fn stop_live(&self, outcome: Outcome) -> usize {
        let sessions = self.sessions();
        self.own(&sessions).inspect(|entry| entry.live.stop(outcome)).count()
    }

    /// Those of that cluster whose upstream has seen an identity, and none of these.
    pub(super) fn outdated(
        &self,
        cluster: &Cluster,
        current: &[Generation],
    ) -> Vec<(SessionId, SessionActivity)> {
        let sessions = self.sessions();
        let outdated =
            self.own(&sessions).filter(|entry| entry.is_of(cluster) && entry.live.is_outdated(current));
        outdated.map(|entry| (entry.session, entry.activity())).collect()
    }

    /// Tells those of these that still live to end so.
    pub(super) fn stop_sessions(&self, these: &[SessionId], outcome: Outcome) {
        let sessions = self.sessions();
        these
            .iter()
            .filter_map(|session| sessions.live.get(session))
            .for_each(|entry| entry.live.stop(outcome));
    }

    /// Tells every session to end so, and those that begin later too.
    pub(crate) fn stop_all(&self, outcome: Outcome) -> usize {
        let mut sessions = self.sessions();
        sessions.stopped = Some(outcome);
        sessions.live.values().for_each(|entry| entry.live.stop(outcome));
        sessions.live.len()
    }

    /// Brings the byte counters up to date, live sessions included.
    pub(crate) fn publish_bytes(&self) {
        let sessions = self.sessions();
        for destination in &self.destinations {
            let counters = &destination.counters;
            let (sent, received) = sessions.bytes_of(counters);
            // Under the lock, so that two scrapes cannot set an older count over a newer one.
            counters.metrics.sent.absolute(sent);
            counters.metrics.received.absolute(received);
        }
    }

    pub(super) fn record_dial(&self, dial: &DialRecord) {
        self.table.own_counters().record_dial(dial);
    }

    pub(super) fn record_end(&self, record: &Record, guard: &SessionGuard, ended: Instant) {
        self.metrics.record_end(record.outcome);
        self.table.own_counters().record_end(record.outcome);
        if let Some(cluster) = guard.cluster().filter(|_| guard.has_endpoint()) {
            let first_byte = record.first_byte.map(|at| at - record.accepted());
            cluster.metrics().record_session(ended - record.accepted(), first_byte);
            cluster.metrics().unclean_tls_ends.increment(record.unclean_tls_end.into());
        }
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, LiveSessions> {
        self.table.sessions()
    }
}
