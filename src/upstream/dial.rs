//! A dial: lease → resolve → connect → upgrade → handshake, in bounded attempts under one deadline.
//!
//! No byte of the client has been sent yet, so every attempt may be followed by another. What happened is
//! written to a [`DialRecord`] as it happens, so that a dial that is cancelled leaves its story too.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::name::EndpointName;
use crate::policy::limits::Full;
use crate::policy::retry;
use crate::protocol::NothingBuffered;
use crate::relay::End;
use crate::sys::{Socket, Target};
use crate::tls::{Agreed, Originator, Start};

use super::endpoint::{Endpoint, Host};
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
    pub agreed: Option<Box<Agreed>>,
}

/// A usable upstream, with the claim that lets it be.
#[derive(Debug)]
pub struct Dialled {
    /// The stream.
    pub end: End,
    /// To be kept as long as the session lives.
    pub lease: Lease,
}

/// Dials until an endpoint is ready to be used, or there is nothing left to try. `has_spoken`: bytes of the client
/// wait to be passed on.
///
/// Dropping the future cancels the dial; nobody is blamed for it.
///
/// # Errors
/// See [`Refusal`].
pub async fn dial(
    cluster: &Arc<Cluster>,
    has_spoken: bool,
    record: &mut DialRecord,
) -> Result<Dialled, Refusal> {
    let settings = cluster.settings();
    let deadline = Limit::after(clock::now(), Bound::Deadline, settings.dial.deadline);
    let mut plan = retry::Plan::new(settings.dial.retry);
    let mut last = None;
    let out_of_time = |plan: &retry::Plan, last| Refusal::Deadline {
        deadline: settings.dial.deadline,
        attempts: plan.attempts(),
        last,
    };
    loop {
        let mut lease = match cluster.lease(&mut plan) {
            Ok(lease) => lease,
            Err(full) => return Err(nothing_left(full, last, plan.attempts())),
        };
        record.begin(&lease, plan.attempts());
        let attempt = Attempt { settings, endpoint: lease.endpoint(), deadline, has_spoken };
        match attempt.establish(record).await {
            Ok(end) => {
                lease.established();
                return Ok(Dialled { end, lease });
            }
            Err(error) => {
                lease.failed(&error);
                if error.is_deadline() {
                    return Err(out_of_time(&plan, last));
                }
                if !plan.has_attempt_left() {
                    return Err(Refusal::Failed { last: error, attempts: plan.attempts() });
                }
                last = Some(error);
            }
        }
        if alarm::before(deadline.at, alarm::sleep(cluster.wait(&mut plan))).await.is_err() {
            return Err(out_of_time(&plan, last));
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
    let deadline = Limit::after(clock::now(), Bound::Deadline, settings.dial.deadline);
    Attempt { settings, endpoint, deadline, has_spoken: false }.establish(record).await
}

/// When a cap is met in the middle of the attempts, what failed before says more than the cap.
fn nothing_left(full: Full, last: Option<DialError>, attempts: u32) -> Refusal {
    match last {
        Some(last) => Refusal::Failed { last, attempts },
        None => Refusal::Full(full),
    }
}

/// A moment that something must be over by, and the bound that says so.
#[derive(Debug, Clone, Copy)]
struct Limit {
    at: Instant,
    bound: Bound,
    /// How long the bound is, in all.
    length: Duration,
}

impl Limit {
    fn after(begun: Instant, bound: Bound, length: Duration) -> Self {
        Self { at: begun + length, bound, length }
    }

    /// The earlier of the two; so each wait has one timer, however many bounds it has.
    fn within(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }
}

/// One attempt, and what it has to keep to.
struct Attempt<'a> {
    settings: &'a ClusterSettings,
    endpoint: &'a Endpoint,
    deadline: Limit,
    has_spoken: bool,
}

impl Attempt<'_> {
    async fn establish(&self, record: &mut DialRecord) -> Result<End, DialError> {
        let socket = self.connect(record).await?;
        match self.endpoint.originator() {
            None => Ok(End::Socket(socket)),
            // Boxed: a handshake's state is large, and a plain dial has no use for it.
            Some(originator) => Box::pin(self.secure(originator, socket, record)).await,
        }
    }

    /// Tries the endpoint's addresses in the resolver's order. Each but the last gets an even share of the time
    /// left, so that a dead first address leaves time for the others.
    async fn connect(&self, record: &mut DialRecord) -> Result<Socket, DialError> {
        let limit = self.limit(clock::now(), Bound::Connect, self.settings.dial.connect_timeout);
        let address = &self.endpoint.settings().address;
        let name = match &address.host {
            Host::Ip(ip) => {
                return self.connect_to(&[SocketAddr::new(*ip, address.port)], limit, record).await;
            }
            Host::Name(name) => name,
        };
        let addresses = alarm::before(limit.at, resolve(name, address.port, record))
            .await
            .unwrap_or_else(|Elapsed| Err(self.timeout(Step::Resolve, limit)))?;
        self.connect_to(&addresses, limit, record).await
    }

    async fn connect_to(
        &self,
        addresses: &[SocketAddr],
        limit: Limit,
        record: &mut DialRecord,
    ) -> Result<Socket, DialError> {
        let Self { settings, endpoint, has_spoken, .. } = *self;
        let mut failed = None;
        for (index, address) in addresses.iter().enumerate() {
            let begun = clock::now();
            let left = u32::try_from(addresses.len() - index).unwrap_or(1);
            let share = limit.at.saturating_duration_since(begun) / left;
            // Each protocol's way to TLS begins with a message of ours, as TLS itself does.
            let speaks_first = has_spoken || endpoint.originator().is_some();
            let target = Target { address: *address, from: settings.dial.local_address, speaks_first };
            let connecting = match Socket::connect(target, &settings.socket) {
                Ok(connecting) => connecting,
                Err(error) => {
                    failed = Some(DialError::Connect { address: *address, error });
                    continue;
                }
            };
            match alarm::before(begun + share, connecting.connected()).await {
                Ok(Ok(())) => {
                    let took = clock::now() - begun;
                    endpoint.metrics().connect_duration.record(took);
                    record.connect = Some(took);
                    return Ok(connecting);
                }
                Ok(Err(error)) => failed = Some(DialError::Connect { address: *address, error }),
                Err(Elapsed) => {}
            }
        }
        // That the dial is over says more than how one of its addresses failed.
        let failed = failed.filter(|_| clock::now() < self.deadline.at);
        Err(failed.unwrap_or_else(|| self.timeout(Step::Connect, limit)))
    }

    /// Upgrade and TLS.
    async fn secure(
        &self,
        originator: &Originator,
        socket: Socket,
        record: &mut DialRecord,
    ) -> Result<End, DialError> {
        let begun = clock::now();
        let limit = self.limit(begun, Bound::Handshake, self.settings.dial.handshake_timeout);
        let mut step = Step::Upgrade;
        let (end, agreed) = alarm::before(limit.at, self.shake_hands(originator, socket, &mut step))
            .await
            .unwrap_or_else(|Elapsed| Err(self.timeout(step, limit)))?;
        let took = clock::now() - begun;
        self.endpoint.metrics().secured(took, agreed.resumed);
        record.handshake = Some(took);
        record.agreed = Some(Box::new(agreed));
        Ok(end)
    }

    /// `step` says how far it is, for whoever cuts it short.
    async fn shake_hands(
        &self,
        originator: &Originator,
        socket: Socket,
        step: &mut Step,
    ) -> Result<(End, Agreed), DialError> {
        let Self { settings, endpoint, .. } = *self;
        let name = &endpoint.settings().name;
        let upgrade_failed = |failure: UpgradeFailure| DialError::Upgrade {
            endpoint: name.clone(),
            reason: failure.to_string(),
        };
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

    fn limit(&self, begun: Instant, bound: Bound, length: Duration) -> Limit {
        Limit::after(begun, bound, length).within(self.deadline)
    }

    fn timeout(&self, step: Step, limit: Limit) -> DialError {
        let Limit { bound, length: timeout, .. } = limit;
        DialError::Timeout { endpoint: self.endpoint.settings().name.clone(), step, bound, timeout }
    }
}

async fn resolve(name: &str, port: u16, record: &mut DialRecord) -> Result<Vec<SocketAddr>, DialError> {
    let begun = clock::now();
    let failed = |reason: String| DialError::Resolve { host: name.to_owned(), reason };
    let found = tokio::net::lookup_host((name, port)).await;
    let addresses: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
    record.resolve = Some(clock::now() - begun);
    if addresses.is_empty() {
        return Err(failed("the name has no address".into()));
    }
    Ok(addresses)
}

impl DialRecord {
    fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, ..Self::default() };
    }
}
