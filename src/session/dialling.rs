//! The dial of a session, and the client's part in a server-first upgrade.

use std::net::IpAddr;
use std::sync::Arc;

use super::guard::SessionGuard;
use super::read_head;
use super::record::Record;
use super::reject::{Rejected, dial_failed, gone_while_dialling, not_opened, stopped};
use crate::caller::Caller;
use crate::cluster::{Lease, Ready};
use crate::dial::{
    CLIENT_REPLY_TIMEOUT, DialOverrides, DialRequest, Dialled, ProxyInfo, ServerFirstUpgrade, dial,
};
use crate::downstream;
use crate::outcome::Outcome;
use crate::policy::balance::{Policy, hash};
use crate::sys::{Peer, Socket};

/// What a session asks of its dial.
pub(super) struct DialIntent<'a> {
    /// What the client wants; [`dial_for`] adds who it is.
    pub(super) request: DialRequest<'a>,
    /// Whose session it cancels.
    pub(super) owner: Option<Arc<Caller>>,
    /// A FIN of the client only ends what it says.
    pub(super) may_half_close: bool,
    /// The dial goes on when the client closes.
    pub(super) must_complete: bool,
}

/// Dials until the client leaves or the session is stopped.
pub(super) async fn dial_for(
    downstream: Socket,
    intent: DialIntent<'_>,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(Dialled, Socket), Option<Rejected>> {
    let cluster = guard.cluster().expect("who dials knows where");
    let DialIntent { request, owner, may_half_close, must_complete } = intent;
    // Where a server counts a broken-off upgrade as an error (MySQL), a dial is not cancelled.
    let may_be_stopped = !cluster.settings().protocol.must_finish_upgrade();
    let may_be_cut = may_be_stopped && !must_complete;
    let proxy_info = cluster.settings().send_proxy.as_ref().map(|_| announcement(&downstream, record));
    // `from`: the address of another host; unknown callers of this host count as one.
    let max_queued = guard.route().admission().max_queued();
    // Only needed where callers take turns in the queue.
    let takes_turns = cluster.settings().takes_turns || max_queued.is_some();
    let from = if takes_turns && guard.caller().is_none() { record.peer.other_host() } else { None };
    let affinity =
        (cluster.settings().balance == Policy::SourceHash).then(|| affinity(&request.overrides, record));
    let caller = owner.or_else(|| guard.caller());
    let request = DialRequest {
        proxy_info: proxy_info.as_ref(),
        affinity: affinity.flatten(),
        caller: caller.as_deref(),
        from,
        max_queued,
        ..request
    };
    tokio::select! {
        biased;
        dialled = dial(cluster, request, &mut record.dial) => match dialled {
            Ok(dialled) => Ok((dialled, downstream)),
            Err(refusal) => {
                if matches!(refusal.outcome(), Outcome::CallerFull | Outcome::Denied) {
                    guard.note_refused();
                }
                Err(Some(dial_failed(downstream, record, &refusal)))
            }
        },
        gone = downstream.gone(may_half_close), if may_be_cut => {
            gone_while_dialling(record, gone);
            Err(None)
        }
        outcome = guard.live().stop_requested(), if may_be_stopped => Err(Some(stopped(downstream, record, outcome))),
    }
}

/// What the server's PROXY header says of the session.
fn announcement(downstream: &Socket, record: &Record) -> ProxyInfo {
    let caller = record.caller();
    ProxyInfo {
        addresses: read_head::addresses(downstream, record),
        session: record.session().to_string(),
        uid: caller.as_ref().map(|caller| caller.uid),
        unit: caller.as_ref().and_then(|caller| caller.unit()).map(ToString::to_string),
        context: record.context().map(ToString::to_string),
    }
}

/// What `source_hash` hashes: the client's `Ambassador-Affinity`, else the caller's uid if it was looked up, else the
/// client's address.
fn affinity(overrides: &DialOverrides<'_>, record: &Record) -> Option<u64> {
    if let Some(named) = overrides.affinity {
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

/// Adds the caller's unit to the client's login, where that is configured and the unit known.
pub(super) fn announce(guard: &SessionGuard, login: &mut Vec<u8>) {
    let settings = guard.cluster().expect("who logs in has a cluster").settings();
    if settings.announce_caller
        && let Some(caller) = guard.caller()
        && let Some(unit) = caller.unit()
    {
        settings.protocol.announce(login, unit.as_str());
    }
}

/// Passes the greeting to the client and secures the upgrade with its reply. Without a reply the upgrade is finished
/// in the client's place, so that the server sees a complete dialogue.
pub(super) async fn upgrade_server_first(
    downstream: Socket,
    mut server_first: ServerFirstUpgrade,
    guard: &SessionGuard,
    record: &mut Record,
) -> Result<(Ready, Lease, Socket), Option<Rejected>> {
    let protocol = &*guard.cluster().expect("who was dialled has a cluster").settings().protocol;
    let introduced = tokio::select! {
        biased;
        introduced = downstream::exchange_greeting(&downstream, server_first.greeting(), CLIENT_REPLY_TIMEOUT) => introduced,
        outcome = guard.live().stop_requested() => {
            server_first.finish_without_client().await;
            return Err(Some(stopped(downstream, record, outcome)));
        }
    };
    let introduced = match introduced {
        Ok(mut introduced) => {
            announce(guard, &mut introduced.upgraded.first);
            introduced
        }
        Err(error) => {
            server_first.finish_without_client().await;
            return Err(not_opened(downstream, protocol, record, error).await);
        }
    };
    record.reply_to = introduced.reply_to;
    match server_first.secure(introduced, &mut record.dial).await {
        Ok((ready, lease)) => Ok((ready, lease, downstream)),
        Err(failure) => Err(Some(dial_failed(downstream, record, &failure))),
    }
}
