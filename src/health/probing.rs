//! One probe: what each type does, within one deadline, through the cluster's own settings.

use std::time::{Duration, Instant};

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::cluster::health_check::{ByteExchange, ProbeKind, Settings};
use crate::cluster::{Endpoint, Ready, Settings as ClusterSettings};
use crate::dial::{
    DialRecord, VERDICT, connect_endpoint, conversation, converse, probe_endpoint, rejected_within,
    shut_down_within,
};
use crate::relay::UpstreamStream;

use super::error::HealthCheckError;
use super::http;

/// Probes an endpoint once.
pub(super) async fn probe(
    cluster: &ClusterSettings,
    settings: &Settings,
    endpoint: &Endpoint,
) -> Result<(), HealthCheckError> {
    let mut record = DialRecord::default();
    let until = clock::now() + settings.timeout;
    let probed = alarm::timeout_at(until, go(cluster, settings, endpoint, until, &mut record)).await;
    let probed = probed.unwrap_or_else(|Elapsed| {
        let goes_on = shakes_hands(&settings.kind, cluster);
        let peek_before_greeting =
            goes_on && !matches!(settings.kind, ProbeKind::Http(_)) && cluster.awaits_greetings();
        let waited_for = waited_for(&record, goes_on, peek_before_greeting);
        Err(HealthCheckError::Timeout { waited_for, timeout: settings.timeout })
    });
    if probed.is_err() {
        endpoint.set_probed_generations(None);
    }
    probed
}

/// Whether the probe does a TLS handshake.
fn shakes_hands(kind: &ProbeKind, cluster: &ClusterSettings) -> bool {
    match kind {
        ProbeKind::Tcp => false,
        ProbeKind::Http(http) => http.originator.is_some(),
        ProbeKind::Tls | ProbeKind::Protocol | ProbeKind::Exchange(_) => cluster.tls.is_some(),
    }
}

fn waited_for(record: &DialRecord, shakes_hands: bool, peek_before_greeting: bool) -> &'static str {
    match (record.connect.get(), record.handshake.get()) {
        (None, _) => "connection",
        (Some(_), None) if peek_before_greeting && record.greeting.get().is_none() => "server's greeting",
        (Some(_), None) if shakes_hands => "TLS handshake",
        (Some(_), _) => "answer",
    }
}

async fn go(
    cluster: &ClusterSettings,
    settings: &Settings,
    endpoint: &Endpoint,
    until: Instant,
    record: &mut DialRecord,
) -> Result<(), HealthCheckError> {
    // The wait for bytes that a server need not send at all; a probe may wait for them twice within its timeout.
    let patience = VERDICT.min(settings.timeout / 4);
    match &settings.kind {
        ProbeKind::Tcp => {
            let socket = connect_endpoint(cluster, endpoint, None, record).await?;
            // A server that speaks first may be sending its greeting, which a plain close would answer with a reset. A
            // server that waits for its client sees an orderly end anyway.
            if cluster.protocol.ready_lifetime().is_err() {
                shut_down_within(patience, &mut UpstreamStream::Socket(socket)).await;
            }
            Ok(())
        }
        ProbeKind::Http(http) => http::ask(cluster, http, endpoint, record).await,
        ProbeKind::Tls => {
            let ready = probe_endpoint(cluster, endpoint, true, record).await?;
            wait_settled(ready, endpoint, record, patience).await
        }
        ProbeKind::Protocol => {
            let ready = probe_endpoint(cluster, endpoint, true, record).await?;
            match conversation(cluster, &ready) {
                None => wait_settled(ready, endpoint, record, patience).await,
                Some(talk) => {
                    let talked = converse(ready, talk, patience).await;
                    talked.map_err(|failure| HealthCheckError::Answer(failure.to_string()))
                }
            }
        }
        ProbeKind::Exchange(exchange) => {
            let speaks_first = !exchange.send.is_empty();
            let ready = probe_endpoint(cluster, endpoint, speaks_first, record).await?;
            read_answer(ready, exchange, until, patience).await.map_err(HealthCheckError::Answer)
        }
    }
}

/// Waits for a late rejection: with TLS 1.3 a server judges our certificate after our side of the handshake is done.
/// The wait is the whole `patience` only for credentials that the server has not accepted yet, or not since a probe
/// failed: a waiting probe occupies a connection, of which a server that is nearly full has none to spare. Otherwise it
/// is as long as the handshake took, which included a round trip.
async fn wait_settled(
    mut ready: Ready,
    endpoint: &Endpoint,
    record: &DialRecord,
    patience: Duration,
) -> Result<(), HealthCheckError> {
    let shown = record.agreed.as_ref().map(|agreed| agreed.generations());
    let stay = match record.handshake.get() {
        Some(took) if shown.is_some() && endpoint.probed_generations() == shown => took.min(patience),
        Some(_) | None => patience,
    };
    let until = alarm::coalesced(clock::now() + stay + STAY_GRAIN / 2, STAY_GRAIN);
    if let Some(reason) = rejected_within(until, patience, &mut ready.stream).await {
        return Err(HealthCheckError::Answer(reason));
    }
    endpoint.set_probed_generations(shown);
    Ok(())
}

/// Waits for a late rejection are extended to a multiple of this, so that those of probes that began together end with one
/// wake-up.
const STAY_GRAIN: Duration = Duration::from_millis(2);

/// Bytes of an answer that are searched.
const ANSWER_MAX: usize = 4096;

/// Looks for the expected bytes until the timeout: an error that shows what came instead says more than a timeout.
async fn read_answer(
    ready: Ready,
    exchange: &ByteExchange,
    until: Instant,
    patience: Duration,
) -> Result<(), String> {
    let Ready { stream: mut end, first, .. } = ready;
    let failed = |error: std::io::Error| {
        crate::tls::late_rejection(&error).unwrap_or_else(|| format!("the connection failed: {error}"))
    };
    end.send_all(&[first.as_slice(), &exchange.send].concat()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !contains(&answer, &exchange.expect) {
        let is_full = answer.len() == ANSWER_MAX;
        let hearing = end.read_scratch(|portion| {
            answer.extend_from_slice(&portion[..portion.len().min(ANSWER_MAX - answer.len())]);
            portion.len()
        });
        let read = match alarm::timeout_at(until, hearing).await {
            Ok(read) => read.map_err(failed)?,
            // Without any answer, the caller reports the timeout.
            Err(Elapsed) if answer.is_empty() => std::future::pending().await,
            Err(Elapsed) => return Err(unexpected(&answer, &exchange.expect)),
        };
        if read == 0 || is_full {
            shut_down_within(patience, &mut end).await;
            return Err(unexpected(&answer, &exchange.expect));
        }
    }
    shut_down_within(patience, &mut end).await;
    Ok(())
}

fn contains(answer: &[u8], expected: &[u8]) -> bool {
    answer.windows(expected.len()).any(|window| window == expected)
}

/// Quotes the server's answer, escaped so that it cannot pass for our own text.
fn unexpected(answer: &[u8], expected: &[u8]) -> String {
    const SHOWN: usize = 64;
    let expected = expected.escape_ascii();
    if answer.is_empty() {
        return format!("the server closed the connection without a word; expected \"{expected}\"");
    }
    let shown = answer[..answer.len().min(SHOWN)].escape_ascii();
    format!("the answer, which begins with \"{shown}\", has no \"{expected}\" in it")
}
