//! The metrics of an endpoint: its sessions, the attempts to reach it, its health checks.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::names::{
    CONNECT_ATTEMPTS, CONNECT_DURATION, EJECTIONS, ENDPOINT_EJECTED, ENDPOINT_HEALTHY, ENDPOINT_SESSIONS,
    HANDSHAKE_DURATION, HEALTH_CHECKS, RESUMPTION_REFUSED, TLS_HANDSHAKES,
};
use crate::name::{ClusterName, EndpointName};

#[derive(Clone)]
pub(crate) struct EndpointMetrics {
    pub sessions: Gauge,
    /// The time of TCP connects.
    pub connect_duration: Histogram,
    /// 1 while it is ejected.
    pub ejected: Gauge,
    ejections: BTreeMap<&'static str, Counter>,
    /// Handshakes that the server ended because they offered to resume a session.
    pub resumption_refused: Counter,
    handshake_duration: Histogram,
    full_handshakes: Counter,
    resumed_handshakes: Counter,
    attempts: BTreeMap<&'static str, Counter>,
}

impl EndpointMetrics {
    /// The handles of one endpoint, for every result of an attempt and every fault of an endpoint.
    #[must_use]
    pub(crate) fn new(
        cluster: &ClusterName,
        endpoint: &EndpointName,
        results: &[&'static str],
        faults: &[&'static str],
    ) -> Self {
        let (cluster, endpoint) = (cluster.to_string(), endpoint.to_string());
        let attempt = |result: &'static str| {
            counter!(CONNECT_ATTEMPTS,
                "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "result" => result)
        };
        let ejection = |fault: &'static str| counter!(EJECTIONS, "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "fault" => fault);
        let handshakes = |kind: &'static str| counter!(TLS_HANDSHAKES, "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "kind" => kind);
        let of = |name: &'static str| histogram!(name, "cluster" => cluster.clone(), "endpoint" => endpoint.clone());
        Self {
            sessions: gauge!(ENDPOINT_SESSIONS, "cluster" => cluster.clone(), "endpoint" => endpoint.clone()),
            connect_duration: of(CONNECT_DURATION),
            ejected: gauge!(ENDPOINT_EJECTED, "cluster" => cluster.clone(), "endpoint" => endpoint.clone()),
            ejections: faults.iter().map(|fault| (*fault, ejection(fault))).collect(),
            resumption_refused: counter!(RESUMPTION_REFUSED, "cluster" => cluster.clone(), "endpoint" => endpoint.clone()),
            handshake_duration: of(HANDSHAKE_DURATION),
            full_handshakes: handshakes("full"),
            resumed_handshakes: handshakes("resumed"),
            attempts: results.iter().map(|result| (*result, attempt(result))).collect(),
        }
    }

    /// Records a TLS handshake; `took` includes the protocol's upgrade.
    pub(crate) fn record_handshake(&self, took: Duration, resumed: bool) {
        self.handshake_duration.record(took);
        if resumed { &self.resumed_handshakes } else { &self.full_handshakes }.increment(1);
    }

    /// Records an ejection for that fault; `is_news`: it was not ejected before.
    pub(crate) fn record_ejection(&self, fault: &'static str, is_news: bool) {
        if is_news {
            self.ejected.increment(1);
        }
        if let Some(counter) = self.ejections.get(fault) {
            counter.increment(1);
        }
    }

    /// Records the result of an attempt.
    pub(crate) fn record_attempt(&self, result: &'static str) {
        if let Some(counter) = self.attempts.get(result) {
            counter.increment(1);
        }
    }
}

/// The metrics of an endpoint's health checks.
#[derive(Clone)]
pub(crate) struct CheckMetrics {
    healthy: Gauge,
    results: BTreeMap<&'static str, Counter>,
}

impl CheckMetrics {
    /// The handles of one endpoint, for every result of a probe.
    #[must_use]
    pub(crate) fn new(
        cluster: &ClusterName,
        endpoint: &EndpointName,
        results: impl Iterator<Item = &'static str>,
    ) -> Self {
        let (cluster, endpoint) = (cluster.to_string(), endpoint.to_string());
        let healthy = gauge!(ENDPOINT_HEALTHY, "cluster" => cluster.clone(), "endpoint" => endpoint.clone());
        healthy.set(1.0);
        let counter = |result: &'static str| {
            counter!(HEALTH_CHECKS,
                "cluster" => cluster.clone(), "endpoint" => endpoint.clone(), "result" => result)
        };
        Self { healthy, results: results.map(|result| (result, counter(result))).collect() }
    }

    /// Records the result of a probe, and whether the endpoint is usable after it.
    pub(crate) fn record_check(&self, result: &'static str, is_usable: bool) {
        self.healthy.set(if is_usable { 1.0 } else { 0.0 });
        if let Some(counter) = self.results.get(result) {
            counter.increment(1);
        }
    }

    /// Continues from the health that another process has found.
    pub(crate) fn restore(&self, is_usable: bool) {
        self.healthy.set(if is_usable { 1.0 } else { 0.0 });
    }

    /// Records that it is no longer probed.
    pub(crate) fn remove(&self) {
        self.healthy.set(0.0);
    }
}
