//! Active checks: probes of a cluster's endpoints, and what has been observed by them.
//!
//! One task per cluster with a table of deadlines, not a task or a timer per endpoint. When which endpoint is probed, and
//! what its results come to, is `policy::health`'s; what a result means for sessions is the cluster's. The task runs
//! beside the workers, on the thread that does the daemon's upkeep: a probe's handshake holds up no session.

mod board;
mod http;
mod probing;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hyper::http::uri::PathAndQuery;

use crate::alarm;
use crate::clock;
use crate::drain::DrainWatch;
use crate::policy::health;
use crate::policy::slot::Admin;
use crate::tls::EndpointOriginator;

use super::endpoint::Endpoint;
use super::{Cluster, EndpointId, Settings as ClusterSettings};
pub(super) use board::Board;
pub use board::Observed;
use probing::{Failure, probe};

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a probe does.
    pub kind: Kind,
    /// For a whole probe.
    pub timeout: Duration,
    /// How often, and how many results count.
    pub rhythm: health::Settings,
}

/// What a probe does. All but `Http` go the way of a session, with the cluster's own settings.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Connects.
    Tcp,
    /// Connects, upgrades, shakes hands.
    Tls,
    /// And has the protocol's conversation that shows a server at work.
    Protocol,
    /// Asks an HTTP server on the endpoint's host.
    Http(Box<Http>),
    /// Sends bytes and looks for others.
    Exchange(Exchange),
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
pub struct Exchange {
    /// Sent first; nothing where the server speaks first.
    pub send: Vec<u8>,
    /// To be found near the beginning of the answer; never empty.
    pub expect: Vec<u8>,
}

/// Probes on their way at once, per cluster: enough that some that hang do not hold up the others.
const PROBES_MAX: usize = 64;
/// How long those that are on their way may take to end when all does.
const LAST_PROBES: Duration = Duration::from_millis(500);

impl Kind {
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
    Failure::results()
}

/// Probes the endpoints of a cluster until the drain begins. Without a `health_check` there is nothing to do.
pub async fn run(cluster: Arc<Cluster>, mut rng: Rng, watch: DrainWatch) {
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
            (endpoint, result) = flight.landed() => note(&cluster, &endpoint, result, &mut rng),
            // The cluster goes only when we do.
            _ = changes.changed() => follow(&cluster, &settings),
            () = cluster.board().hurried() => {}
            () = until(next) => {}
        }
    }
    // Servers log, and some count, a conversation that breaks off.
    let _ = alarm::before(clock::now() + LAST_PROBES, flight.emptied()).await;
}

/// Keeps to the endpoints that the cluster has and that nobody has disabled. What was known of one that comes back is old.
fn follow(cluster: &Cluster, settings: &Settings) {
    let view = cluster.view();
    let probed = view.iter().filter(|one| one.is_member && one.admin != Admin::Disabled);
    let now = clock::now();
    for endpoint in cluster.board().follow(probed.map(|one| &one.endpoint), settings.rhythm, now) {
        cluster.set_health(endpoint, health::Status::Undecided, None);
    }
}

/// Begins the probes that are due, as far as there is room. The moment to look again is the answer; without one, something
/// else will happen first.
fn launch(cluster: &Arc<Cluster>, settings: &Arc<Settings>, flight: &mut Flight) -> Option<Instant> {
    let now = clock::now();
    while flight.has_room() {
        match cluster.board().begin_next(now) {
            Ok(endpoint) => flight.launch(cluster, settings, endpoint),
            Err(next) => return next,
        }
    }
    None
}

async fn until(next: Option<Instant>) {
    match next {
        None => std::future::pending().await,
        Some(next) => alarm::sleep(next.saturating_duration_since(clock::now())).await,
    }
}

/// What a probe's end means.
fn note(cluster: &Cluster, endpoint: &Endpoint, result: Result<(), Failure>, rng: &mut Rng) {
    let label = Failure::label(&result);
    let why = result.err().map(|failure| failure.to_string());
    if let Some(why) = &why {
        tracing::debug!(cluster = %cluster.settings().name, endpoint = %endpoint.settings().name, why, "probe failed");
    }
    let error = why.clone();
    let observed = cluster.board().observe(endpoint.id(), clock::now(), why.map_or(Ok(()), Err), rng);
    let Some(status) = observed else { return };
    if let Some(metrics) = endpoint.checks() {
        metrics.checked(label, status != health::Status::Unhealthy);
    }
    cluster.set_health(endpoint.id(), status, error.as_deref());
}

type Probing = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The probes on their way. They are few, so each wake-up looks at all of them.
#[derive(Default)]
struct Flight(Vec<(Arc<Endpoint>, Probing)>);

impl Flight {
    const fn has_room(&self) -> bool {
        self.0.len() < PROBES_MAX
    }

    fn launch(&mut self, cluster: &Arc<Cluster>, settings: &Arc<Settings>, endpoint: Arc<Endpoint>) {
        let (cluster, settings, probed) = (Arc::clone(cluster), Arc::clone(settings), Arc::clone(&endpoint));
        let probing = async move { probe(cluster.settings(), &settings, &probed).await };
        self.0.push((endpoint, Box::pin(probing)));
    }

    /// Waits for the end of one; for ever while there is none.
    async fn landed(&mut self) -> (Arc<Endpoint>, Result<(), Failure>) {
        poll_fn(|cx| self.poll_landed(cx)).await
    }

    /// Waits for the end of all.
    async fn emptied(&mut self) {
        while !self.0.is_empty() {
            let _ = self.landed().await;
        }
    }

    fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<(Arc<Endpoint>, Result<(), Failure>)> {
        for index in 0..self.0.len() {
            if let Poll::Ready(result) = self.0[index].1.as_mut().poll(cx) {
                let (endpoint, _) = self.0.swap_remove(index);
                return Poll::Ready((endpoint, result));
            }
        }
        Poll::Pending
    }
}

impl Cluster {
    /// Something speaks against an endpoint: its next probe begins as soon as may be.
    pub(super) fn suspect(&self, endpoint: EndpointId) {
        self.board().suspect(endpoint, clock::now());
    }
}
