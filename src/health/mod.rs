//! Active health checks: the task that probes a cluster's endpoints.
//!
//! One task per cluster with a table of deadlines, which the cluster holds, not a task or a timer per endpoint. `policy::health` decides when an
//! endpoint is probed and what its results amount to; the cluster decides what that means for sessions. The task does
//! not run on a worker but on the daemon's main thread: a probe's handshake delays no session.

mod error;
mod http;
mod probing;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::alarm;
use crate::clock;
use crate::cluster::health_check::{ProbeKind, Settings};
use crate::cluster::{Cluster, Endpoint};
use crate::drain::DrainWatch;
use crate::policy::endpoint_state::Admin;
use crate::policy::health;
use crate::policy::outlier::Fault;

use error::HealthCheckError;
use probing::probe;

/// Probes in flight at once, per cluster: enough that a few that hang do not delay the others.
const PROBES_MAX: usize = 64;
/// How long probes in flight may take to end once the drain begins.
const LAST_PROBES: Duration = Duration::from_millis(500);

/// Up to which step of a session's dial a successful probe got.
const fn proves(kind: &ProbeKind) -> Fault {
    match kind {
        // An HTTP server beside the endpoint shows only that the host is reachable.
        ProbeKind::Tcp | ProbeKind::Http(_) => Fault::Connect,
        ProbeKind::Tls | ProbeKind::Protocol | ProbeKind::Exchange(_) => Fault::Handshake,
    }
}

/// The probes in flight.
type Flight = FuturesUnordered<BoxFuture<'static, EndedProbe>>;
type EndedProbe = (Arc<Endpoint>, Result<(), HealthCheckError>);

/// Probes the endpoints of a cluster until the drain begins. Returns at once without a `health_check`.
pub(crate) async fn run(cluster: Arc<Cluster>, mut rng: Rng, watch: DrainWatch) {
    let Some(settings) = cluster.settings().health_check.clone() else { return };
    let settings = Arc::new(settings);
    let mut changes = cluster.changes();
    let mut stop = pin!(watch.begun());
    let mut flight = Flight::default();
    follow(&cluster, &settings);
    loop {
        let next = launch(&cluster, &settings, &mut flight);
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = next_ended(&mut flight) => {
                for (endpoint, result) in ended {
                    note(&cluster, &settings, &endpoint, result, &mut rng);
                }
            }
            // Never an error: we hold the cluster.
            _ = changes.changed() => follow(&cluster, &settings),
            () = cluster.probe_table().wait_expedited() => {}
            () = alarm::sleep_until(next) => {}
        }
    }
    // Let probes end in order: servers log, and some count, a conversation that breaks off.
    let _ = alarm::timeout_at(clock::now() + LAST_PROBES, flight.count()).await;
}

/// Waits until a probe has ended, and returns all that have; `None`: none is in flight.
async fn next_ended(flight: &mut Flight) -> Option<Vec<EndedProbe>> {
    flight.ready_chunks(PROBES_MAX).next().await
}

/// Updates the table to the cluster's present, enabled endpoints. The health of one that returns starts anew.
fn follow(cluster: &Cluster, settings: &Settings) {
    let view = cluster.view();
    let probed = view.iter().filter(|one| one.is_present && one.admin != Admin::Disabled);
    let now = clock::now();
    for endpoint in cluster.probe_table().follow(probed.map(|one| &one.endpoint), settings.rhythm, now) {
        cluster.set_health(endpoint, health::HealthStatus::Undecided, Err(None));
    }
}

/// Begins the probes that are due, up to `PROBES_MAX` in flight. Returns when the next one is due; `None`: wait for
/// another event.
fn launch(cluster: &Arc<Cluster>, settings: &Arc<Settings>, flight: &mut Flight) -> Option<Instant> {
    let now = clock::now();
    while flight.len() < PROBES_MAX {
        let endpoint = match cluster.probe_table().begin_next(now) {
            Ok(endpoint) => endpoint,
            Err(next) => return next,
        };
        let (cluster, settings) = (Arc::clone(cluster), Arc::clone(settings));
        flight.push(Box::pin(async move {
            let result = probe(cluster.settings(), &settings, &endpoint).await;
            (endpoint, result)
        }));
    }
    None
}

/// Evaluates the result of a probe.
fn note(
    cluster: &Cluster,
    settings: &Settings,
    endpoint: &Endpoint,
    result: Result<(), HealthCheckError>,
    rng: &mut Rng,
) {
    let label = HealthCheckError::label(&result);
    if let Err(failure) = &result
        && failure.is_local()
    {
        // A failure of this host is no evidence against the endpoint.
        return cluster.probe_table().postpone(endpoint.id(), clock::now(), failure.to_string(), rng);
    }
    let why = result.err().map(|failure| failure.to_string());
    if let Some(why) = &why {
        tracing::debug!(cluster = %cluster.settings().name, endpoint = %endpoint.settings().name, why, "probe failed");
    }
    let seen = why.as_ref().map_or_else(|| Ok(proves(&settings.kind)), |why| Err(Some(why.clone())));
    let observed = cluster.probe_table().observe(endpoint.id(), clock::now(), why.map_or(Ok(()), Err), rng);
    let Some(status) = observed else { return };
    if let Some(metrics) = endpoint.check_metrics() {
        metrics.record_check(label, status != health::HealthStatus::Unhealthy);
    }
    cluster.set_health(endpoint.id(), status, seen.as_ref().map_err(Option::as_deref).copied());
}
