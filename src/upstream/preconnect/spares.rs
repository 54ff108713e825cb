//! The connections of a cluster that are ready now.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};
use crate::upstream::EndpointId;
use crate::upstream::lease::Lease;
use crate::upstream::ready::Ready;
use crate::upstream::record::DialRecord;

/// One connection that is not used yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) ready: Ready,
    pub(super) lease: Lease,
    /// The record of its dial.
    pub(super) record: DialRecord,
    pub(super) since: Instant,
    /// When it becomes too old to use.
    pub(super) until: Instant,
}

/// A cluster's spares; empty without `preconnect`.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Spares {
    shelf: Mutex<Shelf>,
    taken: Notify,
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
pub(super) const PORTION: usize = 32 * 1024;

impl Spares {
    pub(super) fn len(&self) -> usize {
        self.shelf().ready.len()
    }

    /// The number of spares on each endpoint that has some.
    pub(in crate::upstream) fn by_endpoint(&self) -> BTreeMap<EndpointId, u32> {
        let mut counts = BTreeMap::new();
        for spare in &self.shelf().ready {
            *counts.entry(spare.lease.endpoint().id()).or_default() += 1;
        }
        counts
    }

    /// When the first of them becomes too old.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.shelf().ready.iter().map(|spare| spare.until).min()
    }

    pub(super) fn keep(&self, spare: Spare) {
        let mut shelf = self.shelf();
        if !shelf.is_closed {
            shelf.ready.push_back(spare);
        }
    }

    pub(super) fn take(&self) -> Option<Spare> {
        let taken = self.shelf().ready.pop_front();
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
    pub(super) async fn taken(&self) {
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
    pub(super) fn close(&self) -> Vec<Spare> {
        self.shelf().is_closed = true;
        self.retire(|_| true)
    }

    /// Waits until the server of one of them has closed it, or sent bytes unasked.
    pub(super) async fn lost(&self, portion: &mut [u8; PORTION]) -> Spare {
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
