//! Who is told to end when all sessions have to, within a window: the quietest first, and evenly over the window, so that
//! their clients do not all come back at once somewhere else.
//!
//! How many may still live falls in a straight line from all to none; sessions that end by themselves count. Beyond that
//! line those are ended that have been quiet, both ways, for a while: what is relayed is opaque, and silence is all that
//! can be known of a good moment. Who is never quiet is left to the end of the window.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sessions that are to end, by a key of the caller's.
#[derive(Debug)]
pub struct Winding<K> {
    begun: Instant,
    window: Duration,
    /// As many as there ever were at once, those that have ended included.
    total: usize,
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    bytes: u64,
    /// When they last changed, as far as anybody has looked.
    since: Instant,
}

/// Silence that counts as a good moment; less in a window that is short.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_SHARE: u32 = 8;

impl<K: Ord + Copy> Winding<K> {
    /// Nobody has been told yet.
    #[must_use]
    pub const fn new(now: Instant, window: Duration) -> Self {
        Self { begun: now, window, total: 0, seen: BTreeMap::new() }
    }

    /// Who is to end now, of those that live with the bytes that each has moved so far.
    pub fn due(&mut self, now: Instant, live: &[(K, u64)]) -> Vec<K> {
        self.look(now, live);
        let left = self.window.saturating_sub(now.saturating_duration_since(self.begun));
        let share = if self.window.is_zero() { 0.0 } else { left.as_secs_f64() / self.window.as_secs_f64() };
        let allowed = (self.total as f64 * share).round() as usize;
        let quiet = QUIET.min(self.window / QUIET_SHARE);
        let mut candidates: Vec<_> = self
            .seen
            .iter()
            .filter(|(_, seen)| now.saturating_duration_since(seen.since) >= quiet)
            .map(|(key, seen)| (seen.since, *key))
            .collect();
        candidates.sort_unstable();
        candidates.truncate(live.len().saturating_sub(allowed));
        candidates.into_iter().map(|(_, key)| key).collect()
    }

    fn look(&mut self, now: Instant, live: &[(K, u64)]) {
        let before = std::mem::take(&mut self.seen);
        let ended = self.total - before.len().min(self.total);
        let mut gone = before.len();
        for (key, bytes) in live {
            let known = before.get(key);
            gone -= usize::from(known.is_some());
            let since = known.filter(|seen| seen.bytes == *bytes).map_or(now, |seen| seen.since);
            self.seen.insert(*key, Seen { bytes: *bytes, since });
        }
        self.total = ended + gone + self.seen.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// Plays a window of ten seconds in steps of a tenth; how many live after each second is the answer.
    fn play(sessions: u32, moves: impl Fn(u32, u32) -> bool) -> Vec<usize> {
        let t0 = clock::now();
        let mut winding = Winding::new(t0, 10 * SECOND);
        let mut live: Vec<(u32, u64)> = (0..sessions).map(|key| (key, 0)).collect();
        let mut left = Vec::new();
        for step in 0..=100 {
            for (key, bytes) in &mut live {
                *bytes += u64::from(moves(*key, step));
            }
            let due = winding.due(t0 + step * SECOND / 10, &live);
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
    fn sessions_that_end_by_themselves_count() {
        let t0 = clock::now();
        let mut winding = Winding::new(t0, 10 * SECOND);
        let all: Vec<_> = (0..10).map(|key| (key, 0)).collect();
        assert!(winding.due(t0, &all).is_empty());
        // Half are gone after four seconds: one may go on for each that went.
        assert!(winding.due(t0 + 4 * SECOND, &all[5..]).is_empty());
        assert_eq!(winding.due(t0 + 6 * SECOND, &all[5..]).len(), 1);
    }

    #[test]
    fn without_a_window_everybody_is_over_the_line() {
        let t0 = clock::now();
        assert_eq!(Winding::new(t0, Duration::ZERO).due(t0, &[(1, 0)]), [1]);
    }
}
