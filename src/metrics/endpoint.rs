//! The metrics of an endpoint: its sessions, the attempts to reach it, its health checks.

use std::sync::Arc;
use std::time::Duration;

use super::names::{
    CONNECT_ATTEMPTS, CONNECT_DURATION, DialBounds, EJECTIONS, ENDPOINT_EJECTED, ENDPOINT_HEALTHY,
    ENDPOINT_SESSIONS, HANDSHAKE_DURATION, HEALTH_CHECKS, RESUMPTION_REFUSED, TLS_HANDSHAKES,
};
use super::registry::{Dropped, Family, ReadPurpose, Registry};
use super::text::{Text, labels};
use super::values::{Counter, Gauge, Histogram, Tally};
use crate::name::{ClusterName, EndpointName};

static ENDPOINTS: Registry<EndpointMetrics> = Registry::new(FAMILIES);

#[derive(Default)]
pub(crate) struct EndpointMetrics {
    pub sessions: Gauge,
    /// The time of TCP connects.
    pub connect_duration: Histogram<DialBounds>,
    /// 1 while it is ejected.
    pub ejected: Gauge,
    /// Its health checks.
    pub checks: CheckMetrics,
    ejections: Tally,
    /// Handshakes that the server ended because they offered to resume a session.
    pub resumption_refused: Counter,
    handshake_duration: Histogram<DialBounds>,
    full_handshakes: Counter,
    resumed_handshakes: Counter,
    attempts: Tally,
}

/// The metrics of an endpoint's health checks.
#[derive(Default)]
pub(crate) struct CheckMetrics {
    healthy: Gauge,
    results: Tally,
}

impl EndpointMetrics {
    /// Those of one endpoint; of one that there is already, the same.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName, endpoint: &EndpointName) -> Arc<Self> {
        ENDPOINTS.of(&labels([("cluster", cluster.as_str()), ("endpoint", endpoint.as_str())]))
    }

    /// Records a TLS handshake; `took` includes the protocol's upgrade.
    pub(crate) fn record_handshake(&self, took: Duration, resumed: bool) {
        self.handshake_duration.record(took);
        if resumed { &self.resumed_handshakes } else { &self.full_handshakes }.increment(1);
    }

    /// Records an ejection for that fault; `is_news`: it was not ejected before.
    pub(crate) fn record_ejection(&self, fault: &'static str, is_news: bool) {
        if is_news {
            self.ejected.increment();
        }
        self.ejections.increment(fault);
    }

    /// Records the result of an attempt.
    pub(crate) fn record_attempt(&self, result: &'static str) {
        self.attempts.increment(result);
    }
}

impl CheckMetrics {
    /// It is probed from now on, and counts as usable.
    pub(crate) fn begin(&self) {
        self.healthy.show(1);
    }

    /// Records the result of a probe, and whether the endpoint is usable after it.
    pub(crate) fn record_check(&self, result: &'static str, is_usable: bool) {
        self.healthy.show(usize::from(is_usable));
        self.results.increment(result);
    }

    /// Continues from the health that another process has found.
    pub(crate) fn restore(&self, is_usable: bool) {
        self.healthy.show(usize::from(is_usable));
    }

    /// Records that it is no longer probed: whether it is usable is unknown from now on.
    pub(crate) fn remove(&self) {
        self.healthy.unset();
    }
}

const FAMILIES: &[Family<EndpointMetrics>] = &[
    (&CONNECT_ATTEMPTS, |its, series| series.tally("result", &its.attempts)),
    (&CONNECT_DURATION, |its, series| series.histogram(&its.connect_duration)),
    (&HANDSHAKE_DURATION, |its, series| series.histogram(&its.handshake_duration)),
    (&TLS_HANDSHAKES, |its, series| {
        let kinds = [("full", its.full_handshakes.get()), ("resumed", its.resumed_handshakes.get())];
        series.counts("kind", kinds, false);
    }),
    (&RESUMPTION_REFUSED, |its, series| series.counter(&its.resumption_refused)),
    (&ENDPOINT_SESSIONS, |its, series| series.gauge(&its.sessions)),
    (&ENDPOINT_HEALTHY, |its, series| series.gauge(&its.checks.healthy)),
    (&HEALTH_CHECKS, |its, series| series.tally("result", &its.checks.results)),
    (&ENDPOINT_EJECTED, |its, series| series.gauge(&its.ejected)),
    (&EJECTIONS, |its, series| series.tally("fault", &its.ejections)),
];

/// Writes those of all endpoints.
pub(super) fn write(text: &mut Text<'_>, purpose: ReadPurpose) {
    ENDPOINTS.write(text, &ENDPOINTS.read(purpose));
}

/// Drops what nobody asks for.
pub(super) fn upkeep(dropped: &mut Vec<Dropped>) {
    ENDPOINTS.upkeep(dropped);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an endpoint whose health check was taken out, or that was disabled, was reported as it was last, for ever.
    #[test]
    fn what_is_not_probed_has_no_health_and_what_is_down_has() {
        let checks = CheckMetrics::default();
        checks.begin();
        checks.remove();
        assert_eq!(checks.healthy.get(), None);
        checks.record_check("timeout", false);
        assert_eq!(checks.healthy.get(), Some(0));
        checks.remove();
        checks.restore(false);
        assert_eq!(checks.healthy.get(), Some(0));
    }
}
