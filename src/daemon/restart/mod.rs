//! Takeover by a new process: a replacement started beside the old one, or a restart during which systemd keeps the
//! sockets.

mod replace;
mod reports;
pub(super) mod snapshot;
pub(super) mod store;

pub(super) use replace::Handover;
pub(super) use reports::{Predecessors, Reporter};
