//! The one order that a session may get from others, and the task that waits for it.
//!
//! An order may come at any moment, also between a look for one and the beginning of the wait, and the waker that is to be
//! woken may change meanwhile: a session's futures may be polled by whoever holds them. The atomics are those of `sync`
//! beside this file, so that `tests/interleavings.rs` can put its own in their place and try every order of events.

use std::task::Waker;

use super::sync::{AtomicU8, AtomicWaker, Ordering};

/// No order yet.
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

    /// Gives it; the first counts.
    pub(super) fn set(&self, number: u8) {
        if self.given.compare_exchange(NONE, number, Ordering::Release, Ordering::Relaxed).is_ok() {
            self.waiting.wake();
        }
    }

    pub(super) fn get(&self) -> Option<u8> {
        Some(self.given.load(Ordering::Acquire)).filter(|number| *number != NONE)
    }

    /// From now on that one is woken by an order, and nobody else. Whoever waits looks at [`StopSignal::get`] after this.
    pub(super) fn register_waker(&self, waker: &Waker) {
        self.waiting.register(waker);
    }
}
