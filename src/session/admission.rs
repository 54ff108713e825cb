//! Who connects, and whether it may: found out before anything else happens for a client, where anybody asks.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::place::Place;
use super::record::Record;
use super::route::Route;
use crate::caller::{Caller, CallerKey};
use crate::clock;
use crate::downstream::{self, Census, Stranger};
use crate::metrics::{CallerMetrics, CallerSeries};
use crate::outcome::{Outcome, Side};
use crate::policy::admission::{Needs, Rule, first_match};
use crate::policy::shares::{self, Shares};
use crate::protocol::RefusalKind;
use crate::sys::Socket;
use crate::tls::NoIdentity;

/// What a listener asks of those who connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Who may; empty: whoever reaches the socket.
    pub allow: Vec<Rule>,
    /// What each may take.
    pub per_caller: shares::Settings,
    /// How many sessions of each may wait for room in a cluster; `None`: what the cluster says.
    pub max_queued: Option<u32>,
}

/// The same at work.
#[derive(Debug)]
pub struct Admission {
    allow: Vec<Rule>,
    /// Shared with those before it of the same listener.
    shares: Arc<Mutex<Shares>>,
    max_queued: Option<u32>,
    /// What anybody wants to know of callers. `None`: nothing, and nobody is looked up.
    needs: Option<Needs>,
    census: Arc<Census>,
    metrics: Arc<CallerMetrics>,
}

/// What is known of a session's client.
#[derive(Debug)]
pub(super) struct Guest {
    /// `None` for a stranger.
    caller: Option<Arc<Caller>>,
    /// Whose share it counts for, where there are shares. Boxed: it is kept for hours, and mostly there are none.
    share: Option<Box<CallerKey>>,
    series: Option<Arc<CallerSeries>>,
}

/// What speaks against serving a client.
#[derive(Debug)]
pub(super) enum Against {
    /// No rule is for it.
    Denied(String),
    /// It has what one caller may have.
    CallerFull(String),
    /// The listener's cap.
    ListenerFull(u32),
}

impl Admission {
    /// `wanted`: what others want to know of callers; the log, say.
    #[must_use]
    pub fn new(
        settings: &AdmissionSettings,
        wanted: Option<Needs>,
        census: &Arc<Census>,
        metrics: &Arc<CallerMetrics>,
    ) -> Self {
        let for_shares = (!settings.per_caller.is_off()).then_some(Needs { unit: true, groups: false });
        let needs = [wanted, Needs::of(&settings.allow), for_shares];
        Self {
            allow: settings.allow.clone(),
            shares: Arc::new(Mutex::new(Shares::new(settings.per_caller))),
            max_queued: settings.max_queued,
            needs: needs.into_iter().flatten().reduce(Needs::and),
            census: Arc::clone(census),
            metrics: Arc::clone(metrics),
        }
    }

    /// The same, going on from what callers of that route have. Sessions that began while nobody counted are not counted.
    #[must_use]
    pub fn succeeding(self, before: &Route) -> Self {
        let settings = self.shares().settings();
        let shares = Arc::clone(&before.admission().shares);
        shares.lock().unwrap_or_else(PoisonError::into_inner).reconfigure(settings);
        Self { shares, ..self }
    }

    /// How many of a caller's sessions may wait for room in a cluster when one more of this listener wants to.
    pub(super) const fn max_queued(&self) -> Option<u32> {
        self.max_queued
    }

    fn denies(&self, who: &Result<Arc<Caller>, Stranger>) -> Option<Against> {
        if self.allow.is_empty() || first_match(&self.allow, who.as_deref().ok()).is_some() {
            return None;
        }
        let who: &dyn fmt::Display = match who {
            Ok(caller) => caller,
            Err(stranger) => stranger,
        };
        Some(Against::Denied(format!("no rule of the listener's `allow` is for {who}")))
    }

    /// Counts a connection for its caller.
    fn share(&self, who: &Result<Arc<Caller>, Stranger>) -> Result<Option<Box<CallerKey>>, Against> {
        let mut shares = self.shares();
        if shares.is_off() {
            return Ok(None);
        }
        let key = CallerKey::of(who.as_deref().ok(), who.as_ref().err().and_then(Stranger::host));
        match shares.begin(&key, clock::now()) {
            Ok(()) => Ok(Some(Box::new(key))),
            Err(exceeded) => Err(Against::CallerFull(format!("{key} {exceeded}"))),
        }
    }

    /// A session's client has gone.
    pub(super) fn left(&self, guest: &Guest) {
        if let Some(key) = &guest.share {
            self.shares().end(key, clock::now());
        }
        if let Some(series) = &guest.series {
            series.ended();
        }
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    pub(super) const fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    pub(super) fn refused(&self) {
        if let Some(series) = &self.series {
            series.refused();
        }
    }
}

/// Whoever may connect may still have no identity towards the servers; to be known before it takes anybody's place. Where the
/// client has yet to name the cluster, its dial will know.
fn denies_identity(place: &Place, who: &Result<Arc<Caller>, Stranger>) -> Option<Against> {
    let tls = place.cluster()?.settings().tls.as_ref()?;
    match tls.identities().choose(who.as_deref().ok()) {
        Err(NoIdentity::Denied(caller)) => {
            // Of a stranger we know here why it is one.
            let who = who.as_ref().err().map_or(caller, ToString::to_string);
            Some(Against::Denied(NoIdentity::Denied(who).to_string()))
        }
        Ok(_) | Err(NoIdentity::Absent(_)) => None,
    }
}

/// What speaks against the client, if anything does. Caps are taken in this order: the caller's, the listener's; the
/// cluster's and the endpoint's follow with the dial.
pub(super) async fn against(downstream: &Socket, place: &Place, record: &Record) -> Option<Against> {
    let route = place.route();
    let admission = route.admission();
    let full = || (!place.has_room()).then(|| Against::ListenerFull(route.max_connections()));
    let Some(needs) = admission.needs else { return full() };
    // Boxed: only the first of a kind has to wait.
    let who = Box::pin(downstream::identify(downstream, record.peer, needs, &admission.census)).await;
    let series = needs.unit.then(|| {
        let unit = who.as_ref().ok().and_then(|caller| caller.unit());
        admission.metrics.of(unit)
    });
    let judged = match admission.denies(&who).or_else(|| denies_identity(place, &who)).or_else(full) {
        Some(against) => Err(against),
        None => admission.share(&who),
    };
    if let Some(series) = &series {
        series.began();
        if judged.is_err() {
            series.refused();
        }
    }
    let (share, against) = match judged {
        Ok(share) => (share, None),
        Err(against) => (None, Some(against)),
    };
    place.identified(Guest { caller: who.ok(), share, series });
    against
}

impl Against {
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
