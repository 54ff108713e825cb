//! Exponential back-off with a cap and jitter: one rule for everything that tries again. Pure.

use std::time::Duration;

use fastrand::Rng;

/// `base`, doubled `times` times, and no more than `max`.
#[must_use]
pub fn doubled(base: Duration, times: u32, max: Duration) -> Duration {
    base.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

/// The same length, shortened at random by up to that share of it (0 to 1): many that failed at once do not come back at
/// once.
#[must_use]
pub fn jittered(whole: Duration, share: f64, rng: &mut Rng) -> Duration {
    whole.mul_f64(1.0 - share * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_doubles_up_to_the_cap_however_often() {
        for (times, seconds) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (31, 10), (32, 10), (u32::MAX, 10)]
        {
            assert_eq!(doubled(SECOND, times, 10 * SECOND), seconds * SECOND, "{times}");
        }
        assert_eq!(doubled(Duration::ZERO, 7, SECOND), Duration::ZERO);
        assert_eq!(doubled(Duration::MAX, 1, Duration::MAX), Duration::MAX);
    }

    #[test]
    fn jitter_takes_away_and_never_adds() {
        let mut rng = Rng::with_seed(1);
        let lengths: Vec<_> = (0..1000).map(|_| jittered(SECOND, 0.25, &mut rng)).collect();
        assert!(lengths.iter().all(|length| (SECOND * 3 / 4..=SECOND).contains(length)));
        assert!(lengths.iter().any(|length| *length < SECOND * 4 / 5));
    }
}
