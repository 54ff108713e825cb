//! What a dial led to.

use crate::cluster::{Lease, Ready};

use super::server_first::ServerFirstUpgrade;

/// What a dial led to.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// A usable upstream, with its lease: keep that as long as the session lives.
    Ready(Ready, Lease),
    /// A server that has greeted; its upgrade needs the client's reply.
    ServerFirst(Box<ServerFirstUpgrade>),
}
