//! Who connects, and whether it may: found out before anything else happens for a client, where anybody asks.

use std::sync::Arc;

use super::record::Record;
use super::route::Place;
use crate::caller::Caller;
use crate::downstream::{self, Census, Stranger};
use crate::outcome::{Outcome, Side};
use crate::policy::admission::{Needs, Rule, first_match};
use crate::protocol::RefusalKind;
use crate::sys::Socket;

/// What a route asks of those who connect.
#[derive(Debug)]
pub struct Admission {
    /// Who may; empty: whoever reaches the socket.
    pub allow: Vec<Rule>,
    /// What anybody wants to know of callers. `None`: nothing, and nobody is looked up.
    pub needs: Option<Needs>,
    /// What looks them up.
    pub census: Arc<Census>,
}

/// What speaks against serving a client.
#[derive(Debug)]
pub(super) enum Against {
    /// No rule is for it.
    Denied(String),
    /// The listener's cap.
    ListenerFull(u32),
}

impl Admission {
    fn judge(&self, who: &Result<Arc<Caller>, Stranger>) -> Option<Against> {
        if self.allow.is_empty() || first_match(&self.allow, who.as_deref().ok()).is_some() {
            return None;
        }
        let who = match who {
            Ok(caller) => caller.to_string(),
            Err(stranger) => stranger.to_string(),
        };
        Some(Against::Denied(format!("no rule of the listener's `allow` is for {who}")))
    }
}

/// What speaks against the client, if anything does.
pub(super) async fn against(downstream: &Socket, place: &Place, record: &Record) -> Option<Against> {
    let route = place.route();
    let admission = route.admission();
    let judged = match admission.needs {
        None => None,
        Some(needs) => {
            // Boxed: only the first of a kind has to wait.
            let who = Box::pin(downstream::identify(downstream, record.peer, needs, &admission.census)).await;
            let judged = admission.judge(&who);
            place.identified(who.ok());
            judged
        }
    };
    judged.or_else(|| (!place.has_room()).then(|| Against::ListenerFull(route.max_connections())))
}

impl Against {
    /// One that only wants something cancelled takes nobody's place, and is wanted most where there is no room.
    pub(super) const fn lets_cancel(&self) -> bool {
        matches!(self, Self::ListenerFull(_))
    }

    /// Ends the record so.
    pub(super) fn note(self, record: &mut Record) -> RefusalKind {
        let (outcome, kind, reason) = match self {
            Self::Denied(reason) => (Outcome::Denied, RefusalKind::Denied, reason),
            Self::ListenerFull(most) => {
                let reason = format!("the listener has reached max_connections ({most})");
                (Outcome::ListenerFull, RefusalKind::Full, reason)
            }
        };
        record.end(outcome, Side::Ambassador, Some(reason));
        kind
    }
}
