//! When the next endpoint is tried beside one that does not answer: the idea of happy eyeballs (RFC 8305) across endpoints.
//!
//! A connect that hangs (SYNs dropped, a full accept queue, a stopped process in its handshake) says nothing for seconds,
//! where a sibling would answer in one. How long is long for an endpoint, its own history says. Whether there is a sibling, and
//! whether the budget lets us, is decided elsewhere.

use std::time::Duration;

/// How long an attempt is alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Never less.
    pub min: Duration,
    /// Where nothing is known of the endpoint.
    pub unknown: Duration,
    /// Never more.
    pub max: Duration,
}

/// An attempt that takes so many times as long as they usually do is a slow one.
const SLOW: f64 = 4.0;
/// No attempt is called slow before that: on a busy host they vary by as much.
const MIN: Duration = Duration::from_millis(100);
/// What is given to an endpoint without a history, and to one that was slow before, as a part of the time for TCP.
const UNKNOWN: u32 = 12;
const MAX: u32 = 3;
/// The same of the time for a greeting.
const MAX_OF_GREETING: u32 = 2;

impl Settings {
    /// By the endpoint's own history, and else by parts of the time that an attempt has for TCP.
    #[must_use]
    pub fn by_history(connect_timeout: Duration) -> Self {
        let max = connect_timeout / MAX;
        Self { min: MIN.min(max), unknown: connect_timeout / UNKNOWN, max }
    }

    /// The same where a greeting is part of an attempt. A server that is known to take long for it is not slow for that; of one
    /// that is not known, nothing is expected.
    #[must_use]
    pub fn greeting_within(self, greeting_timeout: Duration) -> Self {
        Self { max: self.max.max(greeting_timeout / MAX_OF_GREETING), ..self }
    }

    /// Always the same.
    #[must_use]
    pub const fn fixed(after: Duration) -> Self {
        Self { min: after, unknown: after, max: after }
    }

    /// How long an attempt is alone on an endpoint whose attempts take so many seconds, where that is known.
    #[must_use]
    pub fn after(&self, usual: Option<f64>) -> Duration {
        // Seconds of a moving average: never negative, and never beyond what a timeout allows.
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
