//! How much a session may move before the others of its worker have their turn.
//!
//! A bulky flow is cheapest in large portions, and a large portion is what makes a small message of another
//! session wait. So turns are long while bulky flows are among themselves, and short for a while after a session
//! with small messages was seen on the same worker. A count of turns, no clock.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Bytes of one direction in one turn, while no small messages are about: under a millisecond of work.
const LONG: usize = 2 * 1024 * 1024;
/// The same beside small messages: some 50 µs.
const SHORT: usize = 128 * 1024;
/// What one direction of a dialogue may say in one turn, and in one read. What is parsed costs many times what is only
/// moved, and nobody's dialogue is bulky but one that is meant to keep us busy.
pub(super) const PARSED: usize = 64 * 1024;
/// A turn that moves less than this moved small messages.
const SMALL: u64 = 16 * 1024;
/// Bulky turns after which a worker counts as free of small messages.
const MEMORY: u32 = 256;

thread_local! {
    /// Bulky turns on this worker since the last small one.
    static SINCE_SMALL: Cell<u32> = const { Cell::new(MEMORY) };
}

/// What one direction may move now. The last portion may go beyond it.
pub(super) fn budget() -> usize {
    if SINCE_SMALL.get() < MEMORY { SHORT } else { LONG }
}

/// A session has had its turn and moved that many bytes.
pub(super) fn record_turn(moved: u64) {
    match moved {
        0 => {}
        1..SMALL => SINCE_SMALL.set(0),
        _ => SINCE_SMALL.set(SINCE_SMALL.get().saturating_add(1)),
    }
}

/// Asks for another turn, after the worker has looked for readiness and everybody who is ready was served. A mere
/// wake-up would put the task back into the queue, and the worker looks at its sockets after dozens of those.
pub(super) fn reschedule(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
