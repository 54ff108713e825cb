//! Handing over to another process of the same program: it gets our listening sockets with their queues, is ready
//! before we stop accepting, and continues from our snapshot. If it does not become ready, nothing changes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::metrics;
use crate::sys::{Launcher, ListeningSocket, Role, Successor, SuccessorError};

use super::reports::Predecessors;
use super::snapshot;
use crate::daemon::services::Services;

/// How long a successor may take to start: it reads files, and looks users up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::daemon) struct Handover {
    id: u32,
    launcher: Arc<Launcher>,
    waiting: JoinHandle<Result<(), SuccessorError>>,
    /// The pipe by which we report to it what we go on counting.
    reports: OwnedFd,
}

impl Handover {
    /// Starts a successor, which gets these sockets. `None`, with a log entry, when that is not possible.
    pub(in crate::daemon) fn begin(
        sockets: &[(Arc<ListeningSocket>, Role)],
        services: &Services,
        predecessors: &Predecessors,
        launcher: &Arc<Launcher>,
    ) -> Option<Self> {
        // From here on, the predecessors' reports are for the successor.
        predecessors.pause(true);
        let snapshot = snapshot::write(&services.admin_state)
            .inspect_err(|error| tracing::warn!(%error, "cannot send the state to the successor"))
            .ok();
        let (receiving, reports) = match std::io::pipe() {
            Ok((receiving, reports)) => (OwnedFd::from(receiving), OwnedFd::from(reports)),
            Err(error) => {
                record_failure(&error.into());
                predecessors.pause(false);
                return None;
            }
        };
        let passed = sockets.iter().map(|(listening, role)| (listening.as_fd(), role.clone()));
        let of_others = predecessors.pipes().map(|(process, pipe)| (pipe.as_fd(), Role::Reports(process)));
        let own = (receiving.as_fd(), Role::Reports(std::process::id()));
        let passed = passed.chain(of_others).chain([own]);
        let passed = passed.chain(snapshot.iter().map(|snapshot| (snapshot.as_fd(), Role::Snapshot)));
        let passed: Vec<_> = passed.map(|(fd, role)| (fd, role.to_descriptor())).collect();
        match Successor::start(launcher, &passed) {
            Ok(successor) => {
                services.admin_state.handing_over.store(true, Ordering::Release);
                let id = successor.id();
                tracing::info!(successor = id, "a successor is starting");
                let waiting = services.admin.spawn_blocking(move || successor.wait(PATIENCE));
                Some(Self { id, launcher: Arc::clone(launcher), waiting, reports })
            }
            Err(error) => {
                record_failure(&error);
                predecessors.pause(false);
                None
            }
        }
    }

    /// Waits until it is ready; returns its process id. `None`: it failed, and the reason is logged.
    pub(in crate::daemon) async fn wait_ready(&mut self) -> Option<u32> {
        match (&mut self.waiting).await {
            Ok(Ok(())) => Some(self.id),
            Ok(Err(error)) => {
                record_failure(&error);
                None
            }
            Err(_) => None,
        }
    }

    /// The pipe by which we report to it.
    pub(in crate::daemon) fn into_report_pipe(self) -> OwnedFd {
        self.reports
    }

    pub(in crate::daemon) fn abandon(&self) {
        self.launcher.kill();
    }
}

fn record_failure(error: &SuccessorError) {
    metrics::record_replacement(false);
    tracing::error!(%error, "the successor did not start; this process goes on");
}
