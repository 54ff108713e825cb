//! How many attempts a dial has, on which endpoints, and how long it waits between them.
//!
//! A retry goes at once to an endpoint that this session has not tried. When all were tried it goes back to them after
//! a wait, which doubles with jitter. The deadline over all attempts belongs to the driver, which owns the timer;
//! mostly it is the only bound.

use std::time::Duration;

use fastrand::Rng;

use super::backoff;
use super::endpoint_state::Id;

/// The attempts of one dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// At most this many, the first included; at least 1. `None`: only the deadline bounds them.
    pub attempts: Option<u32>,
    /// The first wait before an endpoint is tried again.
    pub backoff_base: Duration,
    /// The longest wait: they double up to it.
    pub backoff_max: Duration,
}

/// The attempts of one dial, as they go.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    /// Waits so far: the exponent of the next.
    waits: u32,
    /// The endpoint of each attempt.
    tried: Vec<Id>,
    /// Whether the last failure cost its server nothing.
    was_free: bool,
}

/// The shortest wait between attempts that only the deadline bounds.
const WAIT_MIN: Duration = Duration::from_millis(5);

impl Plan {
    /// A plan without attempts.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, waits: 0, tried: Vec::new(), was_free: false }
    }

    /// The number of attempts begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }

    /// Whether an attempt is left.
    #[must_use]
    pub fn has_attempt_left(&self) -> bool {
        self.settings.attempts.is_none_or(|attempts| self.attempts() < attempts)
    }

    /// How often this session tried that endpoint.
    #[must_use]
    pub fn tries(&self, endpoint: Id) -> usize {
        self.tried.iter().filter(|tried| **tried == endpoint).count()
    }

    /// An attempt on that endpoint begins.
    pub fn begin(&mut self, endpoint: Id) {
        self.tried.push(endpoint);
    }

    /// An attempt failed. `is_free`: it cost the server nothing, like a closed port.
    pub const fn record_failure(&mut self, is_free: bool) {
        self.was_free = is_free;
    }

    /// Whether the last failure cost its server nothing.
    pub(super) const fn was_free(&self) -> bool {
        self.was_free
    }

    /// The wait before the next attempt: none while a usable endpoint is untried, else between half and all of `base` ×
    /// 2^n, at most `max`.
    pub fn wait(&mut self, has_untried: bool, rng: &mut Rng) -> Duration {
        if has_untried {
            return Duration::ZERO;
        }
        let whole = backoff::doubled(self.settings.backoff_base, self.waits, self.settings.backoff_max);
        self.waits += 1;
        let wait = backoff::jittered(whole, 0.5, rng);
        // Only time ends these attempts, so each must take some.
        if self.settings.attempts.is_none() { wait.max(WAIT_MIN) } else { wait }
    }

    /// The wait for a retry that the budget does not allow yet.
    pub fn wait_for_budget(&mut self, rng: &mut Rng) -> Duration {
        self.wait(false, rng).max(WAIT_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        attempts: Some(5),
        backoff_base: Duration::from_millis(100),
        backoff_max: Duration::from_millis(300),
    };

    #[test]
    fn waits_double_with_jitter_up_to_the_most() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..100 {
            let mut plan = Plan::new(SETTINGS);
            for most in [100, 200, 300, 300] {
                plan.begin(Id::FIRST);
                assert_eq!(plan.wait(true, &mut rng), Duration::ZERO);
                let waited = plan.wait(false, &mut rng).as_millis();
                assert!((most / 2..=most).contains(&waited), "{waited} of {most}");
            }
        }
    }

    /// With `backoff: { base: 0s }` a session would occupy its worker until the deadline.
    #[test]
    fn what_only_time_ends_takes_time() {
        let mut rng = Rng::with_seed(3);
        let hasty = Settings { backoff_base: Duration::ZERO, ..SETTINGS };
        assert_eq!(Plan::new(hasty).wait(false, &mut rng), Duration::ZERO);
        assert_eq!(Plan::new(hasty).wait_for_budget(&mut rng), WAIT_MIN);
        assert_eq!(Plan::new(Settings { attempts: None, ..hasty }).wait(false, &mut rng), WAIT_MIN);
    }

    #[test]
    fn attempts_are_bounded() {
        let mut plan = Plan::new(SETTINGS);
        for _ in 0..5 {
            assert!(plan.has_attempt_left());
            plan.begin(Id::FIRST);
        }
        assert!(!plan.has_attempt_left());
        assert_eq!(plan.attempts(), 5);
    }

    #[test]
    fn a_long_life_of_waits_does_not_overflow() {
        let mut plan = Plan::new(Settings { attempts: None, ..SETTINGS });
        let mut rng = Rng::with_seed(3);
        for _ in 0..100 {
            assert!(plan.has_attempt_left());
            plan.begin(Id::FIRST);
            assert!(plan.wait(false, &mut rng) <= SETTINGS.backoff_max);
        }
    }
}
