//! What the daemon answers about itself: HTTP on an address (read-only) and on the control socket.
//!
//! hyper parses. Only the control socket takes orders; those that concern the daemon as a whole are passed on to it.
//! Connections are few, bounded, and short of patience.

mod browser;
mod config_id;
mod connections;
mod control;
mod history;
mod page;
mod reported;
mod request;
mod respond;
mod server;
pub(crate) mod status;

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
use crate::session::{Counters, Route, SessionTable};
use crate::sync::Mutex;
use crate::sys::LocalAddress;
use crate::upstream::Cluster;
use arc_swap::ArcSwap;

pub(crate) use config_id::{ConfigId, MEANT};
pub(crate) use control::{
    Command, CommandSender, DrainCommandResult, EndpointCommandResult, LogLevel, MistakeView, ReloadResult,
    command_channel, format_list,
};
pub(crate) use history::{History, Sample, Samples};
pub(crate) use reported::UNTOLD;
pub(crate) use server::{AdminTransport, serve};
pub(crate) use status::{Phase, PhaseCell};

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
    /// The default place: where another daemon has it, there is one beside it (see [`ConfigId::alternative_control_sockets`]); where
    /// neither can be bound, the daemon says so and goes on without.
    Default(PathBuf),
}

/// What there is to be seen.
#[derive(Debug)]
pub(crate) struct AdminState {
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
    pub view: ViewCell,
    /// Who does what is asked for on the control socket.
    pub commands: CommandSender,
    /// Whether another process is about to take over: what is ordered now it would not know.
    pub handing_over: AtomicBool,
    /// What is in use towards the upstreams.
    pub credentials: Credentials,
    /// What is written.
    pub log: Log,
    /// The metrics; [`AdminState::metrics`] for whoever reads them.
    pub exposition: Exposition,
    /// The last minutes, for the page.
    pub history: History,
    /// What tracks the tasks of sessions, and of the sockets that they come by.
    pub sessions: Drain,
    /// What tracks all other tasks.
    pub upkeep: Drain,
}

impl AdminState {
    /// The file was read again just now, and came into force or did not.
    pub(crate) fn record_reload(&self, is_in_force: bool) {
        let reloaded = (clock::now(), is_in_force);
        *self.last_reload.lock() = Some(reloaded);
    }

    /// The metrics, with the bytes of sessions that live and the states of clusters as they are now.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Exposition {
        let view = self.view.get();
        view.routes().for_each(|route| route.publish_bytes());
        view.clusters.iter().for_each(|cluster| cluster.publish_state());
        self.exposition.set_tasks(self.sessions.len(), self.upkeep.len());
        &self.exposition
    }

    /// What all listeners have seen together.
    #[must_use]
    pub(crate) fn counters(&self) -> Counters {
        self.view
            .get()
            .session_tables
            .iter()
            .map(|ledger| ledger.counters())
            .fold(Counters::default(), Counters::and)
    }
}

/// What there is at the moment, as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Where the HTTP address is in fact.
    pub admin: Option<SocketAddr>,
    /// Each listener, in the file's order.
    pub listeners: Vec<ListenerView>,
    /// Each cluster, in the file's order.
    pub clusters: Vec<Arc<Cluster>>,
    /// Routes that take no more connections, but have live sessions.
    pub draining: Vec<Arc<Route>>,
    /// Of all listeners that there ever were.
    pub session_tables: Vec<Arc<SessionTable>>,
}

/// The scene, changed as a whole.
#[derive(Debug, Default)]
pub(crate) struct ViewCell(ArcSwap<View>);

impl ViewCell {
    #[must_use]
    pub(crate) fn get(&self) -> Arc<View> {
        self.0.load_full()
    }

    /// Another from now on.
    pub(crate) fn set(&self, view: View) {
        self.0.store(Arc::new(view));
    }
}

impl View {
    /// Every route that has sessions or may get some.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.listeners.iter().map(|listener| &listener.route).chain(&self.draining)
    }
}

/// A listener with the addresses it has in fact.
#[derive(Debug, Clone)]
pub(crate) struct ListenerView {
    /// Where its connections go.
    pub route: Arc<Route>,
    /// Where it accepts.
    pub addresses: Vec<LocalAddress>,
}
