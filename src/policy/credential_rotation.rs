//! When a session made with a replaced credential is to end: at a moment of its own, once it is idle.

use std::time::{Duration, Instant};

/// A session is idle after this long without a byte, if the server sent the last one: no side waits for an answer.
const REST: Duration = Duration::from_secs(5);
/// A session that is never idle is ended after this.
pub const LATEST: Duration = Duration::from_secs(60 * 60);

/// What is observed of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionActivity {
    /// Bytes so far, in both directions.
    pub moved: u64,
    /// The client sent the last of them: the server may be at work without sending.
    pub owes_answer: bool,
}

/// A session that is to end; it is checked from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionDrain {
    since: Instant,
    moved: u64,
    still_since: Instant,
}

impl SessionDrain {
    /// The session's credential was replaced.
    #[must_use]
    pub const fn begin(seen: SessionActivity, now: Instant) -> Self {
        Self { since: now, moved: seen.moved, still_since: now }
    }

    /// Whether the session is to end now. `moment`: its own time after the replacement, so that not all clients
    /// reconnect at once.
    pub fn is_due(&mut self, seen: SessionActivity, moment: Duration, now: Instant) -> bool {
        if seen.moved != self.moved {
            self.moved = seen.moved;
            self.still_since = now;
        }
        let rests = !seen.owes_answer && now >= self.still_since + REST;
        now >= self.since + LATEST || rests && now >= self.since + moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(moved: u64, owes_answer: bool) -> SessionActivity {
        SessionActivity { moved, owes_answer }
    }

    #[test]
    fn a_session_ends_at_its_moment_if_it_rests_and_else_when_it_does() {
        let t0 = crate::clock::now();
        let mut resting = SessionDrain::begin(seen(10, false), t0);
        assert!(!resting.is_due(seen(10, false), 20 * SECOND, t0 + 19 * SECOND));
        assert!(resting.is_due(seen(10, false), 20 * SECOND, t0 + 20 * SECOND));
        let mut busy = SessionDrain::begin(seen(10, false), t0);
        for second in 1..60 {
            assert!(!busy.is_due(seen(10 + u64::from(second), false), 20 * SECOND, t0 + second * SECOND));
        }
        assert!(!busy.is_due(seen(69, false), 20 * SECOND, t0 + 59 * SECOND + REST - SECOND));
        assert!(busy.is_due(seen(69, false), 20 * SECOND, t0 + 59 * SECOND + REST));
    }

    #[test]
    fn a_query_that_takes_long_is_waited_for_but_not_for_ever() {
        let t0 = crate::clock::now();
        let mut asking = SessionDrain::begin(seen(10, true), t0);
        assert!(!asking.is_due(seen(10, true), Duration::ZERO, t0 + LATEST - SECOND));
        assert!(!asking.is_due(seen(500, false), Duration::ZERO, t0 + LATEST - SECOND));
        assert!(asking.is_due(seen(500, true), Duration::ZERO, t0 + LATEST));
    }
}
