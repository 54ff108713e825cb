//! Bytes that were read and that their destination has not taken: the only memory a relaying session owns.
//!
//! A worker counts what all its sessions hold. While that is much, reads become small, so that many clients who do
//! not read cannot make each of their sessions hold a large portion.

use std::cell::Cell;

/// What one read brings while little is held.
pub(super) const WIDE: usize = crate::tls::Stream::PORTION;
/// What it brings otherwise, and at least: more than a TLS record.
const NARROW: usize = 64 * 1024;
/// Little: what the sessions of a worker hold together.
const LITTLE: usize = 16 * 1024 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// What a read of a copied flow may bring now, in a turn of that many bytes.
pub(super) fn width(turn: usize) -> usize {
    let most = if HELD.get() < LITTLE { WIDE } else { NARROW };
    turn.clamp(NARROW, most)
}

/// Bytes waiting for one destination. No memory while there are none.
#[derive(Debug, Default)]
pub(super) struct PendingBytes {
    bytes: Vec<u8>,
    /// How many of them the destination has taken.
    taken: usize,
}

impl PendingBytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        HELD.set(HELD.get() + bytes.len());
        Self { bytes, taken: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Behind what is there already.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        HELD.set(HELD.get() + bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// What is to go next.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The destination took that much.
    pub(super) fn advance(&mut self, taken: usize) {
        self.taken += taken;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Drop for PendingBytes {
    fn drop(&mut self) {
        // Another thread's count, when a runtime is torn down: it must not go below nothing.
        HELD.set(HELD.get().saturating_sub(self.bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_narrow_while_a_worker_holds_much() {
        assert_eq!(width(usize::MAX), WIDE);
        let mut pending = PendingBytes::new(vec![0; LITTLE - 1]);
        assert_eq!(width(usize::MAX), WIDE);
        pending.append(&[1, 2]);
        assert_eq!(width(usize::MAX), NARROW);
        pending.advance(LITTLE);
        assert_eq!(pending.rest(), [2]);
        assert_eq!(width(usize::MAX), NARROW, "memory is given back as a whole");
        pending.advance(1);
        assert!(pending.is_empty());
        assert_eq!(width(usize::MAX), WIDE);
        drop(PendingBytes::new(vec![0; LITTLE]));
        assert_eq!(width(usize::MAX), WIDE);
    }
}
