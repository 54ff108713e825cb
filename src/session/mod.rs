//! THE PAGE: one connection from accept to close.
//!
//! All control flow of a connection is in [`run`]; each step is a straight line in its own module. What a
//! session leaves is its [`Record`].

mod access;
mod admission;
mod connect;
mod dialling;
mod guest;
mod heads;
mod late;
mod ledger;
mod orphans;
mod place;
mod record;
mod rotation;
mod route;
mod totals;
mod unserved;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::downstream::{self, Patience};
use crate::outcome::{Outcome, Side};
use crate::protocol::{Opened, Outbox, RefusalKind, ReplyTo};
use crate::relay::{self, Ended, Fault, Unfinished};
use crate::sys::{Accepted, Expecting, Socket};
use crate::upstream::{Dialled, Lease, Ready, Tightened, Wanted, see_out};
use crate::workers::WorkerLoad;

pub use access::AccessLog;
pub use admission::{Admission, AdmissionSettings, Lookups, WantedOfCallers};
use dialling::{Ask, announce, dial_for, introduce};
pub use ledger::{Ledger, Tally};
pub use orphans::end_orphans;
pub use place::Admitted;
use place::Place;
pub use record::{NoSessionId, Record, SessionId, SessionIds};
pub use rotation::end_outdated;
pub use route::{Destination, Route, SessionView, Settings};
pub use totals::Totals;
use unserved::{Unserved, left_ungreeted, not_opened, nothing_to_cancel, refuse, stopped_unheard};

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
    let expecting = Expecting::begin();
    async move {
        let opening = Box::pin(open_or_refuse(accepted, &place, &mut record, expecting));
        let Some((start, lease)) = opening.await else { return leave(record, place, load, access) };
        let settings = &place.cluster().expect(RELAYS).settings().session;
        let relaying = relay::relay(start, settings, place.live());
        let left = note(relaying.await, place.lived(), &mut record);
        place.blame(&record, &lease);
        match left {
            (None, None) => drop(lease),
            (unserved, unfinished) => Box::pin(aftermath(unserved, unfinished, lease, &record)).await,
        }
        leave(record, place, load, access);
    }
}

/// Who relays has dialled, and who has dialled knows where.
const RELAYS: &str = "a session that relays has a cluster";

/// In this order: whoever reads the record finds the session gone, and its client's name in it, if there is one to be had. Where
/// that has yet to come, it is waited for beside: the session's own task is over, and others have its room.
fn leave(record: Record, mut place: Place, load: WorkerLoad, access: Arc<AccessLog>) {
    let ended = clock::now();
    record.route().ended(&record, &place, ended);
    drop(load);
    let route = Arc::clone(place.route());
    let description = place.description().filter(|_| route.settings().records.is_some());
    place.vacate();
    let write = move || {
        drop(place);
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
    place: &Place,
    record: &mut Record,
    _expecting: Expecting,
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
    let (route, live) = (place.route(), place.live());
    let mut against = admission::against(&downstream, place, record).await;
    if let Some(against) = against.take_if(|_| !place.turn_away()) {
        against.note(record);
        downstream.abort();
        return Err(None);
    }
    let downstream = if route.settings().accept_proxy {
        match Box::pin(heads::proxy_header(downstream, place, record)).await {
            Ok(downstream) => downstream,
            // Who is not to be served anyway is refused for that.
            Err(unserved) => {
                let unserved = unserved.map(|unserved| unserved.or(against, record));
                return Err(match route.settings().context {
                    true => unserved.map(|unserved| unserved.in_http(None)),
                    false => unserved,
                });
            }
        }
    } else {
        downstream
    };
    if route.settings().context {
        return Box::pin(connect::open(downstream, place, record, against)).await;
    }
    let cluster = place.cluster().expect("without a CONNECT request a route has one cluster");
    let protocol = &*cluster.settings().protocol;
    let patience = match against {
        None => Patience { silent: protocol.bears_silence(), within: OPENING_TIMEOUT },
        Some(_) => Patience::of(OPENING_TIMEOUT_FULL),
    };
    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, patience) => opened,
        outcome = live.ordered_to_stop() => return Err(stopped_unheard(downstream, record, outcome)),
    };
    let cancels = opened.as_ref().ok().and_then(|opened| opened.cancels.as_ref());
    let cancelled = cancels.map(|key| route.owner_of(key, cluster));
    let is_known = matches!(cancelled, Some(Some((Wanted::Endpoint { .. }, _))));
    let mut opened = match (opened, against) {
        (Ok(opened), None) => opened,
        // Anybody can invent a key: one that no session has passes no cap.
        (Ok(opened), Some(against)) if is_known && against.lets_cancel() => opened,
        (Ok(opened), Some(against)) => {
            // One that speaks first was heard first: it would not understand an answer to something that it has not said.
            record.reply_to = opened.reply_to;
            let kind = against.note(record);
            return Err(Some(Unserved::new(downstream, kind)));
        }
        (Err(_), Some(against)) => {
            against.note(record);
            downstream.abort();
            return Err(None);
        }
        (Err(error), None) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
    };
    place.opened();
    record.reply_to = opened.reply_to;
    let (wanted, owner) = match cancelled {
        None => (Wanted::Any, None),
        Some(Some(found)) => found,
        Some(None) => return Err(Some(nothing_to_cancel(downstream, record))),
    };
    if opened.cancels.is_none() {
        announce(place, &mut opened.bytes);
    }
    let ask = Ask {
        wanted,
        owner,
        has_spoken: !opened.bytes.is_empty(),
        preface: &opened.bytes[..opened.preface],
        opening: opened.cancels.is_none().then_some(&opened.bytes),
        may_half_close: opened.may_half_close,
        // Some clients close as soon as they have sent a cancel (tokio-postgres): it stands all the same.
        insists: opened.cancels.is_some(),
        tightened: Tightened::default(),
    };
    let (dialled, downstream) = dial_for(downstream, ask, place, record).await?;
    let (ready, lease, downstream) = match dialled {
        Dialled::Ready(ready, lease) if protocol.server_greets() => {
            // A TLS hello that had not come yet when we first looked has come by now.
            match downstream::read_opening(&downstream, protocol, Patience::of(OPENING_TIMEOUT)).await {
                Ok(_) => (ready, lease, downstream),
                Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
            }
        }
        Dialled::Ready(ready, lease) => (ready, lease, downstream),
        Dialled::Meets(meeting) => Box::pin(introduce(downstream, *meeting, place, record)).await?,
    };
    begin(downstream, ready, lease, opened, place, record).await
}

/// What a relay begins with.
async fn begin(
    downstream: Socket,
    ready: Ready,
    lease: Lease,
    mut opened: Opened,
    place: &Place,
    record: &mut Record,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let identity = record.dial.agreed.as_ref().and_then(|agreed| agreed.stamp);
    place.established(lease.endpoint().id(), identity);
    place.route().dialled(&record.dial);
    let Ready { end: upstream, mut welcome, first, dialogue, answer, said, .. } = ready;
    opened.bytes.drain(..said);
    place.live().note_said(said);
    if let Some(answer) = answer {
        welcome.extend(answered(&mut opened, &answer));
        record.reply_to = ReplyTo::default();
    }
    if !downstream::welcome(&downstream, &welcome).await {
        left_ungreeted(record);
        return Err(None);
    }
    if !welcome.is_empty() && record.reply_to == ReplyTo::default() {
        record.reply_to = ReplyTo::WELCOMED;
    }
    let opening = if first.is_empty() { opened.bytes } else { [first, opened.bytes].concat() };
    let protocol = &place.cluster().expect(RELAYS).settings().protocol;
    let dialogue = dialogue.or(opened.dialogue).or_else(|| protocol.dialogue());
    let patience = place.cluster().expect(RELAYS).settings().dial.handshake_timeout;
    let verdict_until = upstream.is_uncertified().then(|| clock::now() + patience);
    Ok((relay::Start { downstream, upstream, opening, dialogue, verdict_until }, lease))
}

/// The upgrade has said the client's preface: what the client hears of the answer, and what is left to say and to rewrite.
fn answered(opened: &mut Opened, answer: &[u8]) -> Vec<u8> {
    let mut out = Outbox::default();
    opened.bytes.drain(..opened.preface);
    if let Some(dialogue) = &mut opened.dialogue {
        dialogue.upstream_said(answer, &mut out).expect("the upgrade has understood it");
    }
    opened.dialogue.take_if(|dialogue| dialogue.is_finished());
    out.to_downstream
}

/// How long a client that speaks first may take from its first byte to the end of what it wants: PostgreSQL's own
/// `authentication_timeout`. How long it may keep silent before, its protocol knows.
const OPENING_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for one that will be refused anyway.
const OPENING_TIMEOUT_FULL: Duration = Duration::from_secs(2);

/// Notes how the relay ended. The answer: the client, if it has read nothing of the server yet and can be told why, and the server that
/// has to hear the rest of a dialogue.
fn note(ended: Ended, age: Duration, record: &mut Record) -> (Option<Unserved>, Option<Box<Unfinished>>) {
    let failure = match &ended.fault {
        Some(Fault::Io(error)) => late::judge(error, seen(record, age)),
        Some(Fault::Dialogue(_) | Fault::Uncertified) | None => None,
    };
    // A server that leaves bytes of ours unread resets where it would end.
    let failure = failure.or_else(|| late::uncertified(&ended, seen(record, age)));
    let is_rejection = failure.as_ref().is_some_and(|failure| failure.is_rejection);
    let outcome = if is_rejection { Outcome::TlsFailed } else { ended.outcome };
    let words =
        failure.map(|failure| failure.words).or_else(|| ended.fault.as_ref().map(ToString::to_string));
    if let Some(Fault::Dialogue(error)) = &ended.fault {
        record.reply_to = error.reply_to;
    }
    record.first_byte = ended.first_byte;
    record.unclean_tls_end = ended.unclean_tls_end;
    record.is_uncertified =
        is_rejection && ended.is_uncertified || matches!(ended.fault, Some(Fault::Uncertified));
    record.end(outcome, ended.closed_by, words);
    let Ended { downstream, may_be_told, unfinished, fault, .. } = ended;
    let kind =
        if outcome == Outcome::BadOpening { RefusalKind::BadRequest } else { RefusalKind::Unreachable };
    // Where a protocol has no words a refusal is a reset. What a server ended in order, having taken what it was sent, is ended so.
    let may_be_told = may_be_told && !(matches!(fault, Some(Fault::Uncertified)) && is_speechless(record));
    (may_be_told.then(|| Unserved::new(downstream, kind)), unfinished)
}

/// Whether the protocol has no words for a refusal.
fn is_speechless(record: &Record) -> bool {
    let protocol = &record.cluster().expect(RELAYS).settings().protocol;
    protocol.refusal(&record.refusal(RefusalKind::Unreachable, None).borrow()).is_none()
}

fn seen(record: &Record, age: Duration) -> late::Seen {
    late::Seen {
        received: record.received(),
        age,
        patience: record.cluster().expect(RELAYS).settings().dial.handshake_timeout,
        is_judged_late: record.dial.agreed.as_ref().is_some_and(|agreed| agreed.is_judged_late()),
    }
}

/// A client hears why it is not served, and a server the rest of what it was in the middle of; either has a deadline.
async fn aftermath(
    unserved: Option<Unserved>,
    unfinished: Option<Box<Unfinished>>,
    lease: Lease,
    record: &Record,
) {
    let lease = unfinished.is_some().then_some(lease);
    if let Some(unserved) = unserved {
        refuse(unserved, record).await;
    }
    if let Some(unfinished) = unfinished {
        see_out(record.cluster().expect(RELAYS).settings(), *unfinished).await;
    }
    drop(lease);
}
