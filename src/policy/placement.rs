//! Which worker a new session goes to.
//!
//! A session stays on the worker it began on, so the choice is made once, by what is known then: how many sessions a
//! worker has, and for how much of its time it was busy lately. Ten bulky sessions may keep a worker busier than a
//! thousand that rest. What the new session will do is not known, and of a burst of sessions none is measured yet; so
//! a busy worker gets fewer of them, and not none.

use std::time::{Duration, Instant};

/// The share of its time that a worker was busy, measured between placements.
#[derive(Debug, Clone, Copy, Default)]
pub struct BusyShare {
    /// In [`PARTS`].
    parts: u32,
    since: Option<(Instant, Duration)>,
}

/// What is known of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its live sessions.
    pub sessions: usize,
    /// [`BusyShare::parts`].
    pub busy: u32,
}

/// A share is counted in so many parts: a rounding, so that the noise of idle workers does not decide.
const PARTS: u32 = 8;

/// The least time that a share is measured over: some hundred turns of a busy worker.
pub const WINDOW: Duration = Duration::from_millis(50);

impl BusyShare {
    /// The share of the last window: 0 to 8 eighths, rounded down.
    #[must_use]
    pub const fn parts(&self) -> u32 {
        self.parts
    }

    /// Whether a window has passed since the last measurement.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.since.is_none_or(|(at, _)| now.saturating_duration_since(at) >= WINDOW)
    }

    /// Ends the window that is due. `busy`: how long the worker has been busy in all.
    pub fn measure(&mut self, busy: Duration, now: Instant) {
        if let Some((at, before)) = self.since {
            let (spent, passed) = (busy.saturating_sub(before), now.saturating_duration_since(at));
            let share = (spent.as_secs_f64() / passed.as_secs_f64()).clamp(0.0, 1.0);
            self.parts = (share * f64::from(PARTS)) as u32;
        }
        self.since = Some((now, busy));
    }
}

impl Load {
    /// A session beside a worker that is busy all the time weighs as nine beside an idle one.
    fn weight(self) -> usize {
        self.sessions.saturating_add(1).saturating_mul(1 + self.busy as usize)
    }
}

/// The place of the worker that is to have the next session; of equals the first.
#[must_use]
pub fn place(loads: impl IntoIterator<Item = Load>) -> Option<usize> {
    let weights = loads.into_iter().map(Load::weight).enumerate();
    weights.min_by_key(|(_, weight)| *weight).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_session_goes_where_its_share_is_likely_largest() {
        // (sessions, busy eighths) of each worker; the place
        type Case<'a> = (&'a [(usize, u32)], Option<usize>);
        let cases: [Case<'_>; 10] = [
            (&[], None),
            (&[(7, 8)], Some(0)),
            // The first of equals accepts, so it need not be woken.
            (&[(0, 0), (0, 0)], Some(0)),
            (&[(1, 0), (0, 0)], Some(1)),
            // Ten bulky ones beside ten that rest.
            (&[(10, 8), (10, 0)], Some(1)),
            (&[(10, 8), (64, 0)], Some(1)),
            // Bounded: of a burst that is not measured yet the busy one gets its part too.
            (&[(10, 8), (98, 0)], Some(0)),
            // Where all are busy, the number decides.
            (&[(10, 8), (11, 8), (9, 8)], Some(2)),
            (&[(1000, 1), (900, 2)], Some(0)),
            (&[(usize::MAX, 8), (usize::MAX, 0)], Some(0)),
        ];
        for (loads, expected) in cases {
            let loads = loads.iter().map(|&(sessions, busy)| Load { sessions, busy });
            assert_eq!(place(loads.clone()), expected, "{:?}", loads.collect::<Vec<_>>());
        }
    }

    /// Least loaded by number alone put ten bulky sessions on one of two workers when they came by turns with ten that
    /// rested, and then half of all later sessions beside them.
    #[test]
    fn later_sessions_keep_away_from_bulky_ones() {
        let mut loads = [Load { sessions: 10, busy: 8 }, Load { sessions: 10, busy: 0 }];
        for _ in 0..64 {
            let at = place(loads).expect("two workers");
            loads[at].sessions += 1;
        }
        assert_eq!(loads.map(|load| load.sessions), [10, 74]);
    }

    #[test]
    fn a_share_is_that_of_the_last_window() {
        let mut share = BusyShare::default();
        let start = clock::now();
        assert!(share.is_due(start), "nothing is measured yet");
        let ms = Duration::from_millis;
        // (time, busy in all by then; eighths)
        for (at, busy, parts) in
            [(0, 500, 0), (100, 500, 0), (200, 600, 8), (400, 650, 2), (500, 662, 0), (600, 800, 8)]
        {
            share.measure(ms(busy), start + ms(at));
            assert_eq!(share.parts(), parts, "at {at} ms");
            assert!(!share.is_due(start + ms(at + 49)), "too short to say something");
            assert!(share.is_due(start + ms(at + 50)));
        }
    }
}
