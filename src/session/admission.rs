//! A listener's rules for its callers, and how many connections of each there are. Who connects is looked up in
//! `denial`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::identified::{CountedCaller, IdentifiedCaller};
use crate::caller::{Caller, CallerKey};
use crate::clock;
use crate::downstream::{CallerCache, Stranger};
use crate::drain::Drain;
use crate::metrics::{CallerMetrics, CallerSeries};
use crate::policy::admission::{Needs, Rule, first_match};
use crate::policy::caller_limits::{self, CallerLimits};
use crate::sync::{Mutex, MutexGuard};

/// A listener's rules and limits for callers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Who may connect; empty: every client that reaches the socket.
    pub allow: Vec<Rule>,
    /// The limits of each caller.
    pub per_caller: caller_limits::Settings,
    /// How many sessions of each caller may wait for room in a cluster; `None`: the cluster's own limit.
    pub max_queued: Option<u32>,
}

/// The admission of one route, with the state of its callers' limits.
#[derive(Debug)]
pub(crate) struct Admission {
    allow: Vec<Rule>,
    /// Shared with the admissions of the listener's earlier routes.
    caller_limits: Arc<Mutex<CallerLimits>>,
    /// Whether this route has limits.
    counts: bool,
    max_queued: Option<u32>,
    /// What has to be known of callers. `None`: nothing, and callers are not looked up.
    pub(super) needs: Option<Needs>,
    /// Whether a decision depends on a look-up in the databases, and not only log or metrics. The uid alone needs
    /// none.
    pub(super) waits: bool,
    pub(super) lookups: CallerLookups,
}

/// What callers are looked up with, shared by all listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerLookups {
    pub cache: Arc<CallerCache>,
    pub metrics: Arc<CallerMetrics>,
    /// Look-ups that run in tasks of their own.
    pub tasks: Drain,
}

/// What a listener's clusters, log and metrics need to know of callers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallerRequirements {
    /// What must be known before the dial.
    pub to_dial: Option<Needs>,
    /// What must be known when the record is written.
    pub to_tell: Option<Needs>,
}

/// Why a client is not served.
#[derive(Debug)]
pub(super) enum Denial {
    /// No rule matches it.
    Denied(String),
    /// It has reached a limit per caller.
    CallerFull(String),
    /// The listener has reached its cap, which this is.
    ListenerFull(u32),
}

impl Denial {
    /// Whether it still permits a cancel of a session of ours: that takes up no room, and matters most when there is
    /// none.
    pub(super) const fn lets_cancel(&self) -> bool {
        matches!(self, Self::ListenerFull(_) | Self::CallerFull(_))
    }
}

impl Admission {
    /// `target`: what the clusters, log and metrics need.
    #[must_use]
    pub(crate) fn new(
        settings: &AdmissionSettings,
        target: CallerRequirements,
        lookups: CallerLookups,
    ) -> Self {
        let tells_apart = !settings.per_caller.is_off() || settings.max_queued.is_some();
        let for_shares = tells_apart.then_some(Needs { unit: true, groups: false });
        let to_decide = [target.to_dial, Needs::of(&settings.allow), for_shares];
        let to_decide = to_decide.into_iter().flatten().reduce(Needs::and);
        Self {
            allow: settings.allow.clone(),
            caller_limits: Arc::new(Mutex::new(CallerLimits::new(settings.per_caller))),
            counts: !settings.per_caller.is_off(),
            max_queued: settings.max_queued,
            needs: [to_decide, target.to_tell].into_iter().flatten().reduce(Needs::and),
            waits: to_decide.is_some_and(|needs| needs != Needs::default()),
            lookups,
        }
    }

    /// Takes over the counts of callers from the route before. Sessions that began while there were no limits are not
    /// counted.
    #[must_use]
    pub(crate) fn succeeding(self, before: &Self) -> Self {
        let settings = self.caller_limits().settings();
        let caller_limits = Arc::clone(&before.caller_limits);
        caller_limits.lock().reconfigure(settings);
        Self { caller_limits, ..self }
    }

    /// How many sessions of one caller may wait for room in a cluster for another one from this listener to wait too.
    pub(super) const fn max_queued(&self) -> Option<u32> {
        self.max_queued
    }

    pub(super) fn denies(&self, who: &Result<Arc<Caller>, Stranger>) -> Option<Denial> {
        if self.allow.is_empty() || first_match(&self.allow, who.as_deref().ok()).is_some() {
            return None;
        }
        let who: &dyn fmt::Display = match who {
            Ok(caller) => caller,
            Err(stranger) => stranger,
        };
        Some(Denial::Denied(format!("no rule of the listener's `allow` is for {who}")))
    }

    /// Counts a connection towards its caller's limits.
    pub(super) fn share(&self, who: &Result<Arc<Caller>, Stranger>) -> Result<Option<CallerKey>, Denial> {
        // By this route's own settings: the shared limits may be a successor's by now, and the sessions of this route
        // are not counted there.
        let mut caller_limits = self.caller_limits();
        if !self.counts || caller_limits.is_off() {
            return Ok(None);
        }
        let key = CallerKey::of(who.as_deref().ok(), who.as_ref().err().and_then(Stranger::host));
        match caller_limits.begin(&key, clock::now()) {
            Ok(()) => Ok(Some(key)),
            Err(exceeded) => Err(Denial::CallerFull(format!("{key} {exceeded}"))),
        }
    }

    /// The metrics of the caller's unit, or of callers without a known one.
    pub(super) fn series(&self, caller: Option<&Caller>) -> Arc<CallerSeries> {
        self.lookups.metrics.of(caller.and_then(Caller::unit))
    }

    /// Stores the result of a session's look-up; only the first result counts.
    pub(super) fn note_described(&self, identified: &mut IdentifiedCaller, caller: Arc<Caller>) {
        let CountedCaller::Asked { is_refused, .. } = identified.counted else { return };
        identified.counted = if self.needs.is_some_and(|needs| needs.unit) {
            let series = self.series(Some(&caller));
            series.record_connection();
            if is_refused {
                series.record_refusal();
            }
            CountedCaller::Caller(series)
        } else {
            CountedCaller::No
        };
        identified.caller = Some(caller);
    }

    /// The session has ended: gives back its caller's share and updates the metrics.
    pub(super) fn note_left(&self, identified: &mut IdentifiedCaller) {
        // A caller whose look-up has not ended by now counts as one without a unit.
        if let (CountedCaller::Asked { .. }, Some(caller)) = (&identified.counted, identified.caller.clone())
        {
            self.note_described(identified, caller);
        }
        match std::mem::replace(&mut identified.counted, CountedCaller::No) {
            CountedCaller::Caller(series) => series.record_end(),
            CountedCaller::Sharer(both) => {
                self.caller_limits().end(&both.1, clock::now());
                both.0.record_end();
            }
            CountedCaller::No | CountedCaller::Asked { .. } => {}
        }
    }

    /// Runs a wait for a look-up in a task of its own.
    pub(super) fn wait_beside(&self, waiting: impl Future<Output = ()> + Send + 'static) {
        self.lookups.tasks.spawn(waiting);
    }

    fn caller_limits(&self) -> MutexGuard<'_, CallerLimits> {
        self.caller_limits.lock()
    }
}
