//! From a client that has said what it wants to an upstream: the dial on its behalf, and its part in an upgrade.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::heads;
use super::place::Place;
use super::record::Record;
use super::unserved::{Unserved, gone_while_dialling, not_opened, stopped, undialled};
use crate::caller::Caller;
use crate::downstream;
use crate::outcome::Outcome;
use crate::policy::balance::{Policy, hash};
use crate::sys::{Peer, Socket};
use crate::upstream::{
    Announcement, Demand, Dialled, Lease, Meeting, Ready, Refusal, Tightened, Wanted, dial,
};

/// What a session asks of its dial.
pub(super) struct Ask<'a> {
    pub(super) wanted: Wanted,
    /// Whose session it cancels.
    pub(super) owner: Option<Arc<Caller>>,
    /// Bytes of the client wait to be passed on.
    pub(super) has_spoken: bool,
    /// Those of them that an upgrade says.
    pub(super) preface: &'a [u8],
    /// All of them, where they are known and ask for a session.
    pub(super) opening: Option<&'a [u8]>,
    /// A FIN of the client only ends what it says.
    pub(super) may_half_close: bool,
    /// The client wants it done, even if it does not wait.
    pub(super) insists: bool,
    pub(super) tightened: Tightened<'a>,
}

/// Dials while the client is there and nobody orders an end.
pub(super) async fn dial_for(
    downstream: Socket,
    ask: Ask<'_>,
    place: &Place,
    record: &mut Record,
) -> Result<(Dialled, Socket), Option<Unserved>> {
    let cluster = place.cluster().expect("who dials knows where");
    let Ask { wanted, owner, has_spoken, preface, opening, may_half_close, insists, tightened } = ask;
    // Where a server minds, what was begun goes on until it can be ended well.
    let may_be_stopped = !cluster.settings().protocol.parts_politely();
    let may_be_cut = may_be_stopped && !insists;
    let announcement = cluster.settings().send_proxy.as_ref().map(|_| announcement(&downstream, record));
    // Of another host. Whoever is of this one and not known is a stranger among all.
    let max_queued = place.route().admission().max_queued();
    // Asked for where callers take turns, by which alone it matters.
    let takes_turns = cluster.settings().takes_turns || max_queued.is_some();
    let from = if takes_turns && place.caller().is_none() { record.peer.other_host() } else { None };
    let affinity = (cluster.settings().balance == Policy::SourceHash).then(|| affinity(&tightened, record));
    let caller = owner.or_else(|| place.caller());
    let demand = Demand {
        wanted,
        has_spoken,
        preface,
        opening,
        tightened,
        announcement: announcement.as_ref(),
        affinity: affinity.flatten(),
        caller: caller.as_deref(),
        from,
        max_queued,
    };
    tokio::select! {
        biased;
        dialled = dial(cluster, demand, &mut record.dial) => match dialled {
            Ok(dialled) => Ok((dialled, downstream)),
            Err(refusal) => {
                if matches!(refusal.outcome(), Outcome::CallerFull | Outcome::Denied) {
                    place.refused();
                }
                Err(Some(undialled(downstream, record, &refusal)))
            }
        },
        gone = downstream.gone(may_half_close), if may_be_cut => {
            gone_while_dialling(record, gone);
            Err(None)
        }
        outcome = place.live().ordered_to_stop(), if may_be_stopped => Err(Some(stopped(downstream, record, outcome))),
    }
}

/// The session, as its server is to hear of it.
fn announcement(downstream: &Socket, record: &Record) -> Announcement {
    let caller = record.caller();
    Announcement {
        addresses: heads::addresses(downstream, record),
        session: record.session().to_string(),
        uid: caller.as_ref().map(|caller| caller.uid),
        unit: caller.as_ref().and_then(|caller| caller.unit()).map(ToString::to_string),
        context: record.context().map(ToString::to_string),
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

/// Tells the server in a client's login which unit it is, where that is wanted and known.
pub(super) fn announce(place: &Place, login: &mut Vec<u8>) {
    let settings = place.cluster().expect("who logs in has a cluster").settings();
    if settings.announce_caller
        && let Some(caller) = place.caller()
        && let Some(unit) = caller.unit()
    {
        settings.protocol.announce(login, unit.as_str());
    }
}

/// The client's part in an upgrade. However it ends, the server has seen a whole conversation.
pub(super) async fn introduce(
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
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(8);
