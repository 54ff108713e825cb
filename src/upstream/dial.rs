//! A dial: lease → connect → upgrade → handshake, in bounded attempts under one deadline.
//!
//! No byte of the client has been sent yet, or only what its server has answered by turning it away, so every attempt may be
//! followed by another. What happened is
//! written to a [`DialRecord`] as it happens, so that a dial that is cancelled leaves its story too.

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

use super::attempt::AttemptDeadline;
use super::failure::{AttemptBound, AttemptStep, DialError, DialFailure, NoMoreAttempts};
use super::first_words;
use super::hedging::Hedging;
use super::lease::Lease;
use super::preconnect;
use super::proxy_header::ProxyInfo;
use super::server_first::ServerFirstUpgrade;
use super::wait_queue::NoLease;
use super::{Cluster, EndpointId};

/// The bounds of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// TCP, per attempt.
    pub connect_timeout: Duration,
    /// The rest of the upgrade, and TLS, per attempt.
    pub handshake_timeout: Duration,
    /// The greeting of a server that speaks first, per attempt; no deadline over all attempts cuts it but a client's own.
    pub greeting_timeout: Duration,
    /// Over all attempts.
    pub deadline: Duration,
    /// How many attempts, and the waits between them.
    pub retry: retry::Settings,
    /// The local address to connect from; `None` leaves it to the kernel.
    pub local_address: Option<IpAddr>,
    /// What is dialled ahead; `None`: nothing.
    pub preconnect: Option<preconnect::Settings>,
}

/// What a dial did, for the access log: the last attempt's endpoint and times.
#[derive(Debug, Default, Clone)]
pub(crate) struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last one.
    pub endpoint: Option<EndpointName>,
    /// How long it waited to learn of an endpoint; `None` where one was known.
    pub resolve: Option<Duration>,
    /// How long TCP took.
    pub connect: Option<Duration>,
    /// How long a server took to greet that had to before TLS.
    pub greeting: Option<Duration>,
    /// How long upgrade and TLS took.
    pub handshake: Option<Duration>,
    /// What TLS agreed on.
    pub agreed: Option<Box<HandshakeInfo>>,
}

/// What a dial led to.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// A usable upstream, with the claim that lets it be: to be kept as long as the session lives.
    Ready(Ready, Lease),
    /// A server that has greeted, and whose upgrade goes on with the client.
    ServerFirst(Box<ServerFirstUpgrade>),
}

#[derive(Debug)]
pub(crate) struct Ready {
    /// The stream.
    pub stream: UpstreamStream,
    /// For the client, before anything of the server.
    pub welcome: Vec<u8>,
    /// For the server, before anything of the client.
    pub first: Vec<u8>,
    /// What its upgrade leaves to be rewritten.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// The protocol's own upgrade led here.
    pub is_upgraded: bool,
    /// What the server said to the client's preface on the way. `None`: it has yet to hear it.
    pub answer: Option<Vec<u8>>,
    /// So many bytes of the client's opening have been sent.
    pub said: usize,
}

/// Which endpoint a dial is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DialTarget {
    /// The one that the cluster picks.
    #[default]
    Any,
    /// One and no other, whatever the caps say: for a cancel.
    Endpoint {
        id: EndpointId,
        /// Which of its addresses, if that is known.
        address: Option<SocketAddr>,
    },
}

/// What a session asks of its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialRequest<'a> {
    /// Which endpoint.
    pub target: DialTarget,
    /// Bytes of the client wait to be passed on.
    pub has_spoken: bool,
    /// Those of them that are the upgrade's to say.
    pub preface: &'a [u8],
    /// All of them, where they are known and ask for a session.
    pub opening: first_words::Opening<'a>,
    /// What the client said about it.
    pub overrides: DialOverrides<'a>,
    /// What the server hears of the session, where the cluster announces sessions at all.
    pub proxy_info: Option<&'a ProxyInfo>,
    /// What `source_hash` is to keep on one endpoint: a hash of the caller, or of what the client named.
    pub affinity: Option<u64>,
    /// Whose it is, where that is known: he has his turn in the queue, and his identity is shown. That of a cancel is whose
    /// session it is for.
    pub caller: Option<&'a Caller>,
    /// Where it comes from, over TCP.
    pub from: Option<IpAddr>,
    /// How many sessions of the same caller may wait for room, where that is another number than the cluster's.
    pub max_queued: Option<u32>,
}

/// How a client tightens what the file allows its dial.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DialOverrides<'a> {
    /// No more attempts than that, at least 1.
    pub attempts: Option<u32>,
    /// No longer than that over all attempts.
    pub deadline: Option<Duration>,
    /// What `source_hash` keeps on one endpoint.
    pub affinity: Option<&'a str>,
}

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A session that waits.
    Session,
    Spare,
}

/// Takes an endpoint that was kept ready, or dials until one is, or there is nothing left to try.
///
/// Dropping the future cancels the dial; nobody is blamed for it.
///
/// # Errors
/// See [`DialFailure`].
pub(crate) async fn dial(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    // Whoever is nobody to the servers waits for nothing.
    cluster.settings().identifies(request.caller)?;
    // Whoever belongs to one endpoint is not given what is ready on another.
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
            // Others that are ready may be of the same server.
            Err(error) => {
                cluster.metrics().preconnect_misses.increment(1);
                lease.taken_in_vain(&error);
                *record = DialRecord::default();
            }
        }
    }
    dial_anew(cluster, request, Purpose::Session, record).await
}

/// [`dial`], whatever is kept ready.
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
    // Of what greetings take, so much is no part of the deadline.
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
                            // That it said nothing tells more than that time ran out.
                            let last =
                                if matches!(error, DialError::Silent { .. }) { Some(error) } else { last };
                            return Err(DialFailure::Deadline { deadline: within, attempts, last });
                        }
                        // One that is full is not asked twice: its client learns it as soon as nobody else is left to ask.
                        let is_told = error.is_refused() && !cluster.has_untried(request.target, &plan);
                        last = Some(error);
                        is_told || !plan.has_attempt_left()
                    }
                }
            }
            // It is paid in as time goes by.
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

/// When there is an end to attempts in their middle, what failed before says more than why there is none left.
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
    /// The same on the current worker.
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
    /// Connect, greeting and handshake of the last attempt.
    pub(super) fn took(&self) -> Duration {
        [self.connect, self.greeting, self.handshake].into_iter().flatten().sum()
    }

    pub(super) fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, resolve: self.resolve, ..Self::default() };
    }
}
