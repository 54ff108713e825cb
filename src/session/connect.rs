//! Opens a session whose client names its cluster and tightens its dial in a CONNECT request.
//!
//! The reply names the endpoint, so the dial comes before the client's opening in the cluster's protocol. Until the
//! reply is sent, refusals are HTTP.

use super::admission::Denial;
use super::dialling::{DialIntent, announce, dial_for, upgrade_server_first};
use super::guard::SessionGuard;
use super::read_head::{head_timeout, record_head_error};
use super::record::Record;
use super::reject::{
    Rejected, left_before_greeting, not_opened, nothing_to_cancel, stopped, stopped_before_opening,
};
use super::{OPENING_TIMEOUT, begin};
use crate::clock;
use crate::cluster::{Lease, Ready};
use crate::dial::{DialOverrides, DialRequest, Dialled, ServerFirstUpgrade};
use crate::downstream::{self, HeadError, OpeningTimeouts, read_head};
use crate::head::connect::{ConnectRequest, Error, RequestReader, SessionInfo, success_reply};
use crate::outcome::{Outcome, Side};
use crate::protocol::{ClientOpening, RefusalKind, TLS_ALERT};
use crate::relay;
use crate::sys::Socket;

/// request → dial → reply → opening. The same as `session::open`, for listeners with CONNECT requests.
pub(super) async fn open(
    downstream: Socket,
    guard: &SessionGuard,
    record: &mut Record,
    denial: Option<Denial>,
) -> Result<(relay::RelayInput, Lease), Option<Rejected>> {
    let (downstream, request) = request(downstream, guard, record, denial).await?;
    let Some(index) =
        request.which(&guard.route().clusters().map(|cluster| cluster.settings().name.as_str()))
    else {
        return Err(Some(unknown(downstream, guard, record)));
    };
    guard.set_destination(index);
    guard.note_opened();
    if request.context.is_some() {
        record.metadata_mut().context.clone_from(&request.context);
    }
    let asked = clock::now();
    let intent = DialIntent {
        request: DialRequest { overrides: overrides(&request), ..DialRequest::default() },
        owner: None,
        may_half_close: true,
        must_complete: false,
    };
    let dialled = dial_for(downstream, intent, guard, record).await;
    let (dialled, downstream) =
        dialled.map_err(|rejected| rejected.map(|rejected| rejected.in_http(None)))?;
    let reply = success_reply(&SessionInfo {
        session: &record.session().to_string(),
        endpoint: record.dial.endpoint.as_ref().map_or("", |name| name.as_str()),
        attempts: record.dial.attempts,
        took: clock::now() - asked,
    });
    let is_served = downstream::send_welcome(&downstream, &reply).await;
    match dialled {
        Dialled::ServerFirst(server_first) if is_served => {
            finish_server_first(downstream, server_first, guard, record).await
        }
        Dialled::Ready(ready, lease) if is_served => {
            read_opening(downstream, ready, lease, guard, record).await
        }
        Dialled::ServerFirst(server_first) => {
            server_first.finish_without_client().await;
            left_before_greeting(record);
            Err(None)
        }
        Dialled::Ready(..) => {
            left_before_greeting(record);
            Err(None)
        }
    }
}

/// Reads the request, also of a client that is denied: the refusal is the reply to it.
async fn request(
    downstream: Socket,
    guard: &SessionGuard,
    record: &mut Record,
    denial: Option<Denial>,
) -> Result<(Socket, ConnectRequest), Option<Rejected>> {
    let within = head_timeout(guard);
    let read = tokio::select! {
        biased;
        read = read_head(&downstream, RequestReader::default(), "CONNECT request", within) => read,
        outcome = guard.live().stop_requested() => {
            return Err(Some(stopped(downstream, record, outcome).in_http(None)));
        }
    };
    let status = match &read {
        Err(HeadError::Slow(..)) => Some(408),
        Err(HeadError::Malformed(error)) => error.status(),
        Ok(_) | Err(HeadError::Gone(_) | HeadError::Broken(..)) => None,
    };
    match (read, denial) {
        (Ok(request), None) => Ok((downstream, request)),
        (Ok(_), Some(denial)) => Err(Some(Rejected::new(downstream, denial.note(record)).in_http(None))),
        (Err(_), Some(denial)) => {
            denial.note(record);
            downstream.abort();
            Err(None)
        }
        (Err(error), None) => {
            let is_there = record_head_error(record, Outcome::BadContext, &error);
            if matches!(error, HeadError::Malformed(Error::SpeaksTls)) {
                downstream::send_and_close(downstream, TLS_ALERT).await;
                return Err(None);
            }
            Err(is_there.then(|| Rejected::new(downstream, RefusalKind::BadRequest).in_http(status)))
        }
    }
}

fn unknown(downstream: Socket, guard: &SessionGuard, record: &mut Record) -> Rejected {
    let names = guard.route().clusters().map(|cluster| cluster.settings().name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let words = format!("the target is no cluster that this listener leads to; there is {names}");
    record.end(Outcome::BadContext, Side::Ambassador, Some(words));
    Rejected::new(downstream, RefusalKind::BadRequest).in_http(Some(404))
}

fn overrides(request: &ConnectRequest) -> DialOverrides<'_> {
    DialOverrides {
        attempts: request.attempts.map(|attempts| attempts.max(1)),
        deadline: request.deadline,
        affinity: request.affinity.as_deref(),
    }
}

/// The server greets first: goes on as without a CONNECT request.
async fn finish_server_first(
    downstream: Socket,
    server_first: Box<ServerFirstUpgrade>,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(relay::RelayInput, Lease), Option<Rejected>> {
    let (ready, lease, downstream) =
        Box::pin(upgrade_server_first(downstream, *server_first, guard, record)).await?;
    begin(downstream, ready, lease, ClientOpening::default(), guard, record).await
}

/// Reads the client's opening in the cluster's protocol, after the dial.
async fn read_opening(
    downstream: Socket,
    ready: Ready,
    lease: Lease,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(relay::RelayInput, Lease), Option<Rejected>> {
    let cluster = guard.cluster().expect("the request named one");
    let protocol = &*cluster.settings().protocol;
    let signs_in = cluster.settings().login.is_some();
    guard.await_opening();
    // It holds an upstream meanwhile, whose server is the first to end it if it minds; and it makes room where that is wanted.
    let patience = OpeningTimeouts::of_protocol(protocol, OPENING_TIMEOUT);
    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, signs_in, patience) => opened,
        outcome = guard.live().stop_requested() => return Err(stopped_before_opening(downstream, record, outcome)),
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
    };
    guard.note_opened();
    record.reply_to = opened.reply_to;
    let Some(key) = &opened.cancels else {
        announce(guard, &mut opened.bytes);
        return begin(downstream, ready, lease, opened, guard, record).await;
    };
    // Only now is it known that this is a cancel, which has to go to a certain endpoint.
    drop((ready, lease));
    let Some((target, owner)) = guard.route().cancel_target(key, cluster) else {
        return Err(Some(nothing_to_cancel(downstream, record)));
    };
    let intent = DialIntent {
        request: DialRequest { target, has_spoken: true, ..DialRequest::default() },
        owner,
        may_half_close: opened.may_half_close,
        must_complete: true,
    };
    match dial_for(downstream, intent, guard, record).await? {
        (Dialled::Ready(ready, lease), downstream) => {
            begin(downstream, ready, lease, opened, guard, record).await
        }
        (Dialled::ServerFirst(server_first), downstream) => {
            finish_server_first(downstream, server_first, guard, record).await
        }
    }
}
