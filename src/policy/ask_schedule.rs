//! When a server that lists endpoints is asked again, and which one of several.
//!
//! After an answer at once, but no more often than each second. After a failure the next server comes soon; once all have failed the
//! waits double, each less up to half at random, so that the clients of a control plane that was restarted do not come back together.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::backoff;

/// Requests begin no closer to each other than that, while all goes well.
pub const PACE: Duration = Duration::from_secs(1);
/// The first wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
pub const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same while no endpoint is known, so that every session is refused.
pub const RETRY_MAX_EMPTY: Duration = Duration::from_secs(5);
/// From one server that failed to the next one.
const NEXT_SERVER: Duration = Duration::from_millis(100);

/// The schedule of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskSchedule {
    servers: u32,
    /// The one that is asked.
    server: u32,
    /// Consecutive failures.
    failures: u32,
}

impl AskSchedule {
    /// Of a source with that many servers, at least one. Many hosts begin with different ones.
    #[must_use]
    pub fn new(servers: usize, rng: &mut Rng) -> Self {
        let servers = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        Self { servers, server: rng.u32(..servers), failures: 0 }
    }

    /// The number of the server to ask.
    #[must_use]
    pub const fn server(&self) -> usize {
        self.server as usize
    }

    /// A request that was begun at `begun` was answered: when the next one may begin.
    pub fn record_answer(&mut self, begun: Instant) -> Instant {
        self.failures = 0;
        begun + PACE
    }

    /// A request failed that lasted so long: how long to wait for the next one, which is for the next server.
    pub fn record_failure(&mut self, lasted: Duration, has_some: bool, rng: &mut Rng) -> Duration {
        // What has lasted so long did not fail when it began.
        let failures = if lasted >= RETRY_MAX { 0 } else { self.failures };
        self.failures = failures.saturating_add(1);
        self.server = (self.server + 1) % self.servers;
        if !self.failures.is_multiple_of(self.servers) {
            return NEXT_SERVER;
        }
        let most = if has_some { RETRY_MAX } else { RETRY_MAX_EMPTY };
        backoff::jittered(backoff::doubled(RETRY, failures / self.servers, most), 0.5, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_asked_before_there_is_a_wait_and_waits_grow() {
        for seed in 0..50 {
            let (mut rng, mut schedule) =
                (Rng::with_seed(seed), AskSchedule::new(3, &mut Rng::with_seed(seed)));
            let first = schedule.server();
            for round in 0..10_u32 {
                for server in 0..3 {
                    assert_eq!(schedule.server(), (first + server) % 3);
                    let wait = schedule.record_failure(Duration::ZERO, true, &mut rng);
                    if server < 2 {
                        assert_eq!(wait, NEXT_SERVER);
                        continue;
                    }
                    let full = RETRY.saturating_mul(1 << round.min(10)).min(RETRY_MAX);
                    assert!(wait >= full / 2 && wait <= full, "round {round}: {wait:?}");
                }
            }
            let begun = crate::clock::now();
            assert_eq!(schedule.record_answer(begun), begun + PACE);
            let mut fail = |lasted| schedule.record_failure(lasted, true, &mut rng);
            fail(Duration::ZERO);
            fail(Duration::ZERO);
            assert!(fail(Duration::ZERO) <= RETRY, "an answer forgets the failures before it");
            assert!((0..7).map(|_| fail(Duration::ZERO)).max().is_some_and(|longest| longest > RETRY));
            fail(RETRY_MAX);
            fail(Duration::ZERO);
            assert!(fail(Duration::ZERO) <= RETRY, "so does a request that lasted");
        }
    }

    #[test]
    fn who_knows_no_endpoint_never_waits_long() {
        let (mut rng, mut schedule) = (Rng::with_seed(1), AskSchedule::new(1, &mut Rng::with_seed(1)));
        let longest =
            (0..100).map(|_| schedule.record_failure(Duration::ZERO, false, &mut rng)).max().unwrap();
        assert!(longest <= RETRY_MAX_EMPTY);
    }

    /// Five hundred hosts lose their control plane at once; it is back after a while. Their requests spread, and all are answered soon.
    #[test]
    fn a_fleet_does_not_come_back_together() {
        const CLIENTS: u64 = 500;
        for away in [5_u64, 20, 60, 300].map(Duration::from_secs) {
            let mut requests = Vec::new();
            let mut last = Duration::ZERO;
            for client in 0..CLIENTS {
                let (mut rng, mut schedule) =
                    (Rng::with_seed(client), AskSchedule::new(1, &mut Rng::with_seed(1)));
                let mut now = Duration::ZERO;
                while now < away {
                    now += schedule.record_failure(Duration::ZERO, true, &mut rng);
                    requests.push(now);
                }
                last = last.max(now);
            }
            assert!(last <= away + RETRY_MAX, "{away:?}: the last one was back after {last:?}");
            requests.sort_unstable();
            // The first waits are short, for a restart of seconds; later ones spread the fleet over many.
            const WINDOW: Duration = Duration::from_millis(100);
            for (from, most) in [(0, 150), (10, 50), (60, 25)] {
                let later = &requests[requests.partition_point(|at| *at < Duration::from_secs(from))..];
                let together = |at: &Duration| {
                    later.partition_point(|other| *other < *at + WINDOW)
                        - later.partition_point(|other| other < at)
                };
                let busiest = later.iter().map(together).max().unwrap_or(0);
                assert!(busiest <= most, "{away:?}: {busiest} requests in 100 ms after {from} s");
            }
        }
    }
}
