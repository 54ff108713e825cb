//! A dial: lease → connect → upgrade → handshake, in bounded attempts under one deadline.
//!
//! Every attempt may be followed by another: no byte of the client has been sent, or only bytes that the server
//! answered with a refusal. Progress is written to a [`DialRecord`] as it happens, so a cancelled dial is recorded too.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::alarm;
use crate::caller::Caller;
use crate::clock;
use crate::name::EndpointName;
use crate::policy::cluster_state::Unavailable;
use crate::policy::eligibility::NoEndpoint;
use crate::policy::retry;
use crate::protocol::Dialogue;
use crate::relay::UpstreamStream;
use crate::tls::HandshakeInfo;

use super::attempt_deadline::AttemptDeadline;
use super::failure::{AttemptBound, AttemptStep, DialError, DialFailure, NoMoreAttempts};
use super::first_words;
use super::hedging::Hedging;
use super::lease::Lease;
use super::proxy_header::ProxyInfo;
use super::server_first::ServerFirstUpgrade;
use super::wait_queue::NoLease;
use super::{Cluster, EndpointId};

/// What a dial did, for the access log: the last attempt's endpoint and times.
#[derive(Debug, Default, Clone)]
pub(crate) struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last attempt.
    pub endpoint: Option<EndpointName>,
    /// How long it waited for the first discovery result; `None`: there was one already.
    pub resolve: Option<Duration>,
    /// How long TCP took.
    pub connect: Option<Duration>,
    /// How long the server took to greet, where it greets before TLS.
    pub greeting: Option<Duration>,
    /// How long upgrade and TLS took.
    pub handshake: Option<Duration>,
    /// What TLS agreed on.
    pub agreed: Option<Box<HandshakeInfo>>,
}

/// What a dial led to.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// A usable upstream, with its lease: keep that as long as the session lives.
    Ready(Ready, Lease),
    /// A server that has greeted; its upgrade needs the client's reply.
    ServerFirst(Box<ServerFirstUpgrade>),
}

#[derive(Debug)]
pub(crate) struct Ready {
    /// The stream.
    pub stream: UpstreamStream,
    /// Bytes for the client, sent before anything of the server.
    pub welcome: Vec<u8>,
    /// Bytes for the server, sent before anything of the client.
    pub first: Vec<u8>,
    /// Rewrites messages after the upgrade, where the protocol needs it.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// TLS began by the protocol's own upgrade.
    pub is_upgraded: bool,
    /// The server's answer to the client's preface; `None`: the preface is still to be sent.
    pub answer: Option<Vec<u8>>,
    /// How many bytes of the client's opening have been sent.
    pub said: usize,
}

/// Which endpoint a dial is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DialTarget {
    /// The endpoint that the cluster picks.
    #[default]
    Any,
    /// This endpoint only, regardless of caps: for a cancel.
    Endpoint {
        id: EndpointId,
        /// Which of its addresses, if that is known.
        address: Option<SocketAddr>,
    },
}

/// What a session requests of its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialRequest<'a> {
    /// Which endpoint to dial.
    pub target: DialTarget,
    /// Whether bytes of the client are pending.
    pub has_spoken: bool,
    /// The pending bytes that the upgrade sends.
    pub preface: &'a [u8],
    /// All pending bytes, if they are known and request a session.
    pub opening: first_words::Opening<'a>,
    /// What the client's CONNECT request sets.
    pub overrides: DialOverrides<'a>,
    /// The contents of the PROXY header, where the cluster sends one.
    pub proxy_info: Option<&'a ProxyInfo>,
    /// The hash for `source_hash`: of the client's affinity, the caller or the client's address.
    pub affinity: Option<u64>,
    /// The caller, if known: the queue is fair between callers, and the caller may determine the TLS identity. For a
    /// cancel: the caller of the session to cancel.
    pub caller: Option<&'a Caller>,
    /// The client's address, over TCP.
    pub from: Option<IpAddr>,
    /// How many sessions of the same caller may wait for room; `None`: the cluster's number.
    pub max_queued: Option<u32>,
}

/// How a client tightens what the file allows its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialOverrides<'a> {
    /// Maximum number of attempts, at least 1.
    pub attempts: Option<u32>,
    /// Maximum duration of all attempts together.
    pub deadline: Option<Duration>,
    /// The key of `source_hash`.
    pub affinity: Option<&'a str>,
}

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A waiting session.
    Session,
    Spare,
}

/// Takes a spare, or dials until an upstream is ready or no attempt is left.
///
/// Dropping the future cancels the dial; no endpoint is blamed.
///
/// # Errors
/// See [`DialFailure`].
pub(crate) async fn dial(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    // A caller without an identity is refused before it waits for anything.
    cluster.settings().identifies(request.caller)?;
    // A session bound to an endpoint, or with affinity, takes no spare: it may lead to another endpoint.
    if request.target == DialTarget::Any
        && request.affinity.is_none()
        && let Some((mut ready, lease)) = cluster.take_ready(request.caller, record)
    {
        let until = clock::now() + within(cluster, &request);
        let heard =
            first_words::heard(&mut ready, cluster.settings(), lease.endpoint(), request.opening, until)
                .await;
        match heard {
            Ok(()) => {
                cluster.metrics().preconnect_hits.increment(1);
                return Ok(Dialled::Ready(ready, lease));
            }
            // No second spare is tried: it may be of the same server.
            Err(error) => {
                cluster.metrics().preconnect_misses.increment(1);
                lease.record_turned_away(error.to_string());
                *record = DialRecord::default();
            }
        }
    }
    dial_anew(cluster, request, Purpose::Session, record).await
}

/// [`dial`] without spares.
pub(super) async fn dial_anew(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    purpose: Purpose,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    let settings = cluster.settings();
    let overrides = request.overrides;
    let within = within(cluster, &request);
    let mut deadline = AttemptDeadline::after(clock::now(), AttemptBound::Deadline, within)
        .firm(overrides.deadline.is_some());
    // Waits for greetings extend the deadline by at most this much in all.
    let mut greetings = settings.dial.greeting_timeout;
    let attempts = [overrides.attempts, settings.dial.retry.attempts].into_iter().flatten().min();
    let mut plan = retry::Plan::new(retry::Settings { attempts, ..settings.dial.retry });
    let (mut last, mut has_waited) = (None, false);
    record.resolve = cluster.found(deadline.at).await;
    loop {
        let mut is_unpaid = false;
        let is_over = match cluster.lease_in_turn(&request, &mut plan, purpose, deadline.at).await {
            Ok(lease) => {
                let hedging = Hedging { cluster, request, purpose, deadline, plan: &mut plan };
                match hedging.attempt(lease, record).await? {
                    Ok(dialled) => return Ok(dialled),
                    Err(error) => {
                        plan.record_failure(error.is_free());
                        let greeting = record.greeting.unwrap_or_default().min(greetings);
                        greetings -= greeting;
                        deadline = deadline.without(greeting);
                        if error.step() == AttemptStep::Connect {
                            cluster.discovery.request_refresh();
                        }
                        if error.is_deadline() {
                            let attempts = plan.attempts();
                            // Silence of the server explains more than an earlier error.
                            let last =
                                if matches!(error, DialError::Silent { .. }) { Some(error) } else { last };
                            return Err(DialFailure::Deadline { deadline: within, attempts, last });
                        }
                        // A server that refused is not tried twice: with no untried endpoint left, the dial fails at
                        // once.
                        let is_told = error.is_refused() && !cluster.has_untried(request.target, &plan);
                        last = Some(error);
                        is_told || !plan.has_attempt_left()
                    }
                }
            }
            // The budget refills over time.
            Err(NoLease::Unavailable(Unavailable::Budget)) if purpose == Purpose::Session => {
                cluster
                    .metrics()
                    .retry_budget_exhausted
                    .increment(u64::from(!std::mem::replace(&mut has_waited, true)));
                is_unpaid = true;
                false
            }
            Err(none) => return Err(nothing_left(cluster, none, last, plan.attempts())),
        };
        let wait = cluster.wait(request.target, &mut plan, is_unpaid);
        let is_late = || async { alarm::timeout_at(deadline.at, alarm::sleep(wait)).await.is_err() };
        let stopped = if is_over { None } else { Some(NoMoreAttempts::Deadline(within)) };
        if is_over || is_late().await {
            let attempts = plan.attempts();
            return Err(match last {
                Some(last) => DialFailure::Failed { last, attempts, stopped },
                None => DialFailure::Deadline { deadline: within, attempts, last },
            });
        }
    }
}

/// How long a dial may take over all its attempts.
fn within(cluster: &Cluster, request: &DialRequest<'_>) -> Duration {
    let deadline = cluster.settings().dial.deadline;
    request.overrides.deadline.map_or(deadline, |own| own.min(deadline))
}

/// The failure when no lease is left. An earlier attempt's error explains more than the missing lease, so it comes
/// first.
fn nothing_left(cluster: &Cluster, none: NoLease, last: Option<DialError>, attempts: u32) -> DialFailure {
    let (unavailable, no_more, refusal) = match none {
        NoLease::Unavailable(why) => (why, NoMoreAttempts::Unavailable(why), DialFailure::Unavailable(why)),
        NoLease::Waited(why, no_room) => {
            (why, NoMoreAttempts::Waited(why, no_room), DialFailure::Waited(why, no_room))
        }
    };
    if let Some(last) = last {
        return DialFailure::Failed { last, attempts, stopped: Some(no_more) };
    }
    if unavailable == Unavailable::NoEndpoint(NoEndpoint::Empty) {
        cluster.discovery.request_refresh();
        if let Some(reason) = cluster.discovery().why_empty() {
            return DialFailure::Unknown { reason };
        }
    }
    refusal
}

impl Ready {
    /// Moves the stream to the current worker.
    pub(super) fn register_here(self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.register_here()?, ..self })
    }

    pub(super) const fn new(end: UpstreamStream) -> Self {
        Self {
            stream: end,
            welcome: Vec::new(),
            first: Vec::new(),
            dialogue: None,
            is_upgraded: false,
            answer: None,
            said: 0,
        }
    }
}

impl DialRecord {
    /// Time of the last attempt: connect, greeting and handshake.
    pub(super) fn took(&self) -> Duration {
        [self.connect, self.greeting, self.handshake].into_iter().flatten().sum()
    }

    pub(super) fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, resolve: self.resolve, ..Self::default() };
    }
}
