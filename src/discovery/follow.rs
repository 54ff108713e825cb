//! The task that keeps a cluster's endpoints up to date: sends the queries that are due, takes in the answers, and
//! updates the cluster.
//!
//! When a query fails, the last good answers stay in use. The pure modules beside it make the decisions.

mod keep;
mod loops;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use tokio::task::{Id, JoinSet};

use super::file::{Contents, WatchedFile};
use super::found_endpoints::{FoundEndpoints, endpoints};
use super::keeping::{self, KeepEvent, KeepFolder, Keeping};
use super::loop_detection::LoopDetector;
use super::name::{Family, FamilyAnswer, KnownName, NameAnswer};
use super::query_result::QueryResult;
use super::remote::WatchedRemote;
use super::resolver::{Late, NoAnswer, Resolver};
use super::source_update::{RemoteResult, SourceUpdate};
use super::srv::{self, SrvRecord};
use super::xds_streams::XdsStreams;
use crate::alarm;
use crate::clock;
use crate::cluster::{
    Cluster, DiscoveryStatus, ENDPOINTS_MAX, EndpointSettings as Settings, Host, OriginKind, Source,
    SrvService, Target,
};
use crate::drain::DrainWatch;
use crate::metrics::DiscoveryMetrics;
use crate::policy::refresh_schedule::RefreshSchedule;
use crate::sys;

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

/// Queries in flight at once, for one cluster. The others wait for a free place, and the one overdue longest goes
/// first: names that are never answered do not starve the others.
const IN_FLIGHT_MAX: usize = 16;
/// Queries in flight beside those, for one family of names whose other family is known.
const LATE_MAX: usize = 64;

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

/// The SRV record to query, and its state.
struct Asking {
    service: SrvService,
    schedule: RefreshSchedule,
    is_settled: bool,
    succeeded: Option<Instant>,
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Service,
    Name(String),
    /// The family of a name whose answer comes after the other family's.
    Late(String, Family),
}

enum Answer {
    Service(Result<(Vec<SrvRecord>, Duration), NoAnswer>),
    Name(NameAnswer, Option<(Family, Late)>),
    Late(NameAnswer),
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

    /// The periodic queries, with their schedules.
    fn schedules(&mut self) -> impl Iterator<Item = (Question, &mut RefreshSchedule)> {
        let service = self.service.as_mut().map(|asking| (Question::Service, &mut asking.schedule));
        let names = self.names.iter_mut();
        service
            .into_iter()
            .chain(names.map(|(name, known)| (Question::Name(name.clone()), &mut known.schedule)))
    }

    /// When the next query is due. `None`: there is none, or no room until an answer comes.
    fn due(&mut self) -> Option<Instant> {
        if !self.has_room() {
            return None;
        }
        let asked: BTreeSet<_> = self.in_flight.keys().cloned().collect();
        self.schedules()
            .filter(|(question, _)| !asked.contains(question))
            .map(|(_, schedule)| schedule.due())
            .min()
    }

    /// Whether another query may be sent. Queries that wait for a late family do not count, up to `LATE_MAX`.
    fn has_room(&self) -> bool {
        let late = self.in_flight.keys().filter(|question| matches!(question, Question::Late(..))).count();
        self.questions.len() - late.min(LATE_MAX) < IN_FLIGHT_MAX
    }

    /// The family of that name that is known while the query for the other one is in flight.
    fn known_family(&self, name: &str) -> Option<Family> {
        let is_late =
            |family: &Family| self.in_flight.contains_key(&Question::Late(name.to_owned(), *family));
        [Family::V4, Family::V6].into_iter().find(is_late).map(Family::other)
    }

    fn hurry(&mut self) {
        let now = clock::now();
        self.schedules().for_each(|(_, schedule)| schedule.expedite(now));
    }

    fn ask(&mut self) {
        let now = clock::now();
        let mut due: Vec<_> = self
            .schedules()
            .map(|(question, schedule)| (schedule.due(), question))
            .filter(|(due, _)| *due <= now)
            .collect();
        due.sort_unstable();
        for (_, question) in due {
            if !self.has_room() {
                break;
            }
            if self.in_flight.contains_key(&question) {
                continue;
            }
            let resolver = Arc::clone(&self.services.resolver);
            let from = self.cluster.settings().dial.local_address;
            let asked = question.clone();
            let asking = match (&question, &self.service) {
                (Question::Name(name), _) => {
                    self.questions.spawn(answer(resolver, name.clone(), self.known_family(name), from))
                }
                (_, Some(asking)) => {
                    let name = asking.service.name.clone();
                    let asking = async move { Answer::Service(resolver.service(&name).await) };
                    self.questions.spawn(async move { (asked, asking.await) })
                }
                (_, None) => continue,
            };
            self.in_flight.insert(question, asking.id());
        }
    }

    /// A query's task has panicked. It counts as a failed query, and is retried as one.
    fn fail_lost(&mut self, task: Id) {
        let Some(question) =
            self.in_flight.iter().find(|(_, asking)| **asking == task).map(|(one, _)| one.clone())
        else {
            return;
        };
        let error = String::from("ambassador itself failed while it asked");
        let answered = match &question {
            Question::Service => Answer::Service(Err(NoAnswer::Failed(error))),
            Question::Name(_) => Answer::Name(
                NameAnswer { v4: FamilyAnswer::Failed(error.clone()), v6: FamilyAnswer::Failed(error) },
                None,
            ),
            Question::Late(_, family) => {
                Answer::Late(NameAnswer::of(*family, FamilyAnswer::Failed(error), FamilyAnswer::Pending))
            }
        };
        self.take_answer(question, answered);
    }

    fn take_answer(&mut self, question: Question, answered: Answer) {
        self.in_flight.remove(&question);
        let now = clock::now();
        match (question, answered) {
            (Question::Name(name), Answer::Name(reply, late)) => {
                self.take_name_answer(&name, reply, now);
                if let Some((family, late)) = late {
                    self.wait_for(name, family, late);
                }
            }
            (Question::Late(name, _), Answer::Late(reply)) => self.take_late_answer(&name, reply, now),
            (_, Answer::Service(answered)) => self.take_service_answer(answered, now),
            (_, Answer::Name(..) | Answer::Late(_)) => {}
        }
    }

    fn take_name_answer(&mut self, name: &str, reply: NameAnswer, now: Instant) {
        let Some(known) = self.names.get_mut(name) else { return };
        let before = known.error.is_some();
        let answer = known.learn(reply, now, &mut self.rng);
        let found = known.addresses().count();
        let error = known.error.clone();
        self.record_answer(answer, OriginKind::Name, name, before, error, found);
    }

    fn wait_for(&mut self, name: String, family: Family, late: Late) {
        let question = Question::Late(name, family);
        let from = self.cluster.settings().dial.local_address;
        let asked = question.clone();
        let waiting = self.questions.spawn(async move {
            let reply = late.await.usable(from, sys::has_route).only_of(family);
            (asked, Answer::Late(reply))
        });
        self.in_flight.insert(question, waiting.id());
    }

    fn take_late_answer(&mut self, name: &str, reply: NameAnswer, now: Instant) {
        let Some(known) = self.names.get_mut(name) else { return };
        let before = known.error.is_some();
        known.learn_late(reply, now);
        let found = known.addresses().count();
        let error = known.error.clone();
        self.log_change(OriginKind::Name, name, before, error, found);
    }

    fn take_service_answer(&mut self, answered: Result<(Vec<SrvRecord>, Duration), NoAnswer>, now: Instant) {
        let Some(asking) = &mut self.service else { return };
        let before = asking.error.is_some();
        asking.is_settled = true;
        let has_something = !self.targets.is_empty();
        let judged = match answered {
            Ok((records, ttl)) => srv::targets(&asking.service, records)
                .map(|targets| (targets, ttl))
                .map_err(|error| (QueryResult::Negative, error)),
            Err(NoAnswer::Absent(error) | NoAnswer::NoSuchName(error)) => Err((QueryResult::Negative, error)),
            Err(NoAnswer::Failed(error)) => Err((QueryResult::Failed, error)),
        };
        let (name, mut targets) = (asking.service.name.clone(), None);
        let answer = match judged {
            Ok((found, ttl)) => {
                asking.schedule.record_answer(now, ttl, &mut self.rng);
                (asking.succeeded, asking.error) = (Some(now), None);
                targets = Some(found);
                QueryResult::Good
            }
            Err((answer, error)) => {
                asking.schedule.record_failure(now, has_something, &mut self.rng);
                asking.error = Some(error);
                answer
            }
        };
        let error = asking.error.clone();
        if let Some(targets) = targets {
            self.take(targets);
        }
        self.record_answer(answer, OriginKind::Service, &name, before, error, self.targets.len());
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

impl Asking {
    fn new(service: SrvService) -> Self {
        let schedule = RefreshSchedule::new(clock::now());
        Self { service, schedule, is_settled: false, succeeded: None, error: None }
    }
}

/// Resolves a name; with `only`, that family alone, because the query for the other one is in flight.
async fn answer(
    resolver: Arc<Resolver>,
    name: String,
    only: Option<Family>,
    from: Option<IpAddr>,
) -> (Question, Answer) {
    let answered = resolver.addresses(&name, only).await;
    let reply = answered.reply.usable(from, sys::has_route);
    let answered = match answered.late {
        // The usable addresses may be in the late answer.
        Some((_, late)) if !reply.has_found() => Answer::Name(late.await.usable(from, sys::has_route), None),
        late => Answer::Name(reply, late),
    };
    (Question::Name(name), answered)
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
