//! The connections of a cluster that are ready now.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::Notify;

use crate::caller::Caller;
use crate::clock;
use crate::credentials::IssuedLogin;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::{self, HandshakeInfo};

use super::lease::Lease;
use super::ready::Ready;
use super::{Cluster, EndpointId};

/// One connection that is not used yet.
#[derive(Debug)]
pub(crate) struct Spare {
    pub ready: Ready,
    pub lease: Lease,
    /// What TLS agreed on.
    pub agreed: Option<Box<HandshakeInfo>>,
    pub since: Instant,
    /// When it becomes too old to use.
    pub until: Instant,
    /// As whom it is signed in, if it is: only a session that wants exactly that may use it.
    pub login: Option<SpareLogin>,
}

/// The login of a spare.
#[derive(Debug, Clone)]
pub(crate) struct SpareLogin {
    /// The credential's content.
    pub issued: Arc<IssuedLogin>,
    /// The client's first message that it was made with: it names a database, for example.
    pub opening: Arc<[u8]>,
}

impl SpareLogin {
    /// Whether a session with that content and that first message may use it.
    fn fits(&self, wanted: Option<(&Arc<IssuedLogin>, &[u8])>) -> bool {
        wanted.is_some_and(|(issued, opening)| Arc::ptr_eq(issued, &self.issued) && *opening == *self.opening)
    }
}

/// A cluster's spares; empty without `preconnect`.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    shelf: Mutex<Shelf>,
    taken: Notify,
    /// The first message of the last session that was signed in: what spares are signed in with.
    opening: Mutex<Option<Arc<[u8]>>>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: VecDeque<Spare>,
    /// Taken by a session that could not use them; they wait to be closed.
    given_up: Vec<Spare>,
    /// Whether new spares are dropped.
    is_closed: bool,
}

/// The buffer size that [`crate::relay::UpstreamStream::poll_recv`] needs.
pub(crate) const PORTION: usize = 32 * 1024;

impl Spares {
    pub(crate) fn len(&self) -> usize {
        self.shelf().ready.len()
    }

    /// The number of spares on each endpoint that has some.
    pub(super) fn by_endpoint(&self) -> BTreeMap<EndpointId, u32> {
        let mut counts = BTreeMap::new();
        for spare in &self.shelf().ready {
            *counts.entry(spare.lease.endpoint().id()).or_default() += 1;
        }
        counts
    }

    /// When the first of them becomes too old.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.shelf().ready.iter().map(|spare| spare.until).min()
    }

    pub(crate) fn keep(&self, spare: Spare) {
        let mut shelf = self.shelf();
        if !shelf.is_closed {
            shelf.ready.push_back(spare);
        }
    }

    /// Has the next spares signed in with this first message of a client.
    pub(crate) fn note_opening(&self, opening: &[u8]) {
        let mut known = self.opening.lock();
        if known.as_deref() != Some(opening) {
            *known = Some(opening.into());
        }
    }

    /// The first message that spares are signed in with, if a session has shown one.
    pub(crate) fn opening(&self) -> Option<Arc<[u8]>> {
        self.opening.lock().clone()
    }

    /// The oldest that fits.
    pub(super) fn take(&self, fits: impl Fn(&Spare) -> bool) -> Option<Spare> {
        let taken = {
            let mut shelf = self.shelf();
            shelf.ready.iter().position(fits).and_then(|index| shelf.ready.remove(index))
        };
        if taken.is_some() {
            self.taken.notify_one();
        }
        taken
    }

    /// Returns a spare that a session took but cannot use, so that it is closed in order.
    pub(super) fn give_up(&self, spare: Spare) {
        self.shelf().given_up.push(spare);
        self.taken.notify_one();
    }

    /// Waits until one was taken or given up.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Removes the useless ones, and those that were given up.
    pub(super) fn retire(&self, is_useless: impl Fn(&Spare) -> bool) -> Vec<Spare> {
        let mut shelf = self.shelf();
        let (useless, ready) = std::mem::take(&mut shelf.ready).into_iter().partition(is_useless);
        shelf.ready = ready;
        let mut retired: Vec<_> = std::mem::take(&mut shelf.given_up);
        retired.extend::<VecDeque<_>>(useless);
        retired
    }

    /// Removes all of them. None is kept from here on.
    pub(crate) fn close(&self) -> Vec<Spare> {
        self.shelf().is_closed = true;
        self.retire(|_| true)
    }

    /// Waits until the server of one of them has closed it, or sent bytes unasked.
    pub(crate) async fn lost(&self, portion: &mut [u8; PORTION]) -> Spare {
        poll_fn(|cx| self.poll_lost(cx, portion)).await
    }

    /// This also processes session tickets and other TLS messages without application data.
    fn poll_lost(&self, cx: &mut Context<'_>, portion: &mut [u8]) -> Poll<Spare> {
        let mut shelf = self.shelf();
        let lost =
            shelf.ready.iter_mut().position(|spare| spare.ready.stream.poll_recv(cx, portion).is_ready());
        lost.and_then(|index| shelf.ready.remove(index)).map_or(Poll::Pending, Poll::Ready)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock()
    }
}

impl Cluster {
    /// Takes a connection that was kept ready, if there is one that is alive and that this caller may use now. Never
    /// one that the server has ended: whether the socket is readable is checked last.
    ///
    /// `wanted`: the credential's content and the client's first message, of a session that is to be signed in.
    pub(crate) fn take_spare(
        &self,
        caller: Option<&Caller>,
        wanted: Option<(&Arc<IssuedLogin>, &[u8])>,
    ) -> Option<Spare> {
        self.settings().dial.preconnect?;
        // Spares have the identity for connections without a caller; callers that get another identity cannot use them.
        let tls = self.settings().tls.as_ref().map(tls::Originator::identities);
        let is_theirs = tls.is_none_or(|tls| tls.choose(caller) == Ok(tls.for_nobody()));
        let fits = |spare: &Spare| spare.login.as_ref().is_none_or(|login| login.fits(wanted));
        while let Some(spare) = is_theirs.then(|| self.spares().take(fits)).flatten() {
            let endpoint = spare.lease.endpoint();
            // Also by the rules of the endpoint that it was dialled to.
            let is_theirs = endpoint.identity_for(caller) == Ok(endpoint.identity_for_nobody());
            if clock::now() >= spare.until || !is_theirs || !self.may_use(&spare) {
                self.spares().give_up(spare);
                continue;
            }
            if spare.ready.stream.is_readable() {
                continue;
            }
            let Spare { ready, mut lease, agreed, since, until, login } = spare;
            let Ok(ready) = ready.register_here() else { continue };
            lease.record_taken();
            return Some(Spare { ready, lease, agreed, since, until, login });
        }
        self.metrics().preconnect_misses.increment(1);
        None
    }

    /// Whether its endpoint may be picked now, and the endpoint's credentials are still those of the spare's handshake.
    fn may_use(&self, spare: &Spare) -> bool {
        let endpoint = spare.lease.endpoint();
        let is_current = match (endpoint.originator(), &spare.agreed) {
            (Some(originator), Some(agreed)) => originator.is_current(originator.for_nobody(), agreed),
            (None, _) | (Some(_), None) => true,
        };
        let is_signed_in_rightly = spare.login.as_ref().is_none_or(|login| login.issued.is_current());
        is_current && is_signed_in_rightly && self.state().cluster_state.may_pick(endpoint.id())
    }

    /// Closes the oldest spare at once, to free its place. Returns whether there was one.
    pub(super) fn close_oldest_spare(&self) -> bool {
        let evicted = self.spares().take(|_| true);
        if evicted.is_some() {
            self.metrics().preconnects_retired.increment(1);
        }
        evicted.is_some()
    }

    /// Removes the spares that may not be used any more.
    pub(crate) fn retire_spares(&self, now: Instant) -> Vec<Spare> {
        self.spares().retire(|spare| now >= spare.until || !self.may_use(spare))
    }

    /// Whether there is a usable endpoint to dial ahead.
    pub(crate) fn may_refill(&self) -> bool {
        self.state().cluster_state.has_usable()
    }
}
