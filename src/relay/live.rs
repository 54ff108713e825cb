//! What others may see of a relay while it runs, and the one order they may give: stop.
//!
//! The counters have one writer, the session's worker; a scrape reads them at any time.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::task::{Poll, Waker};

use crate::outcome::{Outcome, Side};
use crate::protocol::CancelKey;
use crate::tls::Stamp;

/// How a session is cancelled.
#[derive(Debug)]
struct Cancelled {
    key: CancelKey,
    /// The server's address: its name may lead to another one by then.
    at: Option<SocketAddr>,
}

/// Byte counts of one session and its stop order.
#[derive(Debug, Default)]
pub struct Live {
    sent: AtomicU64,
    received: AtomicU64,
    /// The last bytes came from the client.
    owes_answer: AtomicBool,
    /// Its client has said what it wants, or need not.
    opened: AtomicBool,
    /// [`Stamp::number`] of the identity that the upstream has seen, or 0.
    identity: AtomicU32,
    stop: OnceLock<Outcome>,
    waker: OnceLock<Waker>,
    /// Boxed: most sessions have none.
    cancelled: OnceLock<Box<Cancelled>>,
}

impl Live {
    /// Bytes written to the upstream.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read from the upstream.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the last bytes came from the client: whoever asks waits for an answer.
    #[must_use]
    pub fn owes_answer(&self) -> bool {
        self.owes_answer.load(Ordering::Relaxed)
    }

    /// Its client has said what it wants.
    pub fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Its upstream has seen that content of an identity.
    pub fn made_with(&self, identity: Stamp) {
        self.identity.store(identity.number(), Ordering::Relaxed);
    }

    /// Whether its upstream has seen an identity, and none of those.
    #[must_use]
    pub fn is_outdated(&self, current: &[Stamp]) -> bool {
        let identity = self.identity.load(Ordering::Relaxed);
        identity != 0 && current.iter().all(|stamp| stamp.number() != identity)
    }

    /// Ends the session with that outcome, now; the first order counts.
    pub fn stop(&self, outcome: Outcome) {
        let is_first = self.stop.set(outcome).is_ok();
        // Pairs with the fence of `attach`: of two that write one thing and read the other's, one must see.
        fence(Ordering::SeqCst);
        if is_first && let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Whether that is the key that the server gave out for this session.
    #[must_use]
    pub fn answers_to(&self, key: &CancelKey) -> bool {
        self.cancelled.get().is_some_and(|own| own.key == *key)
    }

    /// The address of the server that gave out the session's key.
    #[must_use]
    pub fn cancelled_at(&self) -> Option<SocketAddr> {
        self.cancelled.get()?.at
    }

    pub(super) fn is_cancelled_by(&self, key: CancelKey, at: Option<SocketAddr>) {
        // A session's server gives out one key; the first counts.
        let _ = self.cancelled.set(Box::new(Cancelled { key, at }));
    }

    /// Waits for the order to stop. Only the session's own task may wait: it has the one waker.
    pub async fn ordered_to_stop(&self) -> Outcome {
        std::future::poll_fn(|cx| {
            self.attach(cx.waker());
            self.stopped().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    pub(super) fn stopped(&self) -> Option<Outcome> {
        self.stop.get().copied()
    }

    /// A session is one task from its first poll to its last, so its waker never changes. Set before
    /// `stopped` is read, so no order falls between the two.
    pub(super) fn attach(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            self.waker.get_or_init(|| waker.clone());
            fence(Ordering::SeqCst);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.sent().wrapping_add(self.received())
    }

    /// Bytes that came from that side.
    pub(super) fn count(&self, from: Side, bytes: usize) {
        let counter = match from {
            Side::Downstream | Side::Ambassador => &self.sent,
            Side::Upstream => &self.received,
        };
        // One writer: a load and a store, without the locked instruction of an add.
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
        self.owes_answer.store(from != Side::Upstream, Ordering::Relaxed);
    }

    /// As after a byte there and one back.
    #[cfg(test)]
    pub(crate) fn exchanged(&self) {
        self.count(Side::Downstream, 1);
        self.count(Side::Upstream, 1);
    }
}
