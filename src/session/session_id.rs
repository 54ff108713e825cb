//! The names of sessions.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a session in the log, in refusals and in `/sessions`: 16 hex digits, unique within a process and,
/// all but certainly, among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

/// Makes session ids.
#[derive(Debug)]
pub(crate) struct SessionIds(AtomicU64);

impl SessionIds {
    /// `seed`: random.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A step of splitmix64, which yields every 64-bit number once and does not reveal how many came before.
    pub(crate) fn next(&self) -> SessionId {
        let mut id = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        SessionId(id ^ (id >> 31))
    }
}

impl SessionId {
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no session's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session's id is 16 hex digits")]
pub(crate) struct NoSessionId;

impl FromStr for SessionId {
    type Err = NoSessionId;

    fn from_str(text: &str) -> Result<Self, NoSessionId> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_one);
        number.map(Self).ok_or(NoSessionId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_sixteen_digits() {
        let ids = SessionIds::new(42);
        let all: BTreeSet<_> = (0..100_000).map(|_| ids.next()).collect();
        assert_eq!(all.len(), 100_000);
        assert!(all.iter().all(|id| id.to_string().len() == 16));
        assert!(all.iter().all(|id| id.to_string().parse() == Ok(*id)));
    }

    #[test]
    fn only_sixteen_hex_digits_are_an_id() {
        assert_eq!("000000000000000A".parse(), Ok(SessionId(10)));
        for text in ["", "a", "+00000000000000a", "000000000000000g", "00000000000000000a"] {
            assert_eq!(text.parse::<SessionId>(), Err(NoSessionId), "{text}");
        }
    }
}
