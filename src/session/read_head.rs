//! Reads the PROXY header of a connection, and takes the client's addresses from it.

use std::time::Duration;

use super::guard::SessionGuard;
use super::record::Record;
use super::reject::{Rejected, stopped};
use crate::downstream::{HeadError, read_head};
use crate::head::proxy::{AddressPair, HeaderReader, ProxyAddresses, ProxyCommand};
use crate::outcome::{Outcome, Side};
use crate::protocol::RefusalKind;
use crate::sys::{Peer, Socket};

/// How long a head may take. A client that sends one has it ready when it connects.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a client that will be refused anyway.
const HEAD_TIMEOUT_FULL: Duration = Duration::from_secs(2);

pub(super) fn head_timeout(guard: &SessionGuard) -> Duration {
    if guard.has_room() { HEAD_TIMEOUT } else { HEAD_TIMEOUT_FULL }
}

/// Reads the PROXY header. Its content is trusted, so it has to come from this host: a client on the network could
/// claim any address.
pub(super) async fn proxy_header(
    downstream: Socket,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<Socket, Option<Rejected>> {
    if !is_local(record.peer) {
        let words = "only who connects from this host may send a PROXY header, which this listener requires";
        record.end(Outcome::BadOpening, Side::Ambassador, Some(words.into()));
        return Err(Some(Rejected::new(downstream, RefusalKind::BadRequest)));
    }
    let within = head_timeout(guard);
    let read = tokio::select! {
        biased;
        read = read_head(&downstream, HeaderReader::default(), "PROXY header", within) => read,
        outcome = guard.live().stop_requested() => return Err(Some(stopped(downstream, record, outcome))),
    };
    match read {
        Ok(header) => {
            record.metadata_mut().header = Some(header);
            Ok(downstream)
        }
        Err(error) => {
            let is_mistaken = record_head_error(record, Outcome::BadOpening, &error);
            Err(is_mistaken.then_some(Rejected::new(downstream, RefusalKind::BadRequest)))
        }
    }
}

/// Records why there is no head. True if the client is still there to be refused; the record then has `outcome`.
pub(super) fn record_head_error<E: std::fmt::Display>(
    record: &mut Record,
    outcome: Outcome,
    error: &HeadError<E>,
) -> bool {
    let words = Some(error.to_string());
    match error {
        HeadError::Gone(_) => record.end(Outcome::DownstreamGone, Side::Downstream, words),
        HeadError::Broken(..) => record.end(Outcome::DownstreamReset, Side::Downstream, words),
        HeadError::Slow(..) | HeadError::Malformed(_) => {
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

/// The client's addresses for the PROXY header to the server: those that the proxy before us sent, else those of the
/// connection. If the received header has no TCP addresses, the connection's count (doc/proxy-protocol.txt requires
/// that for `LOCAL` and for unspecified addresses). `None`: neither is TCP.
pub(super) fn addresses(downstream: &Socket, record: &Record) -> Option<AddressPair> {
    let header = record.metadata.as_deref().and_then(|metadata| metadata.header.as_ref());
    if let Some(ProxyCommand::Proxied(ProxyAddresses::Tcp { source, destination })) =
        header.map(|header| &header.command)
    {
        return Some(AddressPair::new(*source, *destination));
    }
    match record.peer {
        Peer::Tcp(source) => Some(AddressPair::new(source, downstream.local()?)),
        Peer::Unix => None,
    }
}
