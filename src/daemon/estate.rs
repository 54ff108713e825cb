//! What a configuration has become: sockets, clusters, routes and who attends to them. A start is a change from nothing.
//!
//! A change is all or nothing. New sockets are bound first; from there on nothing can fail. What means the same as
//! before is not touched: it keeps its socket, its sessions and all that is known of its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::admin::{self, Door, ListenerView, Scene, Subject};
use crate::alarm;
use crate::clock;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::drain::{Branch, Drain};
use crate::listener::{self, Current, Service};
use crate::name::{ClusterName, ListenerName};
use crate::policy::admission::Needs;
use crate::session::{
    self, AccessLog, Admission, Destination, Ledger, Lookups, Route, SessionIds, Tally, WantedOfCallers,
    end_orphans, end_outdated,
};
use crate::sys::{BindError, Inherited, Listening, LocalAddress, Options, Role};
use crate::upstream::discovery::Entrance;
use crate::upstream::snapshot::Snapshot as ClusterSnapshot;
use crate::upstream::{Cluster, discovery, health_check, preconnect, recovery};
use crate::workers::Workers;

use super::parting::{Parted, part};
use super::sockets::{AtHand, Gathered, Held};
use super::store;

/// What everything is done with, and what outlives every change.
#[derive(Debug)]
pub(super) struct Means {
    /// Kept until the last session has ended: without them the threads end.
    pub(super) workers: Arc<Workers>,
    pub(super) access: Arc<AccessLog>,
    /// Accept loops and sessions.
    pub(super) sessions: Drain,
    /// What answers about the daemon, and what attends to clusters.
    pub(super) admin: Drain,
    pub(super) credentials: Credentials,
    pub(super) discovery: discovery::Means,
    pub(super) lookups: Lookups,
    pub(super) subject: Arc<Subject>,
}

#[derive(Debug)]
pub(super) struct Estate {
    means: Means,
    rng: Rng,
    ids: Arc<SessionIds>,
    /// `None` before the first.
    config: Option<Config>,
    listeners: Vec<Served>,
    clusters: BTreeMap<ClusterName, Tended>,
    admin: Option<Attended>,
    control: Option<Attended>,
    /// Of every listener with its clusters that there ever was: its sums go on when it comes back.
    ledgers: BTreeMap<(ListenerName, Vec<ClusterName>), Arc<Ledger>>,
    /// Of every pair of a listener and a cluster of its: its counters go on when it comes back.
    tallies: BTreeMap<(ListenerName, ClusterName), Arc<Tally>>,
    leaving: Vec<Leaving>,
    /// Of sockets that the last change gave up: their accept loops, which close them.
    closing: Vec<Branch>,
    /// The names under which systemd keeps sockets of ours.
    kept: BTreeSet<String>,
    /// What another process knew of the clusters, until they are there.
    foretold: BTreeMap<ClusterName, ClusterSnapshot>,
}

/// A listener that accepts.
#[derive(Debug)]
struct Served {
    settings: listener::Settings,
    current: Arc<Current>,
    routed: Routed,
    sockets: Vec<Attended>,
}

/// A route with what ends its orphans.
#[derive(Debug)]
struct Routed {
    route: Arc<Route>,
    orphans: Branch,
}

/// A route that nobody comes by any more, with sessions that live.
#[derive(Debug)]
struct Leaving {
    routed: Routed,
    /// Its accept loops, which take in who waited already.
    accepting: Vec<Branch>,
    /// Its listener is gone, and so its sessions are to end.
    drains: bool,
}

/// A socket with the loop that accepts on it.
#[derive(Debug)]
struct Attended {
    held: Held,
    accepting: Branch,
}

/// A cluster with the tasks that look after it.
#[derive(Debug)]
struct Tended {
    cluster: Arc<Cluster>,
    tasks: Branch,
}

/// How often it is looked at whether the last session of a route has ended.
const STEP: Duration = Duration::from_secs(1);
/// How long an accept loop may take to take in who waits already.
const ACCEPTING: Duration = Duration::from_secs(2);

impl Estate {
    /// `foretold`: what another process knew of its clusters.
    pub(super) fn new(means: Means, mut rng: Rng, foretold: BTreeMap<ClusterName, ClusterSnapshot>) -> Self {
        let ids = Arc::new(SessionIds::new(rng.u64(..)));
        Self {
            means,
            rng,
            ids,
            config: None,
            listeners: Vec::new(),
            clusters: BTreeMap::new(),
            admin: None,
            control: None,
            ledgers: BTreeMap::new(),
            tallies: BTreeMap::new(),
            leaving: Vec::new(),
            closing: Vec::new(),
            kept: BTreeSet::new(),
            foretold,
        }
    }

    pub(super) const fn means(&self) -> &Means {
        &self.means
    }

    /// The configuration in force.
    pub(super) const fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Makes the configuration the one in force, and tells what is different now.
    ///
    /// # Errors
    /// Addresses that cannot be had; then everything is as before.
    pub(super) fn change(
        &mut self,
        config: Config,
        inherited: &mut Inherited,
    ) -> Result<Vec<String>, Vec<BindError>> {
        let gathered = Gathered::gather(&config, self.at_hand(), inherited, self.means.workers.listening())?;
        let mut changes = Vec::new();
        let open = self.listeners.iter().flat_map(|listener| &listener.sockets);
        let open: Vec<_> = open.map(|socket| socket.accepting.clone()).collect();
        // Those that are not wanted any more are ours alone; of the others it is said again who has them.
        self.hand_on(false);
        let before = std::mem::take(&mut self.listeners);
        self.change_clusters(&config, &mut changes);
        self.change_listeners(&config, before, gathered.listeners, &mut changes);
        self.closing.extend(open.into_iter().filter(Branch::is_stopped));
        self.retire_clusters(&config, &mut changes);
        let (admin, control) = (self.admin.take(), self.control.take());
        self.admin = self.answer_at(Door::Address, admin, gathered.admin, &mut changes);
        self.control = self.answer_at(Door::Control, control, gathered.control, &mut changes);
        self.show(&config);
        self.means.discovery.own.set(self.entrances(), self.fixed_endpoints());
        self.config = Some(config);
        self.foretold.clear();
        Ok(changes)
    }

    /// Waits until the sockets that were given up are closed, so that whoever comes next may listen there: the next reload,
    /// for one. It takes as long as accepting who waits already, and no longer than that deadline. Dropping the future loses
    /// nothing.
    pub(super) async fn closed(&mut self, deadline: Instant) {
        while let Some(accepting) = self.closing.last() {
            if accepting.finished(deadline).await.is_err() {
                return;
            }
            self.closing.pop();
        }
    }

    /// Stops accepting at once, and closes the sockets.
    pub(super) fn close_listeners(&mut self) {
        for listener in &mut self.listeners {
            listener.sockets.clear();
        }
    }

    /// Answers nobody any more.
    pub(super) fn close_doors(&mut self) {
        (self.admin, self.control) = (None, None);
    }

    /// Every listening socket with what it is for.
    pub(super) fn sockets(&self) -> Vec<(Arc<Listening>, Role)> {
        let listeners = self.listeners.iter().flat_map(|listener| {
            let role = || Role::Listener(listener.settings.name.to_string());
            listener.sockets.iter().map(move |socket| (&socket.held, role()))
        });
        let doors = self.admin.iter().chain(&self.control).map(|door| (&door.held, Role::Admin));
        listeners.chain(doors).map(|(held, role)| (Arc::clone(&held.listening), held.role(role))).collect()
    }

    /// Sockets that are ours are systemd's to keep, where it does.
    pub(super) fn deposit(&mut self) {
        let sockets = self.sockets();
        store::keep(&sockets, &mut self.kept);
    }

    /// Whether others go on listening on our sockets when we stop.
    pub(super) fn hand_on(&self, is_handed_on: bool) {
        self.sockets().iter().for_each(|(listening, _)| listening.hand_on(is_handed_on));
    }

    /// Where listeners accept, with each cluster that they lead to.
    fn entrances(&self) -> Vec<Entrance> {
        let entrances = self.listeners.iter().flat_map(|listener| {
            let addresses =
                listener.sockets.iter().filter_map(|socket| match socket.held.listening.local() {
                    LocalAddress::Tcp(address) => Some(*address),
                    LocalAddress::Unix(_) => None,
                });
            let is_only = !listener.settings.context;
            addresses.flat_map(move |address| {
                let clusters = listener.settings.clusters.iter();
                clusters.map(move |cluster| Entrance { address, cluster: cluster.clone(), is_only })
            })
        });
        entrances.collect()
    }

    /// Those of clusters whose endpoints nobody has to find.
    fn fixed_endpoints(&self) -> impl Iterator<Item = (ClusterName, Vec<SocketAddr>)> {
        let fixed = self.clusters.values().filter(|known| known.cluster.settings().source.is_none());
        fixed.map(|known| {
            let endpoints = known.cluster.endpoints();
            let addresses = endpoints.iter().flat_map(|endpoint| endpoint.settings().addresses.iter());
            (known.cluster.settings().name.clone(), addresses.collect())
        })
    }

    fn at_hand(&self) -> AtHand {
        let listeners = self.listeners.iter().flat_map(|listener| {
            listener.sockets.iter().map(|socket| (listener.settings.name.clone(), socket.held.clone()))
        });
        let held = |attended: &Option<Attended>| attended.as_ref().map(|attended| attended.held.clone());
        AtHand { listeners: listeners.collect(), admin: held(&self.admin), control: held(&self.control) }
    }

    fn change_clusters(&mut self, config: &Config, changes: &mut Vec<String>) {
        let is_start = self.config.is_none();
        for settings in &config.clusters {
            let name = &settings.name;
            let cluster = match self.clusters.get(name) {
                Some(tended) if tended.cluster.settings().digest == settings.digest => continue,
                Some(tended) => {
                    changes.push(format!("cluster {name} changed"));
                    tended.tasks.stop();
                    tended.cluster.succeed(settings.clone())
                }
                None => {
                    if !is_start {
                        changes.push(format!("cluster {name} added"));
                    }
                    let foretold = self.foretold.remove(name).unwrap_or_default();
                    Cluster::resume(settings.clone(), self.rng.fork(), foretold)
                }
            };
            if let Some(tls) = &cluster.settings().tls {
                self.means.credentials.follow(name, tls);
            }
            let tasks = self.means.admin.branch();
            let probing = health_check::run(Arc::clone(&cluster), self.rng.fork(), tasks.watch());
            self.means.admin.spawn(probing);
            self.means.admin.spawn(recovery::run(Arc::clone(&cluster), tasks.watch()));
            let draining = self.means.sessions.watch();
            let replaced = self.means.credentials.replaced();
            let dialling =
                preconnect::run(Arc::clone(&cluster), self.rng.fork(), tasks.watch(), draining, replaced);
            self.means.admin.spawn(dialling);
            // Here and not on a worker: lookups have timers that would cost each of its rounds a look at the clock.
            let means = self.means.discovery.clone();
            let finding = discovery::follow(Arc::clone(&cluster), means, self.rng.fork(), tasks.watch());
            self.means.admin.spawn(finding);
            let tended = Tended { cluster, tasks };
            self.clusters.insert(name.clone(), tended);
        }
    }

    /// Those that the file does not have any more. Sessions that live end as the cluster's `on_removed` says.
    fn retire_clusters(&mut self, config: &Config, changes: &mut Vec<String>) {
        let is_there = |name: &ClusterName| config.clusters.iter().any(|cluster| cluster.name == *name);
        self.clusters.retain(|name, tended| {
            let stays = is_there(name);
            if !stays {
                changes.push(format!("cluster {name} removed"));
                tended.tasks.stop();
                tended.cluster.set_endpoints(Vec::new());
            }
            stays
        });
    }

    fn change_listeners(
        &mut self,
        config: &Config,
        mut before: Vec<Served>,
        sockets: Vec<Vec<Held>>,
        changes: &mut Vec<String>,
    ) {
        let is_start = self.config.is_none();
        for (settings, held) in config.listeners.iter().zip(sockets) {
            let known = before.iter().position(|served| served.settings.name == settings.name);
            let known = known.map(|position| before.remove(position));
            match &known {
                Some(served) if served.settings != *settings => {
                    changes.push(format!("listener {} changed", settings.name));
                }
                None if !is_start => {
                    let addresses: Vec<_> =
                        held.iter().map(|held| held.listening.local().to_string()).collect();
                    changes.push(format!("listener {} added on {}", settings.name, addresses.join(", ")));
                }
                Some(_) | None => {}
            }
            let served = self.serve(settings, held, known);
            self.listeners.push(served);
        }
        for Served { settings, routed, sockets, .. } in before {
            let accepting = sockets.iter().map(|socket| socket.accepting.clone()).collect();
            self.leaving.push(Leaving { routed, accepting, drains: false });
            let active = self.drain(&settings.name, config);
            changes.push(format!("listener {} removed; its {active} session(s) drain", settings.name));
        }
    }

    /// The listener on those sockets; what it was before goes on where nothing about it is different.
    fn serve(&mut self, settings: &listener::Settings, held: Vec<Held>, known: Option<Served>) -> Served {
        let named = |name| Arc::clone(&self.clusters[name].cluster);
        let clusters: Vec<_> = settings.clusters.iter().map(named).collect();
        let (current, routed, mut before) = match known {
            None => {
                let routed = self.route(settings, clusters, None);
                (Arc::new(Current::new(Arc::clone(&routed.route))), routed, Vec::new())
            }
            Some(known) => {
                let before = listener::Settings { binds: settings.binds.clone(), ..known.settings };
                let are_same = known
                    .routed
                    .route
                    .clusters()
                    .zip(&clusters)
                    .all(|(before, now)| Arc::ptr_eq(before, now));
                if before == *settings && are_same {
                    (known.current, known.routed, known.sockets)
                } else {
                    let routed = self.route(settings, clusters, Some(&known.routed));
                    known.current.set(Arc::clone(&routed.route));
                    // To the same clusters, the new route has the old one's sessions; else they are on their own.
                    if before.clusters != settings.clusters {
                        self.let_go(&known.routed);
                        self.leaving.push(Leaving {
                            routed: known.routed,
                            accepting: Vec::new(),
                            drains: false,
                        });
                    }
                    (known.current, routed, known.sockets)
                }
            }
        };
        let attended = held.into_iter().map(|held| self.accept_on(held, settings, &current, &mut before));
        let sockets = attended.collect();
        // What is left of `before` are sockets that this listener has no more.
        Served { settings: settings.clone(), current, routed, sockets }
    }

    /// A route by which new sessions go.
    fn route(
        &mut self,
        settings: &listener::Settings,
        clusters: Vec<Arc<Cluster>>,
        before: Option<&Routed>,
    ) -> Routed {
        let key = (settings.name.clone(), settings.clusters.clone());
        let ledger = Arc::clone(self.ledgers.entry(key).or_default());
        let means = &self.means;
        let by_clusters = clusters.iter().map(|cluster| cluster.settings().wants_of_callers());
        let wanted = WantedOfCallers {
            to_dial: by_clusters.flatten().reduce(Needs::and),
            // Where each session leaves a record, its caller is in it.
            to_tell: settings.records.map(|_| Needs { unit: true, groups: false }),
        };
        let admission = Admission::new(&settings.admission, wanted, means.lookups.clone());
        let settings = session::Settings {
            listener: settings.name.clone(),
            max_connections: settings.max_connections,
            records: settings.records,
            accept_proxy: settings.accept_proxy,
            context: settings.context,
            admission: match before {
                Some(before) => admission.succeeding(&before.route),
                None => admission,
            },
        };
        let destination = |cluster: Arc<Cluster>| {
            let name = &cluster.settings().name;
            let tally = self.tallies.entry((settings.listener.clone(), name.clone()));
            let tally = tally.or_insert_with(|| Tally::of(&settings.listener, name));
            Destination::new(Arc::clone(&cluster), Arc::clone(tally))
        };
        let destinations = clusters.into_iter().map(destination).collect();
        let before = before.map(|before| &*before.route);
        let route = Route::new(settings, destinations, Arc::clone(&self.ids), ledger, before);
        let orphans = means.sessions.branch();
        for cluster in route.clusters() {
            means.admin.spawn(end_orphans(Arc::clone(&route), Arc::clone(cluster), orphans.watch()));
            let replaced = means.credentials.replaced();
            let ending = end_outdated(Arc::clone(&route), Arc::clone(cluster), replaced, orphans.watch());
            means.admin.spawn(ending);
        }
        Routed { route, orphans }
    }

    /// The socket with its accept loop; the one it had, if it was this listener's before.
    fn accept_on(
        &self,
        held: Held,
        settings: &listener::Settings,
        current: &Arc<Current>,
        before: &mut Vec<Attended>,
    ) -> Attended {
        // Of several clusters the first one's: what is remote on this side is the clients.
        let options =
            current.get().clusters().next().map_or(Options::NONE, |cluster| cluster.settings().socket);
        if let Err(error) = held.listening.set_options(&options) {
            tracing::warn!(listener = %settings.name, %error, "cannot set the socket's options");
        }
        let is_held = |attended: &Attended| Arc::ptr_eq(&attended.held.listening, &held.listening);
        if let Some(position) = before.iter().position(is_held) {
            let mut attended = before.remove(position);
            if attended.held.bind != held.bind {
                held.redress();
            }
            attended.held = held;
            return attended;
        }
        tracing::debug!(listener = %settings.name, address = %held.listening.local(), "listening");
        let accepting = self.means.sessions.branch();
        let service = Service {
            current: Arc::clone(current),
            workers: Arc::clone(&self.means.workers),
            access: Arc::clone(&self.means.access),
            drain: self.means.sessions.clone(),
        };
        let serving = listener::serve(Arc::clone(&held.listening), service, accepting.watch());
        accepting.spawn_on(&self.means.sessions, self.means.workers.listening().handle(), serving);
        Attended { held, accepting }
    }

    /// Lets the sessions of a listener that is gone end, for as long as a drain may take, and tells how many live: those by its
    /// last route and by earlier ones. If it comes back meanwhile, new sessions are another route's.
    fn drain(&mut self, listener: &ListenerName, config: &Config) -> usize {
        let is_its = |leaving: &&mut Leaving| leaving.routed.route.listener() == listener && !leaving.drains;
        let (mut routes, mut accepting, mut orphans) = (Vec::new(), Vec::new(), Vec::new());
        for leaving in self.leaving.iter_mut().filter(is_its) {
            leaving.drains = true;
            routes.push(Arc::clone(&leaving.routed.route));
            accepting.extend(leaving.accepting.iter().cloned());
            orphans.push(leaving.routed.orphans.clone());
        }
        let active = routes.iter().map(|route| route.active()).sum();
        let (window, watch, listener) =
            (config.shutdown.drain_timeout, self.means.admin.watch(), listener.clone());
        let parting = async move {
            // Whoever waited in the queue is served yet, and has to end with the others.
            for accepting in accepting {
                let _ = accepting.finished(clock::now() + ACCEPTING).await;
            }
            let Parted { quiet, forced } = part(&routes, window, None).await;
            tracing::info!(%listener, quiet, forced, "the removed listener has drained");
            orphans.iter().for_each(Branch::stop);
        };
        self.means.admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = parting => {}
            }
        });
        active
    }

    /// What looks after the sessions of a route that nobody comes by any more ends with the last of them.
    fn let_go(&self, routed: &Routed) {
        let (route, orphans) = (Arc::clone(&routed.route), routed.orphans.clone());
        self.means.admin.spawn(async move {
            let watch = orphans.watch();
            let ended = async {
                while route.active() > 0 {
                    alarm::sleep(STEP).await;
                }
            };
            tokio::select! {
                () = watch.begun() => {}
                () = ended => orphans.stop(),
            }
        });
    }

    /// A door of the admin's: as before, or opened anew.
    fn answer_at(
        &self,
        door: Door,
        before: Option<Attended>,
        held: Option<Held>,
        changes: &mut Vec<String>,
    ) -> Option<Attended> {
        let held = held?;
        if let Some(before) = before
            && Arc::ptr_eq(&before.held.listening, &held.listening)
        {
            return Some(before);
        }
        if self.config.is_some() {
            changes.push(format!("answering on {}", held.listening.local()));
        }
        tracing::info!(address = %held.listening.local(), "answering on");
        let accepting = self.means.admin.branch();
        let (subject, drain) = (Arc::clone(&self.means.subject), self.means.admin.clone());
        drain.spawn(admin::serve(
            Arc::clone(&held.listening),
            door,
            subject,
            drain.clone(),
            accepting.watch(),
        ));
        Some(Attended { held, accepting })
    }

    /// When it is worth a look whether the last session of what was taken out has ended; never, while nothing was.
    pub(super) fn next_farewell(&self) -> impl Future<Output = ()> + use<> {
        let is_any = !self.leaving.is_empty();
        async move { if is_any { alarm::sleep(STEP).await } else { pending().await } }
    }

    /// What was taken out and has no session any more is gone from here on, and so are its series.
    pub(super) fn say_farewell(&mut self) {
        if self.leaving.iter().any(Leaving::is_over)
            && let Some(config) = self.config.take()
        {
            self.show(&config);
            self.config = Some(config);
        }
    }

    /// What others see from now on.
    fn show(&mut self, config: &Config) {
        // Their last bytes are counted before they are out of sight.
        self.leaving.iter().for_each(|gone| gone.routed.route.publish_bytes());
        self.leaving.retain(|gone| !gone.is_over());
        let view = |served: &Served| ListenerView {
            route: Arc::clone(&served.routed.route),
            addresses: served.sockets.iter().map(|socket| socket.held.listening.local().clone()).collect(),
        };
        let admin = self.admin.as_ref().map(|admin| admin.held.listening.local());
        self.means.subject.scene.set(Scene {
            admin: match admin {
                Some(LocalAddress::Tcp(address)) => Some(*address),
                Some(LocalAddress::Unix(_)) | None => None,
            },
            listeners: self.listeners.iter().map(view).collect(),
            clusters: config
                .clusters
                .iter()
                .map(|cluster| Arc::clone(&self.clusters[&cluster.name].cluster))
                .collect(),
            ledgers: self.ledgers.values().cloned().collect(),
            leaving: self.leaving.iter().map(|gone| Arc::clone(&gone.routed.route)).collect(),
        });
    }
}

impl Leaving {
    fn is_over(&self) -> bool {
        self.routed.route.active() == 0 && self.accepting.iter().all(Branch::is_finished)
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        self.orphans.stop();
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.accepting.stop();
    }
}
