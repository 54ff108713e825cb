//! A dial: lease → resolve → connect → upgrade → handshake, in bounded attempts under one deadline.
//!
//! No byte of the client has been sent yet, so every attempt may be followed by another. What happened is
//! written to a [`DialRecord`] as it happens, so that a dial that is cancelled leaves its story too.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Elapsed};
use crate::name::EndpointName;
use crate::policy::limits::Full;
use crate::policy::retry;
use crate::protocol::NothingBuffered;
use crate::relay::End;
use crate::sys::Socket;
use crate::tls::{Agreed, Originator, Start};

use super::endpoint::{Address, Endpoint, Host};
use super::failure::{Bound, DialError, Refusal, Step};
use super::lease::Lease;
use super::upgrade::{UpgradeFailure, upgrade};
use super::{Cluster, Settings as ClusterSettings};

/// The bounds of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Resolving and TCP, per attempt.
    pub connect_timeout: Duration,
    /// Upgrade and TLS, per attempt.
    pub handshake_timeout: Duration,
    /// Over all attempts.
    pub deadline: Duration,
    /// How many attempts, and the waits between them.
    pub retry: retry::Settings,
    /// The local address to connect from; `None` leaves it to the kernel.
    pub local_address: Option<IpAddr>,
}

/// What a dial did, for the access log: the last attempt's endpoint and times.
#[derive(Debug, Default, Clone)]
pub struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last one.
    pub endpoint: Option<EndpointName>,
    /// How long its name took; `None` for an address.
    pub resolve: Option<Duration>,
    /// How long TCP took.
    pub connect: Option<Duration>,
    /// How long upgrade and TLS took.
    pub handshake: Option<Duration>,
    /// What TLS agreed on.
    pub agreed: Option<Agreed>,
}

/// A usable upstream, with the claim that lets it be.
#[derive(Debug)]
pub struct Dialled {
    /// The stream.
    pub end: End,
    /// To be kept as long as the session lives.
    pub lease: Lease,
}

/// Dials until an endpoint is ready to be used, or there is nothing left to try.
///
/// Dropping the future cancels the dial; nobody is blamed for it.
///
/// # Errors
/// See [`Refusal`].
pub async fn dial(cluster: &Arc<Cluster>, record: &mut DialRecord) -> Result<Dialled, Refusal> {
    let settings = cluster.settings();
    let deadline = clock::now() + settings.dial.deadline;
    let mut plan = retry::Plan::new(settings.dial.retry);
    let (mut last, mut step) = (None, Step::Resolve);
    loop {
        let mut lease = match cluster.lease(&mut plan) {
            Ok(lease) => lease,
            Err(full) => return Err(nothing_left(full, last, plan.attempts())),
        };
        record.begin(&lease, plan.attempts());
        match clock::before(deadline, establish(settings, lease.endpoint(), record, &mut step)).await {
            Ok(Ok(end)) => {
                lease.established();
                return Ok(Dialled { end, lease });
            }
            Err(Elapsed) => {
                let refusal =
                    Refusal::Deadline { deadline: settings.dial.deadline, attempts: plan.attempts(), last };
                let error = lease.endpoint().timeout(step, Bound::Deadline, settings.dial.deadline);
                lease.failed(&error);
                return Err(refusal);
            }
            Ok(Err(error)) => {
                lease.failed(&error);
                if !plan.has_attempt_left() {
                    return Err(Refusal::Failed { last: error, attempts: plan.attempts() });
                }
                last = Some(error);
            }
        }
        if clock::before(deadline, clock::sleep(cluster.wait(&mut plan))).await.is_err() {
            return Err(Refusal::Deadline {
                deadline: settings.dial.deadline,
                attempts: plan.attempts(),
                last,
            });
        }
    }
}

/// One attempt on one endpoint, outside the policies: for `check --connect`.
///
/// # Errors
/// See [`DialError`]; what went well before is in the record.
pub async fn try_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    record: &mut DialRecord,
) -> Result<End, DialError> {
    establish(settings, endpoint, record, &mut Step::Resolve).await
}

/// When a cap is met in the middle of the attempts, what failed before says more than the cap.
fn nothing_left(full: Full, last: Option<DialError>, attempts: u32) -> Refusal {
    match last {
        Some(last) => Refusal::Failed { last, attempts },
        None => Refusal::Full(full),
    }
}

/// `step` says how far it is, for whoever cuts it short.
async fn establish(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    record: &mut DialRecord,
    step: &mut Step,
) -> Result<End, DialError> {
    let timeout = settings.dial.connect_timeout;
    *step = Step::Resolve;
    let socket = clock::before(clock::now() + timeout, connect(settings, endpoint, record, step))
        .await
        .unwrap_or_else(|Elapsed| Err(endpoint.timeout(*step, Bound::Connect, timeout)))?;
    let Some(originator) = endpoint.originator() else { return Ok(End::Socket(socket)) };

    let timeout = settings.dial.handshake_timeout;
    let begun = clock::now();
    *step = Step::Upgrade;
    let (end, agreed) = clock::before(begun + timeout, secure(settings, endpoint, originator, socket, step))
        .await
        .unwrap_or_else(|Elapsed| Err(endpoint.timeout(*step, Bound::Handshake, timeout)))?;
    let took = clock::now() - begun;
    endpoint.metrics().secured(took, agreed.resumed);
    record.handshake = Some(took);
    record.agreed = Some(agreed);
    Ok(end)
}

/// Tries the endpoint's addresses in the resolver's order. Each but the last gets an even share of the time
/// left, so that a dead first address leaves time for the others.
async fn connect(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    record: &mut DialRecord,
    step: &mut Step,
) -> Result<Socket, DialError> {
    let timeout = settings.dial.connect_timeout;
    let deadline = clock::now() + timeout;
    let addresses = resolve(&endpoint.settings().address, record).await?;
    *step = Step::Connect;
    let mut failed = None;
    for (index, address) in addresses.iter().enumerate() {
        let begun = clock::now();
        let left = u32::try_from(addresses.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(begun) / left;
        let connecting = Socket::connect(*address, settings.dial.local_address, &settings.socket);
        match clock::before(begun + share, connecting).await {
            Ok(Ok(socket)) => {
                let took = clock::now() - begun;
                endpoint.metrics().connect_duration.record(took);
                record.connect = Some(took);
                return Ok(socket);
            }
            Ok(Err(error)) => failed = Some(DialError::Connect { address: *address, error }),
            Err(Elapsed) => {}
        }
    }
    Err(failed.unwrap_or_else(|| endpoint.timeout(Step::Connect, Bound::Connect, timeout)))
}

async fn resolve(address: &Address, record: &mut DialRecord) -> Result<Vec<SocketAddr>, DialError> {
    let name = match &address.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, address.port)]),
        Host::Name(name) => name,
    };
    let begun = clock::now();
    let failed = |reason: String| DialError::Resolve { host: name.clone(), reason };
    let found = tokio::net::lookup_host((name.as_str(), address.port)).await;
    let addresses: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
    record.resolve = Some(clock::now() - begun);
    if addresses.is_empty() {
        return Err(failed("the name has no address".into()));
    }
    Ok(addresses)
}

async fn secure(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    originator: &Originator,
    socket: Socket,
    step: &mut Step,
) -> Result<(End, Agreed), DialError> {
    let name = &endpoint.settings().name;
    let upgrade_failed =
        |failure: UpgradeFailure| DialError::Upgrade { endpoint: name.clone(), reason: failure.to_string() };
    let proof = match (originator.start(), settings.protocol.upgrade()) {
        (Start::Upgrade, Some(dialogue)) => {
            upgrade(&socket, settings.protocol.label(), dialogue).await.map_err(upgrade_failed)?
        }
        (Start::Direct, _) | (Start::Upgrade, None) => NothingBuffered::nothing_was_said(),
    };
    *step = Step::Handshake;
    let server_name = endpoint.settings().server_name.clone();
    let (stream, agreed) = originator
        .originate(socket, server_name, proof)
        .await
        .map_err(|error| DialError::Tls { endpoint: name.clone(), error })?;
    Ok((End::Tls(stream), agreed))
}

impl DialRecord {
    fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, ..Self::default() };
    }
}

impl Endpoint {
    fn timeout(&self, step: Step, bound: Bound, timeout: Duration) -> DialError {
        DialError::Timeout { endpoint: self.settings().name.clone(), step, bound, timeout }
    }
}
