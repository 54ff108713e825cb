//! What others may see of a relay while it runs, and the one order they may give: stop.
//!
//! The counters have one writer, the session's worker; a scrape reads them at any time.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use super::order::Order;
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
#[derive(Debug)]
pub struct Live {
    sent: AtomicU64,
    received: AtomicU64,
    /// The last bytes came from the client.
    owes_answer: AtomicBool,
    /// Its client has said what it wants, or need not.
    opened: AtomicBool,
    /// It takes nobody's room: it is here to be refused, or has been told to make room.
    roomless: AtomicBool,
    /// [`Stamp::number`] of the identity that the upstream has seen, or 0.
    identity: AtomicU32,
    /// To stop, with the outcome at that place of [`Outcome::ALL`], from 1 on.
    stop: Order,
    /// Boxed: most sessions have none.
    cancelled: OnceLock<Box<Cancelled>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            owes_answer: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            roomless: AtomicBool::new(false),
            identity: AtomicU32::new(0),
            stop: Order::new(),
            cancelled: OnceLock::new(),
        }
    }
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

    /// It has to say more.
    pub fn unopened(&self) {
        self.opened.store(false, Ordering::Relaxed);
    }

    /// Whether it has.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether it takes somebody's room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.roomless.load(Ordering::Relaxed)
    }

    /// From here on it takes nobody's. Whether it did.
    pub fn give_up_room(&self) -> bool {
        !self.roomless.swap(true, Ordering::Relaxed)
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
        self.stop.give(outcome as u8 + 1);
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

    /// Waits for the order to stop. One task may wait at a time: the last that was polled is woken.
    pub async fn ordered_to_stop(&self) -> Outcome {
        std::future::poll_fn(|cx| {
            self.attach(cx.waker());
            self.stopped().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    pub(super) fn stopped(&self) -> Option<Outcome> {
        let number = self.stop.given()?;
        Outcome::ALL.get(usize::from(number) - 1).copied()
    }

    /// The order will wake that one. Whoever waits looks for [`Live::stopped`] after this, so none falls between the two.
    pub(super) fn attach(&self, waker: &Waker) {
        self.stop.wakes(waker);
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

    /// So many bytes of the client were written to the upstream before its relay began.
    pub fn note_said(&self, bytes: usize) {
        if bytes > 0 {
            self.count(Side::Downstream, bytes);
        }
    }

    /// As after a byte there and one back.
    #[cfg(test)]
    pub(crate) fn exchanged(&self) {
        self.count(Side::Downstream, 1);
        self.count(Side::Upstream, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_the_outcome_that_was_meant() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{outcome:?} is out of order");
            let live = Live::default();
            assert_eq!(live.stopped(), None);
            live.stop(outcome);
            live.stop(Outcome::Completed);
            assert_eq!(live.stopped(), Some(outcome));
        }
    }
}
