//! Bytes that were read and that their destination has not taken: the only buffer of a relaying session.
//!
//! A worker counts the pending bytes of all its sessions. While these are many, reads are small, so that clients which
//! do not read cannot make each of their sessions store a large portion.

use std::cell::Cell;

use zeroize::Zeroize;

/// The size of a read while less than [`LITTLE`] is pending.
pub(super) const WIDE: usize = crate::tls::Stream::PORTION;
/// The size of a read otherwise, and the smallest one: more than a TLS record.
const NARROW: usize = 64 * 1024;
/// Pending bytes of all sessions of a worker up to which reads are wide.
const LITTLE: usize = 16 * 1024 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// How much one read of a copied flow may take now, in a turn of `turn` bytes.
pub(super) fn width(turn: usize) -> usize {
    let most = if HELD.get() < LITTLE { WIDE } else { NARROW };
    turn.clamp(NARROW, most)
}

/// Bytes for one destination. No memory is allocated while there are none.
#[derive(Debug, Default)]
pub(super) struct PendingBytes {
    bytes: Vec<u8>,
    /// How many of them the destination has taken.
    taken: usize,
    /// They may hold a login: their memory is overwritten before it is given back.
    is_secret: bool,
}

impl PendingBytes {
    /// What goes ahead of a session, and may hold a login.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        HELD.set(HELD.get() + bytes.len());
        Self { bytes, taken: 0, is_secret: true }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        HELD.set(HELD.get() + bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The same of bytes that may hold a login.
    pub(super) fn append_secret(&mut self, bytes: &[u8]) {
        HELD.set(HELD.get() + bytes.len());
        // A vector that grows leaves a copy behind.
        let mut joined = Vec::with_capacity(self.bytes.len() + bytes.len());
        joined.extend_from_slice(&self.bytes);
        joined.extend_from_slice(bytes);
        self.bytes.zeroize();
        (self.bytes, self.is_secret) = (joined, true);
    }

    /// The bytes that the destination has not taken.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The destination took `taken` more bytes.
    pub(super) fn advance(&mut self, taken: usize) {
        self.taken += taken;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Drop for PendingBytes {
    fn drop(&mut self) {
        // Saturating, because a runtime that is torn down may drop it on a thread with another count.
        HELD.set(HELD.get().saturating_sub(self.bytes.len()));
        if self.is_secret {
            self.bytes.zeroize();
        }
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
        let mut pending = PendingBytes::default();
        pending.append_secret(&[1]);
        pending.append_secret(&vec![2; LITTLE]);
        assert_eq!((pending.rest()[..2].to_vec(), width(usize::MAX)), (vec![1, 2], NARROW));
        drop(pending);
        assert_eq!(width(usize::MAX), WIDE);
    }
}
