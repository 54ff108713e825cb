//! Identifies the caller of an accepted connection. docs/CALLERS.md says what is trusted, and why.
//!
//! For a unix socket the kernel recorded the peer at connect. For TCP over loopback the kernel is asked for the owner
//! of the one socket that is the client's end of this connection. A peer that cannot be attributed is a stranger. What
//! a caller may do is not decided here.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caller_cache::{CallerCache, CgroupPath, PeerCredentials};
use crate::alarm::{self, Elapsed};
use crate::caller::Caller;
use crate::clock;
use crate::policy::admission::Needs;
use crate::sys::{Peer, ProcessCgroup, Socket, SocketOwner, is_own, socket_owner};

/// Why a peer cannot be attributed to a process of this host.
#[derive(Debug)]
pub(crate) enum Stranger {
    /// It comes neither over loopback nor from an address of this host.
    Remote(SocketAddr),
    /// No process of this network namespace owns the other end.
    Unowned,
    /// It has reset the connection, so that its port may belong to another process by now.
    Left,
    /// Its user has no number in our user namespace.
    Unmapped,
    /// The kernel does not answer.
    Unknown(io::Error),
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(from) => write!(f, "a stranger: {from} is not of this host"),
            Self::Unowned => {
                f.write_str("a stranger: no process of this network namespace has the other end")
            }
            Self::Left => f.write_str("a stranger: it has left"),
            Self::Unmapped => {
                f.write_str("a stranger: its user does not exist in the ambassador's user namespace")
            }
            Self::Unknown(error) => write!(f, "a stranger: the kernel does not tell who it is: {error}"),
        }
    }
}

/// What is known of a caller without waiting.
#[derive(Debug)]
pub(crate) enum Identification {
    /// Its description is in the cache.
    Known(Arc<Caller>),
    /// The kernel has identified it; names and groups have yet to be looked up.
    Asked(CallerLookup),
}

/// A look-up of a caller in the host's databases.
#[derive(Debug)]
pub(crate) struct CallerLookup {
    found: PeerCredentials,
    needs: Needs,
    until: Instant,
    cache: Arc<CallerCache>,
}

impl Stranger {
    /// Its address, if it is on another host.
    #[must_use]
    pub(crate) fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Remote(from) => Some(from.ip()),
            Self::Unowned | Self::Left | Self::Unmapped | Self::Unknown(_) => None,
        }
    }
}

/// How long the host's user and group databases may take. What they have not answered by then is unknown, and matches
/// no rule.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

impl CallerLookup {
    /// The caller as the kernel reports it.
    #[must_use]
    pub(crate) fn without_names(&self) -> Arc<Caller> {
        Arc::new(self.found.without_names())
    }

    /// The caller with what the databases add within [`LOOKUP_TIMEOUT`] of [`identify`]; a later call waits for the
    /// rest of that time. However many sessions ask, only one look-up of a user runs at a time.
    pub(crate) async fn resolve(&self) -> Arc<Caller> {
        let described = alarm::timeout_at(self.until, self.cache.resolve(&self.found, self.needs)).await;
        described.unwrap_or_else(|Elapsed| self.without_names())
    }
}

/// Attributes the peer to a process, by two or three system calls.
///
/// # Errors
/// It is a stranger.
pub(crate) fn identify(
    client: &Socket,
    peer: Peer,
    needs: Needs,
    cache: &Arc<CallerCache>,
) -> Result<Identification, Stranger> {
    let found = match peer {
        Peer::Tcp(from) => over_loopback(client, from)?,
        Peer::Unix => over_unix(client, needs).map_err(Stranger::Unknown)?,
    };
    if cache.is_unmapped(found.uid) {
        return Err(Stranger::Unmapped);
    }
    let now = clock::now();
    Ok(match cache.cached(&found, needs, now) {
        Some(caller) => Identification::Known(caller),
        None => Identification::Asked(CallerLookup {
            found,
            needs,
            until: now + LOOKUP_TIMEOUT,
            cache: Arc::clone(cache),
        }),
    })
}

/// The owner of the client's end. The address alone does not identify it: after a client has reset its connection, we
/// may still have its bytes while its port belongs to another process. As long as our end is connected, the socket
/// with the same addresses is the client's.
///
/// A process may bind its end to any address of the host, and is of this host all the same.
fn over_loopback(client: &Socket, from: SocketAddr) -> Result<PeerCredentials, Stranger> {
    if !is_own(from.ip()) {
        return Err(Stranger::Remote(from));
    }
    let local = client.local().ok_or(Stranger::Left)?;
    let owner = socket_owner(from, local).map_err(Stranger::Unknown)?;
    if client.is_hung_up() {
        return Err(Stranger::Left);
    }
    let SocketOwner { uid, cgroup } = owner.ok_or(Stranger::Unowned)?;
    Ok(PeerCredentials { uid, gid: None, pid: None, groups: None, place: cgroup.map(CgroupPath::Id) })
}

fn over_unix(client: &Socket, needs: Needs) -> io::Result<PeerCredentials> {
    let process = client.peer_process()?;
    let groups = if needs.groups { Some(process.groups()?) } else { None };
    let place = if needs.unit { process.cgroup() } else { None };
    let place = place.map(|place| match place {
        ProcessCgroup::Id(id) => CgroupPath::Id(id),
        ProcessCgroup::Path(path) => CgroupPath::Path(path),
    });
    Ok(PeerCredentials { uid: process.uid, gid: Some(process.gid), pid: process.pid, groups, place })
}
