//! Bytes that can be made and checked at any offset without keeping them, for bulk tests: a lost, doubled or reordered
//! piece is noticed at the first byte that differs.
//!
//! The stream repeats a pseudo-random block whose length is a prime, hence no power-of-two buffer, record or
//! segment size can be dropped or swapped without the phase showing it. Comparison is a `memcmp`, cheap even
//! in a debug build.

use std::sync::OnceLock;

const BLOCK: usize = 1_000_003;

/// A position in the stream.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pattern {
    offset: usize,
}

fn block() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let step = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(step).take(BLOCK).collect()
    })
}

impl Pattern {
    /// The next bytes to send, at most `limit`; the position moves only by [`Pattern::advance`].
    pub(crate) fn upcoming(self, limit: usize) -> &'static [u8] {
        let phase = self.offset % BLOCK;
        &block()[phase..BLOCK.min(phase + limit)]
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.offset += count;
    }

    /// Bytes sent or checked so far.
    pub(crate) fn offset(self) -> usize {
        self.offset
    }

    /// Checks the next bytes that arrived; the error is the offset of the first byte that differs.
    pub(crate) fn check(&mut self, mut received: &[u8]) -> Result<(), usize> {
        while !received.is_empty() {
            let expected = self.upcoming(received.len());
            let (now, rest) = received.split_at(expected.len());
            if now != expected {
                let at = now.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Err(self.offset + at);
            }
            self.advance(now.len());
            received = rest;
        }
        Ok(())
    }
}
