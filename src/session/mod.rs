//! THE PAGE: one connection from accept to close.
//!
//! All control flow of a connection is in [`run`]; each step is a straight line in its own module. What a
//! session leaves is its [`Record`].

mod access;
mod admission;
mod connect;
mod heads;
mod orphans;
mod record;
mod rotation;
mod route;
mod totals;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock;
use crate::downstream::{self, NotOpened};
use crate::head::connect::{refused, status_of};
use crate::outcome::{Outcome, Side};
use crate::policy::balance::{Policy, hash};
use crate::policy::roster::Unavailable;
use crate::protocol::{Opened, Protocol, RefusalKind};
use crate::relay::{self, Ended, Fault, Unfinished};
use crate::sys::{Accepted, Gone, Peer, Socket};
use crate::tls::{self, Choice, NoIdentity};
use crate::upstream::{
    Announcement, Demand, Dialled, Lease, Meeting, Ready, Refusal, Tightened, Wanted, dial, see_out,
};
use crate::workers::WorkerLoad;

pub use access::{AccessLog, Format};
use admission::Against;
pub use admission::{Admission, AdmissionSettings};
pub use orphans::end_orphans;
pub use record::{NoSessionId, Record, SessionId, SessionIds};
pub use rotation::end_outdated;
use route::Place;
pub use route::{Admitted, Destination, Ledger, Route, SessionView, Settings, Tally};
pub use totals::Totals;

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
        let settings = &place.cluster().expect(RELAYS).settings().session;
        let relaying = relay::relay(start, settings, place.live());
        let left = note(relaying.await, &mut record);
        place.blame(&record, &lease);
        match left {
            (None, None) => drop(lease),
            (unserved, unfinished) => Box::pin(aftermath(unserved, unfinished, lease, &record)).await,
        }
        leave(&record, place, load, &access);
    }
}

/// Who relays has dialled, and who has dialled knows where.
const RELAYS: &str = "a session that relays has a cluster";

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
    tongue: Tongue,
}

/// What a client hears its refusal in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tongue {
    /// The cluster's protocol.
    Protocol,
    /// HTTP, where it waits for the answer to its CONNECT: with that status, or the outcome's own.
    Http(Option<u16>),
}

impl Unserved {
    const fn new(downstream: Socket, kind: RefusalKind) -> Self {
        Self { downstream, kind, tongue: Tongue::Protocol }
    }

    fn in_http(self, status: Option<u16>) -> Self {
        Self { tongue: Tongue::Http(status), ..self }
    }

    /// What speaks against the client in any case comes first.
    fn or(self, against: Option<Against>, record: &mut Record) -> Self {
        let kind = against.map_or(self.kind, |against| against.note(record));
        Self { kind, ..self }
    }
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
    let within = if against.is_none() { OPENING_TIMEOUT } else { OPENING_TIMEOUT_FULL };
    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, within) => opened,
        outcome = live.ordered_to_stop() => return Err(Some(stopped(downstream, record, outcome))),
    };
    let mut opened = match (opened, against) {
        (Ok(opened), None) => opened,
        (Ok(opened), Some(against)) if opened.cancels.is_some() && against.lets_cancel() => opened,
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
    let wanted = match opened.cancels.as_ref().map(|key| route.owner_of(key, cluster)) {
        None => Wanted::Any,
        Some(Some(wanted)) => wanted,
        Some(None) => return Err(Some(nothing_to_cancel(downstream, record))),
    };
    if opened.cancels.is_none() {
        announce(place, &mut opened.bytes);
    }
    let ask = Ask {
        wanted,
        has_spoken: !opened.bytes.is_empty(),
        may_half_close: opened.may_half_close,
        // Some clients close as soon as they have sent a cancel (tokio-postgres): it stands all the same.
        insists: opened.cancels.is_some(),
        tightened: Tightened::default(),
    };
    let (dialled, downstream) = dial_for(downstream, ask, place, record).await?;
    let (ready, lease, downstream) = match dialled {
        Dialled::Ready(ready, lease) if protocol.server_greets() => {
            // A TLS hello that had not come yet when we first looked has come by now.
            match downstream::read_opening(&downstream, protocol, OPENING_TIMEOUT).await {
                Ok(_) => (ready, lease, downstream),
                Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
            }
        }
        Dialled::Ready(ready, lease) => (ready, lease, downstream),
        Dialled::Meets(meeting) => Box::pin(introduce(downstream, *meeting, place, record)).await?,
    };
    begin(downstream, ready, lease, opened, place, record).await
}

/// What a session asks of its dial.
struct Ask<'a> {
    wanted: Wanted,
    /// Bytes of the client wait to be passed on.
    has_spoken: bool,
    /// A FIN of the client only ends what it says.
    may_half_close: bool,
    /// The client wants it done, even if it does not wait.
    insists: bool,
    tightened: Tightened<'a>,
}

/// Dials while the client is there and nobody orders an end.
async fn dial_for(
    downstream: Socket,
    ask: Ask<'_>,
    place: &Place,
    record: &mut Record,
) -> Result<(Dialled, Socket), Option<Unserved>> {
    let cluster = place.cluster().expect("who dials knows where");
    let Ask { wanted, has_spoken, may_half_close, insists, tightened } = ask;
    let tls = cluster.settings().tls.as_ref();
    let choice = tls.map(|tls| tls.identities().choose(record.caller().map(|caller| &**caller)));
    let identity = match choice.unwrap_or(Ok(Choice::ONLY)) {
        Ok(identity) => identity,
        Err(none) => return Err(Some(without_identity(downstream, record, &none))),
    };
    // Where a server minds, what was begun goes on until it can be ended well.
    let may_be_cut = !cluster.settings().protocol.parts_politely() && !insists;
    let announcement = cluster.settings().send_proxy.as_ref().map(|_| announcement(&downstream, record));
    let from = match record.peer {
        Peer::Tcp(from) => Some(from.ip()),
        Peer::Unix => None,
    };
    let affinity = (cluster.settings().balance == Policy::SourceHash).then(|| affinity(&tightened, record));
    let demand = Demand {
        wanted,
        identity,
        has_spoken,
        tightened,
        announcement: announcement.as_ref(),
        affinity: affinity.flatten(),
        caller: place.caller().map(|caller| &**caller),
        from,
    };
    tokio::select! {
        biased;
        dialled = dial(cluster, demand, &mut record.dial) => match dialled {
            Ok(dialled) => Ok((dialled, downstream)),
            Err(refusal) => Err(Some(undialled(downstream, record, &refusal))),
        },
        gone = downstream.gone(may_half_close), if may_be_cut => {
            gone_while_dialling(record, gone);
            Err(None)
        }
        outcome = place.live().ordered_to_stop(), if may_be_cut => Err(Some(stopped(downstream, record, outcome))),
    }
}

/// What a relay begins with.
async fn begin(
    downstream: Socket,
    ready: Ready,
    lease: Lease,
    opened: Opened,
    place: &Place,
    record: &mut Record,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let identity = record.dial.agreed.as_ref().and_then(|agreed| agreed.stamp);
    place.established(lease.endpoint().id(), identity);
    place.route().dialled(&record.dial);
    let Ready { end: upstream, welcome, first, dialogue } = ready;
    if !downstream::welcome(&downstream, &welcome).await {
        left_ungreeted(record);
        return Err(None);
    }
    let opening = if first.is_empty() { opened.bytes } else { [first, opened.bytes].concat() };
    let protocol = &place.cluster().expect(RELAYS).settings().protocol;
    let dialogue = dialogue.or(opened.dialogue).or_else(|| protocol.dialogue());
    Ok((relay::Start { downstream, upstream, opening, dialogue }, lease))
}

fn left_ungreeted(record: &mut Record) {
    let words = "the client left before it was greeted";
    record.end(Outcome::DownstreamGone, Side::Downstream, Some(words.into()));
}

/// The session, as its server is to hear of it.
fn announcement(downstream: &Socket, record: &Record) -> Announcement {
    let caller = record.caller();
    Announcement {
        command: heads::command(downstream, record),
        session: record.session().to_string(),
        uid: caller.map(|caller| caller.uid),
        unit: caller.and_then(|caller| caller.unit()).map(ToString::to_string),
        context: record.context().map(ToString::to_string),
    }
}

/// Tells the server in a client's login which unit it is, where that is wanted and known.
fn announce(place: &Place, login: &mut Vec<u8>) {
    let settings = place.cluster().expect("who logs in has a cluster").settings();
    if settings.announce_caller
        && let Some(unit) = place.caller().and_then(|caller| caller.unit())
    {
        settings.protocol.announce(login, unit.as_str());
    }
}

/// Who is kept on one endpoint by `source_hash`: what the client names, or else a user of this host, where the caller was
/// looked up, or else an address.
fn affinity(tightened: &Tightened<'_>, record: &Record) -> Option<u64> {
    if let Some(named) = tightened.affinity {
        return Some(hash(named.as_bytes()));
    }
    if let Some(caller) = record.caller() {
        return Some(hash(&caller.uid.to_be_bytes()));
    }
    match record.peer {
        Peer::Tcp(address) => match address.ip() {
            IpAddr::V4(ip) => Some(hash(&ip.octets())),
            IpAddr::V6(ip) => Some(hash(&ip.octets())),
        },
        Peer::Unix => None,
    }
}

fn nothing_to_cancel(downstream: Socket, record: &mut Record) -> Unserved {
    let words = "no session of this listener has the key that the client wants cancelled";
    record.end(Outcome::NoEndpoint, Side::Ambassador, Some(words.into()));
    Unserved::new(downstream, RefusalKind::Unreachable)
}

/// The client's part in an upgrade. However it ends, the server has seen a whole conversation.
async fn introduce(
    downstream: Socket,
    mut meeting: Meeting,
    place: &Place,
    record: &mut Record,
) -> Result<(Ready, Lease, Socket), Option<Unserved>> {
    let protocol = &*place.cluster().expect("who was dialled has a cluster").settings().protocol;
    let introduced = tokio::select! {
        biased;
        introduced = downstream::introduce(&downstream, meeting.greeting(), INTRODUCTION_TIMEOUT) => introduced,
        outcome = place.live().ordered_to_stop() => {
            meeting.part().await;
            return Err(Some(stopped(downstream, record, outcome)));
        }
    };
    let introduced = match introduced {
        Ok(mut introduced) => {
            announce(place, &mut introduced.upgraded.first);
            introduced
        }
        Err(error) => {
            meeting.part().await;
            return Err(not_opened(downstream, protocol, record, error).await);
        }
    };
    record.reply_to = introduced.reply_to;
    match meeting.secure(introduced, &mut record.dial).await {
        Ok((ready, lease)) => Ok((ready, lease, downstream)),
        Err(last) => {
            let attempts = record.dial.attempts;
            Err(Some(undialled(downstream, record, &Refusal::Failed { last, attempts, stopped: None })))
        }
    }
}

/// How long a client may take to answer a server's greeting: less than the 10 s of MySQL's `connect_timeout`, so that
/// there is time to part.
const INTRODUCTION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(8);
/// How long a client that speaks first may take to say what it wants: PostgreSQL's own
/// `authentication_timeout`.
const OPENING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// The same for one that will be refused anyway.
const OPENING_TIMEOUT_FULL: std::time::Duration = std::time::Duration::from_secs(2);

async fn not_opened(
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

/// Nothing was dialled: there is nobody to be towards the server.
fn without_identity(downstream: Socket, record: &mut Record, none: &NoIdentity) -> Unserved {
    let (outcome, kind) = match none {
        NoIdentity::Denied(_) => (Outcome::Denied, RefusalKind::Denied),
        NoIdentity::Absent(_) => (Outcome::TlsFailed, RefusalKind::Unreachable),
    };
    record.end(outcome, Side::Ambassador, Some(none.to_string()));
    Unserved::new(downstream, kind)
}

fn undialled(downstream: Socket, record: &mut Record, refusal: &Refusal) -> Unserved {
    record.end(refusal.outcome(), Side::Ambassador, Some(refusal.to_string()));
    let kind = match refusal {
        Refusal::Unavailable(Unavailable::Full(_)) | Refusal::Full(..) => RefusalKind::Full,
        Refusal::Unavailable(Unavailable::Breaker(_) | Unavailable::Nobody(_) | Unavailable::Budget)
        | Refusal::Unknown { .. }
        | Refusal::Failed { .. }
        | Refusal::Deadline { .. } => RefusalKind::Unreachable,
    };
    Unserved::new(downstream, kind)
}

/// An order to end came before there was anything to relay.
fn stopped(downstream: Socket, record: &mut Record, outcome: Outcome) -> Unserved {
    record.end(
        outcome,
        Side::Ambassador,
        Some(format!("ended by the ambassador ({}) before it had an upstream", outcome.label())),
    );
    Unserved::new(downstream, RefusalKind::ShuttingDown)
}

/// Notes how the relay ended. A client that has read nothing of the server yet can still be told why.
/// Who has to be told what, once the relay has ended.
fn note(ended: Ended, record: &mut Record) -> (Option<Unserved>, Option<Box<Unfinished>>) {
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
    if let Some(Fault::Dialogue(error)) = &ended.fault {
        record.reply_to = error.reply_to;
    }
    record.first_byte = ended.first_byte;
    record.end(outcome, ended.closed_by, words);
    let Ended { downstream, may_be_told, unfinished, .. } = ended;
    let kind =
        if outcome == Outcome::BadOpening { RefusalKind::BadRequest } else { RefusalKind::Unreachable };
    (may_be_told.then(|| Unserved::new(downstream, kind)), unfinished)
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

async fn refuse(Unserved { downstream, kind, tongue }: Unserved, record: &Record) {
    let refusal = record.refusal(kind);
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
