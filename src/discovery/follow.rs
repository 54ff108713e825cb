//! The task that keeps a cluster's endpoints up to date: sends the queries that are due, takes in the answers, and
//! updates the cluster.
//!
//! When a query fails, the last good answers stay in use. The pure modules beside it make the decisions.

mod keep;
mod loops;
mod questions;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::SystemTime;

use fastrand::Rng;
use tokio::task::{Id, JoinSet};

use self::questions::{Answer, Asking, Question};
use super::file::{Contents, WatchedFile};
use super::found_endpoints::{FoundEndpoints, endpoints};
use super::keeping::{self, KeepEvent, KeepFolder, Keeping};
use super::loop_detection::LoopDetector;
use super::name::KnownName;
use super::query_result::QueryResult;
use super::remote::WatchedRemote;
use super::resolver::Resolver;
use super::source_update::{RemoteResult, SourceUpdate};
use super::xds_streams::XdsStreams;
use crate::alarm;
use crate::clock;
use crate::cluster::{
    Cluster, DiscoveryStatus, ENDPOINTS_MAX, EndpointSettings as Settings, Host, OriginKind, Source, Target,
};
use crate::drain::DrainWatch;
use crate::metrics::DiscoveryMetrics;

/// Finds the cluster's endpoints until the drain begins; returns at once if the cluster has no source to follow. Must
/// not run on a worker's thread: see [`Resolver`].
pub(crate) async fn follow(cluster: Arc<Cluster>, services: DiscoveryServices, rng: Rng, watch: DrainWatch) {
    let Some(mut following) = Following::new(cluster, services, rng) else { return };
    following.begin_keeping();
    tokio::select! {
        // First: after a reload the cluster shares its endpoints with its successor, and must not change them any more.
        biased;
        () = watch.begun() => {}
        () = following.forever() => {}
    }
}

/// As [`follow()`], until every query has been answered once: for `check --connect`.
pub(crate) async fn settle(
    cluster: &Arc<Cluster>,
    services: DiscoveryServices,
    rng: Rng,
) -> Arc<DiscoveryStatus> {
    if let Some(mut following) = Following::new(Arc::clone(cluster), services, rng) {
        tokio::select! {
            biased;
            () = cluster.discovery_cell().wait_complete() => {}
            () = following.forever() => {}
        }
    }
    cluster.discovery()
}

/// What discovery works with, shared by all clusters.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiscoveryServices {
    /// Sends the queries.
    pub resolver: Arc<Resolver>,
    /// Finds endpoints that are our own listeners.
    pub own: Arc<LoopDetector>,
    /// Streams to control planes.
    pub xds: XdsStreams,
    /// Where the last good endpoints are kept.
    pub keep: KeepFolder,
}

struct Following {
    cluster: Arc<Cluster>,
    services: DiscoveryServices,
    rng: Rng,
    metrics: Arc<DiscoveryMetrics>,
    service: Option<Asking>,
    file: Option<WatchedFile>,
    remote: Option<WatchedRemote>,
    /// `None` for `check`, which keeps nothing and uses nothing that was kept.
    keeping: Option<Keeping>,
    /// When the endpoints in use were written, if they are those that were kept.
    kept: Option<SystemTime>,
    /// See [`DiscoveryStatus::is_of_source`].
    is_of_source: bool,
    /// A first answer without endpoints, until it is known whether there are some on disk that speak against it.
    held: Option<RemoteResult>,
    targets: Vec<Target>,
    /// The names of the targets.
    names: BTreeMap<String, KnownName>,
    /// The queries in flight, each with its own deadline.
    questions: JoinSet<(Question, Answer)>,
    /// With the id of the task: a task that panicked leaves nothing else.
    in_flight: BTreeMap<Question, Id>,
    applied: Vec<Settings>,
    /// Endpoints of targets that are no longer named. They stay until the names of the new targets are resolved.
    outgoing: Vec<Settings>,
    leaves_some_out: bool,
    /// Error texts for endpoints left out because they are our own listeners, by the name of their host.
    loops: BTreeMap<String, String>,
}

enum Event {
    Answer(Question, Answer),
    Lost(Id),
    FileRead(Contents),
    Remote(RemoteResult),
    Keep(KeepEvent),
    Doubt,
    Due,
}

impl Following {
    fn new(cluster: Arc<Cluster>, services: DiscoveryServices, rng: Rng) -> Option<Self> {
        let source = cluster.settings().source.clone()?;
        let metrics = DiscoveryMetrics::of(&cluster.settings().name);
        let status = cluster.discovery();
        metrics.set_kept(status.kept);
        let mut following = Self {
            // The endpoints it was configured with, or those known before a reload.
            applied: cluster.endpoints().iter().map(|endpoint| endpoint.settings().clone()).collect(),
            cluster,
            services,
            rng,
            metrics,
            service: None,
            file: None,
            remote: None,
            keeping: None,
            kept: status.kept,
            is_of_source: status.is_of_source,
            held: None,
            targets: Vec::new(),
            names: BTreeMap::new(),
            questions: JoinSet::new(),
            in_flight: BTreeMap::new(),
            outgoing: Vec::new(),
            leaves_some_out: false,
            loops: BTreeMap::new(),
        };
        match source {
            Source::Listed(targets) => {
                following.take(targets);
                // A name that is no longer in the file was removed on purpose.
                let Self { outgoing, targets, .. } = &mut following;
                outgoing.retain(|one| targets.iter().any(|target| target.leads_to(one)));
            }
            Source::Service(service) => following.service = Some(Asking::new(service)),
            Source::File(file) => {
                following.file = Some(WatchedFile::new(file));
            }
            Source::Remote(remote) => {
                let (resolver, rng) = (Arc::clone(&following.services.resolver), following.rng.fork());
                following.remote = Some(WatchedRemote::new(remote, &following.services.xds, resolver, rng));
            }
        }
        Some(following)
    }

    async fn forever(&mut self) {
        loop {
            self.apply_endpoints();
            let keep_due = self.keep();
            self.ask();
            let due = self.due();
            let Self { cluster, questions, file, remote, keeping, .. } = self;
            let event = tokio::select! {
                Some(answered) = questions.join_next() => answered.map_or_else(|error| Event::Lost(error.id()), |(question, answered)| Event::Answer(question, answered)),
                contents = contents(file.as_mut()) => Event::FileRead(contents),
                result = result(remote.as_mut()) => Event::Remote(result),
                event = keeping::event(keeping.as_mut()) => Event::Keep(event),
                () = cluster.discovery_cell().refresh_requested() => Event::Doubt,
                () = alarm::sleep_until([due, keep_due].into_iter().flatten().min()) => Event::Due,
            };
            match event {
                Event::Answer(question, answered) => self.take_answer(question, answered),
                Event::Lost(task) => self.fail_lost(task),
                Event::FileRead(contents) => self.take_file(contents),
                Event::Remote(result) => self.take_remote(result),
                Event::Keep(event) => self.take_keep_event(event),
                Event::Doubt => self.hurry(),
                Event::Due => {}
            }
        }
    }

    fn take_file(&mut self, contents: Contents) {
        let Some(file) = &mut self.file else { return };
        let before = file.last.error.is_some();
        let Some(said) = file.take(contents, clock::now()).cloned() else { return };
        let path = file.file.path.display().to_string();
        self.take_update(said, OriginKind::File, &path, before);
    }

    fn take_remote(&mut self, result: RemoteResult) {
        let has_own = self.is_of_source && !self.applied.is_empty();
        let may_be_kept = self.applied.is_empty() && self.keeping.as_ref().is_some_and(Keeping::may_give);
        let Some(remote) = &mut self.remote else { return };
        if may_be_kept && remote.is_doubtful(&result) {
            self.held = Some(result);
            return;
        }
        let before = remote.last.error.is_some();
        let said = remote.take(result, has_own, clock::now()).cloned();
        let (kind, name) = (remote.source.kind, remote.source.name.clone());
        match said {
            Some(said) => {
                self.held = None;
                self.take_update(said, kind, &name, before);
            }
            None if remote.last.error.is_none() => self.metrics.record_success(clock::wall()),
            None => {}
        }
    }

    fn take_update(&mut self, said: SourceUpdate, kind: OriginKind, origin: &str, was_failing: bool) {
        let (answer, error) = match said {
            SourceUpdate::Targets(targets, complaint) => {
                self.take(targets);
                (QueryResult::Good, complaint)
            }
            SourceUpdate::Error(error) => (QueryResult::Failed, Some(error)),
        };
        self.record_answer(answer, kind, origin, was_failing, error, self.targets.len());
    }

    /// Replaces the targets. Names that were known stay known.
    fn take(&mut self, mut targets: Vec<Target>) {
        let leaves_some_out = targets.len() > ENDPOINTS_MAX;
        targets.truncate(ENDPOINTS_MAX);
        self.warn_of_excess(leaves_some_out);
        let now = clock::now();
        let mut before = std::mem::take(&mut self.names);
        for target in &targets {
            let Host::Name(name) = &target.address.host else { continue };
            let known = before.remove(name).unwrap_or_else(|| KnownName::new(now));
            self.names.entry(name.clone()).or_insert(known);
        }
        self.targets = targets;
        self.outgoing.clone_from(&self.applied);
    }

    /// Applies the endpoints to the cluster if they changed, and publishes the status.
    fn apply_endpoints(&mut self) {
        let FoundEndpoints { endpoints: mut found, leaves_some_out } =
            endpoints(&self.targets, &self.names, self.cluster.settings().tls.is_some());
        self.warn_of_excess(leaves_some_out);
        self.leave_out_loops(&mut found);
        let has_names_settled = self.have_names_settled();
        // Names without addresses do not remove known servers. An empty list of targets does.
        if has_names_settled && (!found.is_empty() || self.targets.is_empty()) {
            self.outgoing.clear();
        }
        let names: BTreeSet<_> = found.iter().map(|one| &one.name).collect();
        let is_known =
            |one: &Settings| names.contains(&one.name) && found.iter().any(|known| known.is_same(one));
        let is_new = |one: &&Settings| !self.is_loop(one) && !is_known(one);
        let kept: Vec<_> = self.outgoing.iter().filter(is_new).take(ENDPOINTS_MAX).cloned().collect();
        found.extend(kept);
        // Until the first good answer the cluster keeps the endpoints that it began with.
        let has_heard = self.has_heard();
        let addresses = found.iter().flat_map(|one| one.addresses.iter());
        self.services.own.set_endpoints(&self.cluster.settings().name, addresses.collect());
        if has_heard && found != self.applied {
            self.cluster.set_endpoints(found.clone());
            self.applied = found;
        }
        self.is_of_source |= has_heard;
        if let Some(remote) = &self.remote {
            remote.set_has_some(!self.applied.is_empty());
        }
        if self.kept.is_some() && has_heard && self.outgoing.is_empty() {
            self.set_kept(None);
        }
        self.cluster.discovery_cell().publish(self.report(has_names_settled));
    }

    /// Whether the source has said what the endpoints are.
    fn has_heard(&self) -> bool {
        self.service.as_ref().is_none_or(|asking| asking.succeeded.is_some())
            && self.file.as_ref().is_none_or(|file| file.last.succeeded.is_some())
            && self.remote.as_ref().is_none_or(|remote| remote.last.succeeded.is_some())
    }

    fn have_names_settled(&self) -> bool {
        self.names.values().all(|known| known.is_settled)
    }
}

async fn contents(file: Option<&mut WatchedFile>) -> Contents {
    match file {
        Some(file) => file.contents().await,
        None => pending().await,
    }
}

async fn result(remote: Option<&mut WatchedRemote>) -> RemoteResult {
    match remote {
        Some(remote) => remote.result().await,
        None => pending().await,
    }
}
