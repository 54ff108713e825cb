//! Refusals: what the record says of them, and how the client is sent one.

use super::admission::Denial;
use super::record::Record;
use crate::cluster::DialError;
use crate::credentials::NoLogin;
use crate::dial::DialFailure;
use crate::downstream::{self, OpeningFailure};
use crate::head::connect::{refusal_reply, status_of};
use crate::outcome::{Outcome, Side};
use crate::policy::cluster_state::Unavailable;
use crate::protocol::{Protocol, RefusalKind, TurnedAway};
use crate::sys::{Gone, Socket};
use crate::tls::NoIdentity;

/// A client to refuse; the reason is in the record.
pub(super) struct Rejected {
    downstream: Socket,
    kind: RefusalKind,
    format: ReplyFormat,
    /// The server's own refusal, if that is the cause.
    server: Option<TurnedAway>,
}

/// The protocol that a client gets its refusal in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyFormat {
    Protocol,
    /// HTTP, as the reply to a CONNECT request: with that status, or the outcome's own.
    Http(Option<u16>),
}

impl Rejected {
    pub(super) const fn new(downstream: Socket, kind: RefusalKind) -> Self {
        Self { downstream, kind, format: ReplyFormat::Protocol, server: None }
    }

    pub(super) fn in_http(self, status: Option<u16>) -> Self {
        Self { format: ReplyFormat::Http(status), ..self }
    }

    /// A denial takes precedence over this reason.
    pub(super) fn or(self, denial: Option<Denial>, record: &mut Record) -> Self {
        let kind = denial.map_or(self.kind, |denial| denial.note(record));
        Self { kind, ..self }
    }
}

pub(super) async fn refuse(Rejected { downstream, kind, format, server }: Rejected, record: &Record) {
    let refusal = record.refusal(kind, server);
    let refusal = refusal.borrow();
    match (format, record.cluster()) {
        (ReplyFormat::Protocol, Some(cluster)) => {
            downstream::refuse(downstream, &*cluster.settings().protocol, &refusal).await;
        }
        (ReplyFormat::Http(_) | ReplyFormat::Protocol, _) => {
            let own = if let ReplyFormat::Http(own) = format { own } else { None };
            let status = own.unwrap_or_else(|| status_of(record.outcome));
            let words = refusal_reply(status, record.outcome, refusal.session, &refusal.sentence());
            downstream::send_and_close(downstream, &words).await;
        }
    }
}

pub(super) async fn not_opened(
    downstream: Socket,
    protocol: &dyn Protocol,
    record: &mut Record,
    error: OpeningFailure,
) -> Option<Rejected> {
    let words = Some(error.to_string());
    match error {
        OpeningFailure::Gone => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        OpeningFailure::Broken(_) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        OpeningFailure::Silent(_) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            return Some(Rejected::new(downstream, RefusalKind::BadRequest));
        }
        OpeningFailure::Malformed(error) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            record.reply_to = error.reply_to;
            let refusal = record.refusal(RefusalKind::BadRequest, None);
            downstream::answer_opening(downstream, protocol, &error, &refusal.borrow()).await;
        }
    }
    None
}

pub(super) fn nothing_to_cancel(downstream: Socket, record: &mut Record) -> Rejected {
    let words = "no session of this listener has the key that the client wants cancelled";
    record.end(Outcome::NoEndpoint, Side::Ambassador, Some(words.into()));
    Rejected::new(downstream, RefusalKind::Unreachable)
}

pub(super) fn gone_while_dialling(record: &mut Record, gone: Gone) {
    let words = match gone {
        Gone::Finished => "the client closed the connection while we were dialling",
        Gone::Reset => "the client reset the connection while we were dialling",
    };
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

pub(super) fn left_before_greeting(record: &mut Record) {
    let words = "the client left before it was greeted";
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

pub(super) fn dial_failed(downstream: Socket, record: &mut Record, refusal: &DialFailure) -> Rejected {
    record.end(refusal.outcome(), Side::Ambassador, Some(refusal.to_string()));
    let kind = match refusal {
        DialFailure::Unavailable(Unavailable::Full(_)) | DialFailure::Waited(Unavailable::Full(_), _) => {
            RefusalKind::Full
        }
        DialFailure::Failed { last: DialError::Refused { .. }, .. } => RefusalKind::Full,
        DialFailure::Unidentified(NoIdentity::Denied(_)) | DialFailure::NoLogin(NoLogin::Denied(_)) => {
            RefusalKind::Denied
        }
        DialFailure::NoLogin(_) => RefusalKind::LoginFailed,
        // A server that is broken in the middle of a login is one that cannot be reached.
        DialFailure::Failed { last: error @ DialError::Login { .. }, .. } if error.fault().is_none() => {
            RefusalKind::LoginFailed
        }
        DialFailure::Unavailable(_)
        | DialFailure::Waited(..)
        | DialFailure::Unidentified(NoIdentity::Absent(_))
        | DialFailure::Unknown { .. }
        | DialFailure::Failed { .. }
        | DialFailure::Deadline { .. } => RefusalKind::Unreachable,
    };
    Rejected { server: refusal.by_server().cloned(), ..Rejected::new(downstream, kind) }
}

/// The session was stopped before its opening. If it was the longest silent client and makes room for another, its
/// connection is closed without a message, as servers close idle ones: a message would be taken for the answer to its
/// next request.
pub(super) fn stopped_before_opening(
    downstream: Socket,
    record: &mut Record,
    outcome: Outcome,
) -> Option<Rejected> {
    if outcome != Outcome::ListenerFull {
        return Some(stopped(downstream, record, outcome));
    }
    let words = "the listener is full, and of all its clients this one had said nothing for the longest";
    record.end(outcome, Side::Ambassador, Some(words.into()));
    drop(downstream);
    None
}

/// The session was stopped before it relayed.
pub(super) fn stopped(downstream: Socket, record: &mut Record, outcome: Outcome) -> Rejected {
    record.end(
        outcome,
        Side::Ambassador,
        Some(format!("ended by the ambassador ({}) before it had an upstream", outcome.label())),
    );
    Rejected::new(downstream, RefusalKind::ShuttingDown)
}
