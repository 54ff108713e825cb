//! Who connects, and whether it may connect: decided before anything else is done for a client, where a configuration
//! depends on it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::guard::SessionGuard;
use super::identified::{CountedCaller, IdentifiedCaller};
use super::record::Record;
use super::route::Route;
use crate::caller::{Caller, CallerKey};
use crate::clock;
use crate::downstream::{self, CallerCache, CallerLookup, Identification, Stranger};
use crate::drain::Drain;
use crate::metrics::{CallerMetrics, CallerSeries};
use crate::outcome::{Outcome, Side};
use crate::policy::admission::{Needs, Rule, first_match};
use crate::policy::caller_limits::{self, CallerLimits};
use crate::protocol::RefusalKind;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::Socket;
use crate::tls::NoIdentity;

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
    needs: Option<Needs>,
    /// Whether a decision depends on a look-up in the databases, and not only log or metrics. The uid alone needs
    /// none.
    waits: bool,
    lookups: CallerLookups,
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

    /// Takes over the counts of callers from that route. Sessions that began while there were no limits are not
    /// counted.
    #[must_use]
    pub(crate) fn succeeding(self, before: &Route) -> Self {
        let settings = self.caller_limits().settings();
        let caller_limits = Arc::clone(&before.admission().caller_limits);
        caller_limits.lock().reconfigure(settings);
        Self { caller_limits, ..self }
    }

    /// How many sessions of one caller may wait for room in a cluster for another one from this listener to wait too.
    pub(super) const fn max_queued(&self) -> Option<u32> {
        self.max_queued
    }

    fn denies(&self, who: &Result<Arc<Caller>, Stranger>) -> Option<Denial> {
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
    fn share(&self, who: &Result<Arc<Caller>, Stranger>) -> Result<Option<CallerKey>, Denial> {
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
    fn series(&self, caller: Option<&Caller>) -> Arc<CallerSeries> {
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

/// A caller that may connect may still have no identity for the cluster; this is checked before it takes up room.
/// Where a CONNECT request has yet to name the cluster, the dial checks it.
fn denies_identity(guard: &SessionGuard, who: &Result<Arc<Caller>, Stranger>) -> Option<Denial> {
    let tls = guard.cluster()?.settings().tls.as_ref()?;
    match tls.identities().choose(who.as_deref().ok()) {
        Err(NoIdentity::Denied(caller)) => {
            // Here the reason why a stranger is one is known; `choose` does not have it.
            let who = who.as_ref().err().map_or(caller, ToString::to_string);
            Some(Denial::Denied(NoIdentity::Denied(who).to_string()))
        }
        Ok(_) | Err(NoIdentity::Absent(_)) => None,
    }
}

/// Who the client is, with the look-up that has yet to run if no decision depends on its result. Before a client is
/// denied for its identity the look-up is awaited, so that the refusal has the full name.
async fn who(
    downstream: &Socket,
    guard: &SessionGuard,
    record: &Record,
    needs: Needs,
) -> (Result<Arc<Caller>, Stranger>, Option<CallerLookup>) {
    let admission = guard.route().admission();
    let question = match downstream::identify(downstream, record.peer, needs, &admission.lookups.cache) {
        Ok(Identification::Known(caller)) => return (Ok(caller), None),
        Ok(Identification::Asked(question)) => question,
        Err(stranger) => return (Err(stranger), None),
    };
    let who = Ok(question.without_names());
    if admission.waits || admission.denies(&who).is_some() || denies_identity(guard, &who).is_some() {
        // Boxed: only the first session of a caller has to wait.
        return (Ok(Box::pin(question.resolve()).await), None);
    }
    (who, Some(question))
}

/// Whether the client is denied, and why. Caps are checked in this order: the listener's, the caller's; the cluster's
/// and the endpoint's follow in the dial.
pub(super) async fn denial(downstream: &Socket, guard: &SessionGuard, record: &Record) -> Option<Denial> {
    let route = guard.route();
    let admission = route.admission();
    let full = || (!guard.has_room()).then(|| Denial::ListenerFull(route.max_connections()));
    let Some(needs) = admission.needs else { return full() };
    let (who, question) = who(downstream, guard, record, needs).await;
    let judged = match admission.denies(&who).or_else(|| denies_identity(guard, &who)).or_else(full) {
        Some(denial) => Err(denial),
        None => admission.share(&who),
    };
    let (share, denial) = match judged {
        Ok(share) => (share, None),
        Err(denial) => (None, Some(denial)),
    };
    let counted = match (question, share) {
        // With limits per caller, decisions depend on the look-up, so none is left here.
        (Some(question), _) => {
            CountedCaller::Asked { question: Arc::new(question), is_refused: denial.is_some() }
        }
        (None, _) if !needs.unit => CountedCaller::No,
        (None, share) => {
            let series = admission.series(who.as_deref().ok());
            series.record_connection();
            if denial.is_some() {
                series.record_refusal();
            }
            match share {
                None => CountedCaller::Caller(series),
                Some(share) => CountedCaller::Sharer(Box::new((series, share))),
            }
        }
    };
    guard.set_caller(IdentifiedCaller { caller: who.ok(), counted });
    denial
}

impl Denial {
    /// Whether it still permits a cancel of a session of ours: that takes up no room, and matters most when there is
    /// none.
    pub(super) const fn lets_cancel(&self) -> bool {
        matches!(self, Self::ListenerFull(_) | Self::CallerFull(_))
    }

    pub(super) fn note(self, record: &mut Record) -> RefusalKind {
        let (outcome, kind, reason) = match self {
            Self::Denied(reason) => (Outcome::Denied, RefusalKind::Denied, reason),
            Self::CallerFull(reason) => (Outcome::CallerFull, RefusalKind::Full, reason),
            Self::ListenerFull(most) => {
                let reason = format!("the listener has reached max_connections ({most})");
                (Outcome::ListenerFull, RefusalKind::Full, reason)
            }
        };
        record.end(outcome, Side::Ambassador, Some(reason));
        kind
    }
}
