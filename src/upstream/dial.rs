//! A dial: lease → connect → upgrade → handshake, in bounded attempts under one deadline.
//!
//! No byte of the client has been sent yet, so every attempt may be followed by another. What happened is
//! written to a [`DialRecord`] as it happens, so that a dial that is cancelled leaves its story too.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alarm::{self, Elapsed};
use crate::caller::Caller;
use crate::clock;
use crate::name::EndpointName;
use crate::policy::eligibility::Nobody;
use crate::policy::retry;
use crate::policy::roster::Unavailable;
use crate::protocol::{Dialogue, Greeting, NothingBuffered, Upgraded};
use crate::relay::End;
use crate::sys::{Socket, Target};
use crate::tls::{Agreed, Choice, EndpointOriginator, HandshakeError, Start};

use super::announce::Announcement;
use super::connect::connect;
use super::endpoint::Endpoint;
use super::failure::{Bound, DialError, Refusal, Step};
use super::lease::Lease;
use super::meeting::Meeting;
use super::preconnect;
use super::upgrade::{Led, UpgradeFailure, nothing_came, upgrade};
use super::waiting::NoLease;
use super::{Cluster, EndpointId, Settings as ClusterSettings};

/// The bounds of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// TCP, per attempt.
    pub connect_timeout: Duration,
    /// Upgrade and TLS, per attempt.
    pub handshake_timeout: Duration,
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
pub struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last one.
    pub endpoint: Option<EndpointName>,
    /// How long it waited to learn of an endpoint; `None` where one was known.
    pub resolve: Option<Duration>,
    /// How long TCP took.
    pub connect: Option<Duration>,
    /// How long upgrade and TLS took.
    pub handshake: Option<Duration>,
    /// What TLS agreed on.
    pub agreed: Option<Box<Agreed>>,
}

/// What a dial led to.
#[derive(Debug)]
pub enum Dialled {
    /// A usable upstream, with the claim that lets it be: to be kept as long as the session lives.
    Ready(Ready, Lease),
    /// A server that has greeted, and whose upgrade goes on with the client.
    Meets(Box<Meeting>),
}

/// A usable upstream.
#[derive(Debug)]
pub struct Ready {
    /// The stream.
    pub end: End,
    /// For the client, before anything of the server.
    pub welcome: Vec<u8>,
    /// For the server, before anything of the client.
    pub first: Vec<u8>,
    /// What its upgrade leaves to be rewritten.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

/// Which endpoint a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The one that the cluster picks.
    Any,
    /// One and no other, whatever the caps say: for a cancel.
    Endpoint {
        /// Which.
        id: EndpointId,
        /// Which of its addresses, if that is known.
        address: Option<SocketAddr>,
    },
}

/// What a session asks of its dial.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Which endpoint.
    pub wanted: Wanted,
    /// As whom.
    pub identity: Choice,
    /// Bytes of the client wait to be passed on.
    pub has_spoken: bool,
    /// What the client said about it.
    pub tightened: Tightened<'a>,
    /// What the server hears of the session, where the cluster announces sessions at all.
    pub announcement: Option<&'a Announcement>,
    /// What `source_hash` is to keep on one endpoint: a hash of the caller, or of what the client named.
    pub affinity: Option<u64>,
    /// Whose it is, where that is known.
    pub caller: Option<&'a Caller>,
    /// Where it comes from, over TCP.
    pub from: Option<IpAddr>,
}

/// How a client tightens what the file allows its dial.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tightened<'a> {
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
    /// One to come.
    Spare,
}

/// Takes an endpoint that was kept ready, or dials until one is, or there is nothing left to try.
///
/// Dropping the future cancels the dial; nobody is blamed for it.
///
/// # Errors
/// See [`Refusal`].
pub async fn dial(
    cluster: &Arc<Cluster>,
    demand: Demand<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, Refusal> {
    // Whoever belongs to one endpoint is not given what is ready on another.
    if demand.wanted == Wanted::Any
        && demand.affinity.is_none()
        && let Some((ready, lease)) = cluster.take_ready(demand.identity, record)
    {
        return Ok(Dialled::Ready(ready, lease));
    }
    dial_anew(cluster, demand, Purpose::Session, record).await
}

/// [`dial`], whatever is kept ready.
pub(super) async fn dial_anew(
    cluster: &Arc<Cluster>,
    demand: Demand<'_>,
    purpose: Purpose,
    record: &mut DialRecord,
) -> Result<Dialled, Refusal> {
    let Demand { wanted, identity, has_spoken, tightened, announcement, .. } = demand;
    let settings = cluster.settings();
    let within = tightened.deadline.map_or(settings.dial.deadline, |own| own.min(settings.dial.deadline));
    let deadline = Limit::after(clock::now(), Bound::Deadline, within);
    let retry = settings.dial.retry;
    let attempts = tightened.attempts.map_or(retry.attempts, |own| own.min(retry.attempts));
    let mut plan = retry::Plan::new(retry::Settings { attempts, ..retry });
    let mut last = None;
    record.resolve = cluster.found(deadline.at).await;
    let out_of_time =
        |plan: &retry::Plan, last| Refusal::Deadline { deadline: within, attempts: plan.attempts(), last };
    loop {
        let leased = cluster.lease_in_turn(&demand, &mut plan, purpose, deadline.at).await;
        let mut lease = leased.map_err(|none| nothing_left(cluster, none, last.take(), plan.attempts()))?;
        record.begin(&lease, plan.attempts());
        let address = match wanted {
            Wanted::Any => None,
            Wanted::Endpoint { address, .. } => address,
        };
        let endpoint = lease.endpoint();
        let begun = clock::now();
        let attempt = Attempt {
            settings,
            endpoint,
            address,
            port: None,
            identity,
            begun,
            deadline,
            has_spoken,
            is_probe: false,
            announcement,
        };
        match attempt.establish(record).await {
            Ok(Established::Ready(ready)) => {
                match purpose {
                    Purpose::Session => lease.established(record.took()),
                    Purpose::Spare => lease.kept(record.took()),
                }
                return Ok(Dialled::Ready(ready, lease));
            }
            Ok(Established::Meets(socket, greeting)) => {
                return Ok(Dialled::Meets(Box::new(Meeting::new(lease, identity, socket, greeting))));
            }
            Err(error) => {
                lease.failed(&error);
                if error.step() == Step::Connect {
                    cluster.search.doubt();
                }
                if error.is_deadline() {
                    return Err(out_of_time(&plan, last));
                }
                if !plan.has_attempt_left() {
                    return Err(Refusal::Failed { last: error, attempts: plan.attempts(), stopped: None });
                }
                last = Some(error);
            }
        }
        if alarm::before(deadline.at, alarm::sleep(cluster.wait(wanted, &mut plan))).await.is_err() {
            return Err(out_of_time(&plan, last));
        }
    }
}

/// One attempt on one endpoint, outside the policies: for `check --connect`. Where the client would be heard, nobody is,
/// and the server is given what it needs to see a whole conversation.
///
/// # Errors
/// See [`DialError`]; what went well before is in the record.
pub async fn try_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    identity: Choice,
    record: &mut DialRecord,
) -> Result<Ready, DialError> {
    let deadline = Limit::after(clock::now(), Bound::Deadline, settings.dial.deadline);
    let begun = clock::now();
    let attempt = Attempt {
        settings,
        endpoint,
        address: None,
        port: None,
        identity,
        begun,
        deadline,
        has_spoken: false,
        is_probe: true,
        announcement: None,
    };
    match attempt.establish(record).await? {
        Established::Ready(ready) => Ok(ready),
        Established::Meets(socket, mut greeting) => {
            let introduced = greeting.introduction.alone();
            attempt.secure_introduced(socket, &introduced.request, introduced.upgraded, record).await
        }
    }
}

/// TCP alone, to an endpoint or to another port of its host, outside the policies: for probes.
///
/// # Errors
/// See [`DialError`].
pub(super) async fn connect_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    port: Option<u16>,
    record: &mut DialRecord,
) -> Result<Socket, DialError> {
    let begun = clock::now();
    let deadline = Limit::after(begun, Bound::Deadline, settings.dial.deadline);
    let identity = settings.identity_of_probes();
    let attempt = Attempt {
        settings,
        endpoint,
        address: None,
        port,
        identity,
        begun,
        deadline,
        has_spoken: false,
        is_probe: true,
        announcement: None,
    };
    attempt.connect(record).await
}

/// When there is an end to attempts in their middle, what failed before says more than why there is none left.
fn nothing_left(cluster: &Cluster, none: NoLease, last: Option<DialError>, attempts: u32) -> Refusal {
    let (unavailable, no_room) = match none {
        NoLease::Unavailable(unavailable) => (unavailable, None),
        NoLease::Full(full, no_room) => (full.into(), Some((full, no_room))),
    };
    if unavailable == Unavailable::Budget {
        cluster.metrics().retry_budget_exhausted.increment(1);
    }
    if let Some(last) = last {
        return Refusal::Failed { last, attempts, stopped: Some(unavailable) };
    }
    if let Some((full, no_room)) = no_room {
        return Refusal::Full(full, no_room);
    }
    if unavailable == Unavailable::Nobody(Nobody::Empty) {
        cluster.search.doubt();
        if let Some(reason) = cluster.discovery().why_nobody() {
            return Refusal::Unknown { reason };
        }
    }
    Refusal::Unavailable(unavailable)
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
pub(super) struct Attempt<'a> {
    settings: &'a ClusterSettings,
    endpoint: &'a Endpoint,
    /// The only address to try, where there is no choice.
    address: Option<SocketAddr>,
    /// Another port than the endpoint's.
    port: Option<u16>,
    identity: Choice,
    begun: Instant,
    deadline: Limit,
    has_spoken: bool,
    /// Sessions are measured, and probes are not.
    is_probe: bool,
    /// What the server hears of the session; `None`: it is none, but a probe.
    announcement: Option<&'a Announcement>,
}

/// How far an attempt leads without the client.
enum Established {
    Ready(Ready),
    Meets(Socket, Greeting),
}

impl<'a> Attempt<'a> {
    /// The rest of an attempt whose client has been heard: the time that this took is not ours.
    pub(super) fn resumed(settings: &'a ClusterSettings, endpoint: &'a Endpoint, identity: Choice) -> Self {
        let deadline = Limit::after(clock::now(), Bound::Handshake, settings.dial.handshake_timeout);
        Self {
            settings,
            endpoint,
            address: None,
            port: None,
            identity,
            begun: clock::now(),
            deadline,
            has_spoken: true,
            is_probe: false,
            announcement: None,
        }
    }

    async fn establish(&self, record: &mut DialRecord) -> Result<Established, DialError> {
        let socket = self.connect(record).await?;
        match self.endpoint.originator() {
            None => Ok(Established::Ready(Ready::new(End::Socket(socket)))),
            // Boxed: a handshake's state is large, and a plain dial has no use for it.
            Some(originator) => Box::pin(self.secure(originator, socket, record)).await,
        }
    }

    async fn connect(&self, record: &mut DialRecord) -> Result<Socket, DialError> {
        let Self { settings, endpoint, .. } = *self;
        // Whoever answers on another port is not the server.
        let header = settings.send_proxy.as_ref().filter(|_| self.port.is_none());
        let header = header.map(|send| send.header(self.announcement, endpoint.settings()));
        let begun = clock::now();
        let limit = self.limit(begun, Bound::Connect, settings.dial.connect_timeout);
        let speaks_first = header.is_some() || self.speaks_first();
        let begin = |mut address: SocketAddr| {
            if let Some(port) = self.port {
                address.set_port(port);
            }
            let target = Target { address, from: settings.dial.local_address, speaks_first };
            Socket::connect(target, &settings.socket)
        };
        let order = self.address.map_or_else(|| endpoint.order(), |only| (only, None));
        let connecting = async {
            let (socket, address) = connect(order, begin).await?;
            // With the ACK that ends TCP's handshake, before anything else.
            let sent = socket.send_all(header.as_deref().unwrap_or_default()).await;
            sent.map(|()| (socket, address)).map_err(|error| (address, error))
        };
        match alarm::before(limit.at, connecting).await {
            Ok(Ok((socket, address))) => {
                let took = clock::now() - begun;
                if !self.is_probe {
                    endpoint.metrics().connect_duration.record(took);
                }
                endpoint.answered(address);
                record.connect = Some(took);
                Ok(socket)
            }
            Ok(Err((address, error))) => Err(DialError::Connect { address, error }),
            Err(Elapsed) => Err(self.timeout(Step::Connect, limit)),
        }
    }

    /// Whether bytes of ours follow at once: the client's, the upgrade's or TLS's.
    fn speaks_first(&self) -> bool {
        let Self { settings, endpoint, has_spoken, .. } = *self;
        match endpoint.originator().map(EndpointOriginator::start) {
            Some(Start::Direct) => true,
            Some(Start::Upgrade) => !settings.protocol.server_greets(),
            None => has_spoken && !settings.protocol.server_greets(),
        }
    }

    /// Upgrade and TLS.
    async fn secure(
        &self,
        originator: &EndpointOriginator,
        socket: Socket,
        record: &mut DialRecord,
    ) -> Result<Established, DialError> {
        let begun = clock::now();
        let limit = self.limit(begun, Bound::Handshake, self.settings.dial.handshake_timeout);
        let mut step = Step::Upgrade;
        let securing = async {
            let upgraded = match (originator.start(), self.settings.protocol.upgrade()) {
                (Start::Upgrade, Some(dialogue)) => {
                    let label = self.settings.protocol.label();
                    let led = upgrade(&socket, label, dialogue).await;
                    match led.map_err(|failure| self.upgrade_failed(&failure))? {
                        Led::Upgraded(upgraded) => upgraded,
                        Led::Meets(greeting) => return Ok(Secured::Meets(socket, greeting)),
                    }
                }
                (Start::Direct, _) | (Start::Upgrade, None) => {
                    Upgraded::new(NothingBuffered::nothing_was_said())
                }
            };
            step = Step::Handshake;
            self.shake_hands(originator, socket, upgraded)
                .await
                .map(|(ready, agreed)| Secured::Ready(ready, agreed))
        };
        let secured = alarm::before(limit.at, securing).await;
        match secured.unwrap_or_else(|Elapsed| Err(self.timeout(step, limit)))? {
            Secured::Meets(socket, greeting) => Ok(Established::Meets(socket, greeting)),
            Secured::Ready(ready, agreed) => {
                self.note(begun, agreed, record);
                Ok(Established::Ready(ready))
            }
        }
    }

    /// What is left of an upgrade once the client has introduced itself: the request for TLS, and TLS.
    pub(super) async fn secure_introduced(
        &self,
        socket: Socket,
        request: &[u8],
        upgraded: Upgraded,
        record: &mut DialRecord,
    ) -> Result<Ready, DialError> {
        let originator = self.endpoint.originator().expect("an upgrade was begun, so there is TLS");
        let begun = clock::now();
        let limit = self.limit(begun, Bound::Handshake, self.settings.dial.handshake_timeout);
        let securing = async {
            let protocol = self.settings.protocol.label();
            nothing_came(&socket).map_err(|error| self.upgrade_failed(&error.into()))?;
            let asked = socket.send_all(request).await;
            asked.map_err(|error| self.upgrade_failed(&UpgradeFailure::Io { protocol, error }))?;
            self.shake_hands(originator, socket, upgraded).await
        };
        let secured = alarm::before(limit.at, securing).await;
        let (ready, agreed) = secured.unwrap_or_else(|Elapsed| Err(self.timeout(Step::Handshake, limit)))?;
        self.note(begun, agreed, record);
        Ok(ready)
    }

    async fn shake_hands(
        &self,
        originator: &EndpointOriginator,
        socket: Socket,
        upgraded: Upgraded,
    ) -> Result<(Ready, Agreed), DialError> {
        let Upgraded { proof, welcome, first, dialogue } = upgraded;
        let server_name = self.endpoint.settings().server_name.clone();
        let (stream, agreed) = originator
            .originate(self.identity, socket, server_name, proof)
            .await
            .map_err(|error| self.handshake_failed(originator.start(), error))?;
        Ok((Ready { end: End::Tls(stream), welcome, first, dialogue }, agreed))
    }

    fn note(&self, begun: Instant, agreed: Agreed, record: &mut DialRecord) {
        let took = clock::now() - begun;
        if !self.is_probe {
            self.endpoint.metrics().secured(took, agreed.resumed);
        }
        record.handshake = Some(took);
        record.agreed = Some(Box::new(agreed));
    }

    /// A server that expects its protocol's own way to TLS takes a hello for rubbish, and mostly just closes.
    fn handshake_failed(&self, start: Start, error: HandshakeError) -> DialError {
        let endpoint = self.endpoint.settings().name.clone();
        let has_ended = matches!(error, HandshakeError::Closed | HandshakeError::Io(_));
        match start {
            Start::Direct if has_ended && self.settings.protocol.upgrade().is_some() => {
                DialError::Tls { endpoint, error: HandshakeError::ClosedDirect }
            }
            Start::Direct | Start::Upgrade => DialError::Tls { endpoint, error },
        }
    }

    fn upgrade_failed(&self, failure: &UpgradeFailure) -> DialError {
        DialError::Upgrade { endpoint: self.endpoint.settings().name.clone(), reason: failure.to_string() }
    }

    fn limit(&self, begun: Instant, bound: Bound, length: Duration) -> Limit {
        Limit::after(begun, bound, length).within(self.deadline)
    }

    fn timeout(&self, step: Step, limit: Limit) -> DialError {
        let Limit { bound, length: timeout, .. } = limit;
        // Attempts before it may have left next to nothing of the time for all of them.
        let is_fair = match bound {
            Bound::Connect | Bound::Handshake => true,
            Bound::Deadline => (clock::now() - self.begun) * 2 >= self.settings.dial.deadline,
        };
        DialError::Timeout { endpoint: self.endpoint.settings().name.clone(), step, bound, timeout, is_fair }
    }
}

/// What an attempt at TLS leads to.
enum Secured {
    Ready(Ready, Agreed),
    Meets(Socket, Greeting),
}

impl Ready {
    /// The same on the current worker.
    pub(super) fn adopted(self) -> io::Result<Self> {
        Ok(Self { end: self.end.adopted()?, ..self })
    }

    const fn new(end: End) -> Self {
        Self { end, welcome: Vec::new(), first: Vec::new(), dialogue: None }
    }
}

impl DialRecord {
    /// Connect and handshake of the last attempt.
    pub(super) fn took(&self) -> Duration {
        self.connect.unwrap_or_default() + self.handshake.unwrap_or_default()
    }

    fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, resolve: self.resolve, ..Self::default() };
    }
}
