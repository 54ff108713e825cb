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

/// Bytes for one destination. No memory is allocated while there are none, and a resting session has one pointer.
#[derive(Debug, Default)]
pub(super) struct PendingBytes(Option<Box<Untaken>>);

/// Not empty.
#[derive(Debug)]
struct Untaken {
    bytes: Vec<u8>,
    /// How many of them the destination has taken; never all.
    taken: usize,
    /// They may hold a login: their memory is overwritten before it is given back.
    is_secret: bool,
}

impl PendingBytes {
    /// What goes ahead of a session, and may hold a login.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self::holding(bytes, true)
    }

    fn holding(bytes: Vec<u8>, is_secret: bool) -> Self {
        HELD.set(HELD.get() + bytes.len());
        Self((!bytes.is_empty()).then(|| Box::new(Untaken { bytes, taken: 0, is_secret })))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            None => *self = Self::holding(bytes.to_vec(), false),
            Some(untaken) => {
                HELD.set(HELD.get() + bytes.len());
                untaken.bytes.extend_from_slice(bytes);
            }
        }
    }

    /// The same of bytes that may hold a login.
    pub(super) fn append_secret(&mut self, bytes: &[u8]) {
        // A vector that grows leaves a copy behind; the old one is overwritten when it is dropped.
        let joined = [self.rest(), bytes].concat();
        if let Some(untaken) = &mut self.0 {
            untaken.is_secret = true;
        }
        *self = Self::holding(joined, true);
    }

    /// The bytes that the destination has not taken.
    pub(super) fn rest(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |untaken| &untaken.bytes[untaken.taken..])
    }

    /// The destination took `taken` more bytes.
    pub(super) fn advance(&mut self, taken: usize) {
        let Some(untaken) = &mut self.0 else { return };
        untaken.taken += taken;
        if untaken.taken == untaken.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Drop for Untaken {
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
