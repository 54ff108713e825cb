//! Whether a client is denied: its caller is looked up and judged by the route's admission. Decided before anything else
//! is done for it.

use std::sync::Arc;

use super::admission::Denial;
use super::guard::SessionGuard;
use super::identified::{CountedCaller, IdentifiedCaller};
use super::record::Record;
use crate::caller::Caller;
use crate::downstream::{self, CallerLookup, Identification, Stranger};
use crate::outcome::{Outcome, Side};
use crate::policy::admission::Needs;
use crate::protocol::RefusalKind;
use crate::sys::Socket;
use crate::tls::NoIdentity;

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
