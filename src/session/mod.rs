//! THE PAGE: one connection from accept to close.
//!
//! All control flow of a connection is in [`run`]; each step is a straight line in its own module. What a
//! session leaves is its [`Record`].

mod access;
mod record;
mod route;

use std::future::Future;
use std::sync::Arc;

use crate::clock;
use crate::downstream::{self, NotOpened};
use crate::outcome::{Outcome, Side};
use crate::protocol::{Protocol, RefusalKind};
use crate::relay::{self, Ended, Fault};
use crate::sys::{Accepted, Gone, Socket};
use crate::tls;
use crate::upstream::{Dialled, Lease, Refusal, dial};
use crate::workers::WorkerLoad;

pub use access::{AccessLog, Format};
pub use record::{Record, SessionId, SessionIds};
use route::Place;
pub use route::{Admitted, Route, SessionView};

/// One connection, from accept to close. Whatever happens, it is counted, recorded and forgotten here.
///
/// What opens a session is large, and must not stay part of one that lives for hours: hence the boxes, and a block
/// that uses its arguments where they are (an `async fn` keeps two places for each).
pub fn run(
    accepted: Accepted,
    admitted: Admitted,
    access: Arc<AccessLog>,
    load: WorkerLoad,
) -> impl Future<Output = ()> + Send {
    let Admitted { place, mut record } = admitted;
    async move {
        let opening = Box::pin(open_or_refuse(accepted, &place, &mut record));
        let Some((start, lease)) = opening.await else { return leave(&record, place, load, &access) };
        let settings = &place.route().cluster().settings().session;
        let relaying = relay::relay(start, settings, place.live());
        let unserved = note(relaying.await, &mut record);
        drop(lease);
        if let Some(refusing) = unserved.map(|unserved| Box::pin(refuse(unserved, &record))) {
            refusing.await;
        }
        leave(&record, place, load, &access);
    }
}

/// In this order: whoever reads the record finds the session gone.
fn leave(record: &Record, place: Place, load: WorkerLoad, access: &AccessLog) {
    let ended = clock::now();
    record.route().ended(record, &place, ended);
    drop((place, load));
    access.write(record, ended);
}

/// A client that is told no, as the record says why.
struct Unserved {
    downstream: Socket,
    kind: RefusalKind,
}

async fn open_or_refuse(
    accepted: Accepted,
    place: &Place,
    record: &mut Record,
) -> Option<(relay::Start, Lease)> {
    let unserved = match open(accepted, place, record).await {
        Ok(opened) => return Some(opened),
        Err(unserved) => unserved?,
    };
    Box::pin(refuse(unserved, record)).await;
    None
}

/// opening → dial: what a relay begins with, or a client to refuse, or one that has gone.
async fn open(
    accepted: Accepted,
    place: &Place,
    record: &mut Record,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let downstream = match Socket::adopt(accepted) {
        Ok(downstream) => downstream,
        Err(error) => {
            record.end(Outcome::DownstreamGone, Side::Downstream, Some(error.to_string()));
            return Err(None);
        }
    };
    if !place.has_room() {
        return Err(over_the_cap(downstream, place.route(), record).await);
    }
    let (route, live) = (place.route(), place.live());
    let cluster = route.cluster();
    let protocol = cluster.settings().protocol;

    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, OPENING_TIMEOUT) => match opened {
            Ok(opened) => opened,
            Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
        },
        outcome = live.ordered_to_stop() => return Err(Some(stopped(downstream, record, outcome))),
    };
    place.opened();
    let dialled = tokio::select! {
        biased;
        dialled = dial(cluster, !opened.bytes.is_empty(), &mut record.dial) => match dialled {
            Ok(dialled) => dialled,
            Err(refusal) => return Err(Some(undialled(downstream, record, &refusal))),
        },
        gone = downstream.gone(opened.may_half_close()) => {
            gone_while_dialling(record, gone);
            return Err(None);
        }
        outcome = live.ordered_to_stop() => return Err(Some(stopped(downstream, record, outcome))),
    };
    let Dialled { end: upstream, lease } = dialled;
    place.established(lease.index());

    let verified = cluster.settings().tls.as_ref().is_some_and(tls::Originator::verifies);
    let dialogue = protocol.dialogue(opened.hello, verified);
    Ok((relay::Start { downstream, upstream, opening: opened.bytes, dialogue }, lease))
}

/// How long a client that speaks first may take to say what it wants: PostgreSQL's own
/// `authentication_timeout`.
const OPENING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// The same for one that will be refused anyway.
const OPENING_TIMEOUT_FULL: std::time::Duration = std::time::Duration::from_secs(2);

/// A client over the listener's cap. One that speaks first is heard first: it would not understand an
/// answer to something that it has not said.
async fn over_the_cap(downstream: Socket, route: &Route, record: &mut Record) -> Option<Unserved> {
    let reason = format!("the listener has reached max_connections ({})", route.max_connections());
    let protocol = route.cluster().settings().protocol;
    let opened = downstream::read_opening(&downstream, protocol, OPENING_TIMEOUT_FULL).await;
    record.end(Outcome::ListenerFull, Side::Ambassador, Some(reason));
    if opened.is_err() {
        downstream.abort();
        return None;
    }
    Some(Unserved { downstream, kind: RefusalKind::Full })
}

async fn not_opened(
    downstream: Socket,
    protocol: Protocol,
    record: &mut Record,
    error: NotOpened,
) -> Option<Unserved> {
    let words = Some(error.to_string());
    match error {
        NotOpened::Gone => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        NotOpened::Broken(_) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        NotOpened::Silent(_) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            return Some(Unserved { downstream, kind: RefusalKind::BadRequest });
        }
        NotOpened::Misspoken(error) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            let refusal = record.refusal(RefusalKind::BadRequest);
            downstream::answer_opening(downstream, protocol, &error, &refusal.borrow()).await;
        }
    }
    None
}

fn gone_while_dialling(record: &mut Record, gone: Gone) {
    let words = match gone {
        Gone::Finished => "the client closed the connection while we were dialling",
        Gone::Reset => "the client reset the connection while we were dialling",
    };
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

fn undialled(downstream: Socket, record: &mut Record, refusal: &Refusal) -> Unserved {
    record.end(refusal.outcome(), Side::Ambassador, Some(refusal.to_string()));
    let kind = match refusal {
        Refusal::Full(_) => RefusalKind::Full,
        Refusal::Failed { .. } | Refusal::Deadline { .. } => RefusalKind::Unreachable,
    };
    Unserved { downstream, kind }
}

/// An order to end came before there was anything to relay.
fn stopped(downstream: Socket, record: &mut Record, outcome: Outcome) -> Unserved {
    record.end(
        outcome,
        Side::Ambassador,
        Some(format!("ended by the ambassador ({}) before it had an upstream", outcome.label())),
    );
    Unserved { downstream, kind: RefusalKind::ShuttingDown }
}

/// Notes how the relay ended. A client that has read nothing of the server yet can still be told why.
fn note(ended: Ended, record: &mut Record) -> Option<Unserved> {
    let outcome = match &ended.fault {
        // TLS 1.3 lets the server reject our certificate after our side of the handshake is done.
        Some(Fault::Io(error)) if record.received() == 0 && tls::late_rejection(error).is_some() => {
            Outcome::TlsFailed
        }
        _ => ended.outcome,
    };
    let words = ended.fault.as_ref().map(|fault| match fault {
        Fault::Io(error) => tls::late_rejection(error).unwrap_or_else(|| error.to_string()),
        Fault::Dialogue(error) => error.to_string(),
    });
    record.first_byte = ended.first_byte;
    record.end(outcome, ended.closed_by, words);
    let Ended { downstream, .. } = ended;
    ended.may_be_told.then_some(Unserved { downstream, kind: RefusalKind::Unreachable })
}

async fn refuse(Unserved { downstream, kind }: Unserved, record: &Record) {
    let refusal = record.refusal(kind);
    let protocol = record.route().cluster().settings().protocol;
    downstream::refuse(downstream, protocol, &refusal.borrow()).await;
}
