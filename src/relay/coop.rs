//! How much a session may move before the other sessions of its worker get their turn.
//!
//! A bulky flow is cheapest in large portions, but a large portion makes the small messages of other sessions wait. So
//! turns are long while a worker has only bulky flows, and short for a while after it has moved small messages. This
//! is measured in turns, not by the clock.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Bytes of one direction in one turn, while the worker has no small messages: under a millisecond of work.
const LONG: usize = 2 * 1024 * 1024;
/// The same beside small messages: some 50 µs.
const SHORT: usize = 128 * 1024;
/// Bytes of a dialogue in one turn, and in one read. Parsing costs many times what moving does, and only a dialogue
/// that is meant to keep us busy is bulky.
pub(super) const PARSED: usize = 64 * 1024;
/// A turn that moves less than this moved small messages.
const SMALL: u64 = 16 * 1024;
/// Bulky turns in a row after which a worker counts as free of small messages.
const MEMORY: u32 = 256;

thread_local! {
    /// Bulky turns on this worker since the last small one.
    static SINCE_SMALL: Cell<u32> = const { Cell::new(MEMORY) };
}

/// The bytes that one direction may move now. The last portion may exceed this.
pub(super) fn budget() -> usize {
    if SINCE_SMALL.get() < MEMORY { SHORT } else { LONG }
}

pub(super) fn record_turn(moved: u64) {
    match moved {
        0 => {}
        1..SMALL => SINCE_SMALL.set(0),
        _ => SINCE_SMALL.set(SINCE_SMALL.get().saturating_add(1)),
    }
}

/// Asks for another turn after the worker has polled its sockets and every ready task has run. A mere wake-up would
/// put the task back into the queue, and the worker polls its sockets only after dozens of tasks.
pub(super) fn reschedule(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
