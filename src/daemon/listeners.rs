//! The listeners in force: their sockets with accept loops, their routes, and the routes whose last sessions drain.
//!
//! A listener whose settings are unchanged keeps its sockets, its route and its sessions.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::ListenerView;
use crate::alarm;
use crate::clock;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::discovery::ListenerEdge;
use crate::drain::ChildDrain;
use crate::listener::{self, AcceptContext, RouteCell};
use crate::name::{ClusterName, ListenerName};
use crate::policy::admission::Needs;
use crate::session::{
    self, Admission, CallerRequirements, Destination, DestinationCounters, Route, SessionIds, SessionTable,
    evict_sessions,
};
use crate::sys::{LocalAddress, Options};

use super::clusters::ClusterManager;
use super::draining::{DrainResult, drain_sessions};
use super::services::Services;
use super::sockets::{BoundSocket, OpenSocket};

/// All listeners of the configuration in force.
#[derive(Debug)]
pub(super) struct ListenerManager {
    active: Vec<ActiveListener>,
    ids: Arc<SessionIds>,
    /// By listener and its clusters, for the life of the process: the sums continue when a listener is added again.
    session_tables: BTreeMap<(ListenerName, Vec<ClusterName>), Arc<SessionTable>>,
    /// By listener and cluster, for the life of the process.
    destination_counters: BTreeMap<(ListenerName, ClusterName), Arc<DestinationCounters>>,
    draining: Vec<DrainingRoute>,
    /// Accept loops of sockets that are being closed after a change.
    closing: Vec<ChildDrain>,
}

/// A listener that accepts.
#[derive(Debug)]
struct ActiveListener {
    settings: listener::Settings,
    current: Arc<RouteCell>,
    route: ActiveRoute,
    sockets: Vec<OpenSocket>,
}

/// A route with the tasks that evict its sessions.
#[derive(Debug)]
struct ActiveRoute {
    route: Arc<Route>,
    eviction: ChildDrain,
}

/// A route that gets no new sessions and still has live ones.
#[derive(Debug)]
struct DrainingRoute {
    route: ActiveRoute,
    /// Its accept loops, which still accept the connections that waited already.
    accepting: Vec<ChildDrain>,
    /// Whether its sessions drain because its listener was removed.
    drains: bool,
}

/// How often a draining route is checked for its last session's end.
const STEP: Duration = Duration::from_secs(1);
/// How long an accept loop may take to accept the connections that waited when it was stopped.
const ACCEPTING: Duration = Duration::from_secs(2);

impl ListenerManager {
    /// Has no listeners yet.
    pub(super) const fn new(ids: Arc<SessionIds>) -> Self {
        Self {
            active: Vec::new(),
            ids,
            session_tables: BTreeMap::new(),
            destination_counters: BTreeMap::new(),
            draining: Vec::new(),
            closing: Vec::new(),
        }
    }

    /// Puts the configuration's listeners in force on these sockets, one list for each. Sessions of listeners that were
    /// removed drain.
    pub(super) fn apply(
        &mut self,
        config: &Config,
        sockets: Vec<Vec<BoundSocket>>,
        clusters: &ClusterManager,
        services: &Services,
        is_start: bool,
        changes: &mut Vec<String>,
    ) {
        let open = self.active.iter().flat_map(|listener| &listener.sockets);
        let open: Vec<_> = open.map(|socket| socket.accepting.clone()).collect();
        let before = std::mem::take(&mut self.active).into_iter();
        let mut before: BTreeMap<_, _> = before.map(|known| (known.settings.name.clone(), known)).collect();
        for (settings, bound) in config.listeners.iter().zip(sockets) {
            let known = before.remove(&settings.name);
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
            let active_listener = self.serve(settings, bound, known, clusters, services);
            self.active.push(active_listener);
        }
        for ActiveListener { settings, route: active_route, sockets, .. } in before.into_values() {
            let accepting = sockets.iter().map(|socket| socket.accepting.clone()).collect();
            self.draining.push(DrainingRoute { route: active_route, accepting, drains: false });
            let active = self.drain(&settings.name, config, services);
            changes.push(format!("listener {} removed; its {active} session(s) drain", settings.name));
        }
        self.closing.extend(open.into_iter().filter(ChildDrain::is_stopped));
    }

    /// Waits until the sockets that were given up are closed, so that their addresses are free, for the next reload for
    /// example. It takes as long as accepting the connections that wait already, at most until the deadline.
    /// Cancel-safe.
    pub(super) async fn wait_closed(&mut self, deadline: Instant) {
        while let Some(accepting) = self.closing.last() {
            if accepting.finished(deadline).await.is_err() {
                return;
            }
            self.closing.pop();
        }
    }

    /// Stops accepting at once, and closes the sockets.
    pub(super) fn close(&mut self) {
        for listener in &mut self.active {
            listener.sockets.clear();
        }
    }

    /// Every listening socket with its listener.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (&ListenerName, &BoundSocket)> {
        self.active.iter().flat_map(|listener| {
            listener.sockets.iter().map(|socket| (&listener.settings.name, &socket.bound))
        })
    }

    /// The TCP addresses of listeners, each with every cluster that they lead to.
    pub(super) fn listener_edges(&self) -> Vec<ListenerEdge> {
        let edges = self.active.iter().flat_map(|listener| {
            let addresses =
                listener.sockets.iter().filter_map(|socket| match socket.bound.listening.local() {
                    LocalAddress::Tcp(address) => Some(*address),
                    LocalAddress::Unix(_) => None,
                });
            let is_only = !listener.settings.context;
            addresses.flat_map(move |address| {
                let clusters = listener.settings.clusters.iter();
                clusters.map(move |cluster| ListenerEdge { address, cluster: cluster.clone(), is_only })
            })
        });
        edges.collect()
    }

    /// Makes the listener on those sockets. Its previous route and sockets go on as far as they are unchanged.
    fn serve(
        &mut self,
        settings: &listener::Settings,
        bound: Vec<BoundSocket>,
        known: Option<ActiveListener>,
        clusters: &ClusterManager,
        services: &Services,
    ) -> ActiveListener {
        let named = |name| Arc::clone(clusters.get(name));
        let clusters: Vec<_> = settings.clusters.iter().map(named).collect();
        let (current, active_route, mut before) = match known {
            None => {
                let active_route = self.route(settings, clusters, None, services);
                (Arc::new(RouteCell::new(Arc::clone(&active_route.route))), active_route, Vec::new())
            }
            Some(known) => {
                let before = listener::Settings { binds: settings.binds.clone(), ..known.settings };
                let are_same =
                    known.route.route.clusters().zip(&clusters).all(|(before, now)| Arc::ptr_eq(before, now));
                if before == *settings && are_same {
                    (known.current, known.route, known.sockets)
                } else {
                    let active_route = self.route(settings, clusters, Some(&known.route), services);
                    known.current.set(Arc::clone(&active_route.route));
                    // With the same clusters, the new route takes over the old one's sessions; otherwise the old route
                    // keeps them until they end.
                    if before.clusters != settings.clusters {
                        // Dropped with its last session, and its evictions with it (`remove_drained`).
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
            bound.into_iter().map(|bound| accept_on(bound, settings, &current, &mut before, services));
        let sockets = open_socket.collect();
        // Sockets left in `before` are no longer this listener's; they are dropped here.
        ActiveListener { settings: settings.clone(), current, route: active_route, sockets }
    }

    /// Makes a route for new sessions.
    fn route(
        &mut self,
        settings: &listener::Settings,
        clusters: Vec<Arc<Cluster>>,
        before: Option<&ActiveRoute>,
        services: &Services,
    ) -> ActiveRoute {
        let key = (settings.name.clone(), settings.clusters.clone());
        let session_table = Arc::clone(self.session_tables.entry(key).or_default());
        let by_clusters = clusters.iter().map(|cluster| cluster.settings().wants_of_callers());
        let wanted = CallerRequirements {
            to_dial: by_clusters.flatten().reduce(Needs::and),
            // Access log records name the session's caller.
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
                Some(before) => admission.succeeding(&before.route.settings().admission),
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
        let eviction = services.sessions.child();
        for cluster in route.clusters() {
            let replaced = services.credentials.replacements();
            let evicting =
                evict_sessions(Arc::clone(&route), Arc::clone(cluster), replaced, eviction.watch());
            services.admin.spawn(evicting);
        }
        ActiveRoute { route, eviction }
    }

    /// Drains the sessions of a removed listener within `drain_timeout`, those of its last route and of earlier ones.
    /// Returns how many are active. If the listener is added again meanwhile, new sessions belong to another route.
    fn drain(&mut self, listener: &ListenerName, config: &Config, services: &Services) -> usize {
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
            (config.shutdown.drain_timeout, services.admin.watch(), listener.clone());
        let parting = async move {
            // Connections that waited in the accept queue still become sessions, which must drain with the others.
            for accepting in accepting {
                let _ = accepting.finished(clock::now() + ACCEPTING).await;
            }
            let DrainResult { quiet, forced } = drain_sessions(&routes, window, None).await;
            tracing::info!(%listener, quiet, forced, "the removed listener has drained");
            eviction.iter().for_each(ChildDrain::stop);
        };
        services.admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = parting => {}
            }
        });
        active
    }

    /// Completes when draining routes should be checked again; never, if there are none.
    pub(super) fn next_removal(&self) -> impl Future<Output = ()> + use<> {
        let is_any = !self.draining.is_empty();
        async move { if is_any { alarm::sleep(STEP).await } else { pending().await } }
    }

    /// Whether the last session of a draining route has ended.
    pub(super) fn has_drained(&self) -> bool {
        self.draining.iter().any(DrainingRoute::is_over)
    }

    /// Removes routes whose last session has ended, after their last bytes were counted.
    pub(super) fn remove_drained(&mut self) {
        self.draining.iter().for_each(|draining| draining.route.route.publish_bytes());
        self.draining.retain(|draining| !draining.is_over());
    }

    /// The listeners as the admin interface shows them.
    pub(super) fn views(&self) -> Vec<ListenerView> {
        let view = |listener: &ActiveListener| ListenerView {
            route: Arc::clone(&listener.route.route),
            addresses: listener.sockets.iter().map(|socket| socket.bound.listening.local().clone()).collect(),
        };
        self.active.iter().map(view).collect()
    }

    /// The session tables of all listeners since the start.
    pub(super) fn session_tables(&self) -> Vec<Arc<SessionTable>> {
        self.session_tables.values().cloned().collect()
    }

    /// Routes that take no new sessions and still have some.
    pub(super) fn draining(&self) -> Vec<Arc<Route>> {
        self.draining.iter().map(|draining| Arc::clone(&draining.route.route)).collect()
    }
}

/// Returns the socket with its accept loop; the loop it had, if the socket was this listener's before.
fn accept_on(
    bound: BoundSocket,
    settings: &listener::Settings,
    current: &Arc<RouteCell>,
    before: &mut Vec<OpenSocket>,
    services: &Services,
) -> OpenSocket {
    // Of several clusters the first one's options count: the peers on this side are the clients of all of them.
    let options = current.get().clusters().next().map_or(Options::NONE, |cluster| cluster.settings().socket);
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
    let accepting = services.sessions.child();
    let service = AcceptContext {
        current: Arc::clone(current),
        workers: Arc::clone(&services.workers),
        access: Arc::clone(&services.access),
        drain: services.sessions.clone(),
    };
    let serving = listener::serve(Arc::clone(&bound.listening), service, accepting.watch());
    accepting.spawn_on(&services.sessions, services.workers.listening().handle(), serving);
    OpenSocket { bound, accepting }
}

impl DrainingRoute {
    fn is_over(&self) -> bool {
        self.route.route.active() == 0 && self.accepting.iter().all(ChildDrain::is_finished)
    }
}

impl Drop for ActiveRoute {
    fn drop(&mut self) {
        self.eviction.stop();
    }
}
