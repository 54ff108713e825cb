//! Handing over to another process of the same program: it gets our listening sockets, is ready before we stop accepting,
//! and takes the queue with it. If it does not become ready, nothing has happened.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::metrics;
use crate::sys::{Launcher, Successor, SuccessorError};

use super::estate::Estate;

/// How long a successor may take: it reads files, and looks users up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A successor on its way.
pub(super) struct Handover {
    id: u32,
    launcher: Arc<Launcher>,
    waiting: JoinHandle<Result<(), SuccessorError>>,
}

impl Handover {
    /// Starts it. `None`, and said why, when that is not possible.
    pub(super) fn begin(estate: &Estate, launcher: &Arc<Launcher>) -> Option<Self> {
        let sockets = estate.sockets();
        let passed: Vec<_> =
            sockets.iter().map(|(listening, role)| (listening.as_fd(), role.to_descriptor())).collect();
        match Successor::start(launcher, &passed) {
            Ok(successor) => {
                let id = successor.id();
                tracing::info!(successor = id, "a successor is starting");
                let waiting = estate.means().admin.spawn_blocking(move || successor.wait(PATIENCE));
                Some(Self { id, launcher: Arc::clone(launcher), waiting })
            }
            Err(error) => {
                failed(&error);
                None
            }
        }
    }

    /// Waits until it is ready; its process id is the answer. `None`: it never will be, and it is said why.
    pub(super) async fn done(&mut self) -> Option<u32> {
        match (&mut self.waiting).await {
            Ok(Ok(())) => Some(self.id),
            Ok(Err(error)) => {
                failed(&error);
                None
            }
            Err(_) => None,
        }
    }

    /// Nobody wants it any more.
    pub(super) fn abandon(&self) {
        self.launcher.kill();
    }
}

fn failed(error: &SuccessorError) {
    metrics::replaced(false);
    tracing::error!(%error, "the successor did not start; this process goes on");
}
