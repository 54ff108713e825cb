//! The configuration in force with everything that runs under it: sockets, clusters, routes and their tasks. A start is
//! a change from nothing.
//!
//! A change is all or nothing: new sockets are bound first, and after that nothing can fail. What has the same settings
//! as before is not touched: it keeps its socket, its sessions and the state of its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::admin::{self, AdminState, AdminTransport, ListenerView, View};
use crate::alarm;
use crate::clock;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::drain::{Branch, Drain};
use crate::listener::{self, AcceptContext, RouteCell};
use crate::name::{ClusterName, ListenerName};
use crate::policy::admission::Needs;
use crate::session::{
    self, AccessLog, Admission, CallerLookups, CallerRequirements, Destination, DestinationCounters, Route,
    SessionIds, SessionTable, end_outdated, evict_sessions,
};
use crate::sys::{BindError, Inherited, ListeningSocket, LocalAddress, Options, Role};
use crate::upstream::discovery::EntryPoint;
use crate::upstream::snapshot::Snapshot as ClusterSnapshot;
use crate::upstream::{Cluster, discovery, health_check, preconnect, recovery};
use crate::workers::Workers;

use super::draining::{DrainResult, drain_sessions};
use super::sockets::{AvailableSockets, BoundSocket, BoundSockets};
use super::store;

/// What the parts of a configuration are run with; it outlives every change.
#[derive(Debug)]
pub(super) struct Services {
    /// Kept until the last session has ended: dropping it ends the threads.
    pub(super) workers: Arc<Workers>,
    pub(super) access: Arc<AccessLog>,
    /// Accept loops and sessions.
    pub(super) sessions: Drain,
    /// The admin interfaces, and the tasks of clusters.
    pub(super) admin: Drain,
    pub(super) credentials: Credentials,
    pub(super) discovery: discovery::DiscoveryServices,
    pub(super) lookups: CallerLookups,
    pub(super) admin_state: Arc<AdminState>,
}

#[derive(Debug)]
pub(super) struct ActiveConfig {
    services: Services,
    rng: Rng,
    ids: Arc<SessionIds>,
    /// `None` before the first configuration.
    config: Option<Config>,
    listeners: Vec<ActiveListener>,
    clusters: BTreeMap<ClusterName, ActiveCluster>,
    admin: Option<OpenSocket>,
    control: Option<OpenSocket>,
    /// One for every pair of a listener and its clusters there ever was: its sums continue when the listener comes
    /// back.
    session_tables: BTreeMap<(ListenerName, Vec<ClusterName>), Arc<SessionTable>>,
    /// One for every pair of a listener and one of its clusters: its counters continue when it comes back.
    destination_counters: BTreeMap<(ListenerName, ClusterName), Arc<DestinationCounters>>,
    draining: Vec<DrainingRoute>,
    /// The accept loops of sockets that the last change dropped; each closes its socket when it ends.
    closing: Vec<Branch>,
    /// The names of the descriptors that systemd keeps for us.
    kept: BTreeSet<String>,
    /// What another process knew of the clusters, until the first configuration is applied.
    restored: BTreeMap<ClusterName, ClusterSnapshot>,
}

#[derive(Debug)]
struct ActiveListener {
    settings: listener::Settings,
    current: Arc<RouteCell>,
    route: ActiveRoute,
    sockets: Vec<OpenSocket>,
}

/// A route with the task that evicts sessions from lost endpoints.
#[derive(Debug)]
struct ActiveRoute {
    route: Arc<Route>,
    eviction: Branch,
}

/// A route that gets no new sessions, while sessions of it are live.
#[derive(Debug)]
struct DrainingRoute {
    route: ActiveRoute,
    /// Its accept loops, which still accept the connections in the queue.
    accepting: Vec<Branch>,
    /// Its listener was removed, so its sessions are to end.
    drains: bool,
}

#[derive(Debug)]
struct OpenSocket {
    bound: BoundSocket,
    accepting: Branch,
}

#[derive(Debug)]
struct ActiveCluster {
    cluster: Arc<Cluster>,
    tasks: Branch,
}

/// How often to check whether the last session of a route has ended.
const STEP: Duration = Duration::from_secs(1);
/// How long an accept loop may take to accept the connections in the queue.
const ACCEPTING: Duration = Duration::from_secs(2);

impl ActiveConfig {
    /// `restored`: what another process knew of its clusters.
    pub(super) fn new(
        services: Services,
        mut rng: Rng,
        restored: BTreeMap<ClusterName, ClusterSnapshot>,
    ) -> Self {
        let ids = Arc::new(SessionIds::new(rng.u64(..)));
        Self {
            services,
            rng,
            ids,
            config: None,
            listeners: Vec::new(),
            clusters: BTreeMap::new(),
            admin: None,
            control: None,
            session_tables: BTreeMap::new(),
            destination_counters: BTreeMap::new(),
            draining: Vec::new(),
            closing: Vec::new(),
            kept: BTreeSet::new(),
            restored,
        }
    }

    pub(super) const fn services(&self) -> &Services {
        &self.services
    }

    /// The configuration in force.
    pub(super) const fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Puts the configuration into force, and returns what has changed, in words.
    ///
    /// # Errors
    /// Addresses that cannot be bound; then everything is as before.
    pub(super) fn apply(
        &mut self,
        config: Config,
        inherited: &mut Inherited,
    ) -> Result<Vec<String>, Vec<BindError>> {
        let bound_sockets =
            BoundSockets::bind_all(&config, self.available(), inherited, self.services.workers.listening())?;
        let mut changes = Vec::new();
        let open = self.listeners.iter().flat_map(|listener| &listener.sockets);
        let open: Vec<_> = open.map(|socket| socket.accepting.clone()).collect();
        // Sockets that the change drops are ours alone; the others are marked again when systemd has stored them.
        self.set_handed_on(false);
        let before = std::mem::take(&mut self.listeners);
        self.change_clusters(&config, &mut changes);
        self.change_listeners(&config, before, bound_sockets.listeners, &mut changes);
        self.closing.extend(open.into_iter().filter(Branch::is_stopped));
        self.retire_clusters(&config, &mut changes);
        let (admin, control) = (self.admin.take(), self.control.take());
        self.admin = self.answer_at(AdminTransport::Address, admin, bound_sockets.admin, &mut changes);
        self.control = self.answer_at(AdminTransport::Control, control, bound_sockets.control, &mut changes);
        self.show(&config);
        self.services.discovery.own.set(self.entry_points(), self.fixed_endpoints());
        self.config = Some(config);
        self.restored.clear();
        Ok(changes)
    }

    /// Waits until the dropped sockets are closed, so that the next reload may bind their addresses. Accepting the
    /// connections in their queues takes as long, at most until the deadline. Cancel-safe.
    pub(super) async fn wait_closed(&mut self, deadline: Instant) {
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

    /// Stops answering, and closes the sockets.
    pub(super) fn close_admin(&mut self) {
        (self.admin, self.control) = (None, None);
    }

    /// Every listening socket with its role.
    pub(super) fn sockets(&self) -> Vec<(Arc<ListeningSocket>, Role)> {
        let listeners = self.listeners.iter().flat_map(|listener| {
            let role = || Role::Listener(listener.settings.name.to_string());
            listener.sockets.iter().map(move |socket| (&socket.bound, role()))
        });
        let admin_sockets =
            self.admin.iter().chain(&self.control).map(|admin_socket| (&admin_socket.bound, Role::Admin));
        listeners
            .chain(admin_sockets)
            .map(|(bound, role)| (Arc::clone(&bound.listening), bound.role(role)))
            .collect()
    }

    /// Has systemd keep our sockets, where it does so.
    pub(super) fn store_sockets(&mut self) {
        let sockets = self.sockets();
        store::store_sockets(&sockets, &mut self.kept);
    }

    /// Marks our sockets as still used by others when we stop.
    pub(super) fn set_handed_on(&self, is_handed_on: bool) {
        self.sockets().iter().for_each(|(listening, _)| listening.set_handed_on(is_handed_on));
    }

    /// The addresses of listeners, with each of their clusters.
    fn entry_points(&self) -> Vec<EntryPoint> {
        let entry_points = self.listeners.iter().flat_map(|listener| {
            let addresses =
                listener.sockets.iter().filter_map(|socket| match socket.bound.listening.local() {
                    LocalAddress::Tcp(address) => Some(*address),
                    LocalAddress::Unix(_) => None,
                });
            let is_only = !listener.settings.context;
            addresses.flat_map(move |address| {
                let clusters = listener.settings.clusters.iter();
                clusters.map(move |cluster| EntryPoint { address, cluster: cluster.clone(), is_only })
            })
        });
        entry_points.collect()
    }

    /// The endpoints of clusters without discovery.
    fn fixed_endpoints(&self) -> impl Iterator<Item = (ClusterName, Vec<SocketAddr>)> {
        let fixed = self.clusters.values().filter(|known| known.cluster.settings().source.is_none());
        fixed.map(|known| {
            let endpoints = known.cluster.endpoints();
            let addresses = endpoints.iter().flat_map(|endpoint| endpoint.settings().addresses.iter());
            (known.cluster.settings().name.clone(), addresses.collect())
        })
    }

    fn available(&self) -> AvailableSockets {
        let listeners = self.listeners.iter().flat_map(|listener| {
            listener.sockets.iter().map(|socket| (listener.settings.name.clone(), socket.bound.clone()))
        });
        let bound = |open_socket: &Option<OpenSocket>| {
            open_socket.as_ref().map(|open_socket| open_socket.bound.clone())
        };
        AvailableSockets {
            listeners: listeners.collect(),
            admin: bound(&self.admin),
            control: bound(&self.control),
        }
    }

    fn change_clusters(&mut self, config: &Config, changes: &mut Vec<String>) {
        let is_start = self.config.is_none();
        for settings in &config.clusters {
            let name = &settings.name;
            let cluster = match self.clusters.get(name) {
                Some(active_cluster) if active_cluster.cluster.settings().digest == settings.digest => {
                    continue;
                }
                Some(active_cluster) => {
                    changes.push(format!("cluster {name} changed"));
                    active_cluster.tasks.stop();
                    active_cluster.cluster.with_settings(settings.clone())
                }
                None => {
                    if !is_start {
                        changes.push(format!("cluster {name} added"));
                    }
                    let restored = self.restored.remove(name).unwrap_or_default();
                    Cluster::resume(settings.clone(), self.rng.fork(), restored)
                }
            };
            if let Some(tls) = &cluster.settings().tls {
                self.services.credentials.follow(name, tls);
            }
            let tasks = self.services.admin.branch();
            let probing = health_check::run(Arc::clone(&cluster), self.rng.fork(), tasks.watch());
            self.services.admin.spawn(probing);
            self.services.admin.spawn(recovery::run(Arc::clone(&cluster), tasks.watch()));
            let draining = self.services.sessions.watch();
            let replaced = self.services.credentials.replacements();
            let dialling =
                preconnect::run(Arc::clone(&cluster), self.rng.fork(), tasks.watch(), draining, replaced);
            self.services.admin.spawn(dialling);
            // On this runtime and not on a worker: lookups have timers that would cost each turn of a worker a reading
            // of the clock.
            let services = self.services.discovery.clone();
            let finding = discovery::follow(Arc::clone(&cluster), services, self.rng.fork(), tasks.watch());
            self.services.admin.spawn(finding);
            let active_cluster = ActiveCluster { cluster, tasks };
            self.clusters.insert(name.clone(), active_cluster);
        }
    }

    /// Removes clusters that the file no longer has. Their live sessions end as the cluster's `on_removed` says.
    fn retire_clusters(&mut self, config: &Config, changes: &mut Vec<String>) {
        let is_there = |name: &ClusterName| config.clusters.iter().any(|cluster| cluster.name == *name);
        self.clusters.retain(|name, active_cluster| {
            let stays = is_there(name);
            if !stays {
                changes.push(format!("cluster {name} removed"));
                active_cluster.tasks.stop();
                active_cluster.cluster.set_endpoints(Vec::new());
            }
            stays
        });
    }

    fn change_listeners(
        &mut self,
        config: &Config,
        mut before: Vec<ActiveListener>,
        sockets: Vec<Vec<BoundSocket>>,
        changes: &mut Vec<String>,
    ) {
        let is_start = self.config.is_none();
        for (settings, bound) in config.listeners.iter().zip(sockets) {
            let known =
                before.iter().position(|active_listener| active_listener.settings.name == settings.name);
            let known = known.map(|position| before.remove(position));
            match &known {
                Some(active_listener) if active_listener.settings != *settings => {
                    changes.push(format!("listener {} changed", settings.name));
                }
                None if !is_start => {
                    let addresses: Vec<_> =
                        bound.iter().map(|bound| bound.listening.local().to_string()).collect();
                    changes.push(format!("listener {} added on {}", settings.name, addresses.join(", ")));
                }
                Some(_) | None => {}
            }
            let active_listener = self.serve(settings, bound, known);
            self.listeners.push(active_listener);
        }
        for ActiveListener { settings, route: active_route, sockets, .. } in before {
            let accepting = sockets.iter().map(|socket| socket.accepting.clone()).collect();
            self.draining.push(DrainingRoute { route: active_route, accepting, drains: false });
            let active = self.drain(&settings.name, config);
            changes.push(format!("listener {} removed; its {active} session(s) drain", settings.name));
        }
    }

    /// The listener on those sockets; keeps what has not changed of the one before.
    fn serve(
        &mut self,
        settings: &listener::Settings,
        bound: Vec<BoundSocket>,
        known: Option<ActiveListener>,
    ) -> ActiveListener {
        let named = |name| Arc::clone(&self.clusters[name].cluster);
        let clusters: Vec<_> = settings.clusters.iter().map(named).collect();
        let (current, active_route, mut before) = match known {
            None => {
                let active_route = self.route(settings, clusters, None);
                (Arc::new(RouteCell::new(Arc::clone(&active_route.route))), active_route, Vec::new())
            }
            Some(known) => {
                let before = listener::Settings { binds: settings.binds.clone(), ..known.settings };
                let are_same =
                    known.route.route.clusters().zip(&clusters).all(|(before, now)| Arc::ptr_eq(before, now));
                if before == *settings && are_same {
                    (known.current, known.route, known.sockets)
                } else {
                    let active_route = self.route(settings, clusters, Some(&known.route));
                    known.current.set(Arc::clone(&active_route.route));
                    // With the same clusters, the new route takes over the sessions; else the old route goes on with
                    // them.
                    if before.clusters != settings.clusters {
                        self.let_go(&known.route);
                        self.draining.push(DrainingRoute {
                            route: known.route,
                            accepting: Vec::new(),
                            drains: false,
                        });
                    }
                    (known.current, active_route, known.sockets)
                }
            }
        };
        let open_socket =
            bound.into_iter().map(|bound| self.accept_on(bound, settings, &current, &mut before));
        let sockets = open_socket.collect();
        // What is left in `before` are dropped sockets.
        ActiveListener { settings: settings.clone(), current, route: active_route, sockets }
    }

    /// A route for new sessions.
    fn route(
        &mut self,
        settings: &listener::Settings,
        clusters: Vec<Arc<Cluster>>,
        before: Option<&ActiveRoute>,
    ) -> ActiveRoute {
        let key = (settings.name.clone(), settings.clusters.clone());
        let session_table = Arc::clone(self.session_tables.entry(key).or_default());
        let services = &self.services;
        let by_clusters = clusters.iter().map(|cluster| cluster.settings().wants_of_callers());
        let wanted = CallerRequirements {
            to_dial: by_clusters.flatten().reduce(Needs::and),
            // The caller is part of each session's access record.
            to_tell: settings.records.map(|_| Needs { unit: true, groups: false }),
        };
        let admission = Admission::new(&settings.admission, wanted, services.lookups.clone());
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
            let counters = self.destination_counters.entry((settings.listener.clone(), name.clone()));
            let counters = counters.or_insert_with(|| DestinationCounters::of(&settings.listener, name));
            Destination::new(Arc::clone(&cluster), Arc::clone(counters))
        };
        let destinations = clusters.into_iter().map(destination).collect();
        let before = before.map(|before| &*before.route);
        let route = Route::new(settings, destinations, Arc::clone(&self.ids), session_table, before);
        let eviction = services.sessions.branch();
        for cluster in route.clusters() {
            services.admin.spawn(evict_sessions(Arc::clone(&route), Arc::clone(cluster), eviction.watch()));
            let replaced = services.credentials.replacements();
            let ending = end_outdated(Arc::clone(&route), Arc::clone(cluster), replaced, eviction.watch());
            services.admin.spawn(ending);
        }
        ActiveRoute { route, eviction }
    }

    /// The socket with its accept loop; keeps the loop that this listener had on it.
    fn accept_on(
        &self,
        bound: BoundSocket,
        settings: &listener::Settings,
        current: &Arc<RouteCell>,
        before: &mut Vec<OpenSocket>,
    ) -> OpenSocket {
        // With several clusters, the first one's options are used.
        let options =
            current.get().clusters().next().map_or(Options::NONE, |cluster| cluster.settings().socket);
        if let Err(error) = bound.listening.set_options(&options) {
            tracing::warn!(listener = %settings.name, %error, "cannot set the socket's options");
        }
        let is_held = |open_socket: &OpenSocket| Arc::ptr_eq(&open_socket.bound.listening, &bound.listening);
        if let Some(position) = before.iter().position(is_held) {
            let mut open_socket = before.remove(position);
            if open_socket.bound.bind != bound.bind {
                bound.apply_permissions();
            }
            open_socket.bound = bound;
            return open_socket;
        }
        tracing::debug!(listener = %settings.name, address = %bound.listening.local(), "listening");
        let accepting = self.services.sessions.branch();
        let service = AcceptContext {
            current: Arc::clone(current),
            workers: Arc::clone(&self.services.workers),
            access: Arc::clone(&self.services.access),
            drain: self.services.sessions.clone(),
        };
        let serving = listener::serve(Arc::clone(&bound.listening), service, accepting.watch());
        accepting.spawn_on(&self.services.sessions, self.services.workers.listening().handle(), serving);
        OpenSocket { bound, accepting }
    }

    /// Drains a removed listener within the drain timeout; returns how many sessions are live, by its last route and by
    /// earlier ones. If the listener comes back meanwhile, new sessions belong to another route.
    fn drain(&mut self, listener: &ListenerName, config: &Config) -> usize {
        let is_its =
            |draining: &&mut DrainingRoute| draining.route.route.listener() == listener && !draining.drains;
        let (mut routes, mut accepting, mut eviction) = (Vec::new(), Vec::new(), Vec::new());
        for draining in self.draining.iter_mut().filter(is_its) {
            draining.drains = true;
            routes.push(Arc::clone(&draining.route.route));
            accepting.extend(draining.accepting.iter().cloned());
            eviction.push(draining.route.eviction.clone());
        }
        let active = routes.iter().map(|route| route.active()).sum();
        let (window, watch, listener) =
            (config.shutdown.drain_timeout, self.services.admin.watch(), listener.clone());
        let parting = async move {
            // Connections in the queue are still accepted, and have to end with the others.
            for accepting in accepting {
                let _ = accepting.finished(clock::now() + ACCEPTING).await;
            }
            let DrainResult { quiet, forced } = drain_sessions(&routes, window, None).await;
            tracing::info!(%listener, quiet, forced, "the removed listener has drained");
            eviction.iter().for_each(Branch::stop);
        };
        self.services.admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = parting => {}
            }
        });
        active
    }

    /// Ends the eviction task of a draining route with its last session.
    fn let_go(&self, active_route: &ActiveRoute) {
        let (route, eviction) = (Arc::clone(&active_route.route), active_route.eviction.clone());
        self.services.admin.spawn(async move {
            let watch = eviction.watch();
            let ended = async {
                while route.active() > 0 {
                    alarm::sleep(STEP).await;
                }
            };
            tokio::select! {
                () = watch.begun() => {}
                () = ended => eviction.stop(),
            }
        });
    }

    /// Keeps an admin socket that is open already, or starts answering on it.
    fn answer_at(
        &self,
        admin_socket: AdminTransport,
        before: Option<OpenSocket>,
        bound: Option<BoundSocket>,
        changes: &mut Vec<String>,
    ) -> Option<OpenSocket> {
        let bound = bound?;
        if let Some(before) = before
            && Arc::ptr_eq(&before.bound.listening, &bound.listening)
        {
            return Some(before);
        }
        if self.config.is_some() {
            changes.push(format!("answering on {}", bound.listening.local()));
        }
        tracing::info!(address = %bound.listening.local(), "answering on");
        let accepting = self.services.admin.branch();
        let (admin_state, drain) = (Arc::clone(&self.services.admin_state), self.services.admin.clone());
        drain.spawn(admin::serve(
            Arc::clone(&bound.listening),
            admin_socket,
            admin_state,
            drain.clone(),
            accepting.watch(),
        ));
        Some(OpenSocket { bound, accepting })
    }

    /// When to check next whether a draining route has ended; never, while there is none.
    pub(super) fn next_removal(&self) -> impl Future<Output = ()> + use<> {
        let is_any = !self.draining.is_empty();
        async move { if is_any { alarm::sleep(STEP).await } else { pending().await } }
    }

    /// Removes draining routes without sessions from the view, and so their series.
    pub(super) fn remove_drained(&mut self) {
        if self.draining.iter().any(DrainingRoute::is_over)
            && let Some(config) = self.config.take()
        {
            self.show(&config);
            self.config = Some(config);
        }
    }

    /// Replaces what the admin interfaces show.
    fn show(&mut self, config: &Config) {
        // Their last bytes are counted before they are removed.
        self.draining.iter().for_each(|gone| gone.route.route.publish_bytes());
        self.draining.retain(|gone| !gone.is_over());
        let view = |active_listener: &ActiveListener| ListenerView {
            route: Arc::clone(&active_listener.route.route),
            addresses: active_listener
                .sockets
                .iter()
                .map(|socket| socket.bound.listening.local().clone())
                .collect(),
        };
        let admin = self.admin.as_ref().map(|admin| admin.bound.listening.local());
        self.services.admin_state.view.set(View {
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
            session_tables: self.session_tables.values().cloned().collect(),
            draining: self.draining.iter().map(|gone| Arc::clone(&gone.route.route)).collect(),
        });
    }
}

impl DrainingRoute {
    fn is_over(&self) -> bool {
        self.route.route.active() == 0 && self.accepting.iter().all(Branch::is_finished)
    }
}

impl Drop for ActiveRoute {
    fn drop(&mut self) {
        self.eviction.stop();
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.accepting.stop();
    }
}
