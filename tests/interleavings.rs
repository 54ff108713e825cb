//! Every order of events, by loom: what other threads may do to a session while its own task polls, waits and moves
//! bytes.
//!
//! The code is the daemon's own; only its atomics are loom's.

use std::task::Poll;

use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

mod sync {
    use std::task::Waker;

    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};

    /// With the names that the daemon uses.
    #[derive(Debug)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[path = "../src/relay/stop_signal.rs"]
mod stop_signal;

use stop_signal::StopSignal;

/// Waits like a session: registers its waker, then checks.
async fn ordered(stop_signal: &StopSignal) -> u8 {
    std::future::poll_fn(|cx| {
        stop_signal.register_waker(cx.waker());
        stop_signal.get().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// loom reports "deadlock" if an order falls between the check and the wait after it.
#[test]
fn an_order_is_never_slept_through_and_the_first_counts() {
    let mut model = loom::model::Builder::new();
    // Three threads in every order take a minute; the second model omits nothing.
    model.preemption_bound = Some(3);
    model.check(|| {
        let stop_signal = Arc::new(StopSignal::new());
        let givers = [1, 2].map(|number| {
            let stop_signal = Arc::clone(&stop_signal);
            thread::spawn(move || stop_signal.set(number))
        });
        let first = block_on(ordered(&stop_signal));
        assert!([1, 2].contains(&first));
        for giver in givers {
            giver.join().unwrap();
        }
        assert_eq!(stop_signal.get(), Some(first), "an order stands");
    });
}

/// Scenario: the waker of the first poll was kept: a session that another task polled afterwards was never woken.
#[test]
fn an_order_wakes_who_waits_now_and_not_who_waited_first() {
    loom::model(|| {
        let stop_signal = Arc::new(StopSignal::new());
        let giver = {
            let stop_signal = Arc::clone(&stop_signal);
            thread::spawn(move || stop_signal.set(1))
        };
        // Polled once by a task that then leaves it to another.
        let mut elsewhere = std::task::Context::from_waker(std::task::Waker::noop());
        let mut waiting = std::pin::pin!(ordered(&stop_signal));
        let polled = waiting.as_mut().poll(&mut elsewhere);
        if polled.is_pending() {
            assert_eq!(block_on(waiting), 1);
        }
        giver.join().unwrap();
    });
}
