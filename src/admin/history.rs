//! The last minutes, for the curves of the page: sums sampled all the time, because a user who opens the page wants
//! to see what happened before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::session::Counters;
use crate::sync::{Mutex, MutexGuard};

/// How many samples are kept: at one in five seconds, a quarter of an hour.
const SAMPLES_MAX: usize = 180;

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<(Instant, Counters)>>);

/// The answer to `/history`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Samples {
    /// The oldest first; the last is now.
    pub samples: Vec<Sample>,
}

/// Sums since the start, at a moment.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sample {
    /// Seconds since the daemon's start.
    pub at: f64,
    pub sessions: u64,
    pub accepted: u64,
    pub refused: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub dials: u64,
    pub dial_seconds: f64,
}

impl History {
    /// Adds a sample, and drops the oldest beyond the limit.
    pub(crate) fn sample(&self, now: Instant, counters: Counters) {
        let mut samples = self.samples();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((now, counters));
    }

    /// The samples, and one more of the current counters.
    pub(super) fn until(&self, started: Instant, now: Instant, counters: Counters) -> Samples {
        let remembered = self.samples();
        let all = remembered.iter().copied().chain([(now, counters)]);
        Samples {
            samples: all
                .map(|(at, counters)| Sample::of(at.saturating_duration_since(started), counters))
                .collect(),
        }
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(Instant, Counters)>> {
        self.0.lock()
    }
}

impl Sample {
    fn of(at: Duration, counters: Counters) -> Self {
        Self {
            at: at.as_secs_f64(),
            sessions: counters.sessions,
            accepted: counters.accepted,
            refused: counters.refused,
            sent_bytes: counters.sent,
            received_bytes: counters.received,
            dials: counters.dials,
            dial_seconds: counters.dialling.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept_and_now_comes_last() {
        let started = crate::clock::now();
        let history = History::default();
        for second in 0..500 {
            let counters = Counters { accepted: second, ..Counters::default() };
            history.sample(started + Duration::from_secs(second), counters);
        }
        let now = started + Duration::from_secs(501);
        let seen = history.until(started, now, Counters { accepted: 999, ..Counters::default() }).samples;
        assert_eq!(seen.len(), SAMPLES_MAX + 1);
        assert_eq!(seen[0].accepted, 320);
        assert_eq!(seen[SAMPLES_MAX].accepted, 999);
        assert!((seen[SAMPLES_MAX].at - 501.0).abs() < 1e-9);
    }
}
