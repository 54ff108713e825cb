//! Limits the records of refused connections: a caller that connects without end and is refused each time would fill
//! the disk with equal lines. Per caller and outcome, a number of records is written in each window; the others are
//! counted, and the count is logged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::caller::CallerKey;
use crate::outcome::Outcome;

/// Recent records of clients that were not served.
#[derive(Debug, Default)]
pub struct RefusalRecordLimiter {
    windows: BTreeMap<(CallerKey, Outcome), Window>,
}

/// Records that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppressedRecords {
    /// The caller of these records.
    pub caller: CallerKey,
    /// The outcome of these records.
    pub outcome: Outcome,
    /// The number of records, at least 1.
    pub count: u64,
    /// When the window began; all came within [`WINDOW`].
    pub since: Instant,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    seen: u64,
}

/// Records of one caller and outcome that are written in a [`WINDOW`]. At 600 bytes each, some 6 KB/s.
pub const RECORDS_MAX: u64 = 100;
/// How long records are counted before the count is logged.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Pairs of caller and outcome that are counted separately; further ones are counted as strangers.
const APART_MAX: usize = 4096;

impl RefusalRecordLimiter {
    /// Whether records with that outcome are limited: the client was not served.
    #[must_use]
    pub fn minds(outcome: Outcome) -> bool {
        outcome == Outcome::DownstreamGone || outcome.is_refusal()
    }

    /// Whether to write a record, and the count of the window before, if it is over and has not been reported.
    pub fn judge(
        &mut self,
        caller: CallerKey,
        outcome: Outcome,
        now: Instant,
    ) -> (bool, Option<SuppressedRecords>) {
        if !Self::minds(outcome) {
            return (true, None);
        }
        let mut key = (caller, outcome);
        if self.windows.len() >= APART_MAX && !self.windows.contains_key(&key) {
            key.0 = CallerKey::Strangers;
        }
        let told = self.windows.get(&key).filter(|window| window.is_over(now));
        let told = told.and_then(|window| window.left_out(&key));
        let window = self.windows.entry(key).or_insert(Window { since: now, seen: 0 });
        if window.is_over(now) {
            *window = Window { since: now, seen: 0 };
        }
        window.seen += 1;
        (window.seen <= RECORDS_MAX, told)
    }

    /// Drops the windows that are over. Returns their counts.
    pub fn over(&mut self, now: Instant) -> Vec<SuppressedRecords> {
        let mut told = Vec::new();
        self.windows.retain(|key, window| {
            let is_over = window.is_over(now);
            told.extend(is_over.then(|| window.left_out(key)).flatten());
            !is_over
        });
        told
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn left_out(&self, (caller, outcome): &(CallerKey, Outcome)) -> Option<SuppressedRecords> {
        let count = self.seen.saturating_sub(RECORDS_MAX);
        (count > 0).then(|| SuppressedRecords {
            caller: caller.clone(),
            outcome: *outcome,
            count,
            since: self.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn user(uid: u32) -> CallerKey {
        CallerKey::User(uid)
    }

    /// Refused connections filled the disk at 3.7 MB/s: any caller that may connect and is refused could write without
    /// end.
    #[test]
    fn of_one_callers_refusals_some_are_written_and_the_others_are_counted() {
        let (mut flood, t0) = (RefusalRecordLimiter::default(), clock::now());
        let written = (0..1000).filter(|_| flood.judge(user(1), Outcome::Denied, t0).0).count();
        assert_eq!(written as u64, RECORDS_MAX);
        assert!(flood.judge(user(2), Outcome::Denied, t0).0, "another's are not");
        assert!(flood.judge(user(1), Outcome::CallerFull, t0).0, "nor are others of his");
        assert!((0..1000).all(|_| flood.judge(user(1), Outcome::Completed, t0).0), "who is served is not");
        assert!(flood.over(t0 + SECOND).is_empty());
        let expected = SuppressedRecords { caller: user(1), outcome: Outcome::Denied, count: 900, since: t0 };
        assert_eq!(flood.over(t0 + WINDOW), [expected]);
        assert!(flood.windows.is_empty(), "and all is forgotten");
    }

    #[test]
    fn the_next_window_begins_with_the_count_of_the_one_before() {
        let (mut flood, t0) = (RefusalRecordLimiter::default(), clock::now());
        for _ in 0..RECORDS_MAX + 7 {
            flood.judge(user(1), Outcome::Denied, t0);
        }
        let (is_written, told) = flood.judge(user(1), Outcome::Denied, t0 + WINDOW);
        assert!(is_written);
        assert_eq!(told.map(|told| told.count), Some(7));
        assert!(flood.over(t0 + WINDOW + WINDOW).is_empty(), "told once");
    }

    #[test]
    fn who_is_one_too_many_to_be_told_apart_is_a_stranger() {
        let (mut flood, t0) = (RefusalRecordLimiter::default(), clock::now());
        for uid in 0..APART_MAX as u32 + 1000 {
            flood.judge(user(uid), Outcome::Denied, t0);
        }
        assert!(flood.windows.len() <= APART_MAX + Outcome::ALL.len());
        assert_eq!(flood.over(t0 + WINDOW)[0].caller, CallerKey::Strangers);
    }
}
