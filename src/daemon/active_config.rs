//! The configuration in force, with everything that runs under it. A start is a change from nothing.
//!
//! A change is all or nothing: new sockets are bound first, and after that nothing can fail. Listeners and clusters that
//! mean the same as before are not touched ([`ListenerManager`], [`ClusterManager`]).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;

use crate::admin::{self, AdminTransport, View};
use crate::cluster::snapshot::Snapshot as ClusterSnapshot;
use crate::config::Config;
use crate::name::ClusterName;
use crate::session::SessionIds;
use crate::sys::{BindError, Inherited, ListeningSocket, LocalAddress, Role};

use super::clusters::ClusterManager;
use super::listeners::ListenerManager;
use super::restart::store;
use super::services::Services;
use super::sockets::{AvailableSockets, BoundSocket, BoundSockets, OpenSocket};

#[derive(Debug)]
pub(super) struct ActiveConfig {
    services: Services,
    rng: Rng,
    /// `None` before the first.
    config: Option<Config>,
    listeners: ListenerManager,
    clusters: ClusterManager,
    admin: Option<OpenSocket>,
    control: Option<OpenSocket>,
    /// The names under which systemd keeps our sockets.
    kept: BTreeSet<String>,
}

impl ActiveConfig {
    /// `restored`: what another process knew of its clusters.
    pub(super) fn new(
        services: Services,
        mut rng: Rng,
        restored: BTreeMap<ClusterName, ClusterSnapshot>,
    ) -> Self {
        let listeners = ListenerManager::new(Arc::new(SessionIds::new(rng.u64(..))));
        let clusters = ClusterManager::new(restored);
        let (config, admin, control, kept) = (None, None, None, BTreeSet::new());
        Self { services, rng, config, listeners, clusters, admin, control, kept }
    }

    pub(super) const fn services(&self) -> &Services {
        &self.services
    }

    /// The configuration in force.
    pub(super) const fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Puts the configuration in force. The answer: what has changed, in words.
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
        let (mut changes, is_start) = (Vec::new(), self.config.is_none());
        // The sockets that this change closes are ours alone; the others are announced again.
        self.set_handed_on(false);
        if self.config.as_ref().is_some_and(|before| before.keep != config.keep) {
            changes.push("discovery.keep changed".into());
        }
        self.services.discovery.keep.set(config.keep.clone());
        let Self { services, rng, listeners, clusters, .. } = self;
        clusters.apply(&config, services, rng, is_start, &mut changes);
        listeners.apply(&config, bound_sockets.listeners, clusters, services, is_start, &mut changes);
        clusters.remove_absent(&config, &mut changes);
        clusters.forget_restored();
        let (admin, control) = (self.admin.take(), self.control.take());
        self.admin = self.answer_at(AdminTransport::Address, admin, bound_sockets.admin, &mut changes);
        self.control = self.answer_at(AdminTransport::Control, control, bound_sockets.control, &mut changes);
        self.publish_view(&config);
        self.services.discovery.own.set(self.listeners.listener_edges(), self.clusters.fixed_endpoints());
        self.config = Some(config);
        Ok(changes)
    }

    /// Waits until the sockets that the last change gave up are closed: see [`ListenerManager::wait_closed`].
    pub(super) async fn wait_closed(&mut self, deadline: Instant) {
        self.listeners.wait_closed(deadline).await;
    }

    /// Stops accepting at once, and closes the listeners' sockets.
    pub(super) fn close_listeners(&mut self) {
        self.listeners.close();
    }

    /// Closes the admin's sockets.
    pub(super) fn close_admin(&mut self) {
        (self.admin, self.control) = (None, None);
    }

    /// Every listening socket with its role.
    pub(super) fn sockets(&self) -> Vec<(Arc<ListeningSocket>, Role)> {
        let listeners =
            self.listeners.sockets().map(|(name, bound)| (bound, Role::Listener(name.to_string())));
        let admin = self.admin.iter().chain(&self.control).map(|socket| (&socket.bound, Role::Admin));
        let all = listeners.chain(admin);
        all.map(|(bound, role)| (Arc::clone(&bound.listening), bound.role(role))).collect()
    }

    /// Gives systemd our sockets to keep, where it keeps any.
    pub(super) fn store_sockets(&mut self) {
        let sockets = self.sockets();
        store::store_sockets(&sockets, &mut self.kept);
    }

    /// Whether another process goes on listening on our sockets when we stop.
    pub(super) fn set_handed_on(&self, is_handed_on: bool) {
        self.sockets().iter().for_each(|(listening, _)| listening.set_handed_on(is_handed_on));
    }

    fn available(&self) -> AvailableSockets {
        let bound = |socket: &Option<OpenSocket>| socket.as_ref().map(|socket| socket.bound.clone());
        AvailableSockets {
            listeners: self.listeners.sockets().map(|(name, bound)| (name.clone(), bound.clone())).collect(),
            admin: bound(&self.admin),
            control: bound(&self.control),
        }
    }

    /// Serves the admin at that socket: as before, or from now on.
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
        let accepting = self.services.admin.child();
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

    /// Waits until it is worth a look whether a removed listener has ended its last session; for ever if there is none.
    pub(super) fn next_removal(&self) -> impl Future<Output = ()> + use<> {
        self.listeners.next_removal()
    }

    /// Forgets what has drained, and so its metrics.
    pub(super) fn remove_drained(&mut self) {
        if self.listeners.has_drained()
            && let Some(config) = self.config.take()
        {
            self.publish_view(&config);
            self.config = Some(config);
        }
    }

    /// Publishes what the admin and the metrics show from now on.
    fn publish_view(&mut self, config: &Config) {
        self.listeners.remove_drained();
        let admin = self.admin.as_ref().map(|admin| admin.bound.listening.local());
        let clusters = config.clusters.iter().map(|cluster| Arc::clone(self.clusters.get(&cluster.name)));
        self.services.admin_state.view.set(View {
            admin: match admin {
                Some(LocalAddress::Tcp(address)) => Some(*address),
                Some(LocalAddress::Unix(_)) | None => None,
            },
            listeners: self.listeners.views(),
            clusters: clusters.collect(),
            session_tables: self.listeners.session_tables(),
            draining: self.listeners.draining(),
        });
    }
}
