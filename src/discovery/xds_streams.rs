//! Streams to control planes that speak xDS, one for all the clusters that ask the same servers as the same node.
//!
//! A task has the stream and [`XdsClient`], which decides what is sent and what an answer means. It begins with the first subscription
//! and ends a while after the last one, so that a reload does not end it. What is known stays while there is no stream.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper::header::AUTHORIZATION;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::aside::{SHORT, aside};
use super::resolver::Resolver;
use super::server_access::{Access, CONNECTION, ServerAccess};
use super::source_update::{RemoteResult, SourceUpdate};
use super::words;
use crate::cluster::{ControlPlane, ENDPOINTS_MAX, Target, ToTarget, XdsQuestion};
use crate::http::{ConnectTerms, GrpcStream, HttpField, HttpUrl, bearer};
use crate::policy::ask_schedule::{AskSchedule, PACE, RETRY_MAX, RETRY_MAX_EMPTY};
use crate::policy::backoff;
use crate::sync::Mutex;
use crate::tls::HttpVersion;
use crate::xds::{LoadAssignment, Node, XdsChange, XdsClient};
use crate::{alarm, clock};

/// The method of delta ADS.
const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The longest message that is taken, in bytes.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// A stream that has lasted so long, and whose server has said that it speaks HTTP/2, works, even if no message has come: after a
/// reconnect a control plane has nothing to say.
const WORKS_AFTER: Duration = Duration::from_secs(2);
/// A stream that nobody subscribes to any more is kept for that long.
const LINGER: Duration = Duration::from_secs(5);
/// While a stream works, what is known counts as confirmed that often: longer than a server that is frozen takes to be noticed.
const CONFIRMED: Duration = Duration::from_secs(360);

/// All streams of the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct XdsStreams(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    /// The task; it ends with this.
    _task: JoinSet<()>,
}

/// What a stream's task and its subscribers share.
struct Shared {
    /// What tells it from others.
    id: String,
    subscribers: Mutex<Subscribers>,
    /// The subscribers have changed.
    changed: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Subscribers {
    /// By the name of the resource.
    states: BTreeMap<String, watch::Sender<XdsState>>,
    /// Why there is no stream, in words: for those who subscribe meanwhile.
    broken: Option<String>,
    /// How many streams there have been.
    streams: u64,
    /// Whether the task has ended, or is about to, so that nobody may subscribe any more.
    is_over: bool,
}

/// What is known of one resource.
#[derive(Debug, Clone, Default)]
struct XdsState {
    assignment: Option<Arc<LoadAssignment>>,
    /// What is wrong with the resource, in words: it is refused, or the control plane does not have it.
    wrong: Option<String>,
    /// The stream that said so. Where the next one says nothing about it, it is good again.
    wrong_since: u64,
    /// Why there is no stream, in words.
    broken: Option<String>,
}

impl XdsState {
    fn error(&self) -> Option<&String> {
        self.broken.as_ref().or(self.wrong.as_ref())
    }
}

impl XdsStreams {
    /// Subscribes to the endpoints of one cluster. To be called within a runtime.
    pub(super) fn subscribe(
        &self,
        control_plane: &Arc<ControlPlane>,
        question: &XdsQuestion,
        resolver: Arc<Resolver>,
        rng: Rng,
    ) -> XdsSubscription {
        let id = format!("{control_plane:?} {:?}", question.node);
        let mut entries = self.0.lock();
        entries.retain(|entry| !entry.shared.subscribers.lock().is_over);
        let shared = match entries.iter().find(|entry| entry.shared.id == id) {
            Some(entry) => Arc::clone(&entry.shared),
            None => {
                let shared = Arc::new(Shared { id, subscribers: Mutex::default(), changed: Notify::new() });
                let mut task = JoinSet::new();
                let (control_plane, node) = (Arc::clone(control_plane), Arc::clone(&question.node));
                task.spawn(supervise(Arc::clone(&shared), control_plane, node, resolver, rng));
                entries.push(Entry { shared: Arc::clone(&shared), _task: task });
                shared
            }
        };
        let mut subscribers = shared.subscribers.lock();
        let Subscribers { states, broken, .. } = &mut *subscribers;
        let sender = states
            .entry(question.resource.clone())
            .or_insert_with(|| watch::channel(XdsState { broken: broken.clone(), ..XdsState::default() }).0);
        let states = sender.subscribe();
        drop(subscribers);
        shared.changed.notify_one();
        XdsSubscription {
            states: Some(states),
            shared,
            to_target: Arc::clone(&question.to_target),
            told: None,
            told_error: None,
            confirmed_at: clock::now() + CONFIRMED,
        }
    }
}

/// One cluster's part of a stream.
pub(super) struct XdsSubscription {
    /// `None` while it is dropped.
    states: Option<watch::Receiver<XdsState>>,
    shared: Arc<Shared>,
    to_target: ToTarget,
    /// What was told last.
    told: Option<Arc<LoadAssignment>>,
    told_error: Option<String>,
    /// When it is told that all is as before.
    confirmed_at: Instant,
}

impl fmt::Debug for XdsSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsSubscription").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Drop for XdsSubscription {
    fn drop(&mut self) {
        self.states = None;
        self.shared.changed.notify_one();
    }
}

impl XdsSubscription {
    /// The next result. Cancel-safe.
    pub(super) async fn result(&mut self) -> RemoteResult {
        loop {
            let states = self.states.as_mut().expect("it is there until the drop");
            let state = states.borrow_and_update().clone();
            if let Some(update) = self.update(&state) {
                self.confirmed_at = clock::now() + CONFIRMED;
                return Some(update);
            }
            let changed = self.states.as_mut().expect("as above").changed();
            // The sender is in `shared`, so there is no error but the moment.
            if alarm::timeout_at(self.confirmed_at, changed).await.is_err() {
                self.confirmed_at = clock::now() + CONFIRMED;
                if state.error().is_none() && state.assignment.is_some() {
                    return None;
                }
            }
        }
    }

    /// What has changed since that was told last. Endpoints are told before an error that came after them.
    fn update(&mut self, state: &XdsState) -> Option<SourceUpdate> {
        let is_told = match (&self.told, &state.assignment) {
            (Some(told), Some(now)) => Arc::ptr_eq(told, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_told {
            self.told.clone_from(&state.assignment);
            self.told_error = None;
            return self.told.as_ref().map(|assignment| self.targets(assignment));
        }
        if self.told_error.as_ref() == state.error() {
            return None;
        }
        self.told_error = state.error().cloned();
        match (&self.told_error, &self.told) {
            (Some(error), _) => Some(SourceUpdate::Error(error.clone())),
            (None, Some(assignment)) => Some(self.targets(assignment)),
            (None, None) => None,
        }
    }

    fn targets(&self, assignment: &LoadAssignment) -> SourceUpdate {
        let count = assignment.endpoints.len();
        if count > ENDPOINTS_MAX {
            return SourceUpdate::Error(format!(
                "the assignment has {count} endpoints, and a cluster has at most {ENDPOINTS_MAX}"
            ));
        }
        let (mut targets, mut complaints) = (Vec::with_capacity(count), Vec::new());
        for one in &assignment.endpoints {
            match (self.to_target)(&one.host, one.port, one.weight) {
                Ok(target) => targets.push(Target { priority: one.priority, ..target }),
                Err(reason) => complaints.push(format!("endpoint {}: {reason}", words::shown(&one.host))),
            }
        }
        match words::first_and_count(&complaints) {
            Some(complaint) if targets.is_empty() => SourceUpdate::Error(complaint),
            complaint => SourceUpdate::Targets(targets, complaint),
        }
    }
}

/// Runs the stream's task, also after it has panicked.
async fn supervise(
    shared: Arc<Shared>,
    control_plane: Arc<ControlPlane>,
    node: Arc<Node>,
    resolver: Arc<Resolver>,
    mut rng: Rng,
) {
    loop {
        let mut task = JoinSet::new();
        let (shared_too, resolver) = (Arc::clone(&shared), Arc::clone(&resolver));
        task.spawn(
            Streaming::new(shared_too, &control_plane, Arc::clone(&node), resolver, rng.fork()).forever(),
        );
        if task.join_next().await.is_some_and(|ended| ended.is_ok()) {
            return;
        }
        shared.set_broken(Some("xds: ambassador itself failed while it had the stream"));
        alarm::sleep(RETRY_MAX_EMPTY).await;
    }
}

impl Shared {
    /// Tells all why there is no stream, or that there is one.
    fn set_broken(&self, broken: Option<&str>) {
        let mut subscribers = self.subscribers.lock();
        subscribers.broken = broken.map(ToOwned::to_owned);
        let tell = |state: &mut XdsState| state.broken = broken.map(ToOwned::to_owned);
        subscribers.states.values().for_each(|state| state.send_modify(tell));
    }

    /// A stream has begun.
    fn count_stream(&self) {
        self.subscribers.lock().streams += 1;
    }

    /// What the present stream has not said again is not wrong any more.
    fn forget_wrongs(&self) {
        let subscribers = self.subscribers.lock();
        let present = subscribers.streams;
        let forget = |state: &mut XdsState| {
            if state.wrong_since < present {
                state.wrong = None;
            }
        };
        subscribers.states.values().for_each(|state| state.send_modify(forget));
    }

    /// Tells what a resource is now, or what is wrong with it.
    fn tell(&self, name: &str, known: Result<Arc<LoadAssignment>, String>) {
        let subscribers = self.subscribers.lock();
        let present = subscribers.streams;
        let Some(state) = subscribers.states.get(name) else { return };
        state.send_modify(|state| match known {
            Ok(assignment) => (state.assignment, state.wrong) = (Some(assignment), None),
            Err(words) => (state.wrong, state.wrong_since) = (Some(words), present),
        });
    }
}

struct Streaming {
    shared: Arc<Shared>,
    servers: Vec<HttpUrl>,
    access: ServerAccess,
    node: Arc<Node>,
    client: XdsClient,
    schedule: AskSchedule,
    rng: Rng,
}

/// How a stream ended that did not fail.
enum Ended {
    /// By the server: some end them now and then, so that clients spread over all servers.
    ByServer,
    /// Nobody subscribes any more.
    Unwanted,
}

impl Streaming {
    fn new(
        shared: Arc<Shared>,
        control_plane: &ControlPlane,
        node: Arc<Node>,
        resolver: Arc<Resolver>,
        mut rng: Rng,
    ) -> Self {
        let access = ServerAccess::new(control_plane, HttpVersion::Http2, resolver);
        let servers = control_plane.servers.clone();
        let schedule = AskSchedule::new(servers.len(), &mut rng);
        Self { shared, servers, access, client: XdsClient::new((*node).clone()), node, schedule, rng }
    }

    async fn forever(mut self) {
        loop {
            if !self.reconcile() {
                let lingering = alarm::timeout_at(clock::now() + LINGER, self.shared.changed.notified());
                if lingering.await.is_err() && self.is_over() {
                    return;
                }
                continue;
            }
            let begun = clock::now();
            let ended = self.stream().await;
            self.client.closed();
            match ended {
                Ok(Ended::Unwanted) => {}
                Ok(Ended::ByServer) => {
                    alarm::sleep(backoff::jittered(PACE, 1.0, &mut self.rng)).await;
                }
                Err(error) => {
                    self.access.forget();
                    self.shared.set_broken(Some(&error));
                    let lasted = clock::now().saturating_duration_since(begun);
                    let has_some = self.has_some();
                    let pause = self.schedule.record_failure(lasted, has_some, &mut self.rng);
                    self.pause(pause).await;
                }
            }
        }
    }

    /// Waits before the next server is asked; not for long if a cluster comes meanwhile that has no endpoint.
    async fn pause(&mut self, pause: Duration) {
        let mut until = clock::now() + pause;
        while alarm::timeout_at(until, self.shared.changed.notified()).await.is_ok() {
            if !self.reconcile() {
                return;
            }
            if !self.has_some() {
                until = until.min(clock::now() + RETRY_MAX_EMPTY);
            }
        }
    }

    /// Subscribes to what is wanted, and to nothing else. Returns whether anything is.
    fn reconcile(&mut self) -> bool {
        let mut subscribers = self.shared.subscribers.lock();
        subscribers.states.retain(|name, states| {
            let is_wanted = states.receiver_count() > 0;
            match (is_wanted, self.client.is_subscribed(name)) {
                (true, false) => self.client.subscribe(name),
                (false, true) => self.client.unsubscribe(name),
                (true, true) | (false, false) => {}
            }
            is_wanted
        });
        !subscribers.states.is_empty()
    }

    /// Whether nobody subscribes, nor can any more.
    fn is_over(&self) -> bool {
        let mut subscribers = self.shared.subscribers.lock();
        subscribers.is_over = subscribers.states.is_empty();
        subscribers.is_over
    }

    /// Whether no cluster is without endpoints.
    fn has_some(&self) -> bool {
        let subscribers = self.shared.subscribers.lock();
        subscribers.states.values().all(|states| states.borrow().assignment.is_some())
    }

    /// Words about the server that is asked. Errors of HTTP have its URL.
    fn about(&self, words: &str) -> String {
        format!("{}: {words}", self.servers[self.schedule.server()])
    }

    async fn stream(&mut self) -> Result<Ended, String> {
        let begun = clock::now();
        let mut stream = self.open().await?;
        let sender = stream.sender();
        self.client.opened();
        self.shared.count_stream();
        let mut outgoing: Option<Vec<u8>> = None;
        let (mut has_message, mut settles_at, mut unwanted_at) =
            (false, Some(clock::now() + WORKS_AFTER), None);
        loop {
            self.pass_on();
            if outgoing.is_none() {
                outgoing = self.client.request(clock::now());
            }
            let due = self.client.due().into_iter().chain(settles_at).chain(unwanted_at).min();
            tokio::select! {
                () = send(&sender, outgoing.as_deref()) => outgoing = None,
                message = stream.message() => match message.map_err(|error| error.to_string())? {
                    Some(message) => {
                        self.take(message).await?;
                        if !std::mem::replace(&mut has_message, true) {
                            self.shared.set_broken(None);
                        }
                    }
                    None if has_message || clock::now() >= begun + RETRY_MAX => return Ok(Ended::ByServer),
                    None => return Err(self.about("it ended the stream before it had said anything")),
                },
                () = self.shared.changed.notified() => {
                    unwanted_at = (!self.reconcile()).then(|| clock::now() + LINGER);
                }
                () = alarm::sleep_until(due) => {
                    let now = clock::now();
                    self.client.tick(now);
                    if unwanted_at.is_some_and(|at| at <= now) {
                        return Ok(Ended::Unwanted);
                    }
                    if settles_at.is_some_and(|at| at <= now) {
                        settles_at = self.settle(&stream, begun + CONNECTION, now)?;
                    }
                }
            }
        }
    }

    /// The stream has lasted for a while: it works if its server speaks HTTP/2, and what it has not refused again is good. Returns when to
    /// come back: a server has until `until` to say that it does.
    fn settle(&self, stream: &GrpcStream, until: Instant, now: Instant) -> Result<Option<Instant>, String> {
        if stream.has_heard() {
            self.shared.set_broken(None);
            self.shared.forget_wrongs();
            return Ok(None);
        }
        if now < until {
            return Ok(Some(until));
        }
        Err(self.about(&format!("it takes connections, and has said nothing for {CONNECTION:?}: that is no HTTP/2, or it is frozen")))
    }

    async fn open(&mut self) -> Result<GrpcStream, String> {
        let url = self.servers[self.schedule.server()].clone();
        let access = self.access.to(&url).await;
        let Access { addresses, token, tls } = access.map_err(|error| self.about(&error))?;
        let headers = token.map(|token| HttpField(AUTHORIZATION, bearer(&token))).into_iter().collect();
        let until = clock::now() + CONNECTION;
        let terms = ConnectTerms { addresses: &addresses, tls, until };
        let opened = GrpcStream::open(&url, METHOD, headers, MESSAGE_MAX, terms).await;
        opened.map_err(|error| error.to_string())
    }

    /// Reads a message, on a thread of its own if that takes long.
    async fn take(&mut self, message: Vec<u8>) -> Result<(), String> {
        if message.len() < SHORT {
            return self.client.take(&message).map_err(|error| self.about(&error));
        }
        let mut client = std::mem::replace(&mut self.client, XdsClient::new((*self.node).clone()));
        let read = aside(move || {
            let taken = client.take(&message);
            (client, taken)
        });
        let (client, taken) = read.await.map_err(|error| self.about(&error))?;
        self.client = client;
        taken.map_err(|error| self.about(&error))
    }

    /// Tells the clusters what has changed.
    fn pass_on(&mut self) {
        while let Some(change) = self.client.change() {
            let (name, known) = match change {
                XdsChange::Accepted(name, assignment) => (name, Ok(assignment)),
                XdsChange::Removed(name) => (name, Ok(Arc::default())),
                XdsChange::Rejected(name, reason) => {
                    let words = format!("its endpoints of {name} are refused: {reason}");
                    (name, Err(words))
                }
                XdsChange::Failed(name, reason) => {
                    let words = format!("it has no endpoints of {name}: {reason}");
                    (name, Err(words))
                }
                XdsChange::Missing(name) => {
                    let words = format!("it says nothing about {name}, so there is no such cluster");
                    (name, Err(words))
                }
            };
            self.shared.tell(&name, known.map_err(|words| self.about(&words)));
        }
    }
}

async fn send(sender: &crate::http::GrpcSender, message: Option<&[u8]>) {
    match message {
        Some(message) => sender.send(message).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Address, Host};
    use crate::tls::Roots;

    /// Nobody listens there.
    fn subscribe(streams: &XdsStreams) -> XdsSubscription {
        let servers = vec![HttpUrl::at_socket("/nowhere/at/all".into())];
        let control_plane = Arc::new(ControlPlane { servers, roots: Roots::WebPki, token: None });
        let to_target: ToTarget = Arc::new(|host, port, weight| {
            let ip: std::net::IpAddr = host.parse().map_err(|_| "is no address")?;
            let address = Address { host: Host::Ip(ip), port };
            Ok(Target { address, weight, priority: 0, server_name: ip.into() })
        });
        let question = XdsQuestion { node: Arc::default(), resource: "orders".into(), to_target };
        streams.subscribe(&control_plane, &question, Arc::default(), Rng::with_seed(1))
    }

    fn assignment() -> Arc<LoadAssignment> {
        Arc::new(LoadAssignment::at("10.0.0.1", 1))
    }

    /// With names that are resolved each minute it was never told that all is as before: the moment began anew with each event.
    #[tokio::test]
    async fn what_lasts_is_confirmed_at_a_moment_that_nothing_moves() {
        let run = alarm::drive(async {
            let streams = XdsStreams::default();
            let mut subscription = subscribe(&streams);
            // Its task ends, so that nothing else is told.
            streams.0.lock().clear();
            subscription.shared.tell("orders", Ok(assignment()));
            assert!(
                matches!(subscription.result().await, Some(SourceUpdate::Targets(targets, None)) if targets.len() == 1)
            );
            let due = subscription.confirmed_at;
            let soon = clock::now() + Duration::from_millis(1);
            assert!(alarm::timeout_at(soon, subscription.result()).await.is_err(), "nothing has changed");
            assert_eq!(subscription.confirmed_at, due, "who stops waiting moves nothing");
            subscription.confirmed_at = clock::now();
            assert_eq!(subscription.result().await, None);
            subscription.shared.set_broken(Some("gone"));
            assert_eq!(subscription.result().await, Some(SourceUpdate::Error("gone".into())));
            subscription.confirmed_at = clock::now();
            let soon = clock::now() + Duration::from_millis(1);
            assert!(alarm::timeout_at(soon, subscription.result()).await.is_err(), "nobody confirms it");
        });
        run.await.unwrap();
    }

    #[tokio::test]
    async fn who_comes_late_hears_what_is_known_and_what_is_wrong() {
        let run = alarm::drive(async {
            let streams = XdsStreams::default();
            let first = subscribe(&streams);
            first.shared.set_broken(Some("gone"));
            let mut second = subscribe(&streams);
            assert!(Arc::ptr_eq(&first.shared, &second.shared), "one stream for both");
            streams.0.lock().iter_mut().for_each(|entry| entry._task.abort_all());
            assert_eq!(second.result().await, Some(SourceUpdate::Error("gone".into())));
            // What a stream has said is forgotten when the next one does not say it again.
            second.shared.set_broken(None);
            second.shared.tell("orders", Err("refused".into()));
            assert_eq!(second.result().await, Some(SourceUpdate::Error("refused".into())));
            second.shared.forget_wrongs();
            second.shared.count_stream();
            second.shared.tell("orders", Ok(assignment()));
            assert!(matches!(second.result().await, Some(SourceUpdate::Targets(..))));
            second.shared.tell("orders", Err("refused".into()));
            assert_eq!(second.result().await, Some(SourceUpdate::Error("refused".into())));
            second.shared.count_stream();
            second.shared.forget_wrongs();
            assert!(matches!(second.result().await, Some(SourceUpdate::Targets(..))));
            // Nobody joins a stream that ends.
            second.shared.subscribers.lock().is_over = true;
            assert!(!Arc::ptr_eq(&second.shared, &subscribe(&streams).shared));
        });
        run.await.unwrap();
    }
}
