//! Who connects, and whether it may: found out before anything else happens for a client, where anybody asks.

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

/// What a listener asks of those who connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Who may; empty: whoever reaches the socket.
    pub allow: Vec<Rule>,
    /// What each may take.
    pub per_caller: caller_limits::Settings,
    /// How many sessions of each may wait for room in a cluster; `None`: what the cluster says.
    pub max_queued: Option<u32>,
}

/// The same at work.
#[derive(Debug)]
pub(crate) struct Admission {
    allow: Vec<Rule>,
    /// Shared with those before it of the same listener.
    caller_limits: Arc<Mutex<CallerLimits>>,
    /// Whether it counts by them.
    counts: bool,
    max_queued: Option<u32>,
    /// What anybody wants to know of callers. `None`: nothing, and nobody is looked up.
    needs: Option<Needs>,
    /// Whether anything of it is decided by, and not only told. The user alone needs no database.
    waits: bool,
    lookups: CallerLookups,
}

/// What callers are looked up with, whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerLookups {
    /// What this host calls whom.
    pub cache: Arc<CallerCache>,
    /// Where they are counted.
    pub metrics: Arc<CallerMetrics>,
    /// Those that wait beside their sessions.
    pub tasks: Drain,
}

/// What others than the listener want to know of callers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallerRequirements {
    /// Before a server is dialled for them.
    pub to_dial: Option<Needs>,
    /// For the record of what became of them.
    pub to_tell: Option<Needs>,
}

/// What speaks against serving a client.
#[derive(Debug)]
pub(super) enum Denial {
    /// No rule is for it.
    Denied(String),
    /// It has what one caller may have.
    CallerFull(String),
    /// The listener's cap.
    ListenerFull(u32),
}

impl Admission {
    /// With those settings.
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

    /// The same, going on from what callers of that route have. Sessions that began while nobody counted are not counted.
    #[must_use]
    pub(crate) fn succeeding(self, before: &Route) -> Self {
        let settings = self.caller_limits().settings();
        let caller_limits = Arc::clone(&before.admission().caller_limits);
        caller_limits.lock().reconfigure(settings);
        Self { caller_limits, ..self }
    }

    /// How many of a caller's sessions may wait for room in a cluster when one more of this listener wants to.
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

    /// Counts a connection for its caller.
    fn share(&self, who: &Result<Arc<Caller>, Stranger>) -> Result<Option<CallerKey>, Denial> {
        // By its own settings: those of the shares may be a successor's by now, and nobody here would give one back.
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

    /// What a caller of that unit, or one whose unit is not known, counts as.
    fn series(&self, caller: Option<&Caller>) -> Arc<CallerSeries> {
        self.lookups.metrics.of(caller.and_then(Caller::unit))
    }

    /// A session's client has been described. Once is enough: later ones are not heard.
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

    /// A session's client has gone.
    pub(super) fn note_left(&self, identified: &mut IdentifiedCaller) {
        // One that nobody has described by now belongs to no unit.
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

    /// Runs what waits for the answer beside a session.
    pub(super) fn wait_beside(&self, waiting: impl Future<Output = ()> + Send + 'static) {
        self.lookups.tasks.spawn(waiting);
    }

    fn caller_limits(&self) -> MutexGuard<'_, CallerLimits> {
        self.caller_limits.lock()
    }
}

/// Whoever may connect may still have no identity towards the servers; to be known before it takes anybody's place. Where the
/// client has yet to name the cluster, its dial will know.
fn denies_identity(guard: &SessionGuard, who: &Result<Arc<Caller>, Stranger>) -> Option<Denial> {
    let tls = guard.cluster()?.settings().tls.as_ref()?;
    match tls.identities().choose(who.as_deref().ok()) {
        Err(NoIdentity::Denied(caller)) => {
            // Of a stranger we know here why it is one.
            let who = who.as_ref().err().map_or(caller, ToString::to_string);
            Some(Denial::Denied(NoIdentity::Denied(who).to_string()))
        }
        Ok(_) | Err(NoIdentity::Absent(_)) => None,
    }
}

/// Who the client is, and what has yet to be told of it: what nothing is decided by is asked for beside the session. Whoever is
/// turned away for who it is hears its whole name, and dials nobody.
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
        // Boxed: only the first of a kind has to wait.
        return (Ok(Box::pin(question.resolve()).await), None);
    }
    (who, Some(question))
}

/// What speaks against the client, if anything does. Caps are taken in this order: the listener's, the caller's; the
/// cluster's and the endpoint's follow with the dial.
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
        // Where there are shares, nothing is left to be asked.
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
    /// One that only wants a session cancelled that lives here takes nobody's place, and is wanted most where there is no room.
    pub(super) const fn lets_cancel(&self) -> bool {
        matches!(self, Self::ListenerFull(_) | Self::CallerFull(_))
    }

    /// Ends the record so.
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
