//! Who is at the other end of an accepted connection. docs/CALLERS.md says what is believed, and why.
//!
//! Of a unix socket the kernel noted it when it was connected. Of TCP over loopback it is asked for the one socket
//! that is the client's end of this connection. Who cannot be attributed is a stranger. Nothing here decides what may
//! be done by whom.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::census::{Census, Found, Place};
use crate::alarm;
use crate::caller::Caller;
use crate::clock;
use crate::policy::admission::Needs;
use crate::sys::{Peer, ProcessCgroup, Socket, SocketOwner, is_own, socket_owner};

/// Why a peer cannot be attributed to a process of this host.
#[derive(Debug)]
pub enum Stranger {
    /// It comes neither over loopback nor from an address of this host.
    Remote(SocketAddr),
    /// No process of this network namespace has the other end.
    Unowned,
    /// It has reset the connection, so that another may have taken its place.
    Left,
    /// Its user has no number in our user namespace.
    Unmapped,
    /// The kernel does not tell.
    Untold(io::Error),
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
            Self::Untold(error) => write!(f, "a stranger: the kernel does not tell who it is: {error}"),
        }
    }
}

impl Stranger {
    /// Where it is, if that is another host.
    #[must_use]
    pub fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Remote(from) => Some(from.ip()),
            Self::Unowned | Self::Left | Self::Unmapped | Self::Untold(_) => None,
        }
    }
}

/// How long the host's databases of users and groups may take. What they do not say by then is unknown, and matches no
/// rule.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Attributes the peer. Two or three system calls; more only when its user or control group is met for the first time.
///
/// # Errors
/// It is a stranger.
pub async fn identify(
    client: &Socket,
    peer: Peer,
    needs: Needs,
    census: &Arc<Census>,
) -> Result<Arc<Caller>, Stranger> {
    let found = match peer {
        Peer::Tcp(from) => over_loopback(client, from)?,
        Peer::Unix => over_unix(client, needs).map_err(Stranger::Untold)?,
    };
    if census.is_unmapped(found.uid) {
        return Err(Stranger::Unmapped);
    }
    let now = clock::now();
    if let Some(caller) = census.recall(&found, needs, now) {
        return Ok(caller);
    }
    let asked = (Arc::clone(census), found.clone());
    let asking = tokio::task::spawn_blocking(move || asked.0.look_up(&asked.1, needs, now));
    match alarm::before(now + LOOKUP_TIMEOUT, asking).await {
        Ok(Ok(caller)) => Ok(caller),
        Ok(Err(_)) | Err(_) => Ok(Arc::new(found.bare())),
    }
}

/// The owner of the client's end. The address alone would not do: a client that has reset its connection leaves its
/// words with us and its port to anybody. As long as our end lives, the other end with the same addresses is its own.
///
/// A process may bind its end to any address of the host, and is as much of this host then.
fn over_loopback(client: &Socket, from: SocketAddr) -> Result<Found, Stranger> {
    if !is_own(from.ip()) {
        return Err(Stranger::Remote(from));
    }
    let local = client.local().ok_or(Stranger::Left)?;
    let owner = socket_owner(from, local).map_err(Stranger::Untold)?;
    if client.is_hung_up() {
        return Err(Stranger::Left);
    }
    let SocketOwner { uid, cgroup } = owner.ok_or(Stranger::Unowned)?;
    Ok(Found { uid, gid: None, pid: None, groups: None, place: cgroup.map(Place::Id) })
}

fn over_unix(client: &Socket, needs: Needs) -> io::Result<Found> {
    let process = client.peer_process()?;
    let groups = if needs.groups { Some(process.groups()?) } else { None };
    let place = if needs.unit { process.cgroup() } else { None };
    let place = place.map(|place| match place {
        ProcessCgroup::Id(id) => Place::Id(id),
        ProcessCgroup::Path(path) => Place::Path(path),
    });
    Ok(Found { uid: process.uid, gid: Some(process.gid), pid: process.pid, groups, place })
}
