//! Trials: our own dials without a client, so that no client pays for finding out whether an endpoint is back.
//! `policy::cluster_state::trials` decides which endpoint is tried when, and what the result means.
//!
//! One task per cluster, beside the workers. A trial connects as a session does, with the cluster's own settings, but
//! without a caller. If the endpoint was ejected for early closes, the trial also waits for one.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::alarm;
use crate::clock;
use crate::cluster::{Cluster, DialError, Endpoint, Ready};
use crate::drain::DrainWatch;
use crate::policy::cluster_state::trials::{Trial, TrialVerdict};
use crate::policy::outlier::Fault;

use super::attempt::try_endpoint;
use super::probe::shut_down_within;
use super::record::DialRecord;
use crate::tls;

/// How long a trial's server may take to close its side.
const PARTING: Duration = Duration::from_millis(100);
/// How long a trial waits at most for an early close.
const EARLY_MAX: Duration = Duration::from_secs(5);
/// How long running trials may take to end when the drain begins.
const LAST_TRIALS: Duration = Duration::from_millis(500);

type Flight = FuturesUnordered<BoxFuture<'static, (Trial, Arc<Endpoint>, Result<TrialSuccess, DialError>)>>;

/// A successful trial: how long its dial took, and the connection, to be closed in order.
type TrialSuccess = (Duration, Ready);

/// Runs the trials of a cluster until the drain begins. Returns at once without breaker and outlier detection.
pub(crate) async fn run(cluster: Arc<Cluster>, watch: DrainWatch) {
    if cluster.settings().breaker.is_none() && cluster.settings().outlier.is_none() {
        return;
    }
    // After a reload a new task continues; it does not get the results of trials that the old one began.
    cluster.forget_trials();
    let mut stop = pin!(watch.begun());
    let mut flight = Flight::default();
    let mut closing = FuturesUnordered::new();
    loop {
        let next = launch(&cluster, &mut flight);
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some((trial, endpoint, result)) = flight.next() => {
                let result = result.map(|(took, mut ready)| {
                    // Bounded by the number of trials; nothing waits for it.
                    closing.push(async move { shut_down_within(PARTING, &mut ready.stream).await });
                    took
                });
                note(&cluster, trial, &endpoint, &result);
            }
            Some(()) = closing.next() => {}
            () = cluster.trial_due() => {}
            () = alarm::sleep_until(next) => {}
        }
    }
    // Servers log aborted conversations, and some count them.
    let _ = alarm::timeout_at(clock::now() + LAST_TRIALS, flight.count()).await;
}

/// Begins the due trials. Returns when to look again; `None`: another event will come first.
fn launch(cluster: &Arc<Cluster>, flight: &mut Flight) -> Option<Instant> {
    let (begun, next) = cluster.begin_trials();
    for (trial, endpoint) in begun {
        let cluster = Arc::clone(cluster);
        flight.push(Box::pin(async move {
            let result = attempt(&cluster, trial, &endpoint).await;
            (trial, endpoint, result)
        }));
    }
    next
}

async fn attempt(cluster: &Cluster, trial: Trial, endpoint: &Endpoint) -> Result<TrialSuccess, DialError> {
    let (settings, mut record) = (cluster.settings(), DialRecord::default());
    let identity = endpoint.identity_for_nobody();
    let mut ready = try_endpoint(settings, endpoint, identity, &mut record).await?;
    let took = record.took();
    if trial.reach == Fault::EarlyClose {
        let early = settings.outlier.map_or(Duration::ZERO, |outlier| outlier.early_close.min(EARLY_MAX));
        if is_ended_within(early, &mut ready).await {
            return Err(DialError::EndedEarly { endpoint: endpoint.settings().name.clone(), within: early });
        }
    }
    Ok((took, ready))
}

/// Whether the server closes the connection within that time, without sending anything.
async fn is_ended_within(early: Duration, Ready { stream: end, first, .. }: &mut Ready) -> bool {
    if !first.is_empty() {
        // The server waits for the rest of a conversation that it considers begun.
        let _ = end.send_all(first).await;
    }
    match alarm::timeout_at(clock::now() + early, end.read_scratch(<[u8]>::len)).await {
        Ok(Ok(read)) => read == 0,
        // It rejects a connection without a caller; it may accept callers' identities.
        Ok(Err(error)) => tls::late_objection(&error).is_none(),
        Err(alarm::Elapsed) => false,
    }
}

fn note(cluster: &Cluster, trial: Trial, endpoint: &Endpoint, result: &Result<Duration, DialError>) {
    let (name, of) = (&endpoint.settings().name, &cluster.settings().name);
    let verdict = match result {
        Ok(took) => TrialVerdict::Serves(*took),
        Err(error) => match error.fault() {
            Some(fault) => TrialVerdict::Fails(fault),
            None if error.is_local() => TrialVerdict::Inconclusive,
            None if error.is_refused() => TrialVerdict::TurnedAway,
            // It is up, and rejects a connection without a caller; it may accept callers' identities.
            None => TrialVerdict::Serves(Duration::ZERO),
        },
    };
    cluster.metrics().record_trial(match verdict {
        TrialVerdict::Serves(_) | TrialVerdict::TurnedAway => "ok",
        TrialVerdict::Fails(_) => "failed",
        TrialVerdict::Inconclusive => "untold",
    });
    if let Err(error) = result {
        tracing::debug!(cluster = %of, endpoint = %name, %error, "trial failed");
    }
    cluster.record_trial(trial, verdict, result.as_ref().err());
}
