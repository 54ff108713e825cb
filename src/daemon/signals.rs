//! The signals that the daemon handles, and its events.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{Command, ReloadResult};

/// What the daemon reacts to while it runs.
pub(super) enum DaemonEvent {
    /// SIGTERM or SIGINT, by name.
    Stop(&'static str),
    /// SIGHUP.
    Reload,
    /// SIGUSR1: only the log's files are opened again.
    Reopen,
    /// SIGUSR2.
    Replace,
    /// A successor is ready, by its process id; `None`: it failed.
    Succeeded(Option<u32>),
    /// A reload has ended with this result.
    Reloaded(ReloadResult),
    /// Time to check whether the last session of a draining route has ended.
    Removal,
    /// A request by the control socket.
    Ordered(Command),
}

pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    /// To be called before anything is bound: a signal during the start must not kill us half-way by its
    /// default action.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal. Several of one kind that arrived meanwhile count as one.
    pub(super) async fn next(&mut self) -> DaemonEvent {
        tokio::select! {
            _ = self.term.recv() => DaemonEvent::Stop("SIGTERM"),
            _ = self.int.recv() => DaemonEvent::Stop("SIGINT"),
            _ = self.hup.recv() => DaemonEvent::Reload,
            _ = self.usr1.recv() => DaemonEvent::Reopen,
            _ = self.usr2.recv() => DaemonEvent::Replace,
        }
    }

    /// Waits for a signal that stops the daemon; returns its name.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                DaemonEvent::Stop(signal) => return signal,
                DaemonEvent::Reload | DaemonEvent::Replace => {
                    tracing::warn!("stopping already; nothing changed")
                }
                DaemonEvent::Reopen
                | DaemonEvent::Reloaded(_)
                | DaemonEvent::Ordered(_)
                | DaemonEvent::Succeeded(_)
                | DaemonEvent::Removal => {}
            }
        }
    }
}
