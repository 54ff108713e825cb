//! The average time of dials to an endpoint: a peak-sensitive moving average of connect + handshake.
//!
//! A dial slower than the average becomes the average at once; faster ones lower it as time passes. Reading changes
//! nothing, so neither does a decision. The balancer still tries an endpoint that was slow once, because it compares
//! averages within a bounded ratio only.

use std::time::{Duration, Instant};

/// The average of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ewma(Option<Sampled>);

#[derive(Debug, Clone, Copy)]
struct Sampled {
    seconds: f64,
    at: Instant,
}

/// The time constant: after it, a sample that is no peak weighs 1 - 1/e.
const TAU: Duration = Duration::from_secs(10);

impl Ewma {
    /// The average in seconds; `None` before the first dial.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.0.map(|sampled| sampled.seconds)
    }

    /// The average in seconds, and when it last changed.
    #[must_use]
    pub fn sampled(&self) -> Option<(f64, Instant)> {
        self.0.map(|Sampled { seconds, at }| (seconds, at))
    }

    /// Records a dial's time, or the time that a failed one counts as.
    pub fn sample(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let before = self.0.filter(|sampled| sampled.seconds > took);
        let seconds = before.map_or(took, |Sampled { seconds, at }| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            let kept = (-passed / TAU.as_secs_f64()).exp();
            seconds * kept + took * (1.0 - kept)
        });
        self.0 = Some(Sampled { seconds, at: now });
    }

    /// Sets the average if there is none yet.
    pub fn seed(&mut self, seconds: f64, now: Instant) {
        self.0.get_or_insert(Sampled { seconds, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    fn ms(ewma: &Ewma) -> f64 {
        (ewma.seconds().unwrap() * 1e6).round() / 1e3
    }

    #[test]
    fn a_peak_counts_at_once_and_better_times_lower_it_slowly() {
        let now = clock::now();
        let mut ewma = Ewma::default();
        assert_eq!(ewma.seconds(), None);
        ewma.sample(2 * MS, now);
        assert_eq!(ms(&ewma), 2.0);
        ewma.sample(100 * MS, now);
        assert_eq!(ms(&ewma), 100.0);
        ewma.sample(2 * MS, now);
        assert_eq!(ms(&ewma), 100.0, "no time has passed");
        ewma.sample(2 * MS, now + TAU);
        assert!((37.0..39.0).contains(&ms(&ewma)), "1/e of the way is left: {}", ms(&ewma));
        ewma.sample(2 * MS, now + 20 * TAU);
        assert_eq!(ms(&ewma), 2.0);
        ewma.sample(MS, now);
        assert_eq!(ms(&ewma), 2.0, "a clock that runs backwards");
    }

    #[test]
    fn only_one_without_an_average_is_seeded() {
        let now = clock::now();
        let mut ewma = Ewma::default();
        ewma.seed(0.005, now);
        ewma.seed(0.5, now);
        assert_eq!(ms(&ewma), 5.0);
    }
}
