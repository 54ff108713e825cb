//! THE PAGE: one connection from accept to close.
//!
//! All control flow of a connection is in [`run`]; each step is a straight line in its own module. What a
//! session leaves is its [`Record`].

mod access;
mod record;
mod route;

use std::sync::Arc;

use crate::downstream::{self, NotOpened};
use crate::outcome::{Outcome, Side};
use crate::protocol::RefusalKind;
use crate::relay::{self, Ended, Fault, Live};
use crate::sys::{Accepted, Gone, Socket};
use crate::tls;
use crate::upstream::{Refusal, dial};
use crate::workers::WorkerLoad;

pub use access::{AccessLog, Format};
pub use record::{Record, SessionId, SessionIds};
pub use route::{Admitted, Route, SessionView};

/// One connection, from accept to close. Whatever happens, it is counted, recorded and forgotten here.
pub async fn run(accepted: Accepted, admitted: Admitted, access: Arc<AccessLog>, load: WorkerLoad) {
    let route = Arc::clone(admitted.route());
    let mut record = Record::begin(&route, admitted.session(), accepted.peer, admitted.accepted());
    match Socket::adopt(accepted, &route.cluster().settings().socket) {
        Ok(downstream) if admitted.has_room() => serve(downstream, &admitted, &mut record).await,
        Ok(downstream) => refuse_full(downstream, &admitted, &mut record).await,
        Err(error) => record.end(Outcome::DownstreamGone, Side::Downstream, Some(error.to_string())),
    }
    record.measure(admitted.live());
    route.ended(&record, &admitted);
    drop((admitted, load));
    access.write(&record);
}

/// listener → opening → dial → relay.
async fn serve(downstream: Socket, admitted: &Admitted, record: &mut Record) {
    let (route, live) = (admitted.route(), admitted.live());
    let cluster = route.cluster();
    let protocol = cluster.settings().protocol;

    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, OPENING_TIMEOUT) => match opened {
            Ok(opened) => opened,
            Err(error) => return not_opened(downstream, route, record, error).await,
        },
        outcome = live.ordered_to_stop() => return stopped(downstream, route, record, outcome).await,
    };
    admitted.opened();
    // Boxed: a handshake's state is large, and must not stay part of a session that lives for hours.
    let dialling = Box::pin(dial(cluster, &mut record.dial));
    let dialled = tokio::select! {
        biased;
        dialled = dialling => match dialled {
            Ok(dialled) => dialled,
            Err(refusal) => return refuse_undialled(downstream, route, record, &refusal).await,
        },
        gone = downstream.gone() => return gone_while_dialling(record, gone),
        outcome = live.ordered_to_stop() => return stopped(downstream, route, record, outcome).await,
    };
    admitted.established(dialled.lease.endpoint());

    let verified = cluster.settings().tls.as_ref().is_some_and(tls::Originator::verifies);
    let start = relay::Start {
        downstream,
        upstream: dialled.end,
        opening: opened.bytes,
        dialogue: protocol.dialogue(opened.hello, verified),
        settings: cluster.settings().session,
    };
    let ended = relay::relay(start, live).await;
    record.first_byte = ended.first_byte;
    close(ended, route, record, live).await;
    drop(dialled.lease);
}

/// How long a client that speaks first may take to say what it wants: PostgreSQL's own
/// `authentication_timeout`.
const OPENING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// The same for one that will be refused anyway.
const OPENING_TIMEOUT_FULL: std::time::Duration = std::time::Duration::from_secs(2);

/// A client over the listener's cap. One that speaks first is heard first: it would not understand an
/// answer to something that it has not said.
async fn refuse_full(downstream: Socket, admitted: &Admitted, record: &mut Record) {
    let route = admitted.route();
    let reason = format!("the listener has reached max_connections ({})", route.max_connections());
    let protocol = route.cluster().settings().protocol;
    let opened = downstream::read_opening(&downstream, protocol, OPENING_TIMEOUT_FULL).await;
    record.end(Outcome::ListenerFull, Side::Ambassador, Some(reason));
    match opened {
        Ok(_) => refuse(downstream, route, record, RefusalKind::Full).await,
        Err(_) => downstream.abort(),
    }
}

async fn not_opened(downstream: Socket, route: &Route, record: &mut Record, error: NotOpened) {
    let words = Some(error.to_string());
    match error {
        NotOpened::Gone => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        NotOpened::Broken(_) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        NotOpened::Silent(_) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            refuse(downstream, route, record, RefusalKind::BadRequest).await;
        }
        NotOpened::Misspoken(error) => {
            record.end(Outcome::BadOpening, Side::Ambassador, words);
            let protocol = route.cluster().settings().protocol;
            let refusal = record.refusal(RefusalKind::BadRequest);
            downstream::answer_opening(downstream, protocol, &error, &refusal.borrow()).await;
        }
    }
}

fn gone_while_dialling(record: &mut Record, gone: Gone) {
    let words = match gone {
        Gone::Finished => "the client closed the connection while we were dialling",
        Gone::Reset => "the client reset the connection while we were dialling",
    };
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

async fn refuse_undialled(downstream: Socket, route: &Route, record: &mut Record, refusal: &Refusal) {
    record.end(refusal.outcome(), Side::Ambassador, Some(refusal.to_string()));
    let kind = match refusal {
        Refusal::Full(_) => RefusalKind::Full,
        Refusal::Failed { .. } | Refusal::Deadline { .. } => RefusalKind::Unreachable,
    };
    refuse(downstream, route, record, kind).await;
}

/// An order to end came before there was anything to relay.
async fn stopped(downstream: Socket, route: &Route, record: &mut Record, outcome: Outcome) {
    record.end(
        outcome,
        Side::Ambassador,
        Some(format!("ended by the ambassador ({}) before it had an upstream", outcome.label())),
    );
    refuse(downstream, route, record, RefusalKind::ShuttingDown).await;
}

/// Notes how the relay ended. A client that has read nothing of the server yet can still be told why.
async fn close(ended: Ended, route: &Route, record: &mut Record, live: &Live) {
    let outcome = match &ended.fault {
        // TLS 1.3 lets the server reject our certificate after our side of the handshake is done.
        Some(Fault::Io(error)) if live.received() == 0 && tls::late_rejection(error).is_some() => {
            Outcome::TlsFailed
        }
        _ => ended.outcome,
    };
    let words = ended.fault.as_ref().map(|fault| match fault {
        Fault::Io(error) => tls::late_rejection(error).unwrap_or_else(|| error.to_string()),
        Fault::Dialogue(error) => error.to_string(),
    });
    record.end(outcome, ended.closed_by, words);
    if ended.may_be_told {
        refuse(ended.downstream, route, record, RefusalKind::Unreachable).await;
    }
}

async fn refuse(downstream: Socket, route: &Route, record: &Record, kind: RefusalKind) {
    let refusal = record.refusal(kind);
    downstream::refuse(downstream, route.cluster().settings().protocol, &refusal.borrow()).await;
}
