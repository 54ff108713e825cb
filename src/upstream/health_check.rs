//! Active checks: probes of a cluster's endpoints, and what has been observed by them.
//!
//! One task per cluster with a table of deadlines, not a task or a timer per endpoint. When which endpoint is probed, and
//! what its results come to, is `policy::health`'s; what a result means for sessions is the cluster's. The task runs
//! beside the workers, on the thread that does the daemon's upkeep: a probe's handshake holds up no session.

mod http;
mod probe_table;
mod probing;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper::http::uri::PathAndQuery;

use crate::alarm;
use crate::clock;
use crate::drain::DrainWatch;
use crate::policy::endpoint_state::Admin;
use crate::policy::health;
use crate::policy::outlier::Fault;
use crate::tls::EndpointOriginator;

use super::endpoint::Endpoint;
use super::future_set::FutureSet;
use super::{Cluster, EndpointId, Settings as ClusterSettings};
pub(crate) use probe_table::ObservedHealth;
pub(super) use probe_table::ProbeTable;
use probing::{HealthCheckError, probe};

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a probe does.
    pub kind: ProbeKind,
    /// For a whole probe.
    pub timeout: Duration,
    /// How often, and how many results count.
    pub rhythm: health::Settings,
}

/// What a probe does. All but `Http` go the way of a session, with the cluster's own settings.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    /// Connects.
    Tcp,
    /// Connects, upgrades, shakes hands.
    Tls,
    /// And has the protocol's conversation that shows a server at work.
    Protocol,
    /// Asks an HTTP server on the endpoint's host.
    Http(Box<Http>),
    /// Sends bytes and looks for others.
    Exchange(ByteExchange),
}

/// What is asked by HTTP.
#[derive(Debug, Clone)]
pub struct Http {
    /// The server's port.
    pub port: u16,
    /// What is asked for.
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

/// Probes on their way at once, per cluster: enough that some that hang do not hold up the others.
const PROBES_MAX: usize = 64;
/// How long those that are on their way may take to end when all does.
const LAST_PROBES: Duration = Duration::from_millis(500);

impl ProbeKind {
    /// How far a probe that succeeds has reached on a session's way.
    const fn proves(&self) -> Fault {
        match self {
            // Whoever answers beside the server says that the host is there.
            Self::Tcp | Self::Http(_) => Fault::Connect,
            Self::Tls | Self::Protocol | Self::Exchange(_) => Fault::Handshake,
        }
    }

    /// Whether TLS is part of it.
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

/// The probes on their way.
type Flight = FutureSet<'static, (Arc<Endpoint>, Result<(), HealthCheckError>)>;

/// Probes the endpoints of a cluster until the drain begins. Without a `health_check` there is nothing to do.
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
            (endpoint, result) = flight.next() => note(&cluster, &settings, &endpoint, result, &mut rng),
            // The cluster goes only when we do.
            _ = changes.changed() => follow(&cluster, &settings),
            () = cluster.probe_table().wait_expedited() => {}
            () = alarm::sleep_until(next) => {}
        }
    }
    // Servers log, and some count, a conversation that breaks off.
    let _ = alarm::timeout_at(clock::now() + LAST_PROBES, flight.all()).await;
}

/// Keeps to the endpoints that the cluster has and that nobody has disabled. What was known of one that comes back is old.
fn follow(cluster: &Cluster, settings: &Settings) {
    let view = cluster.view();
    let probed = view.iter().filter(|one| one.is_present && one.admin != Admin::Disabled);
    let now = clock::now();
    for endpoint in cluster.probe_table().follow(probed.map(|one| &one.endpoint), settings.rhythm, now) {
        cluster.set_health(endpoint, health::HealthStatus::Undecided, Err(None));
    }
}

/// Begins the probes that are due, as far as there is room. The moment to look again is the answer; without one, something
/// else will happen first.
fn launch(cluster: &Arc<Cluster>, settings: &Arc<Settings>, flight: &mut Flight) -> Option<Instant> {
    let now = clock::now();
    while flight.len() < PROBES_MAX {
        let endpoint = match cluster.probe_table().begin_next(now) {
            Ok(endpoint) => endpoint,
            Err(next) => return next,
        };
        let (cluster, settings) = (Arc::clone(cluster), Arc::clone(settings));
        flight.push(async move {
            let result = probe(cluster.settings(), &settings, &endpoint).await;
            (endpoint, result)
        });
    }
    None
}

/// What a probe's end means.
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
        // What this host lacks is no evidence.
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
    /// Something speaks against an endpoint: its next probe begins as soon as may be.
    pub(super) fn suspect(&self, endpoint: EndpointId) {
        self.probe_table().suspect(endpoint, clock::now());
    }
}
