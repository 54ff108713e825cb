//! A listener with the clusters that its connections go to, under one configuration. The sessions are in a
//! [`SessionTable`], which the routes of one listener share across reloads; a route views and stops its own.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::admission::Admission;
use super::entry::{Destination, SessionEntry};
use super::session_id::{SessionId, SessionIds};
use super::table::{LiveSessions, REFUSING_MAX, SessionTable};
use crate::caller::Caller;
use crate::clock;
use crate::cluster::{Cluster, DialTarget, EndpointId};
use crate::dial::DialRecord;
use crate::metrics::ListenerMetrics;
use crate::name::{ClusterName, EndpointName, ListenerName};
use crate::outcome::Outcome;
use crate::policy::credential_rotation::SessionActivity;
use crate::policy::sampling::Sampling;
use crate::protocol::CancelKey;
use crate::tls::Generation;

/// The settings of a listener that concern its sessions.
#[derive(Debug)]
pub(crate) struct Settings {
    pub listener: ListenerName,
    /// Live sessions at most; more are refused.
    pub max_connections: u32,
    pub admission: Admission,
    /// Which sessions leave a record; `None`: none does.
    pub records: Option<Sampling>,
    /// Each connection begins with a PROXY header.
    pub accept_proxy: bool,
    /// Each connection begins with a CONNECT request, which names one of the route's clusters.
    pub context: bool,
}

/// Where the connections of one listener go under one configuration. Sessions outlive a reload: the route that
/// succeeds another has the same table and takes over its sessions. A listener that was removed and is configured
/// again also gets its old table, but its earlier sessions belong to the route that was removed, and end with that.
#[derive(Debug)]
pub(crate) struct Route {
    settings: Settings,
    /// At least one, and exactly one without CONNECT requests.
    destinations: Vec<Arc<Destination>>,
    metrics: Arc<ListenerMetrics>,
    ids: Arc<SessionIds>,
    table: Arc<SessionTable>,
    /// The numbers, within the table, of the routes whose sessions are its own: from its first predecessor to itself.
    numbers: RangeInclusive<u32>,
}

/// A session as `/sessions` and the control socket show it.
#[derive(Debug)]
pub(crate) struct SessionView {
    pub session: SessionId,
    /// `None` until the cluster is known.
    pub cluster: Option<ClusterName>,
    /// `None` until the dial is done.
    pub endpoint: Option<EndpointName>,
    /// `None` for a stranger, and where callers are not looked up.
    pub caller: Option<Arc<Caller>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Bytes to the upstream so far.
    pub sent: u64,
    /// Bytes from the upstream so far.
    pub received: u64,
}

impl Route {
    /// `destinations`: at least one, and more only with [`Settings::context`]. `before`: the route that it succeeds,
    /// whose sessions it takes over if they are in the same table.
    #[must_use]
    pub(crate) fn new(
        settings: Settings,
        destinations: Vec<Destination>,
        ids: Arc<SessionIds>,
        table: Arc<SessionTable>,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let metrics = ListenerMetrics::of(&settings.listener);
        let destinations = destinations.into_iter().map(Arc::new).collect();
        let number = table.number_route();
        let before = before.filter(|before| Arc::ptr_eq(&before.table, &table));
        let first = before.map_or(number, |before| *before.numbers.start());
        Arc::new(Self { settings, destinations, metrics, ids, table, numbers: first..=number })
    }

    #[must_use]
    pub(crate) const fn listener(&self) -> &ListenerName {
        &self.settings.listener
    }

    #[must_use]
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub(crate) const fn max_connections(&self) -> u32 {
        self.settings.max_connections
    }

    pub(super) const fn admission(&self) -> &Admission {
        &self.settings.admission
    }

    /// Its clusters, in the file's order.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> + Clone {
        self.destinations.iter().map(|destination| &destination.cluster)
    }

    pub(super) fn destination(&self, index: usize) -> &Arc<Destination> {
        &self.destinations[index]
    }

    #[must_use]
    pub(crate) fn metrics(&self) -> &ListenerMetrics {
        &self.metrics
    }

    /// Enters an accepted connection in the table. Over the cap it is entered all the same, to be sent a refusal.
    ///
    /// # Errors
    /// Its entry, which is not in the table, if [`REFUSING_MAX`] connections are being refused already: this one is to
    /// be reset.
    pub(super) fn enter(&self) -> Result<Arc<SessionEntry>, Arc<SessionEntry>> {
        self.metrics.accepted.increment(1);
        let mut sessions = self.sessions();
        sessions.accepted += 1;
        let serving =
            u32::try_from(sessions.live.len()).unwrap_or(u32::MAX).saturating_sub(sessions.refusing);
        // A client that has been silent for long makes room for a new one.
        let has_room = serving < self.settings.max_connections || sessions.make_room();
        let entry = Arc::new(SessionEntry::new(self.ids.next(), *self.numbers.end()));
        if !has_room {
            entry.live.give_up_room();
            if sessions.refusing >= REFUSING_MAX {
                return Err(entry);
            }
            sessions.refusing += 1;
        }
        if let Some(outcome) = sessions.stopped {
            entry.live.stop(outcome);
        }
        sessions.live.insert(entry.session, Arc::clone(&entry));
        Ok(entry)
    }

    /// Connections accepted so far.
    #[must_use]
    pub(crate) fn accepted(&self) -> u64 {
        self.sessions().accepted
    }

    /// The number of its live sessions.
    #[must_use]
    pub(crate) fn active(&self) -> usize {
        self.own(&self.sessions()).count()
    }

    /// The sessions of the table that were accepted by this route or a predecessor.
    fn own<'a>(&self, sessions: &'a LiveSessions) -> impl Iterator<Item = &'a Arc<SessionEntry>> + use<'a> {
        let numbers = self.numbers.clone();
        sessions.live.values().filter(move |entry| numbers.contains(&entry.route))
    }

    /// Its live sessions, in the order of their ids, which is arbitrary.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<SessionView> {
        let endpoint = |entry: &SessionEntry| {
            // A reload may have replaced the session's cluster; the successor has its endpoints.
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

    /// Where a cancel with that key goes within that cluster, and on behalf of which caller: to the server of the
    /// session with the key, for that session's caller. With one endpoint a cancel with an unknown key goes there,
    /// because the server may know sessions that we do not; it counts as its sender's own and takes room like a
    /// session. Cancels are rare, so sessions are searched rather than indexed by key.
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

    /// Stops the sessions whose client has been silent for at least `silent` before its opening: it loses nothing, and
    /// would hold up a drain until the deadline.
    pub(crate) fn stop_unopened(&self, outcome: Outcome, silent: Duration) {
        let now = clock::now();
        let sessions = self.sessions();
        let unopened = self.own(&sessions).filter(|entry| {
            entry.silent_since().is_some_and(|since| now.saturating_duration_since(since) >= silent)
        });
        unopened.for_each(|entry| entry.live.stop(outcome));
    }

    /// The sessions on that endpoint of the cluster that were accepted by `until`.
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

    /// Its live sessions, and what each moved.
    #[must_use]
    pub(crate) fn activity(&self) -> Vec<(SessionId, SessionActivity)> {
        self.own(&self.sessions()).map(|entry| (entry.session, entry.activity())).collect()
    }

    /// Stops one of its sessions with that outcome, also while it is dialling. False if there is no such session.
    pub(crate) fn stop(&self, session: SessionId, outcome: Outcome) -> bool {
        let sessions = self.sessions();
        let entry = sessions.live.get(&session).filter(|entry| self.numbers.contains(&entry.route));
        entry.inspect(|entry| entry.live.stop(outcome)).is_some()
    }

    /// Stops its live sessions; returns how many.
    pub(crate) fn stop_live(&self, outcome: Outcome) -> usize {
        let sessions = self.sessions();
        self.own(&sessions).inspect(|entry| entry.live.stop(outcome)).count()
    }

    /// The sessions of that cluster whose upstream was shown an identity that is not among `current`.
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

    /// Stops those of `these` that still live.
    pub(super) fn stop_sessions(&self, these: &[SessionId], outcome: Outcome) {
        let sessions = self.sessions();
        these
            .iter()
            .filter_map(|session| sessions.live.get(session))
            .for_each(|entry| entry.live.stop(outcome));
    }

    /// Stops every session of the table, those of other routes and later ones included; returns how many live.
    pub(crate) fn stop_all(&self, outcome: Outcome) -> usize {
        let mut sessions = self.sessions();
        sessions.stopped = Some(outcome);
        sessions.live.values().for_each(|entry| entry.live.stop(outcome));
        sessions.live.len()
    }

    /// Sets the byte counters of the metrics, live sessions included.
    pub(crate) fn publish_bytes(&self) {
        let sessions = self.sessions();
        let live = sessions.bytes_by_destination();
        for destination in &self.destinations {
            let counters = &destination.counters;
            let (sent, received) = live.get(&Arc::as_ptr(counters)).copied().unwrap_or_default();
            // Under the lock, so that no session ends in between and is counted twice.
            counters.metrics.sent.absolute(sent + counters.sent.load(Ordering::Relaxed));
            counters.metrics.received.absolute(received + counters.received.load(Ordering::Relaxed));
        }
    }

    pub(super) fn record_dial(&self, dial: &DialRecord) {
        self.table.own_counters().record_dial(dial);
    }

    pub(super) fn record_end(&self, outcome: Outcome) {
        self.metrics.record_end(outcome);
        self.table.own_counters().record_end(outcome);
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, LiveSessions> {
        self.table.sessions()
    }
}
