//! What the daemon answers about itself: HTTP on an address (read-only) and on the control socket.
//!
//! hyper parses. Only the control socket takes orders; those that concern the daemon as a whole are passed on to it.
//! Connections are few, bounded, and short of patience.

mod answer;
mod browser;
mod control;
mod history;
mod order;
mod page;
mod places;
mod server;
pub mod status;
mod told;
mod whose;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::clock;
use crate::credentials::Credentials;
use crate::drain::Drain;
use crate::log::Log;
use crate::metrics::Exposition;
use crate::session::{Ledger, Route, Totals};
use crate::sync::Mutex;
use crate::sys::LocalAddress;
use crate::upstream::Cluster;
use arc_swap::ArcSwap;

pub use control::{
    Command, Commands, DrainOrdered, EndpointOrdered, LogLevel, MistakeView, Reloaded, SessionOrdered,
    commands, listed,
};
pub use history::{History, Sample, Samples};
pub use server::{Door, serve};
pub use status::{Phase, PhaseCell};
pub use told::UNTOLD;
pub use whose::{ConfigId, MEANT};

/// Where the daemon answers questions about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP address, read-only; `None` is off.
    pub bind: Option<SocketAddr>,
    /// The control socket.
    pub control: Control,
}

/// The control socket's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// None.
    Off,
    /// Named in the file: it must be bound, or the start fails.
    At(PathBuf),
    /// The default place: where another daemon has it, there is one beside it (see [`ConfigId::controls_beside`]); where
    /// neither can be bound, the daemon says so and goes on without.
    Default(PathBuf),
}

/// What there is to be seen.
#[derive(Debug)]
pub struct Subject {
    /// How far the daemon's life has gone.
    pub phase: PhaseCell,
    /// When it began.
    pub started: Instant,
    /// The configuration's file.
    pub config: PathBuf,
    /// What tells it from other files.
    pub config_id: ConfigId,
    /// When the file was last read again, and whether it came into force.
    pub last_reload: Mutex<Option<(Instant, bool)>>,
    /// What a reload may change.
    pub scene: Scenery,
    /// Who does what is asked for on the control socket.
    pub commands: Commands,
    /// Whether another process is about to take over: what is ordered now it would not know.
    pub handing_over: AtomicBool,
    /// What is in use towards the upstreams.
    pub credentials: Credentials,
    /// What is written.
    pub log: Log,
    /// The metrics; [`Subject::metrics`] for whoever reads them.
    pub exposition: Exposition,
    /// The last minutes, for the page.
    pub history: History,
    /// What tracks the tasks of sessions, and of the sockets that they come by.
    pub sessions: Drain,
    /// What tracks all other tasks.
    pub upkeep: Drain,
}

impl Subject {
    /// The file was read again just now, and came into force or did not.
    pub fn reloaded(&self, is_in_force: bool) {
        let reloaded = (clock::now(), is_in_force);
        *self.last_reload.lock() = Some(reloaded);
    }

    /// The metrics, with the bytes of sessions that live and the states of clusters as they are now.
    #[must_use]
    pub fn metrics(&self) -> &Exposition {
        let scene = self.scene.get();
        scene.routes().for_each(|route| route.publish_bytes());
        scene.clusters.iter().for_each(|cluster| cluster.publish_state());
        self.exposition.set_tasks(self.sessions.len(), self.upkeep.len());
        &self.exposition
    }

    /// What all listeners have seen together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.scene.get().ledgers.iter().map(|ledger| ledger.totals()).fold(Totals::default(), Totals::and)
    }
}

/// What there is at the moment, as a whole.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// Where the HTTP address is in fact.
    pub admin: Option<SocketAddr>,
    /// Each listener, in the file's order.
    pub listeners: Vec<ListenerView>,
    /// Each cluster, in the file's order.
    pub clusters: Vec<Arc<Cluster>>,
    /// Routes that take no more connections, but have live sessions.
    pub leaving: Vec<Arc<Route>>,
    /// Of all listeners that there ever were.
    pub ledgers: Vec<Arc<Ledger>>,
}

/// The scene, changed as a whole.
#[derive(Debug, Default)]
pub struct Scenery(ArcSwap<Scene>);

impl Scenery {
    /// The scene now.
    #[must_use]
    pub fn get(&self) -> Arc<Scene> {
        self.0.load_full()
    }

    /// Another from now on.
    pub fn set(&self, scene: Scene) {
        self.0.store(Arc::new(scene));
    }
}

impl Scene {
    /// Every route that has sessions or may get some.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.listeners.iter().map(|listener| &listener.route).chain(&self.leaving)
    }
}

/// A listener with the addresses it has in fact.
#[derive(Debug, Clone)]
pub struct ListenerView {
    /// Where its connections go.
    pub route: Arc<Route>,
    /// Where it accepts.
    pub addresses: Vec<LocalAddress>,
}
