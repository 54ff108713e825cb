//! When an answer about a cluster's members is asked for again: by its TTL while answers come, sooner and then ever later
//! while they do not. Lacks the asking.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// No answer is asked for more often, whatever its TTL: 0 says "do not keep it", which was meant for one use.
pub const FLOOR: Duration = Duration::from_secs(1);
/// No answer is kept for longer unasked: a record of a day may turn out wrong within the hour.
pub const CEILING: Duration = Duration::from_secs(300);
/// The longest wait after failures, while something known is still in use.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same where nothing is known at all, so that every session is refused.
const RETRY_MAX_EMPTY: Duration = Duration::from_secs(5);
/// Nobody's hurry leads to a question sooner than this after the last one.
pub const HURRIED: Duration = Duration::from_secs(2);

/// The times of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshSchedule {
    asked: Option<Instant>,
    due: Instant,
    /// In a row.
    failures: u32,
}

impl RefreshSchedule {
    /// A question not asked yet, due at once.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { asked: None, due: now, failures: 0 }
    }

    /// When it is to be asked.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// An answer came that holds for `ttl`. It is asked for again up to a twentieth later than that, so that those who
    /// learnt it together do not ask together.
    pub fn record_answer(&mut self, now: Instant, ttl: Duration, rng: &mut Rng) {
        let ttl = ttl.clamp(FLOOR, CEILING);
        *self = Self { asked: Some(now), due: now + ttl.mul_f64(1.0 + rng.f64() / 20.0), failures: 0 };
    }

    /// A part of the answer came later, and holds for `ttl`.
    pub fn no_later(&mut self, now: Instant, ttl: Duration) {
        self.due = self.due.min(now + ttl.clamp(FLOOR, CEILING));
    }

    /// None came. The waits double, each with up to half of it off.
    pub fn record_failure(&mut self, now: Instant, has_something: bool, rng: &mut Rng) {
        let most = if has_something { RETRY_MAX } else { RETRY_MAX_EMPTY };
        let wait = FLOOR.saturating_mul(1 << self.failures.min(10)).min(most);
        let due = now + wait.mul_f64(1.0 - rng.f64() / 2.0);
        *self = Self { asked: Some(now), due, failures: self.failures.saturating_add(1) };
    }

    /// Somebody saw a sign that the answer is out of date.
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
