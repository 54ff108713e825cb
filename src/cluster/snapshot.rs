//! Snapshots: the state of a cluster and its endpoints, written for a successor process and restored from a
//! predecessor.
//!
//! Any version may read the data: unknown fields are ignored, missing or invalid values count as unknown, and the
//! reader's own settings bound how long anything lasts. Moments are microseconds of CLOCK_MONOTONIC, which all
//! processes of a host share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, Settings};
use super::{Cluster, State};
use crate::clock;
use crate::policy::cluster_state::ClusterState;
use crate::policy::endpoint_state::{self, Admin};
use crate::policy::health::{Health, HealthStatus};
use crate::policy::outlier::Fault;
use crate::policy::{breaker, outlier};

/// The state of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    pub(super) breaker: Option<BreakerSnapshot>,
    pub(super) endpoints: Vec<EndpointSnapshot>,
}

/// Most endpoints of one cluster; further ones are left out.
const ENDPOINTS_MAX: usize = 4096;
/// How long the restored state of an endpoint is kept until discovery finds the endpoint again.
const RESTORED_FOR: Duration = Duration::from_secs(10 * 60);
/// In seconds. No dial takes longer; a larger number is a mistake, and ignored.
const DIAL_MAX: f64 = 3600.0;
/// No moment that matters is further away; others are clamped to it.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BreakerSnapshot {
    state: String,
    failures: u32,
    until: i64,
    rounds: u32,
}

/// The state of an endpoint, which is recognised by its name, addresses and server name for TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EndpointSnapshot {
    name: String,
    addresses: Vec<SocketAddr>,
    server_name: String,
    order: String,
    health: Option<HealthSnapshot>,
    outlier: OutlierSnapshot,
    failing: bool,
    dial_seconds: Option<f64>,
    dialled: i64,
    success_seconds: Option<f64>,
    succeeded: i64,
    back_since: Option<i64>,
    last_error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct HealthSnapshot {
    status: String,
    since: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct OutlierSnapshot {
    /// The fault that it is ejected for, and until when.
    ejected: Option<(String, i64)>,
    failures: BTreeMap<String, u32>,
    times: u32,
    /// When it last came back, and how many dials succeeded since.
    back: Option<i64>,
    served: u32,
}

/// The current time by both clocks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    now: Instant,
    usec: i64,
}

impl Cluster {
    /// The state that a successor process goes on with.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Snapshot {
        let present = Clocks::new();
        let State { cluster_state, endpoint_map, .. } = &mut *self.state();
        endpoint_map.forget_restored(present.now);
        let known = cluster_state
            .endpoints()
            .iter()
            .filter(|endpoint_state| endpoint_state.is_present())
            .filter_map(|endpoint_state| {
                let endpoint = endpoint_map.get(endpoint_state.id())?;
                let health = self.probe_table.observed(endpoint_state.id(), present.now).map(|observed| {
                    HealthSnapshot {
                        status: observed.status.label().into(),
                        since: present.usec_of(present.now.checked_sub(observed.age).unwrap_or(present.now)),
                    }
                });
                Some(EndpointSnapshot::of(endpoint.settings(), endpoint_state.snapshot(), health, present))
            });
        Snapshot {
            breaker: cluster_state.breaker_snapshot().map(|breaker| BreakerSnapshot::of(breaker, present)),
            endpoints: known.chain(endpoint_map.restored.iter().cloned()).take(ENDPOINTS_MAX).collect(),
        }
    }

    /// Keeps the endpoints' state from another process. It is applied to endpoints when they join, also later by
    /// discovery.
    pub(super) fn restore(&self, mut endpoints: Vec<EndpointSnapshot>) {
        let present = Clocks::new();
        let State { endpoint_map, .. } = &mut *self.state();
        endpoints.truncate(ENDPOINTS_MAX);
        endpoint_map.restored = endpoints;
        endpoint_map.restored_until = Some(present.now + RESTORED_FOR);
    }

    /// Restores the breaker's state from another process.
    pub(super) fn resume_breaker(&self, breaker: Option<BreakerSnapshot>) {
        let present = Clocks::new();
        let cluster_state = &mut self.state().cluster_state;
        if let Some(snapshot) = breaker.and_then(|breaker| breaker.restore(present)) {
            cluster_state.resume_breaker(snapshot, present.now);
        }
    }

    /// Restores the state of an endpoint that has just joined, if there is any for it.
    pub(super) fn resume_endpoint(
        &self,
        endpoint: &Arc<Endpoint>,
        cluster_state: &mut ClusterState,
        restored: &mut Vec<EndpointSnapshot>,
    ) {
        let means = |restored: &EndpointSnapshot| restored.means(endpoint.settings());
        let Some(position) = restored.iter().position(means) else { return };
        let found = restored.swap_remove(position);
        let present = Clocks::new();
        let observed =
            self.settings.health_check.as_ref().zip(found.health()).map(|(check, (status, since))| {
                Health::resume(check.rhythm, status, present.instant(since), present.now)
            });
        let snapshot = found.restore(observed.as_ref(), present);
        let is_disabled = snapshot.admin == Admin::Disabled;
        match endpoint.check_metrics() {
            Some(checks) if is_disabled => checks.remove(),
            Some(checks) => checks.restore(observed.as_ref().is_none_or(Health::is_usable)),
            None => {}
        }
        // A disabled endpoint is not probed.
        if let Some(health) = observed.filter(|_| !is_disabled) {
            self.probe_table.resume(endpoint, health);
        }
        if cluster_state.resume(endpoint.id(), snapshot, present.now) {
            endpoint.metrics().ejected.increment();
        }
    }
}

impl EndpointSnapshot {
    fn of(
        settings: &Settings,
        endpoint_state: endpoint_state::Snapshot,
        health: Option<HealthSnapshot>,
        present: Clocks,
    ) -> Self {
        Self {
            name: settings.name.to_string(),
            addresses: settings.addresses.iter().collect(),
            server_name: settings.server_name.to_str().into_owned(),
            order: endpoint_state.admin.label().into(),
            health,
            outlier: OutlierSnapshot::of(endpoint_state.outlier, present),
            failing: endpoint_state.is_failing,
            dial_seconds: endpoint_state.dial_time.map(|(seconds, _)| seconds),
            dialled: endpoint_state.dial_time.map_or(0, |(_, at)| present.usec_of(at)),
            success_seconds: endpoint_state.success_time.map(|(seconds, _)| seconds),
            succeeded: endpoint_state.success_time.map_or(0, |(_, at)| present.usec_of(at)),
            back_since: endpoint_state.back_since.map(|since| present.usec_of(since)),
            last_error: endpoint_state.last_error.map(String::from),
        }
    }

    /// Whether it is the state of the endpoint with these settings.
    fn means(&self, settings: &Settings) -> bool {
        self.name == settings.name.as_str()
            && self.addresses.iter().copied().eq(settings.addresses.iter())
            && self.server_name == settings.server_name.to_str()
    }

    fn health(&self) -> Option<(HealthStatus, i64)> {
        let HealthSnapshot { status, since } = self.health.as_ref()?;
        let status = HealthStatus::ALL.into_iter().find(|known| known.label() == status)?;
        Some((status, *since))
    }

    fn restore(self, observed: Option<&Health>, present: Clocks) -> endpoint_state::Snapshot {
        let time = |seconds: Option<f64>, at: i64| {
            let is_one = |seconds: &f64| (0.0..=DIAL_MAX).contains(seconds);
            seconds.filter(is_one).map(|took| (took, present.instant(at)))
        };
        let ordered = Admin::ALL.into_iter().find(|known| known.label() == self.order);
        endpoint_state::Snapshot {
            admin: ordered.unwrap_or_default(),
            health: observed.map_or(HealthStatus::Undecided, Health::status),
            outlier: self.outlier.restore(present),
            is_failing: self.failing,
            dial_time: time(self.dial_seconds, self.dialled),
            success_time: time(self.success_seconds, self.succeeded),
            back_since: self.back_since.map(|since| present.instant(since)),
            last_error: self.last_error.map(String::into_boxed_str),
        }
    }
}

impl OutlierSnapshot {
    fn of(snapshot: outlier::Snapshot, present: Clocks) -> Self {
        let ejected = match snapshot.state {
            outlier::State::In => None,
            outlier::State::Ejected { until, fault } => Some((fault, until)),
            // A trial ends with its process: the successor may begin another at once.
            outlier::State::OnTrial { fault } => Some((fault, present.now)),
        };
        let failures = Fault::ALL.iter().zip(snapshot.failures).filter(|(_, count)| *count > 0);
        Self {
            ejected: ejected.map(|(fault, until)| (fault.label().into(), present.usec_of(until))),
            failures: failures.map(|(fault, count)| (fault.label().into(), count)).collect(),
            times: snapshot.times,
            back: snapshot.back.map(|back| present.usec_of(back)),
            served: snapshot.served,
        }
    }

    fn restore(self, present: Clocks) -> outlier::Snapshot {
        let ejected = self.ejected.and_then(|(fault, until)| Some((Fault::of_label(&fault)?, until)));
        outlier::Snapshot {
            state: ejected.map_or(outlier::State::In, |(fault, until)| outlier::State::Ejected {
                until: present.instant(until),
                fault,
            }),
            failures: Fault::ALL.map(|fault| self.failures.get(fault.label()).copied().unwrap_or_default()),
            times: self.times,
            back: self.back.map(|back| present.instant(back)),
            served: self.served,
        }
    }
}

impl BreakerSnapshot {
    fn of(breaker::Snapshot { state, rounds }: breaker::Snapshot, present: Clocks) -> Self {
        let (failures, until) = match state {
            breaker::State::Closed { failures } => (failures, 0),
            breaker::State::Open { until } => (0, present.usec_of(until)),
            // Trials end with their process: the successor may begin others at once.
            breaker::State::HalfOpen { .. } => (0, present.usec),
        };
        Self { state: state.label().label().into(), failures, until, rounds }
    }

    fn restore(self, present: Clocks) -> Option<breaker::Snapshot> {
        let label = breaker::StateLabel::ALL.into_iter().find(|label| label.label() == self.state)?;
        let state = match label {
            breaker::StateLabel::Closed => breaker::State::Closed { failures: self.failures },
            breaker::StateLabel::Open | breaker::StateLabel::HalfOpen => {
                breaker::State::Open { until: present.instant(self.until) }
            }
        };
        Some(breaker::Snapshot { state, rounds: self.rounds })
    }
}

impl Clocks {
    fn new() -> Self {
        Self { now: clock::now(), usec: clock::monotonic_usec() }
    }

    fn usec_of(self, moment: Instant) -> i64 {
        let usec = |passed: Duration| i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
        match moment.checked_duration_since(self.now) {
            Some(ahead) => self.usec.saturating_add(usec(ahead)),
            None => self.usec.saturating_sub(usec(self.now - moment)),
        }
    }

    /// `now` for a moment that is too early for an `Instant`.
    fn instant(self, usec: i64) -> Instant {
        let apart = Duration::from_micros(usec.abs_diff(self.usec)).min(FAR);
        if usec < self.usec { self.now.checked_sub(apart).unwrap_or(self.now) } else { self.now + apart }
    }
}

#[cfg(test)]
mod tests;
