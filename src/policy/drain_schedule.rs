//! Which sessions to end when all have to end within a window: the longest idle first, evenly over the window, so that
//! their clients do not all reconnect elsewhere at once.
//!
//! The number of sessions allowed falls linearly from all to zero; sessions that end by themselves count. Above that
//! line, sessions are ended that have been idle in both directions for a while: relayed bytes are opaque, so idle time,
//! and which side sent last, is all that is known about a good moment. A session that waits for an answer gets half the
//! window for it; one that is never idle is left alone until it ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::credential_rotation::SessionActivity;

/// Sessions that are to end, by a key that the caller chooses.
#[derive(Debug)]
pub struct DrainSchedule<K> {
    begun: Instant,
    window: Duration,
    /// All sessions seen so far, including those that have ended.
    total: usize,
    known: BTreeMap<K, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    seen: SessionActivity,
    /// When its byte count last changed, as seen by [`DrainSchedule::due`].
    since: Instant,
}

/// The idle time that makes a good moment; less if the window is short.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_SHARE: u32 = 8;

impl<K: Ord + Copy> DrainSchedule<K> {
    /// No session is known yet.
    #[must_use]
    pub const fn new(now: Instant, window: Duration) -> Self {
        Self { begun: now, window, total: 0, known: BTreeMap::new() }
    }

    /// The sessions to end now, of those in `live`.
    pub fn due(&mut self, now: Instant, live: &[(K, SessionActivity)]) -> Vec<K> {
        self.look(now, live);
        let left = self.window.saturating_sub(now.saturating_duration_since(self.begun));
        let share = if self.window.is_zero() { 0.0 } else { left.as_secs_f64() / self.window.as_secs_f64() };
        let allowed = (self.total as f64 * share).round() as usize;
        let quiet = QUIET.min(self.window / QUIET_SHARE);
        let needed = |known: &Known| if known.seen.owes_answer { self.window / 2 } else { quiet };
        let mut candidates: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| now.saturating_duration_since(known.since) >= needed(known))
            .map(|(key, known)| (known.seen.owes_answer, known.since, *key))
            .collect();
        candidates.sort_unstable();
        candidates.truncate(live.len().saturating_sub(allowed));
        candidates.into_iter().map(|(_, _, key)| key).collect()
    }

    fn look(&mut self, now: Instant, live: &[(K, SessionActivity)]) {
        let before = std::mem::take(&mut self.known);
        let ended = self.total - before.len().min(self.total);
        let mut gone = before.len();
        for (key, seen) in live {
            let known = before.get(key);
            gone -= usize::from(known.is_some());
            let same = known.filter(|known| known.seen.moved == seen.moved);
            let since = same.map_or(now, |known| known.since);
            self.known.insert(*key, Known { seen: *seen, since });
        }
        self.total = ended + gone + self.known.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);
    const REST: SessionActivity = SessionActivity { moved: 0, owes_answer: false };

    /// Plays a window of ten seconds in steps of a tenth. Returns how many sessions live after each second.
    fn play(sessions: u32, moves: impl Fn(u32, u32) -> bool) -> Vec<usize> {
        let t0 = clock::now();
        let mut schedule = DrainSchedule::new(t0, 10 * SECOND);
        let mut live: Vec<(u32, SessionActivity)> = (0..sessions).map(|key| (key, REST)).collect();
        let mut left = Vec::new();
        for step in 0..=100 {
            for (key, seen) in &mut live {
                seen.moved += u64::from(moves(*key, step));
            }
            let due = schedule.due(t0 + step * SECOND / 10, &live);
            live.retain(|(key, _)| !due.contains(key));
            if step % 10 == 0 {
                left.push(live.len());
            }
        }
        left
    }

    #[test]
    fn quiet_sessions_end_evenly_over_the_window() {
        let left = play(100, |_, _| false);
        assert_eq!(left[0], 100, "nobody is known to be quiet at once");
        for (second, left) in left.iter().enumerate().skip(2) {
            assert!(left.abs_diff(100 - 10 * second) <= 2, "{left} after {second} s");
        }
    }

    #[test]
    fn busy_sessions_are_left_alone_and_quiet_ones_go_in_their_place() {
        let left = play(10, |key, _| key < 5);
        assert_eq!(left.last(), Some(&5));
        assert!(left[6] == 5, "the quiet half has gone by the middle: {left:?}");
    }

    #[test]
    fn one_that_falls_quiet_late_goes_then() {
        let left = play(1, |_, step| step < 80);
        assert_eq!((left[8], left[9]), (1, 0), "{left:?}");
    }

    #[test]
    fn who_waits_for_an_answer_goes_after_all_that_rest_and_not_before_half_the_window() {
        let t0 = clock::now();
        let mut schedule = DrainSchedule::new(t0, 10 * SECOND);
        let mut live: Vec<_> =
            (0..10).map(|key| (key, SessionActivity { moved: 1, owes_answer: key < 5 })).collect();
        let mut order = Vec::new();
        for step in 0..=100 {
            let due = schedule.due(t0 + step * SECOND / 10, &live);
            live.retain(|(key, _)| !due.contains(key));
            order.extend(due.into_iter().map(|key| (key, step)));
        }
        let keys: Vec<_> = order.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys[..5], [5, 6, 7, 8, 9], "those that rest, first");
        assert!(order[5..].iter().all(|(_, step)| *step >= 50), "{order:?}");
    }

    #[test]
    fn sessions_that_end_by_themselves_count() {
        let t0 = clock::now();
        let mut schedule = DrainSchedule::new(t0, 10 * SECOND);
        let all: Vec<_> = (0..10).map(|key| (key, REST)).collect();
        assert!(schedule.due(t0, &all).is_empty());
        // Half are gone after four seconds: as many others may stay for now.
        assert!(schedule.due(t0 + 4 * SECOND, &all[5..]).is_empty());
        assert_eq!(schedule.due(t0 + 6 * SECOND, &all[5..]).len(), 1);
    }

    #[test]
    fn without_a_window_everybody_is_over_the_line() {
        let t0 = clock::now();
        assert_eq!(DrainSchedule::new(t0, Duration::ZERO).due(t0, &[(1, REST)]), [1]);
    }
}
