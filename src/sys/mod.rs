//! The kernel in safe, owned types: sockets, pipes, timers, bound addresses, watched folders.
//!
//! No decisions are made here: each type wraps one kernel interface and documents it. This is the only folder where
//! `unsafe` may appear.

#![allow(unsafe_code, reason = "this folder is where it lives; each use says why it is sound")]

mod bind;
mod confinement;
mod descriptors;
mod diagnostics;
mod folder;
mod inherited;
mod inotify;
mod journal;
mod launcher;
mod memory_file;
mod peer;
mod pipe;
mod replaced_file;
mod route;
mod socket;
mod socket_options;
mod successor;
mod supervisor;
mod timer;
mod transport;

pub use bind::{Bind, ListeningSocket, LocalAddress};
pub(crate) use bind::{BindError, SystemdBind, UnixBind};
pub(crate) use confinement::{Confinement, ConfinementError, Permissions, confine};
pub(crate) use descriptors::DescriptorReservation;
pub use diagnostics::socket_owner;
pub(crate) use diagnostics::{SocketOwner, checks_socket_owners};
pub(crate) use folder::Folder;
pub(crate) use inherited::{Inherited, InheritedError, Role};
pub(crate) use inotify::Inotify;
pub(crate) use journal::Journal;
pub(crate) use launcher::Launcher;
pub(crate) use memory_file::MemoryFile;
pub(crate) use peer::{PeerProcess, ProcessCgroup};
pub(crate) use pipe::Pipe;
pub(crate) use replaced_file::replace_file;
pub(crate) use route::{has_route, is_own};
pub(crate) use socket::{Accepted, Gone, Peer};
pub use socket::{ConnectTarget, Socket};
pub use socket_options::Options;
pub(crate) use successor::{Successor, SuccessorError, is_succeeding, report_ready};
pub(crate) use supervisor::{PASSED_MAX, Supervisor};
pub(crate) use timer::Timer;
pub use transport::Transport;

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current worker's reactor.
fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and names the same file description until it is dropped, and only the
    // `AsyncFd` that now owns it can drop it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
