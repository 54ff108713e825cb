//! How the daemon ends: it stops, or a successor takes over; sessions end in their own time, or are ended.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::{AdminState, Phase};
use crate::alarm;
use crate::clock;
use crate::outcome::Outcome;

use super::draining::{DrainResult, drain_sessions};
use super::notify::{self, Notice};
use super::restart::{Reporter, store};
use super::services::Services;
use super::signals::Signals;
use super::start::RunningDaemon;

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopResult {
    /// Sessions that were told to end while they were idle.
    pub quiet: usize,
    /// Sessions that were cut at the end of the drain timeout.
    pub forced: usize,
}

/// How long sessions that were told to end get to close: a protocol's refusal may take a client 4 s.
const PARTING: Duration = Duration::from_secs(5);

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl RunningDaemon {
    /// A successor has taken over: accepts no more, and lets sessions go on for as long as they may.
    pub(super) async fn retire(
        mut self,
        successor: u32,
        mut reporter: Option<Reporter>,
        signals: &mut Signals,
    ) {
        self.active.set_handed_on(true);
        notify::send(&Notice::Succeeded(successor));
        self.active.close_listeners();
        self.active.close_admin();
        let admin_state = Arc::clone(&self.admin_state);
        // After our last response: the successor answers the next request only when it has this report.
        if let Some(reporter) = &mut reporter {
            reporter.report(&admin_state).await;
        }
        let Services { sessions, .. } = self.active.services();
        let sessions = sessions.clone();
        sessions.begin();
        let left: usize = self.admin_state.view.get().routes().map(|route| route.active()).sum();
        tracing::info!(successor, sessions = left, "another process has taken over");
        let most = self.active.config().and_then(|config| config.shutdown.replaced_timeout);
        let routes: Vec<_> = self.admin_state.view.get().routes().map(Arc::clone).collect();
        let ending = async {
            if let Some(most) = most {
                drain_sessions(&routes, most, None).await;
            }
            sessions.finished(clock::now() + FOREVER).await
        };
        tokio::select! {
            _ = ending => {}
            never = keep_reporting(&mut reporter, &admin_state) => match never {},
            signal = signals.stop() => tracing::info!(signal, "stopping"),
        }
        let draining = async {
            tokio::select! {
                stopped = self.drain() => stopped,
                never = keep_reporting(&mut reporter, &admin_state) => match never {},
            }
        };
        Self::or_exit(draining, signals).await;
        if let Some(reporter) = &mut reporter {
            reporter.report(&admin_state).await;
        }
    }

    pub(super) async fn or_exit(stopping: impl Future<Output = StopResult>, signals: &mut Signals) {
        tokio::select! {
            stopped = stopping => tracing::info!(quiet = stopped.quiet, forced = stopped.forced, "stopped"),
            again = signals.stop() => tracing::warn!(signal = again, "a second signal: exiting at once"),
        }
    }

    /// Stops: lame duck, no more accepting, then sessions end or are ended.
    pub(crate) async fn stop(mut self) -> StopResult {
        let lame_duck = self.active.config().map(|config| config.shutdown.lame_duck);
        self.admin_state.phase.set(Phase::LameDuck);
        if let Some(wait) = lame_duck.filter(|wait| !wait.is_zero()) {
            tracing::info!(?wait, "lame duck: not ready, and still accepting");
            notify::send(&Notice::Status(&format!("lame duck: still accepting for {wait:?}")));
            alarm::sleep(wait).await;
        }
        let stopped = self.drain().await;
        store::store_snapshot(&self.admin_state);
        stopped
    }

    /// Stops accepting, and ends the sessions within the drain timeout.
    async fn drain(&mut self) -> StopResult {
        let Self { admin_state, commands, active, .. } = self;
        // Pending and later requests are refused at once.
        commands.close();
        while commands.try_recv().is_ok() {}
        let drain_timeout = active.config().map(|config| config.shutdown.drain_timeout);
        let Services { sessions, admin, .. } = active.services();
        let (sessions, admin) = (sessions.clone(), admin.clone());
        admin_state.phase.set(Phase::Draining);
        sessions.begin();
        active.close_listeners();
        let view = admin_state.view.get();
        let routes: Vec<_> = view.routes().map(Arc::clone).collect();
        tracing::info!(
            sessions = routes.iter().map(|route| route.active()).sum::<usize>(),
            "no longer accepting"
        );
        let DrainResult { quiet, forced } =
            drain_sessions(&routes, drain_timeout.unwrap_or_default(), Some(&sessions)).await;
        // This includes connections accepted at the last moment.
        for route in &routes {
            route.stop_all(Outcome::Drained);
        }
        if forced > 0 {
            tracing::warn!(forced, "drain_timeout is over; ending the sessions that are left");
        }
        let _ = sessions.finished(clock::now() + PARTING).await;
        admin.begin();
        let _ = admin.finished(clock::now() + PARTING).await;
        StopResult { quiet, forced }
    }
}

/// Reports for ever; never returns.
async fn keep_reporting(reporter: &mut Option<Reporter>, admin_state: &AdminState) -> Infallible {
    match reporter {
        Some(reporter) => reporter.keep_reporting(admin_state).await,
        None => std::future::pending().await,
    }
}
