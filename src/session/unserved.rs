//! A client that is told no: why, in which words of the record, and how it hears of it.

use super::admission::Against;
use super::record::Record;
use crate::downstream::{self, NotOpened};
use crate::head::connect::{refused, status_of};
use crate::outcome::{Outcome, Side};
use crate::policy::roster::Unavailable;
use crate::protocol::{Protocol, RefusalKind, TurnedAway};
use crate::sys::{Gone, Socket};
use crate::tls::NoIdentity;
use crate::upstream::{DialError, Refusal};

/// A client that is told no, as the record says why.
pub(super) struct Unserved {
    downstream: Socket,
    kind: RefusalKind,
    tongue: Tongue,
    /// What the server said, where it is the server's no.
    server: Option<TurnedAway>,
}

/// What a client hears its refusal in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tongue {
    /// The cluster's protocol.
    Protocol,
    /// HTTP, where it waits for the answer to its CONNECT: with that status, or the outcome's own.
    Http(Option<u16>),
}

impl Unserved {
    pub(super) const fn new(downstream: Socket, kind: RefusalKind) -> Self {
        Self { downstream, kind, tongue: Tongue::Protocol, server: None }
    }

    pub(super) fn in_http(self, status: Option<u16>) -> Self {
        Self { tongue: Tongue::Http(status), ..self }
    }

    /// What speaks against the client in any case comes first.
    pub(super) fn or(self, against: Option<Against>, record: &mut Record) -> Self {
        let kind = against.map_or(self.kind, |against| against.note(record));
        Self { kind, ..self }
    }
}

pub(super) async fn refuse(Unserved { downstream, kind, tongue, server }: Unserved, record: &Record) {
    let refusal = record.refusal(kind, server);
    let refusal = refusal.borrow();
    match (tongue, record.cluster()) {
        (Tongue::Protocol, Some(cluster)) => {
            downstream::refuse(downstream, &*cluster.settings().protocol, &refusal).await;
        }
        (Tongue::Http(_) | Tongue::Protocol, _) => {
            let own = if let Tongue::Http(own) = tongue { own } else { None };
            let status = own.unwrap_or_else(|| status_of(record.outcome));
            let words = refused(status, record.outcome, refusal.session, &refusal.sentence());
            downstream::say(downstream, &words).await;
        }
    }
}

pub(super) async fn not_opened(
    downstream: Socket,
    protocol: &dyn Protocol,
    record: &mut Record,
    error: NotOpened,
) -> Option<Unserved> {
    let words = Some(error.to_string());
    match error {
        NotOpened::Gone => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        NotOpened::Broken(_) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        NotOpened::Silent(_) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            return Some(Unserved::new(downstream, RefusalKind::BadRequest));
        }
        NotOpened::Misspoken(error) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            record.reply_to = error.reply_to;
            let refusal = record.refusal(RefusalKind::BadRequest, None);
            downstream::answer_opening(downstream, protocol, &error, &refusal.borrow()).await;
        }
    }
    None
}

pub(super) fn nothing_to_cancel(downstream: Socket, record: &mut Record) -> Unserved {
    let words = "no session of this listener has the key that the client wants cancelled";
    record.end(Outcome::NoEndpoint, Side::Ambassador, Some(words.into()));
    Unserved::new(downstream, RefusalKind::Unreachable)
}

pub(super) fn gone_while_dialling(record: &mut Record, gone: Gone) {
    let words = match gone {
        Gone::Finished => "the client closed the connection while we were dialling",
        Gone::Reset => "the client reset the connection while we were dialling",
    };
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

pub(super) fn left_ungreeted(record: &mut Record) {
    let words = "the client left before it was greeted";
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

pub(super) fn undialled(downstream: Socket, record: &mut Record, refusal: &Refusal) -> Unserved {
    record.end(refusal.outcome(), Side::Ambassador, Some(refusal.to_string()));
    let kind = match refusal {
        Refusal::Unavailable(Unavailable::Full(_)) | Refusal::Waited(Unavailable::Full(_), _) => {
            RefusalKind::Full
        }
        Refusal::Failed { last: DialError::Refused { .. }, .. } => RefusalKind::Full,
        Refusal::Unidentified(NoIdentity::Denied(_)) => RefusalKind::Denied,
        Refusal::Unavailable(_)
        | Refusal::Waited(..)
        | Refusal::Unidentified(NoIdentity::Absent(_))
        | Refusal::Unknown { .. }
        | Refusal::Failed { .. }
        | Refusal::Deadline { .. } => RefusalKind::Unreachable,
    };
    Unserved { server: refusal.by_server().cloned(), ..Unserved::new(downstream, kind) }
}

/// An order to end came before the client had said what it wants. One that has been silent for the longest and makes room for others
/// is just closed, as servers close a connection that rests: words would be taken for the answer to what it says next.
pub(super) fn stopped_unheard(downstream: Socket, record: &mut Record, outcome: Outcome) -> Option<Unserved> {
    if outcome != Outcome::ListenerFull {
        return Some(stopped(downstream, record, outcome));
    }
    let words = "the listener is full, and of all its clients this one had said nothing for the longest";
    record.end(outcome, Side::Ambassador, Some(words.into()));
    drop(downstream);
    None
}

/// An order to end came before there was anything to relay.
pub(super) fn stopped(downstream: Socket, record: &mut Record, outcome: Outcome) -> Unserved {
    record.end(
        outcome,
        Side::Ambassador,
        Some(format!("ended by the ambassador ({}) before it had an upstream", outcome.label())),
    );
    Unserved::new(downstream, RefusalKind::ShuttingDown)
}
