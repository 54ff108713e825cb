//! How many attempts a dial has, on which endpoints, and how long it waits between them.
//!
//! A retry goes to an endpoint that this session has not tried, at once; only when all were tried does it
//! go back to them, and then it waits, doubling with jitter. The deadline over all attempts is the
//! driver's: it owns the timer.

use std::time::Duration;

use fastrand::Rng;

/// The attempts of one dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// At most this many, the first included; at least 1.
    pub attempts: u32,
    /// The first wait before an endpoint is tried again.
    pub backoff_base: Duration,
    /// No wait is longer.
    pub backoff_max: Duration,
}

/// The attempts of one dial, as they go.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    begun: u32,
    /// Waits served so far: the exponent of the next.
    waits: u32,
    /// Places of the endpoints tried in this round.
    tried: Vec<usize>,
}

impl Plan {
    /// Nothing tried yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, begun: 0, waits: 0, tried: Vec::new() }
    }

    /// Attempts begun.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.begun
    }

    /// Whether an attempt is left.
    #[must_use]
    pub const fn has_attempt_left(&self) -> bool {
        self.begun < self.settings.attempts
    }

    /// Whether this session tried that endpoint in the current round.
    #[must_use]
    pub fn has_tried(&self, endpoint: usize) -> bool {
        self.tried.contains(&endpoint)
    }

    /// Forgets the round: every endpoint was tried, begin again with all of them.
    pub fn begin_round(&mut self) {
        self.tried.clear();
    }

    /// An attempt on that endpoint begins.
    pub fn begin(&mut self, endpoint: usize) {
        self.begun += 1;
        self.tried.push(endpoint);
    }

    /// How long to wait before the next attempt, given how many endpoints the cluster has: nothing while one
    /// of them is untried, else between half and all of `base` × 2^n, never over `max`.
    pub fn wait(&mut self, endpoints: usize, rng: &mut Rng) -> Duration {
        if self.tried.len() < endpoints {
            return Duration::ZERO;
        }
        let factor = 1_u32.checked_shl(self.waits).unwrap_or(u32::MAX);
        self.waits += 1;
        let whole = self.settings.backoff_base.saturating_mul(factor).min(self.settings.backoff_max);
        whole.mul_f64(0.5 + rng.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        attempts: 5,
        backoff_base: Duration::from_millis(100),
        backoff_max: Duration::from_millis(300),
    };

    #[test]
    fn an_untried_endpoint_is_tried_at_once() {
        let mut plan = Plan::new(SETTINGS);
        let mut rng = Rng::with_seed(3);
        plan.begin(1);
        assert!(plan.has_tried(1) && !plan.has_tried(0));
        assert_eq!(plan.wait(2, &mut rng), Duration::ZERO);
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_most() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..100 {
            let mut plan = Plan::new(SETTINGS);
            for most in [100, 200, 300, 300] {
                plan.begin_round();
                plan.begin(0);
                let waited = plan.wait(1, &mut rng).as_millis();
                assert!((most / 2..=most).contains(&waited), "{waited} of {most}");
            }
        }
    }

    #[test]
    fn attempts_are_bounded() {
        let mut plan = Plan::new(SETTINGS);
        for attempt in 0..5 {
            assert!(plan.has_attempt_left());
            plan.begin(attempt);
        }
        assert!(!plan.has_attempt_left());
        assert_eq!(plan.attempts(), 5);
    }

    #[test]
    fn a_long_life_of_waits_does_not_overflow() {
        let mut plan = Plan::new(Settings { attempts: u32::MAX, ..SETTINGS });
        let mut rng = Rng::with_seed(3);
        for _ in 0..100 {
            plan.begin_round();
            plan.begin(0);
            assert!(plan.wait(1, &mut rng) <= SETTINGS.backoff_max);
        }
    }
}
