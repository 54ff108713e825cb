//! One process takes over from another: a replacement that is started beside it, or a restart over which systemd keeps the
//! sockets.

mod replace;
mod reports;
pub(super) mod snapshot;
pub(super) mod store;

pub(super) use replace::Handover;
pub(super) use reports::{Predecessors, Reporter};
