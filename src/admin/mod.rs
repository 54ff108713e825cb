//! What the daemon answers about itself: HTTP on an address (read-only) and on the control socket.
//!
//! hyper parses; nothing here changes anything. Connections are few, bounded, and short of patience.

mod answer;
mod history;
mod page;
mod server;
pub mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::credentials::Credentials;
use crate::metrics::Exposition;
use crate::session::{Route, Totals};
use crate::sys::LocalAddress;

pub use history::History;
pub use server::{Door, serve};
pub use status::{Phase, PhaseCell};

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
    /// The default place: where it cannot be bound, the daemon says so and goes on without.
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
    /// Where the HTTP address is in fact.
    pub admin: Option<SocketAddr>,
    /// Each listener, in the file's order.
    pub listeners: Vec<ListenerView>,
    /// What is in use towards the upstreams.
    pub credentials: Credentials,
    /// The metrics.
    pub exposition: Exposition,
    /// The last minutes, for the page.
    pub history: History,
}

impl Subject {
    /// What all listeners have seen together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.listeners.iter().map(|listener| listener.route.totals()).fold(Totals::default(), Totals::and)
    }
}

/// A listener with the addresses it has in fact.
#[derive(Debug)]
pub struct ListenerView {
    /// Where its connections go.
    pub route: Arc<Route>,
    /// Where it accepts.
    pub addresses: Vec<LocalAddress>,
}
