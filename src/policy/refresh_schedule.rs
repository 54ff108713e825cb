//! When a cluster's members are queried again: after the TTL of an answer; after failures soon at first, then at longer
//! intervals. The query itself is made elsewhere.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::backoff;

/// The shortest interval, whatever the TTL: a TTL of 0 means "use it once, do not cache it".
pub const FLOOR: Duration = Duration::from_secs(1);
/// The longest interval: a record with a TTL of a day may be wrong within the hour.
pub const CEILING: Duration = Duration::from_secs(300);
/// The longest wait after failures while an earlier answer is in use.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same without any answer, when every session is refused.
const RETRY_MAX_EMPTY: Duration = Duration::from_secs(5);
/// The least time from the last query to one that is expedited.
pub const HURRIED: Duration = Duration::from_secs(2);

/// The schedule of one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshSchedule {
    asked: Option<Instant>,
    due: Instant,
    /// Consecutive failures: the exponent of the next pause.
    failures: u32,
}

impl RefreshSchedule {
    /// A query that has not been made yet, due at once.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { asked: None, due: now, failures: 0 }
    }

    /// When the query is due.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// An answer is valid for `ttl`. The next query comes up to a twentieth later, so that processes that got the
    /// answer together do not query together.
    pub fn record_answer(&mut self, now: Instant, ttl: Duration, rng: &mut Rng) {
        let ttl = ttl.clamp(FLOOR, CEILING);
        *self = Self { asked: Some(now), due: now + ttl.mul_f64(1.0 + rng.f64() / 20.0), failures: 0 };
    }

    /// A later part of the answer is valid for `ttl`: the query is due no later than its end.
    pub fn shorten(&mut self, now: Instant, ttl: Duration) {
        self.due = self.due.min(now + ttl.clamp(FLOOR, CEILING));
    }

    /// The query failed. The waits double, each less up to half at random.
    pub fn record_failure(&mut self, now: Instant, has_something: bool, rng: &mut Rng) {
        let most = if has_something { RETRY_MAX } else { RETRY_MAX_EMPTY };
        let due = now + backoff::jittered(backoff::doubled(FLOOR, self.failures, most), 0.5, rng);
        *self = Self { asked: Some(now), due, failures: self.failures.saturating_add(1) };
    }

    /// The answer may be out of date: the query is due as soon as allowed.
    pub fn expedite(&mut self, now: Instant) {
        let earliest = self.asked.map_or(now, |asked| asked + HURRIED);
        self.due = self.due.min(earliest.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn t0() -> Instant {
        crate::clock::now()
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        for (ttl, least) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300), (u64::from(u32::MAX), 300)]
        {
            for seed in 0..50 {
                let (now, mut rng) = (t0(), Rng::with_seed(seed));
                let mut schedule = RefreshSchedule::new(now);
                schedule.record_answer(now, Duration::from_secs(ttl), &mut rng);
                let wait = schedule.due() - now;
                assert!(wait >= SECOND * least && wait <= (SECOND * least).mul_f64(1.05), "{ttl}: {wait:?}");
            }
        }
    }

    #[test]
    fn failures_are_asked_about_soon_and_then_ever_later() {
        for (has_something, most) in [(true, RETRY_MAX), (false, RETRY_MAX_EMPTY)] {
            let (now, mut rng) = (t0(), Rng::with_seed(7));
            let mut schedule = RefreshSchedule::new(now);
            for failure in 0..100_u32 {
                schedule.record_failure(now, has_something, &mut rng);
                let full = SECOND.saturating_mul(1 << failure.min(10)).min(most);
                let wait = schedule.due() - now;
                assert!(wait >= full / 2 && wait <= full, "failure {failure}: {wait:?}");
            }
            schedule.record_answer(now, SECOND * 10, &mut rng);
            schedule.record_failure(now, has_something, &mut rng);
            assert!(schedule.due() - now <= SECOND, "an answer forgets the failures before it");
        }
    }

    #[test]
    fn a_hurry_asks_earlier_but_not_without_end() {
        let (now, mut rng) = (t0(), Rng::with_seed(1));
        let mut schedule = RefreshSchedule::new(now);
        schedule.record_answer(now, SECOND * 60, &mut rng);
        schedule.expedite(now);
        assert_eq!(schedule.due(), now + HURRIED);
        schedule.expedite(now + SECOND * 30);
        assert_eq!(schedule.due(), now + HURRIED, "it never makes it later");
        schedule.record_answer(now, SECOND * 60, &mut rng);
        schedule.expedite(now + SECOND * 30);
        assert_eq!(schedule.due(), now + SECOND * 30);
        let mut soon = RefreshSchedule::new(now);
        soon.record_answer(now, SECOND, &mut rng);
        let due = soon.due();
        soon.expedite(now);
        assert_eq!(soon.due(), due);
    }
}
