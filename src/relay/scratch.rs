//! The worker's scratch memory, which every read goes through.

use std::cell::RefCell;

use super::pending;

/// Its size, and so of the largest read.
const SCRATCH: usize = pending::WIDE;

thread_local! {
    static MEMORY: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends a part of the worker's scratch memory to `then`, which must not ask for it again.
pub(super) fn with_scratch<T>(most: usize, then: impl FnOnce(&mut [u8]) -> T) -> T {
    MEMORY.with_borrow_mut(|memory| then(&mut memory[..most.min(SCRATCH)]))
}
