//! What stands in front of a session's bytes, where its listener expects something there.

use std::time::Duration;

use super::place::Place;
use super::record::Record;
use super::unserved::{Unserved, stopped};
use crate::downstream::{NoHead, read_head};
use crate::head::proxy::{AddressPair, Addresses, Command, HeaderReader};
use crate::outcome::{Outcome, Side};
use crate::protocol::RefusalKind;
use crate::sys::{Peer, Socket};

/// How long a head may take. Who sends one has it ready when it connects.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one that will be refused anyway.
const HEAD_TIMEOUT_FULL: Duration = Duration::from_secs(2);

pub(super) fn head_timeout(place: &Place) -> Duration {
    if place.has_room() { HEAD_TIMEOUT } else { HEAD_TIMEOUT_FULL }
}

/// The PROXY header. What it says is believed, so it has to come from this host: whoever may connect to us over a network
/// could claim to be anybody.
pub(super) async fn proxy_header(
    downstream: Socket,
    place: &Place,
    record: &mut Record,
) -> Result<Socket, Option<Unserved>> {
    if !is_local(record.peer) {
        let words = "only who connects from this host may send a PROXY header, which this listener requires";
        record.end(Outcome::BadOpening, Side::Ambassador, Some(words.into()));
        return Err(Some(Unserved::new(downstream, RefusalKind::BadRequest)));
    }
    let within = head_timeout(place);
    let read = tokio::select! {
        biased;
        read = read_head(&downstream, HeaderReader::default(), "PROXY header", within) => read,
        outcome = place.live().ordered_to_stop() => return Err(Some(stopped(downstream, record, outcome))),
    };
    match read {
        Ok(header) => {
            record.told().header = Some(header);
            Ok(downstream)
        }
        Err(error) => {
            let is_mistaken = has_no_head(record, Outcome::BadOpening, &error);
            Err(is_mistaken.then_some(Unserved::new(downstream, RefusalKind::BadRequest)))
        }
    }
}

/// Notes why there is no head, with that outcome where the client is there to be told.
pub(super) fn has_no_head<E: std::fmt::Display>(
    record: &mut Record,
    outcome: Outcome,
    error: &NoHead<E>,
) -> bool {
    let words = Some(error.to_string());
    match error {
        NoHead::Gone(_) => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        NoHead::Broken(..) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        NoHead::Slow(..) | NoHead::Malformed(_) => {
            record.end(outcome, Side::Ambassador, words);
            return true;
        }
    }
    false
}

fn is_local(peer: Peer) -> bool {
    match peer {
        Peer::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Peer::Unix => true,
    }
}

/// From where to where the client connected, for the server's PROXY header: what the proxy before us says, else what the
/// kernel does. Where the header before us has no addresses of TCP, those of its connection count (doc/proxy-protocol.txt says
/// so of `LOCAL` and of what is unspecified). `None`: none of it was TCP.
pub(super) fn addresses(downstream: &Socket, record: &Record) -> Option<AddressPair> {
    let header = record.told.as_deref().and_then(|told| told.header.as_ref());
    if let Some(Command::Proxied(Addresses::Tcp { source, destination })) =
        header.map(|header| &header.command)
    {
        return Some(AddressPair::new(*source, *destination));
    }
    match record.peer {
        Peer::Tcp(source) => Some(AddressPair::new(source, downstream.local()?)),
        Peer::Unix => None,
    }
}
