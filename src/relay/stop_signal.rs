//! The one order that a session may get from other threads, and the task that waits for it.
//!
//! An order may come at any moment, also between a check for one and the wait, and the waker may change meanwhile, as
//! different tasks may poll a session's futures. The atomics are those of `super::sync`, so that
//! `tests/interleavings.rs` can replace them and try every order of events.

use std::task::Waker;

use super::sync::{AtomicU8, AtomicWaker, Ordering};

const NONE: u8 = 0;

/// An order by number, which is never 0.
#[derive(Debug)]
pub(super) struct StopSignal {
    given: AtomicU8,
    waiting: AtomicWaker,
}

impl StopSignal {
    pub(super) fn new() -> Self {
        Self { given: AtomicU8::new(NONE), waiting: AtomicWaker::new() }
    }

    /// Sends the order; the first counts.
    pub(super) fn set(&self, number: u8) {
        if self.given.compare_exchange(NONE, number, Ordering::Release, Ordering::Relaxed).is_ok() {
            self.waiting.wake();
        }
    }

    pub(super) fn get(&self) -> Option<u8> {
        Some(self.given.load(Ordering::Acquire)).filter(|number| *number != NONE)
    }

    /// From now on an order wakes this waker alone. The waiting task checks [`StopSignal::get`] after this.
    pub(super) fn register_waker(&self, waker: &Waker) {
        self.waiting.register(waker);
    }
}
