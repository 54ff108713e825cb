//! When a second attempt begins beside one that does not answer: the idea of Happy Eyeballs (RFC 8305) across
//! endpoints.
//!
//! A connect that hangs (dropped SYNs, a full accept queue, a stopped process in its handshake) takes seconds to fail,
//! where another endpoint would answer at once. What is slow depends on the endpoint's own history. Whether there is
//! another endpoint, and whether the budget allows the hedge, is decided elsewhere.

use std::time::Duration;

/// How long an attempt runs before a hedge begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The shortest time, however fast the endpoint usually is.
    pub min: Duration,
    /// For an endpoint without history.
    pub unknown: Duration,
    /// The longest time, however slow the endpoint usually is.
    pub max: Duration,
}

/// An attempt is slow if it takes this many times the usual time.
const SLOW: f64 = 4.0;
/// The least time before a hedge: on a busy host, attempts vary by as much.
const MIN: Duration = Duration::from_millis(100);
/// The time for an endpoint without history, and the longest time, as parts of the connect timeout.
const UNKNOWN: u32 = 12;
const MAX: u32 = 3;
/// The longest time with a greeting, as a part of the greeting timeout.
const MAX_OF_GREETING: u32 = 2;

impl Settings {
    /// By the endpoint's history, within parts of the connect timeout.
    #[must_use]
    pub fn by_history(connect_timeout: Duration) -> Self {
        let max = connect_timeout / MAX;
        Self { min: MIN.min(max), unknown: connect_timeout / UNKNOWN, max }
    }

    /// For protocols with a greeting as a part of the attempt: a server whose greetings usually take long gets more
    /// time. One without history does not.
    #[must_use]
    pub fn greeting_within(self, greeting_timeout: Duration) -> Self {
        Self { max: self.max.max(greeting_timeout / MAX_OF_GREETING), ..self }
    }

    /// The same time for every endpoint.
    #[must_use]
    pub const fn fixed(after: Duration) -> Self {
        Self { min: after, unknown: after, max: after }
    }

    /// The time before a hedge; `usual`: the endpoint's average time in seconds, if known.
    #[must_use]
    pub fn after(&self, usual: Option<f64>) -> Duration {
        // It is a moving average of dial times: never negative, and bounded by the timeouts.
        let slow = usual.map_or(self.unknown, |usual| Duration::from_secs_f64(usual * SLOW));
        slow.clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_endpoints_history_says_what_is_slow_within_bounds() {
        let settings = Settings::by_history(Duration::from_secs(3));
        for (usual, expected) in [(None, 250), (Some(0.001), 100), (Some(0.05), 200), (Some(2.0), 1000)] {
            assert_eq!(settings.after(usual), expected * MS, "{usual:?}");
        }
        let fixed = Settings::fixed(MS);
        assert_eq!([fixed.after(None), fixed.after(Some(9.0))], [MS, MS]);
        let patient = settings.greeting_within(Duration::from_secs(300));
        for (usual, expected) in [(None, 250), (Some(0.05), 200), (Some(6.0), 24_000), (Some(99.0), 150_000)]
        {
            assert_eq!(patient.after(usual), expected * MS, "{usual:?}, with a greeting");
        }
        let hasty = Settings::by_history(30 * MS);
        assert_eq!(hasty.after(Some(0.001)), 10 * MS, "a short timeout bounds it, too");
    }
}
