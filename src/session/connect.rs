//! The opening of a session whose client names its cluster, and says how it wants to be connected, in a CONNECT request.
//!
//! The reply tells the endpoint, so the dial comes before anything of the cluster's own protocol: that begins behind the
//! reply, and until then a refusal is HTTP.

use super::admission::Against;
use super::dialling::{Ask, announce, dial_for, introduce};
use super::heads::{has_no_head, head_timeout};
use super::place::Place;
use super::record::Record;
use super::unserved::{Unserved, left_ungreeted, not_opened, nothing_to_cancel, stopped, stopped_unheard};
use super::{OPENING_TIMEOUT, begin};
use crate::clock;
use crate::downstream::{self, NoHead, Patience, read_head};
use crate::head::connect::{Error, Request, RequestReader, Served, served};
use crate::outcome::{Outcome, Side};
use crate::protocol::{Opened, RefusalKind, TLS_ALERT};
use crate::relay;
use crate::sys::Socket;
use crate::upstream::{Dialled, Lease, Meeting, Ready, Tightened, Wanted};

/// request → dial → reply → opening: as `session::open` has it for those who do not ask.
pub(super) async fn open(
    downstream: Socket,
    place: &Place,
    record: &mut Record,
    against: Option<Against>,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let (downstream, request) = request(downstream, place, record, against).await?;
    let Some(index) =
        request.which(&place.route().clusters().map(|cluster| cluster.settings().name.as_str()))
    else {
        return Err(Some(unknown(downstream, place, record)));
    };
    place.leads_to(index);
    place.opened();
    if request.context.is_some() {
        record.told().context.clone_from(&request.context);
    }
    let asked = clock::now();
    let ask = Ask {
        wanted: Wanted::Any,
        owner: None,
        has_spoken: false,
        preface: &[],
        opening: None,
        may_half_close: true,
        insists: false,
        tightened: tightened(&request),
    };
    let dialled = dial_for(downstream, ask, place, record).await;
    let (dialled, downstream) =
        dialled.map_err(|unserved| unserved.map(|unserved| unserved.in_http(None)))?;
    let reply = served(&Served {
        session: &record.session().to_string(),
        endpoint: record.dial.endpoint.as_ref().map_or("", |name| name.as_str()),
        attempts: record.dial.attempts,
        took: clock::now() - asked,
    });
    let is_served = downstream::welcome(&downstream, &reply).await;
    match dialled {
        Dialled::Meets(meeting) if is_served => meets(downstream, meeting, place, record).await,
        Dialled::Ready(ready, lease) if is_served => hear_out(downstream, ready, lease, place, record).await,
        Dialled::Meets(meeting) => {
            meeting.part().await;
            left_ungreeted(record);
            Err(None)
        }
        Dialled::Ready(..) => {
            left_ungreeted(record);
            Err(None)
        }
    }
}

/// What the client asks for, where nothing speaks against it.
async fn request(
    downstream: Socket,
    place: &Place,
    record: &mut Record,
    against: Option<Against>,
) -> Result<(Socket, Request), Option<Unserved>> {
    let within = head_timeout(place);
    let read = tokio::select! {
        biased;
        read = read_head(&downstream, RequestReader::default(), "CONNECT request", within) => read,
        outcome = place.live().ordered_to_stop() => {
            return Err(Some(stopped(downstream, record, outcome).in_http(None)));
        }
    };
    let status = match &read {
        Err(NoHead::Slow(..)) => Some(408),
        Err(NoHead::Malformed(error)) => error.status(),
        Ok(_) | Err(NoHead::Gone(_) | NoHead::Broken(..)) => None,
    };
    match (read, against) {
        (Ok(request), None) => Ok((downstream, request)),
        (Ok(_), Some(against)) => Err(Some(Unserved::new(downstream, against.note(record)).in_http(None))),
        (Err(_), Some(against)) => {
            against.note(record);
            downstream.abort();
            Err(None)
        }
        (Err(error), None) => {
            let is_there = has_no_head(record, Outcome::BadContext, &error);
            if matches!(error, NoHead::Malformed(Error::SpeaksTls)) {
                downstream::say(downstream, TLS_ALERT).await;
                return Err(None);
            }
            Err(is_there.then(|| Unserved::new(downstream, RefusalKind::BadRequest).in_http(status)))
        }
    }
}

fn unknown(downstream: Socket, place: &Place, record: &mut Record) -> Unserved {
    let names = place.route().clusters().map(|cluster| cluster.settings().name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let words = format!("the target is no cluster that this listener leads to; there is {names}");
    record.end(Outcome::BadContext, Side::Ambassador, Some(words));
    Unserved::new(downstream, RefusalKind::BadRequest).in_http(Some(404))
}

fn tightened(request: &Request) -> Tightened<'_> {
    Tightened {
        attempts: request.attempts.map(|attempts| attempts.max(1)),
        deadline: request.deadline,
        affinity: request.affinity.as_deref(),
    }
}

/// A server that has greeted: from here on it is as without a request.
async fn meets(
    downstream: Socket,
    meeting: Box<Meeting>,
    place: &Place,
    record: &mut Record,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let (ready, lease, downstream) = Box::pin(introduce(downstream, *meeting, place, record)).await?;
    begin(downstream, ready, lease, Opened::default(), place, record).await
}

/// The cluster's own protocol, with the endpoint at hand.
async fn hear_out(
    downstream: Socket,
    ready: Ready,
    lease: Lease,
    place: &Place,
    record: &mut Record,
) -> Result<(relay::Start, Lease), Option<Unserved>> {
    let cluster = place.cluster().expect("the request named one");
    let protocol = &*cluster.settings().protocol;
    place.awaits_more();
    let opened = tokio::select! {
        biased;
        opened = downstream::read_opening(&downstream, protocol, Patience::of(OPENING_TIMEOUT)) => opened,
        outcome = place.live().ordered_to_stop() => return Err(stopped_unheard(downstream, record, outcome)),
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(Box::pin(not_opened(downstream, protocol, record, error)).await),
    };
    place.opened();
    record.reply_to = opened.reply_to;
    let Some(key) = &opened.cancels else {
        announce(place, &mut opened.bytes);
        return begin(downstream, ready, lease, opened, place, record).await;
    };
    // Only now is it known that it wants a certain endpoint, and none other.
    drop((ready, lease));
    let Some((wanted, owner)) = place.route().owner_of(key, cluster) else {
        return Err(Some(nothing_to_cancel(downstream, record)));
    };
    let ask = Ask {
        wanted,
        owner,
        has_spoken: true,
        preface: &[],
        opening: None,
        may_half_close: opened.may_half_close,
        insists: true,
        tightened: Tightened::default(),
    };
    match dial_for(downstream, ask, place, record).await? {
        (Dialled::Ready(ready, lease), downstream) => {
            begin(downstream, ready, lease, opened, place, record).await
        }
        (Dialled::Meets(meeting), downstream) => meets(downstream, meeting, place, record).await,
    }
}
