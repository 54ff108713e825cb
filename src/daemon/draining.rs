//! Ends sessions within a window: idle ones first and one after the other; the rest is cut at its end.

use std::sync::Arc;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::drain::Drain;
use crate::metrics;
use crate::outcome::Outcome;
use crate::policy::drain_schedule::DrainSchedule;
use crate::session::Route;

use super::notify::{self, Notice};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DrainResult {
    /// Told to end while idle.
    pub(super) quiet: usize,
    /// Cut at the end of the window.
    pub(super) forced: usize,
}

/// How long a client may take for its opening: one that has just connected may be about to send it.
const UNOPENED: Duration = Duration::from_secs(1);
/// How often sessions are checked.
const STEP: Duration = Duration::from_millis(100);
/// How often systemd is notified how many are left.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(1);

/// Ends the sessions of those routes, and returns when none is left, or when the window is over and the rest was cut.
/// `all` is set when the whole daemon drains. Then systemd is notified of the progress, and the drain ends with the last
/// task: connections in a listener's queue may not be among the sessions yet.
pub(super) async fn drain_sessions(
    routes: &[Arc<Route>],
    window: Duration,
    all: Option<&Drain>,
) -> DrainResult {
    let begun = clock::now();
    let mut schedule = DrainSchedule::new(begun, window);
    let mut result = DrainResult::default();
    let mut notified = None;
    loop {
        let now = clock::now();
        let live: Vec<_> = routes.iter().flat_map(|route| route.activity()).collect();
        if live.is_empty() && all.is_none() {
            break;
        }
        if now >= begun + window {
            result.forced = routes.iter().map(|route| route.stop_live(Outcome::Drained)).sum();
            break;
        }
        if all.is_some() && notified.is_none_or(|notified| now >= notified + NOTIFY_INTERVAL) {
            notified = Some(now);
            let left = (begun + window).saturating_duration_since(now).as_secs();
            notify::send(&Notice::Status(&format!("draining: {} session(s), {left} s at most", live.len())));
        }
        routes.iter().for_each(|route| route.stop_unopened(Outcome::Drained, UNOPENED));
        for session in schedule.due(now, &live) {
            // The session may have ended meanwhile.
            result.quiet += usize::from(routes.iter().any(|route| route.stop(session, Outcome::Drained)));
        }
        match all {
            Some(all) if all.finished(now + STEP).await.is_ok() => break,
            Some(_) => {}
            None => alarm::sleep(STEP).await,
        }
    }
    metrics::record_drain(result.quiet, result.forced);
    result
}
