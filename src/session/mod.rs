//! One connection from accept to close.
//!
//! All control flow of a connection is in [`run`]; each step has its own module. When a session ends, its [`Record`]
//! is written.

mod access;
mod access_fields;
mod admission;
mod connect;
mod counters;
mod denial;
mod dialling;
mod entry;
mod evict;
mod guard;
mod identified;
mod outdated;
mod read_head;
mod record;
mod reject;
mod route;
mod session_id;
mod table;
mod tls_failure;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::cluster::{DialTarget, Lease, Ready};
use crate::dial::{DialRequest, Dialled, finish_dialogue};
use crate::downstream::{self, OpeningTimeouts};
use crate::outcome::{Outcome, Side};
use crate::protocol::{ClientOpening, Outbox, RefusalKind, ReplyTo, SignedIn};
use crate::relay::{self, Ended, RelayError, Unfinished, UpstreamStream};
use crate::sys::{Accepted, DescriptorReservation, Socket};
use crate::workers::WorkerLoad;

pub(crate) use access::AccessLog;
pub(crate) use admission::{Admission, AdmissionSettings, CallerLookups, CallerRequirements};
pub(crate) use counters::Counters;
use dialling::{DialIntent, announce, dial_for, upgrade_server_first};
pub(crate) use entry::{Destination, DestinationCounters};
pub(crate) use evict::evict_sessions;
pub(crate) use guard::Admitted;
use guard::SessionGuard;
pub(crate) use record::Record;
use reject::{Rejected, left_before_greeting, not_opened, nothing_to_cancel, refuse, stopped_before_opening};

pub(crate) use route::{Route, SessionView, Settings};
pub(crate) use session_id::{NoSessionId, SessionId, SessionIds};
pub(crate) use table::SessionTable;

/// Runs one connection from accept to close. However it ends, it is counted, recorded and removed from the table here.
///
/// The state for opening a session is large, and sessions live for hours: the opening is boxed. An `async` block
/// instead of an `async fn`, because an `async fn` stores each argument twice.
pub(crate) fn run(
    accepted: Accepted,
    admitted: Admitted,
    access: Arc<AccessLog>,
    load: WorkerLoad,
) -> impl Future<Output = ()> + Send {
    let Admitted { guard, mut record } = admitted;
    let expecting = DescriptorReservation::begin();
    async move {
        let opening = Box::pin(open_or_refuse(accepted, &guard, &mut record, expecting));
        let Some((start, lease)) = opening.await else { return leave(record, guard, load, access) };
        let settings = &guard.cluster().expect(RELAYS).settings().session;
        let relaying = relay::relay(start, settings, guard.live());
        let left = note(relaying.await, guard.lifetime(), &mut record);
        guard.blame(&record, &lease);
        if record.outcome == Outcome::Denied {
            guard.note_refused();
        }
        match left {
            (None, None) => drop(lease),
            (rejected, unfinished) => {
                Box::pin(send_last_messages(rejected, unfinished, lease, &record)).await
            }
        }
        leave(record, guard, load, access);
    }
}

/// The cluster is known before the dial, and only a dialled session relays.
const RELAYS: &str = "a session that relays has a cluster";

/// Ends the session in this order: it leaves the table before its record is written, so that a reader of the record no
/// longer finds the session. The record waits for the caller's name if a look-up is still running; that wait is a task
/// of its own, so it takes up neither the session's task nor its room.
fn leave(record: Record, mut guard: SessionGuard, load: WorkerLoad, access: Arc<AccessLog>) {
    let ended = clock::now();
    guard.record_end(&record, ended);
    drop(load);
    let route = Arc::clone(guard.route());
    let description = guard.caller_lookup().filter(|_| route.settings().records.is_some());
    guard.vacate();
    let write = move || {
        drop(guard);
        access.write(&record, ended);
    };
    match description {
        None => write(),
        Some(description) => route.admission().wait_beside(async move {
            description.await;
            write();
        }),
    }
}

async fn open_or_refuse(
    accepted: Accepted,
    guard: &SessionGuard,
    record: &mut Record,
    _expecting: DescriptorReservation,
) -> Option<(relay::RelayInput, Lease)> {
    let rejected = match open(accepted, guard, record).await {
        Ok(opened) => return Some(opened),
        Err(rejected) => rejected?,
    };
    Box::pin(refuse(rejected, record)).await;
    None
}

/// opening → dial. `Err(Some)`: the client is to be refused; `Err(None)`: it is gone, or was closed without a reply.
async fn open(
    accepted: Accepted,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(relay::RelayInput, Lease), Option<Rejected>> {
    let downstream = match Socket::adopt(accepted) {
        Ok(downstream) => downstream,
        Err(error) => {
            record.end(Outcome::DownstreamGone, Side::Downstream, Some(error.to_string()));
            return Err(None);
        }
    };
    let (route, live) = (guard.route(), guard.live());
    let mut denial = denial::denial(&downstream, guard, record).await;
    if let Some(denial) = denial.take_if(|_| !guard.turn_away()) {
        denial.note(record);
        downstream.abort();
        return Err(None);
    }
    let downstream = if route.settings().accept_proxy {
        match Box::pin(read_head::proxy_header(downstream, guard, record)).await {
            Ok(downstream) => downstream,
            // A denial takes precedence over a bad header as the reason for the refusal.
            Err(rejected) => {
                let rejected = rejected.map(|rejected| rejected.or(denial, record));
                return Err(match route.settings().context {
                    true => rejected.map(|rejected| rejected.in_http(None)),
                    false => rejected,
                });
            }
        }
    } else {
        downstream
    };
    if route.settings().context {
        return Box::pin(connect::open(downstream, guard, record, denial)).await;
    }
    let cluster = guard.cluster().expect("without a CONNECT request a route has one cluster");
    let protocol = &*cluster.settings().protocol;
    let signs_in = cluster.settings().login.is_some();
    let patience = match denial {
        None => OpeningTimeouts::of_protocol(protocol, OPENING_TIMEOUT),
        Some(_) => OpeningTimeouts::of(OPENING_TIMEOUT_FULL),
    };
    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, signs_in, patience) => opened,
        outcome = live.stop_requested() => return Err(stopped_before_opening(downstream, record, outcome)),
    };
    let cancels = opened.as_ref().ok().and_then(|opened| opened.cancels.as_ref());
    let cancelled = cancels.map(|key| route.cancel_target(key, cluster));
    let is_known = matches!(cancelled, Some(Some((DialTarget::Endpoint { .. }, _))));
    let mut opened = match (opened, denial) {
        (Ok(opened), None) => opened,
        // Only a key that a live session has passes a cap: any client can make one up.
        (Ok(opened), Some(denial)) if is_known && denial.lets_cancel() => opened,
        (Ok(opened), Some(denial)) => {
            // The refusal of a client that speaks first comes after its opening has been read: before that it would
            // not understand a reply.
            record.reply_to = opened.reply_to;
            let kind = denial.note(record);
            return Err(Some(Rejected::new(downstream, kind)));
        }
        (Err(_), Some(denial)) => {
            denial.note(record);
            downstream.abort();
            return Err(None);
        }
        (Err(error), None) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
    };
    guard.note_opened();
    record.reply_to = opened.reply_to;
    let (target, owner) = match cancelled {
        None => (DialTarget::Any, None),
        Some(Some(found)) => found,
        Some(None) => return Err(Some(nothing_to_cancel(downstream, record))),
    };
    if opened.cancels.is_none() {
        announce(guard, &mut opened.bytes);
    }
    let intent = DialIntent {
        request: DialRequest {
            target,
            has_spoken: !opened.bytes.is_empty(),
            preface: &opened.bytes[..opened.preface],
            opening: opened.cancels.is_none().then_some(&opened.bytes),
            ..DialRequest::default()
        },
        owner,
        may_half_close: opened.may_half_close,
        // Some clients close as soon as they have sent a cancel (tokio-postgres): it is dialled all the same.
        must_complete: opened.cancels.is_some(),
    };
    let (dialled, downstream) = dial_for(downstream, intent, guard, record).await?;
    let (ready, lease, downstream) = match dialled {
        Dialled::Ready(ready, lease) if protocol.server_greets() => {
            // Looks once more for a TLS hello: it may have arrived since the first look.
            match downstream::read_opening(
                &downstream,
                protocol,
                signs_in,
                OpeningTimeouts::of(OPENING_TIMEOUT),
            )
            .await
            {
                Ok(_) => (ready, lease, downstream),
                Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
            }
        }
        Dialled::Ready(ready, lease) => (ready, lease, downstream),
        Dialled::ServerFirst(server_first) => {
            Box::pin(upgrade_server_first(downstream, *server_first, guard, record)).await?
        }
    };
    begin(downstream, ready, lease, opened, guard, record).await
}

/// Makes the input of the relay from the dial's result, and sends the client what the upgrade has for it.
async fn begin(
    downstream: Socket,
    ready: Ready,
    lease: Lease,
    mut opened: ClientOpening,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(relay::RelayInput, Lease), Option<Rejected>> {
    let identity = record.dial.agreed.as_ref().and_then(|agreed| agreed.generation);
    guard.note_established(lease.endpoint().id(), identity);
    guard.route().record_dial(&record.dial);
    let Ready { stream: mut upstream, mut welcome, first, dialogue, answer, said, signed_in, .. } = ready;
    opened.bytes.drain(..said);
    guard.live().note_sent_before(said);
    if opened.cancels.is_some() {
        // A server ends it without a word, whether or not it wants a certificate.
        upstream.note_accepted();
    }
    let is_signed_in = signed_in.is_some();
    let mut dialogue = dialogue;
    if let Some(signed_in) = signed_in {
        let SignedIn { to_client, to_server, dialogue: own, .. } = *signed_in;
        welcome.extend(told_in_place_of_login(&mut opened, &to_client, &upstream, guard));
        (opened.bytes, dialogue) = (to_server, own);
        record.reply_to = ReplyTo::default();
    }
    if let Some(answer) = answer {
        welcome.extend(pass_preface_answer(&mut opened, &answer));
        record.reply_to = ReplyTo::default();
    }
    if !downstream::send_welcome(&downstream, &welcome).await {
        left_before_greeting(record);
        return Err(None);
    }
    if !welcome.is_empty() && record.reply_to == ReplyTo::default() {
        record.reply_to = ReplyTo::WELCOMED;
    }
    let opening = if first.is_empty() { opened.bytes } else { [first, opened.bytes].concat() };
    let protocol = &guard.cluster().expect(RELAYS).settings().protocol;
    let dialogue = match is_signed_in {
        true => dialogue,
        false => dialogue.or(opened.dialogue).or_else(|| protocol.dialogue()),
    };
    let patience = guard.cluster().expect(RELAYS).settings().dial.handshake_timeout;
    let verdict_until = upstream.is_uncertified().then(|| clock::now() + patience);
    Ok((relay::RelayInput { downstream, upstream, opening, dialogue, verdict_until }, lease))
}

/// The upgrade has sent the client's preface: removes it from the opening, passes the server's answer through the
/// client's dialogue, and returns the bytes for the client.
fn pass_preface_answer(opened: &mut ClientOpening, answer: &[u8]) -> Vec<u8> {
    let mut out = Outbox::default();
    opened.bytes.drain(..opened.preface);
    if let Some(dialogue) = &mut opened.dialogue {
        dialogue.on_upstream(answer, &mut out).expect("the upgrade has understood it");
    }
    opened.dialogue.take_if(|dialogue| dialogue.is_finished());
    out.to_downstream
}

/// We have signed in: passes what the server said to that through the client's dialogue, which learns how the session is
/// cancelled, and returns the bytes for the client.
fn told_in_place_of_login(
    opened: &mut ClientOpening,
    to_client: &[u8],
    upstream: &UpstreamStream,
    guard: &SessionGuard,
) -> Vec<u8> {
    let Some(mut dialogue) = opened.dialogue.take() else { return to_client.to_vec() };
    let mut out = Outbox::default();
    // The login has understood it.
    if dialogue.on_upstream(to_client, &mut out).is_err() {
        return to_client.to_vec();
    }
    if let Some(key) = dialogue.cancel_key() {
        guard.live().set_cancel_key(key, upstream.peer());
    }
    out.to_downstream
}

/// From the first byte of a client that speaks first to the end of its opening: PostgreSQL's own
/// `authentication_timeout`. How long it may be silent before that is up to the protocol (`Protocol::silence_timeout`).
const OPENING_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for a client that will be refused anyway; this also bounds the silence before.
const OPENING_TIMEOUT_FULL: Duration = Duration::from_secs(2);

/// Records how the relay ended. Returns the client, if it can still get a refusal, and the upstream, if its server is
/// owed the rest of a dialogue.
fn note(ended: Ended, age: Duration, record: &mut Record) -> (Option<Rejected>, Option<Box<Unfinished>>) {
    let failure = match &ended.fault {
        Some(RelayError::Io(error)) => tls_failure::judge(error, handshake_context(record, age)),
        Some(
            RelayError::Dialogue(_)
            | RelayError::Uncertified
            | RelayError::Refused(_)
            | RelayError::Denied(_),
        )
        | None => None,
    };
    // A server that closes with our bytes unread sends a reset instead of a FIN.
    let failure = failure.or_else(|| tls_failure::uncertified(&ended, handshake_context(record, age)));
    let is_rejection = failure.as_ref().is_some_and(|failure| failure.is_rejection);
    let outcome = if is_rejection { Outcome::TlsFailed } else { ended.outcome };
    let words =
        failure.map(|failure| failure.words).or_else(|| ended.fault.as_ref().map(ToString::to_string));
    if let Some(RelayError::Dialogue(error)) = &ended.fault {
        record.reply_to = error.reply_to;
    }
    record.first_byte = ended.first_byte;
    record.unclean_tls_end = ended.unclean_tls_end;
    record.is_uncertified =
        is_rejection && ended.is_uncertified || matches!(ended.fault, Some(RelayError::Uncertified));
    record.end(outcome, ended.closed_by, words);
    let Ended { downstream, can_be_refused, unfinished, fault, .. } = ended;
    let kind = if outcome == Outcome::BadOpening {
        RefusalKind::BadRequest
    } else if outcome == Outcome::Denied {
        RefusalKind::Denied
    } else {
        RefusalKind::Unreachable
    };
    // In a protocol without refusals a refusal is a reset. The server ended this connection in order and took all
    // bytes, so the client's is ended in order too.
    let can_be_refused =
        can_be_refused && !(matches!(fault, Some(RelayError::Uncertified)) && is_speechless(record));
    (can_be_refused.then(|| Rejected::new(downstream, kind)), unfinished)
}

/// Whether the protocol has no message for a refusal.
fn is_speechless(record: &Record) -> bool {
    let protocol = &record.cluster().expect(RELAYS).settings().protocol;
    protocol.refusal(&record.refusal(RefusalKind::Unreachable, None).borrow()).is_none()
}

fn handshake_context(record: &Record, age: Duration) -> tls_failure::HandshakeContext {
    tls_failure::HandshakeContext {
        received: record.received(),
        age,
        patience: record.cluster().expect(RELAYS).settings().dial.handshake_timeout,
        is_judged_late: record.dial.agreed.as_ref().is_some_and(|agreed| agreed.is_judged_late()),
    }
}

/// Sends the client its refusal, and the server the rest of its dialogue; each has a deadline.
async fn send_last_messages(
    rejected: Option<Rejected>,
    unfinished: Option<Box<Unfinished>>,
    lease: Lease,
    record: &Record,
) {
    let lease = unfinished.is_some().then_some(lease);
    if let Some(rejected) = rejected {
        refuse(rejected, record).await;
    }
    if let Some(unfinished) = unfinished {
        finish_dialogue(record.cluster().expect(RELAYS).settings(), *unfinished).await;
    }
    drop(lease);
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size_of_future<A, B, C, D, F>(_: &impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// docs/DECISIONS.md, "What a resting session weighs". tokio's task around it takes 88 bytes and is rounded up to
    /// 128: the third field of 16 bytes made a task of 640 bytes one of 768, and no test said so.
    #[test]
    fn a_resting_session_is_small() {
        let size = size_of_future(&run);
        assert!(size <= 552, "{size}");
    }
}
