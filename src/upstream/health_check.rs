//! Active health checks: probes of a cluster's endpoints, and the health observed by them.
//!
//! One task per cluster with a table of deadlines, not a task or a timer per endpoint. `policy::health` decides when an
//! endpoint is probed and what its results amount to; the cluster decides what that means for sessions. The task does
//! not run on a worker but on the daemon's main thread: a probe's handshake delays no session.

mod http;
mod probe_table;
mod probing;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::http::uri::PathAndQuery;

use crate::alarm;
use crate::clock;
use crate::drain::DrainWatch;
use crate::policy::endpoint_state::Admin;
use crate::policy::health;
use crate::policy::outlier::Fault;
use crate::tls::EndpointOriginator;

use super::endpoint::Endpoint;
use super::{Cluster, EndpointId, Settings as ClusterSettings};
pub(crate) use probe_table::ObservedHealth;
pub(super) use probe_table::ProbeTable;
use probing::{HealthCheckError, probe};

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a probe does.
    pub kind: ProbeKind,
    /// The time limit of a whole probe.
    pub timeout: Duration,
    /// How often probes run, and how many results in a row decide.
    pub rhythm: health::Settings,
}

/// What a probe does. All but `Http` connect as a session does, with the cluster's own settings.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    /// Connects.
    Tcp,
    /// Connects, upgrades and does the TLS handshake.
    Tls,
    /// As `Tls`, and has the protocol's conversation that shows a server at work.
    Protocol,
    /// Sends a request to an HTTP server on the endpoint's host.
    Http(Box<Http>),
    /// Sends bytes and looks for others in the answer.
    Exchange(ByteExchange),
}

/// The request of an HTTP probe.
#[derive(Debug, Clone)]
pub struct Http {
    /// The server's port.
    pub port: u16,
    /// The path and query of the request.
    pub path: PathAndQuery,
    /// The answers that mean healthy.
    pub statuses: Vec<u16>,
    /// `None`: plaintext.
    pub originator: Option<Arc<EndpointOriginator>>,
}

/// Bytes to send, and bytes to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteExchange {
    /// Sent first; nothing where the server speaks first.
    pub send: Vec<u8>,
    /// To be found near the beginning of the answer; never empty.
    pub expect: Vec<u8>,
}

/// Probes in flight at once, per cluster: enough that a few that hang do not delay the others.
const PROBES_MAX: usize = 64;
/// How long probes in flight may take to end once the drain begins.
const LAST_PROBES: Duration = Duration::from_millis(500);

impl ProbeKind {
    /// Up to which step of a session's dial a successful probe got.
    const fn proves(&self) -> Fault {
        match self {
            // An HTTP server beside the endpoint shows only that the host is reachable.
            Self::Tcp | Self::Http(_) => Fault::Connect,
            Self::Tls | Self::Protocol | Self::Exchange(_) => Fault::Handshake,
        }
    }

    /// Whether the probe does a TLS handshake.
    fn shakes_hands(&self, cluster: &ClusterSettings) -> bool {
        match self {
            Self::Tcp => false,
            Self::Http(http) => http.originator.is_some(),
            Self::Tls | Self::Protocol | Self::Exchange(_) => cluster.tls.is_some(),
        }
    }
}

/// Every value of the label `result` in metrics.
pub(super) fn results() -> impl Iterator<Item = &'static str> {
    HealthCheckError::results()
}

/// The probes in flight.
type Flight = FuturesUnordered<BoxFuture<'static, (Arc<Endpoint>, Result<(), HealthCheckError>)>>;

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
            Some((endpoint, result)) = flight.next() => note(&cluster, &settings, &endpoint, result, &mut rng),
            // Never an error: we hold the cluster.
            _ = changes.changed() => follow(&cluster, &settings),
            () = cluster.probe_table().wait_expedited() => {}
            () = alarm::sleep_until(next) => {}
        }
    }
    // Let probes end in order: servers log, and some count, a conversation that breaks off.
    let _ = alarm::timeout_at(clock::now() + LAST_PROBES, flight.count()).await;
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
    let seen = why.as_ref().map_or_else(|| Ok(settings.kind.proves()), |why| Err(Some(why.clone())));
    let observed = cluster.probe_table().observe(endpoint.id(), clock::now(), why.map_or(Ok(()), Err), rng);
    let Some(status) = observed else { return };
    if let Some(metrics) = endpoint.check_metrics() {
        metrics.record_check(label, status != health::HealthStatus::Unhealthy);
    }
    cluster.set_health(endpoint.id(), status, seen.as_ref().map_err(Option::as_deref).copied());
}

impl Cluster {
    /// Expedites the next probe of an endpoint after evidence against it.
    pub(super) fn suspect(&self, endpoint: EndpointId) {
        self.probe_table().suspect(endpoint, clock::now());
    }
}
