//! What other threads may read of a relay while it runs, and the stop signal that they may send.
//!
//! The counters have one writer, the session's worker; a scrape reads them at any time.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use super::stop_signal::StopSignal;
use crate::outcome::{Outcome, Side};
use crate::protocol::CancelKey;
use crate::tls::Generation;

/// What cancels a session.
#[derive(Debug)]
struct Cancelled {
    key: CancelKey,
    /// The server's address: its name may resolve to another one by then.
    at: Option<SocketAddr>,
}

/// Byte counts of one session, and its stop signal.
#[derive(Debug)]
pub struct LiveSession {
    sent: AtomicU64,
    received: AtomicU64,
    /// The last bytes came from the client.
    owes_answer: AtomicBool,
    /// Its client's opening has arrived, or none is needed.
    opened: AtomicBool,
    /// It does not count against the listener's cap: it is to be refused, or was stopped to make room.
    uncounted: AtomicBool,
    /// [`Generation::number`] of the identity that the upstream was shown, or 0.
    identity: AtomicU32,
    /// The order to stop, as the index of the outcome in [`Outcome::ALL`], plus 1.
    stop: StopSignal,
    /// Boxed: most sessions have no cancel key.
    cancelled: OnceLock<Box<Cancelled>>,
}

impl Default for LiveSession {
    fn default() -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            owes_answer: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            uncounted: AtomicBool::new(false),
            identity: AtomicU32::new(0),
            stop: StopSignal::new(),
            cancelled: OnceLock::new(),
        }
    }
}

impl LiveSession {
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

    /// Whether the last bytes came from the client: it waits for an answer.
    #[must_use]
    pub fn owes_answer(&self) -> bool {
        self.owes_answer.load(Ordering::Relaxed)
    }

    /// Its client's opening has arrived.
    pub fn note_opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    /// Its client's opening is awaited again.
    pub fn await_opening(&self) {
        self.opened.store(false, Ordering::Relaxed);
    }

    /// Whether its client's opening has arrived.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether it counts against the listener's cap.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.uncounted.load(Ordering::Relaxed)
    }

    /// It no longer counts against the cap. Returns whether it did.
    pub fn give_up_room(&self) -> bool {
        !self.uncounted.swap(true, Ordering::Relaxed)
    }

    /// Its upstream was shown that generation of an identity.
    pub fn set_identity(&self, identity: Generation) {
        self.identity.store(identity.number(), Ordering::Relaxed);
    }

    /// Whether its upstream was shown an identity that is not among `current`.
    #[must_use]
    pub fn is_outdated(&self, current: &[Generation]) -> bool {
        let identity = self.identity.load(Ordering::Relaxed);
        identity != 0 && current.iter().all(|stamp| stamp.number() != identity)
    }

    /// Orders the session to end with that outcome; the first order counts.
    pub fn stop(&self, outcome: Outcome) {
        self.stop.set(outcome as u8 + 1);
    }

    /// Whether that is the cancel key that the server sent for this session.
    #[must_use]
    pub fn has_cancel_key(&self, key: &CancelKey) -> bool {
        self.cancelled.get().is_some_and(|own| own.key == *key)
    }

    /// The address of the server that sent the session's cancel key.
    #[must_use]
    pub fn cancel_address(&self) -> Option<SocketAddr> {
        self.cancelled.get()?.at
    }

    /// Remembers the key by which others may cancel the session, and the server's address.
    pub fn set_cancel_key(&self, key: CancelKey, at: Option<SocketAddr>) {
        // A server sends one key per session; the first counts.
        let _ = self.cancelled.set(Box::new(Cancelled { key, at }));
    }

    /// Waits for the order to stop. One task may wait at a time: the last that was polled is woken.
    pub async fn stop_requested(&self) -> Outcome {
        std::future::poll_fn(|cx| {
            self.register_waker(cx.waker());
            self.stop_outcome().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    pub(super) fn stop_outcome(&self) -> Option<Outcome> {
        let number = self.stop.get()?;
        Outcome::ALL.get(usize::from(number) - 1).copied()
    }

    /// A stop will wake this waker. The waiting task checks [`LiveSession::stop_outcome`] after this, so that no order
    /// is missed between the two.
    pub(super) fn register_waker(&self, waker: &Waker) {
        self.stop.register_waker(waker);
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

    /// Counts bytes of the client that were sent to the upstream before the relay began.
    pub fn note_sent_before(&self, bytes: usize) {
        if bytes > 0 {
            self.count(Side::Downstream, bytes);
        }
    }

    /// Counts one byte each way.
    #[cfg(test)]
    pub(crate) fn note_exchange(&self) {
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
            let live = LiveSession::default();
            assert_eq!(live.stop_outcome(), None);
            live.stop(outcome);
            live.stop(Outcome::Completed);
            assert_eq!(live.stop_outcome(), Some(outcome));
        }
    }
}
