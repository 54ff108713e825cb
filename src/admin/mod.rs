//! The admin interfaces: HTTP on an address (read-only) and on the control socket.
//!
//! hyper parses. Only the control socket accepts requests that change something; those that concern the daemon as a
//! whole are passed on to it. Connections are limited in number and by short timeouts.

mod browser;
mod config_id;
mod connections;
mod control;
mod history;
mod page;
mod reported;
mod reports;
mod request;
mod respond;
mod response;
mod server;
pub(crate) mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::clock;
use crate::cluster::Cluster;
use crate::credentials::Credentials;
use crate::drain::Drain;
use crate::log::Log;
use crate::metrics::Exposition;
use crate::session::{Counters, Route, SessionTable};
use crate::sync::Mutex;
use crate::sys::LocalAddress;
use arc_swap::ArcSwap;

pub(crate) use config_id::{ConfigId, MEANT};
pub(crate) use control::{
    Command, CommandSender, DrainCommandResult, EndpointCommandResult, MistakeView, ReloadResult,
    command_channel, format_list,
};
pub(crate) use history::{History, Sample, Samples};
pub(crate) use reported::UNTOLD;
pub(crate) use reports::ReportWriter;
pub(crate) use server::serve;
pub(crate) use status::{LogLevel, Phase, PhaseCell};

/// Which admin interfaces there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP address, read-only; `None` is off.
    pub bind: Option<SocketAddr>,
    pub control: Control,
}

/// Where the control socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    Off,
    /// A configured path: it must be bound, or the start fails.
    At(PathBuf),
    /// The default path: where another daemon has it, there is one beside it (see
    /// [`ConfigId::alternative_control_sockets`]); where neither can be bound, the daemon logs a warning and runs
    /// without.
    Default(PathBuf),
}

/// What a request comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdminTransport {
    Address,
    /// The control socket, which only its owner can connect to.
    Control,
}

/// What the admin interfaces show and control.
#[derive(Debug)]
pub(crate) struct AdminState {
    /// The phase of the daemon's life.
    pub phase: PhaseCell,
    /// When the daemon started.
    pub started: Instant,
    pub config: PathBuf,
    /// Distinguishes it from other files.
    pub config_id: ConfigId,
    /// When the file was last read again, and whether it came into force.
    pub last_reload: Mutex<Option<(Instant, bool)>>,
    /// The part that a reload replaces.
    pub view: ViewCell,
    /// Where control requests are sent.
    pub commands: CommandSender,
    /// Whether a successor is about to take over: it would not know of requests from now on.
    pub handing_over: AtomicBool,
    /// The credentials in use towards upstreams.
    pub credentials: Credentials,
    /// The log and its level.
    pub log: Log,
    /// Writes the large answers.
    pub reports: ReportWriter,
    /// What predecessors have counted; to be read through [`AdminState::metrics`].
    pub exposition: Exposition,
    /// The last minutes, for the page.
    pub history: History,
    /// Tracks the tasks of sessions, and of the sockets that they come by.
    pub sessions: Drain,
    /// Tracks all other tasks.
    pub upkeep: Drain,
}

impl AdminState {
    /// Records the result of a reload.
    pub(crate) fn record_reload(&self, is_in_force: bool) {
        let reloaded = (clock::now(), is_in_force);
        *self.last_reload.lock() = Some(reloaded);
    }

    /// The metrics, with the bytes of live sessions and the states of clusters brought up to date.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Exposition {
        let view = self.view.get();
        view.routes().for_each(|route| route.publish_bytes());
        view.clusters.iter().for_each(|cluster| cluster.publish_state());
        self.exposition.set_tasks(self.sessions.len(), self.upkeep.len());
        &self.exposition
    }

    /// The sums over all listeners.
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

/// The listeners, clusters and routes of the configuration in force.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The actual HTTP address.
    pub admin: Option<SocketAddr>,
    /// Each listener, in the file's order.
    pub listeners: Vec<ListenerView>,
    /// Each cluster, in the file's order.
    pub clusters: Vec<Arc<Cluster>>,
    /// Routes that take no more connections, but have live sessions.
    pub draining: Vec<Arc<Route>>,
    /// Those of all listeners there ever were.
    pub session_tables: Vec<Arc<SessionTable>>,
}

/// A view that is replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct ViewCell(ArcSwap<View>);

impl ViewCell {
    #[must_use]
    pub(crate) fn get(&self) -> Arc<View> {
        self.0.load_full()
    }

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

/// A listener with its actual addresses.
#[derive(Debug, Clone)]
pub(crate) struct ListenerView {
    pub route: Arc<Route>,
    /// The addresses that it accepts on, with the ports that the kernel chose.
    pub addresses: Vec<LocalAddress>,
}
