//! The retry budget of a cluster: how many attempts may be retries.
//!
//! A dead replica must not multiply the dials to the others. Each session that begins to dial adds a fraction of a
//! retry, time adds some more, and each retry takes one. What is not used is kept, up to a bound.

use std::time::{Duration, Instant};

/// The size of the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Retries per session: 0.2 means one for five sessions.
    pub ratio: f64,
    /// Retries per second, regardless of sessions.
    pub min_per_second: f64,
}

/// The budget's current state.
#[derive(Debug)]
pub struct Budget {
    settings: Settings,
    retries: f64,
    /// When time last added retries; `None` before the first use.
    paid: Option<Instant>,
}

/// The most that is kept: `min_per_second` over this time, or this number of retries if that is more.
const KEPT: Duration = Duration::from_secs(10);
const KEPT_MIN: f64 = 10.0;

impl Budget {
    /// A budget that starts full.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, retries: settings.most(), paid: None }
    }

    /// A session begins to dial.
    pub fn deposit(&mut self, now: Instant) {
        self.pay_in(self.settings.ratio, now);
    }

    /// Takes one retry. Returns whether there was one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.pay_in(0.0, now);
        let has_one = self.retries >= 1.0;
        if has_one {
            self.retries -= 1.0;
        }
        has_one
    }

    fn pay_in(&mut self, extra: f64, now: Instant) {
        let passed = self.paid.map_or(Duration::ZERO, |paid| now.saturating_duration_since(paid));
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)));
        let earned = extra + passed.as_secs_f64() * self.settings.min_per_second;
        self.retries = (self.retries + earned).min(self.settings.most());
    }
}

impl Settings {
    fn most(&self) -> f64 {
        (KEPT.as_secs_f64() * self.min_per_second).max(KEPT_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn take_all(budget: &mut Budget, now: Instant) -> u32 {
        (0..10_000).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn sessions_and_time_pay_for_retries_up_to_a_bound() {
        let now = clock::now();
        let mut budget = Budget::new(Settings { ratio: 0.25, min_per_second: 3.0 });
        assert_eq!(take_all(&mut budget, now), 30, "it begins full");
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(take_all(&mut budget, now), 25);
        assert_eq!(take_all(&mut budget, now + 2 * SECOND), 6);
        assert_eq!(take_all(&mut budget, now + 2 * SECOND), 0);
        assert_eq!(take_all(&mut budget, now), 0, "a clock that runs backwards pays nothing");
        assert_eq!(take_all(&mut budget, now + 1_000_000 * SECOND), 30);
    }

    #[test]
    fn without_a_minimum_sessions_alone_pay() {
        let now = clock::now();
        let mut budget = Budget::new(Settings { ratio: 0.5, min_per_second: 0.0 });
        assert_eq!(take_all(&mut budget, now), 10);
        assert_eq!(take_all(&mut budget, now + 1000 * SECOND), 0);
        (0..4).for_each(|_| budget.deposit(now));
        assert_eq!(take_all(&mut budget, now), 2);
    }
}
