//! Limits of each caller on a listener: connections at once, and connections per second. Callers are counted
//! separately, so that one which uses all of its own takes nothing from the others.
//!
//! The rate is exact without a history (the generic cell rate algorithm, ITU-T I.371): each connection advances the
//! caller's theoretical arrival time, which may be at most a second ahead.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::caller::CallerKey;

/// The limits of each caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Connections at once; `None`: only the listener's limit applies.
    pub max_connections: Option<u32>,
    /// New connections per second, which may come all at once; `None`: no limit.
    pub connections_per_second: Option<u32>,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerLimitExceeded {
    /// As many connections at once as `max_connections` allows.
    #[error("has reached per_caller.max_connections ({0})")]
    Connections(u32),
    /// As many in a second as `connections_per_second` allows.
    #[error("has reached per_caller.connections_per_second ({0})")]
    Rate(u32),
    /// More callers than are counted separately.
    #[error("is one caller more than the {CALLERS_MAX} that are told apart")]
    Callers,
}

/// The usage of each caller.
#[derive(Debug)]
pub struct CallerLimits {
    settings: Settings,
    callers: BTreeMap<CallerKey, CallerUsage>,
}

#[derive(Debug)]
struct CallerUsage {
    live: u32,
    /// GCRA's theoretical arrival time; at most a second after the last connection.
    theoretical_arrival: Instant,
}

/// Callers with a live connection or with one in the last second.
const CALLERS_MAX: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);

impl Settings {
    /// Whether no limit is set.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.max_connections.is_none() && self.connections_per_second.is_none()
    }
}

impl CallerLimits {
    /// No caller has a connection.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, callers: BTreeMap::new() }
    }

    /// The limits in force.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Replaces the settings. The callers' usage stays.
    pub const fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether no limit is set.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.settings.is_off()
    }

    /// Counts one more connection, which [`CallerLimits::end`] takes back. A refused one does not count.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn begin(&mut self, key: &CallerKey, now: Instant) -> Result<(), CallerLimitExceeded> {
        let usage = match self.callers.get_mut(key) {
            Some(usage) => usage,
            None => {
                if self.callers.len() >= CALLERS_MAX {
                    self.callers.retain(|_, usage| usage.matters(now));
                }
                if self.callers.len() >= CALLERS_MAX {
                    return Err(CallerLimitExceeded::Callers);
                }
                self.callers.entry(key.clone()).or_insert(CallerUsage { live: 0, theoretical_arrival: now })
            }
        };
        if let Some(most) = self.settings.max_connections.filter(|most| usage.live >= *most) {
            return Err(CallerLimitExceeded::Connections(most));
        }
        if let Some(rate) = self.settings.connections_per_second {
            let even = usage.theoretical_arrival.max(now) + SECOND / rate;
            if even > now + SECOND {
                return Err(CallerLimitExceeded::Rate(rate));
            }
            usage.theoretical_arrival = even;
        }
        usage.live += 1;
        Ok(())
    }

    /// Counts one connection less, after [`CallerLimits::begin`] counted it.
    pub fn end(&mut self, key: &CallerKey, now: Instant) {
        let Some(usage) = self.callers.get_mut(key) else { return };
        usage.live = usage.live.saturating_sub(1);
        if !usage.matters(now) {
            self.callers.remove(key);
        }
    }
}

impl CallerUsage {
    fn matters(&self, now: Instant) -> bool {
        self.live > 0 || self.theoretical_arrival > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn caller_limits(max_connections: Option<u32>, connections_per_second: Option<u32>) -> CallerLimits {
        CallerLimits::new(Settings { max_connections, connections_per_second })
    }

    fn user(uid: u32) -> CallerKey {
        CallerKey::User(uid)
    }

    #[test]
    fn each_caller_has_exactly_its_connections_whatever_others_have() {
        let (mut caller_limits, t0) = (caller_limits(Some(2), None), clock::now());
        assert_eq!(caller_limits.begin(&user(1), t0), Ok(()));
        assert_eq!(caller_limits.begin(&user(1), t0), Ok(()));
        assert_eq!(caller_limits.begin(&user(1), t0), Err(CallerLimitExceeded::Connections(2)));
        assert_eq!(caller_limits.begin(&user(2), t0), Ok(()));
        caller_limits.end(&user(1), t0);
        assert_eq!(caller_limits.begin(&user(1), t0), Ok(()));
        assert_eq!(caller_limits.begin(&user(1), t0), Err(CallerLimitExceeded::Connections(2)));
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_one_for_one() {
        let (mut caller_limits, t0) = (caller_limits(None, Some(10)), clock::now());
        let mut at = |ms: u32| caller_limits.begin(&user(1), t0 + MILLISECOND * ms);
        for _ in 0..10 {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!(at(0), Err(CallerLimitExceeded::Rate(10)));
        assert_eq!(at(99), Err(CallerLimitExceeded::Rate(10)));
        assert_eq!(at(100), Ok(()));
        assert_eq!(at(100), Err(CallerLimitExceeded::Rate(10)));
        assert_eq!(at(300), Ok(()));
        assert_eq!(at(300), Ok(()));
        assert_eq!(at(300), Err(CallerLimitExceeded::Rate(10)));
        for _ in 0..10 {
            assert_eq!(at(5000), Ok(()), "more than a second's worth is not saved up");
        }
        assert_eq!(at(5000), Err(CallerLimitExceeded::Rate(10)));
    }

    #[test]
    fn over_any_second_no_caller_begins_more_than_twice_its_rate() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut caller_limits, t0) = (caller_limits(None, Some(25)), clock::now());
        let (mut ms, mut begun) = (0_u32, Vec::new());
        for _ in 0..20_000 {
            ms += rng.u32(..5);
            if caller_limits.begin(&user(1), t0 + MILLISECOND * ms).is_ok() {
                begun.push(ms);
            }
        }
        for (index, from) in begun.iter().enumerate() {
            let within = begun[index..].iter().take_while(|ms| **ms < from + 1000).count();
            assert!(within <= 50, "{within} from {from} ms on");
        }
        let (whole, seconds) = (begun.len(), ms as usize / 1000);
        assert!(whole <= 25 * (seconds + 2), "{whole} in {seconds} s");
    }

    #[test]
    fn who_has_nothing_is_forgotten_and_who_is_one_too_many_is_told() {
        let (mut caller_limits, t0) = (caller_limits(Some(1), Some(1000)), clock::now());
        for uid in 0..CALLERS_MAX as u32 {
            caller_limits.begin(&user(uid), t0).unwrap();
        }
        assert_eq!(caller_limits.begin(&user(u32::MAX), t0), Err(CallerLimitExceeded::Callers));
        caller_limits.end(&user(0), t0);
        assert_eq!(
            caller_limits.begin(&user(u32::MAX), t0),
            Err(CallerLimitExceeded::Callers),
            "it had one in the last second"
        );
        assert_eq!(caller_limits.begin(&user(u32::MAX), t0 + SECOND), Ok(()));
        for uid in (0..CALLERS_MAX as u32).chain([u32::MAX]) {
            caller_limits.end(&user(uid), t0 + 2 * SECOND);
        }
        assert!(caller_limits.callers.is_empty());
    }
}
