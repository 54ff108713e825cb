//! One attempt of a dial, on one endpoint: connect, upgrade, handshake, each within its bound. Picking the endpoint,
//! and recording the result, are the dial's.

mod silence;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::cluster::{
    AttemptBound, AttemptStep, DialError, DialTarget, Endpoint, Ready, Settings as ClusterSettings,
};
use crate::protocol::{Greeting, NothingBuffered, UpgradeError, Upgraded};
use crate::relay::UpstreamStream;
use crate::sys::{ConnectTarget, Socket};
use crate::tls::{
    EndpointOriginator, HandshakeError, HandshakeInfo, HandshakeOptions, IdentityChoice, LastFlight, TlsStart,
};

use super::attempt_deadline::AttemptDeadline;
use super::connect::connect;
use super::first_words;
use super::login::{SignInAs, sign_in};
use super::proxy_header::{self, ProxyInfo};
use super::record::DialRecord;
use super::request::DialRequest;
use super::upgrade::{UpgradeFailure, UpgradeProgress, Upgrading, check_nothing_buffered};

/// One attempt on one endpoint, outside the policies: for probes and trials. Where the upgrade needs the client's
/// reply, the server gets a default reply, so that it sees a whole conversation.
///
/// # Errors
/// See [`DialError`]; the steps that succeeded before it are in the record.
pub(crate) async fn try_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    identity: IdentityChoice,
    record: &mut DialRecord,
) -> Result<Ready, DialError> {
    examine_endpoint(settings, endpoint, identity, None, record).await
}

/// [`try_endpoint`] that also reports, while it waits, a server that should greet and is silent, and finds out what
/// that server speaks instead.
///
/// # Errors
/// As [`try_endpoint`], and at once for a silent server that is recognised as one of another protocol.
pub(crate) async fn examine_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    identity: IdentityChoice,
    on_silence: Option<&(dyn Fn(&str) + Sync)>,
    record: &mut DialRecord,
) -> Result<Ready, DialError> {
    let attempt = Attempt { on_silence, ..Attempt::of_our_own(settings, endpoint, identity) };
    attempt.establish_alone(record).await
}

/// [`try_endpoint`] for a probe. `speaks_first`: it sends, or ends, as soon as it can, so that what completes TCP's and
/// TLS's handshake travels with that.
///
/// # Errors
/// As [`try_endpoint`].
pub(crate) async fn probe_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    speaks_first: bool,
    record: &mut DialRecord,
) -> Result<Ready, DialError> {
    let last_flight = if speaks_first { LastFlight::WithFirstWrite } else { LastFlight::AtOnce };
    let attempt = Attempt::of_our_own(settings, endpoint, endpoint.identity_for_nobody());
    Attempt { has_spoken: speaks_first, last_flight, ..attempt }.establish_alone(record).await
}

/// TCP alone, to an endpoint or to another port of its host, outside the policies: for probes that send, or end, at
/// once.
///
/// # Errors
/// See [`DialError`].
pub(crate) async fn connect_endpoint(
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    port: Option<u16>,
    record: &mut DialRecord,
) -> Result<Socket, DialError> {
    let attempt = Attempt::of_our_own(settings, endpoint, endpoint.identity_for_nobody());
    Attempt { port, only_connects: true, ..attempt }.connect(record).await
}

/// How long a probe or a trial waits for a greeting at most; a longer wait would delay the next probe.
pub(super) const PROBE_GREETING_MAX: Duration = Duration::from_secs(30);

/// One attempt, with its bounds.
pub(super) struct Attempt<'a> {
    settings: &'a ClusterSettings,
    endpoint: &'a Endpoint,
    /// The only address to try; `None`: all of the endpoint.
    address: Option<SocketAddr>,
    /// Replaces the endpoint's port.
    port: Option<u16>,
    identity: IdentityChoice,
    begun: Instant,
    deadline: AttemptDeadline,
    has_spoken: bool,
    /// Bytes of the client that the upgrade sends.
    preface: &'a [u8],
    /// All bytes of the client so far, if known.
    opening: first_words::Opening<'a>,
    /// Who to sign in as, if we do that.
    sign_in_as: Option<SignInAs<'a>>,
    /// Connect, upgrade and TLS are done; only the server's first words are missing.
    is_secured: AtomicBool,
    /// Probes are not measured, unlike sessions.
    is_probe: bool,
    /// TCP is all, and the caller then sends or ends at once.
    only_connects: bool,
    /// Reports a server that should greet and is silent, and has it examined.
    on_silence: Option<&'a (dyn Fn(&str) + Sync)>,
    /// The session's contents of the PROXY header; `None`: there is no session.
    proxy_info: Option<&'a ProxyInfo>,
    last_flight: LastFlight,
}

/// How one attempt begins TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the protocol's own upgrade, if it has one.
    Upgrade,
    /// With the first byte.
    Direct,
}

/// How far an attempt gets without the client.
pub(super) enum AttemptResult {
    Ready(Ready),
    AwaitsClientReply(Socket, Greeting),
}

impl<'a> Attempt<'a> {
    /// The rest of an attempt after the client's reply, with a fresh deadline: the wait for the client does not count.
    pub(super) fn resumed(
        settings: &'a ClusterSettings,
        endpoint: &'a Endpoint,
        identity: IdentityChoice,
    ) -> Self {
        let deadline =
            AttemptDeadline::after(clock::now(), AttemptBound::Handshake, settings.dial.handshake_timeout);
        Self { has_spoken: true, ..Self::on(settings, endpoint, identity, deadline) }
    }

    /// An attempt that begins now, without a session.
    pub(super) fn on(
        settings: &'a ClusterSettings,
        endpoint: &'a Endpoint,
        identity: IdentityChoice,
        deadline: AttemptDeadline,
    ) -> Self {
        Self {
            settings,
            endpoint,
            address: None,
            port: None,
            identity,
            begun: clock::now(),
            deadline,
            has_spoken: false,
            preface: &[],
            opening: None,
            sign_in_as: None,
            is_secured: AtomicBool::new(false),
            is_probe: false,
            only_connects: false,
            on_silence: None,
            proxy_info: None,
            last_flight: LastFlight::AtOnce,
        }
    }

    /// An attempt for a probe or a trial.
    fn of_our_own(settings: &'a ClusterSettings, endpoint: &'a Endpoint, identity: IdentityChoice) -> Self {
        let deadline = AttemptDeadline::after(clock::now(), AttemptBound::Deadline, settings.dial.deadline);
        Self { is_probe: true, ..Self::on(settings, endpoint, identity, deadline) }
    }

    /// Runs the attempt to its end, with a default reply where the upgrade needs the client's.
    async fn establish_alone(&self, record: &mut DialRecord) -> Result<Ready, DialError> {
        match self.establish(record).await? {
            AttemptResult::Ready(ready) => Ok(ready),
            AttemptResult::AwaitsClientReply(socket, mut greeting) => {
                let introduced = greeting.client_reply.conclude_without_client();
                self.secure_after_reply(socket, &introduced.request, introduced.upgraded, record).await
            }
        }
    }

    /// Applies a session's request.
    pub(super) fn serving(self, request: &DialRequest<'a>) -> Self {
        let DialRequest { target, has_spoken, preface, opening, sign_in_as, proxy_info, .. } = *request;
        let address = match target {
            DialTarget::Any => None,
            DialTarget::Endpoint { address, .. } => address,
        };
        let last_flight = last_flight(opening);
        Self { address, has_spoken, preface, opening, sign_in_as, proxy_info, last_flight, ..self }
    }

    /// Whether connect, upgrade and TLS are done, so that any further delay is the server's own work.
    pub(super) fn is_secured(&self) -> bool {
        self.is_secured.load(Ordering::Relaxed)
    }

    /// Runs the attempt up to a stream whose server does not turn the session away.
    pub(super) async fn establish(&self, record: &mut DialRecord) -> Result<AttemptResult, DialError> {
        let mut established = self.establish_secure(record).await?;
        self.is_secured.store(true, Ordering::Relaxed);
        if let AttemptResult::Ready(ready) = &mut established
            && !self.is_probe
        {
            let until = self.deadline.without(record.greeting.get().unwrap_or_default()).at;
            self.begin_session(ready, until, record).await?;
        }
        Ok(established)
    }

    /// Signs in, or looks whether the server turns the session away.
    async fn begin_session(
        &self,
        ready: &mut Ready,
        until: Instant,
        record: &mut DialRecord,
    ) -> Result<(), DialError> {
        match self.sign_in_as {
            // Boxed: most clusters do not need it, and it would enlarge every dial.
            Some(who) => {
                let opening = self.opening.unwrap_or_default();
                let firm = self.deadline.is_firm.then_some(until);
                Box::pin(sign_in(ready, self.settings, self.endpoint, who, opening, firm, record)).await
            }
            None => first_words::check(ready, self.settings, self.endpoint, self.opening, until).await,
        }
    }

    /// If the server ends a handshake over our offer to resume a session, tries a full handshake at once: resumption is
    /// optional, so refusing it is no fault.
    async fn establish_secure(&self, record: &mut DialRecord) -> Result<AttemptResult, DialError> {
        match self.establish_either_way(record).await {
            Err(DialError::Tls { endpoint, error: error @ HandshakeError::ResumptionRefused { .. } }) => {
                self.endpoint.metrics().resumption_refused.increment(1);
                let cluster = &self.settings.name;
                tracing::warn!(%cluster, %endpoint, %error, "resumption refused; asking for a full handshake");
                // Boxed: rarely needed, and it would enlarge every dial.
                Box::pin(self.establish_either_way(record)).await
            }
            established => established,
        }
    }

    /// Where servers of the protocol begin TLS in one of two ways and none is configured: tries the way that worked
    /// last, then at once the other, if the server closes the first without an answer.
    async fn establish_either_way(&self, record: &mut DialRecord) -> Result<AttemptResult, DialError> {
        let Some(originator) = self.endpoint.originator() else {
            return self.establish_once(Way::Direct, record).await;
        };
        let first = match originator.start() {
            TlsStart::EitherWay if originator.is_direct() => Way::Direct,
            TlsStart::EitherWay => Way::Upgrade,
            TlsStart::Upgrade => return self.establish_once(Way::Upgrade, record).await,
            TlsStart::Direct => return self.establish_once(Way::Direct, record).await,
        };
        let failed = match self.establish_once(first, record).await {
            Err(error) if error.may_be_the_other_way() => error,
            established => return established,
        };
        let other = if first == Way::Direct { Way::Upgrade } else { Way::Direct };
        // Boxed: rarely needed, and it would enlarge every dial.
        match Box::pin(self.establish_once(other, record)).await {
            // Both ways failed: the error of the first explains more.
            Err(error) if error.may_be_the_other_way() => Err(failed),
            established => {
                originator.set_direct(other == Way::Direct);
                established
            }
        }
    }

    async fn establish_once(&self, way: Way, record: &mut DialRecord) -> Result<AttemptResult, DialError> {
        let socket = self.connect(record).await?;
        match self.endpoint.originator() {
            None => Ok(AttemptResult::Ready(Ready::new(UpstreamStream::Socket(socket)))),
            // Boxed: the state of a handshake is large, and a plaintext dial has none.
            Some(originator) => Box::pin(self.secure(originator, way, socket, record)).await,
        }
    }

    async fn connect(&self, record: &mut DialRecord) -> Result<Socket, DialError> {
        let Self { settings, endpoint, .. } = *self;
        // No PROXY header on another port: the server there is not the endpoint's.
        let send_proxy = settings.send_proxy.as_ref().filter(|_| self.port.is_none());
        let begun = clock::now();
        let limit = self.limit(begun, AttemptBound::Connect, settings.dial.connect_timeout);
        let speaks_first = send_proxy.is_some() || self.only_connects || self.speaks_first();
        let begin = |mut address: SocketAddr| {
            if let Some(port) = self.port {
                address.set_port(port);
            }
            let from = settings.dial.local_address;
            let target = ConnectTarget { address, from, speaks_first, is_upkeep: self.is_probe };
            Socket::connect(target, &settings.socket)
        };
        let order = self.address.map_or_else(|| endpoint.address_order(), |only| (only, None));
        let connecting = async {
            let (socket, address) = connect(order, begin).await?;
            if let Some(send_proxy) = send_proxy {
                // Sent with the ACK that completes TCP's handshake, before anything else.
                let from = socket.local().ok_or_else(|| (address, io::ErrorKind::NotConnected.into()))?;
                let header =
                    proxy_header::header(send_proxy, self.proxy_info, endpoint.settings(), (from, address));
                socket.send_all(&header).await.map_err(|error| (address, error))?;
            }
            Ok((socket, address))
        };
        match alarm::timeout_at(limit.at, connecting).await {
            Ok(Ok((socket, address))) => {
                let took = clock::now() - begun;
                if !self.is_probe {
                    endpoint.metrics().connect_duration.record(took);
                }
                endpoint.note_answered(address);
                record.connect = took.into();
                Ok(socket)
            }
            Ok(Err((address, error))) => Err(DialError::Connect { address, error }),
            Err(Elapsed) => Err(self.timeout(AttemptStep::Connect, limit)),
        }
    }

    /// Whether we send first after connect: bytes of the client, the upgrade or TLS.
    fn speaks_first(&self) -> bool {
        let Self { settings, endpoint, has_spoken, .. } = *self;
        match endpoint.originator().map(EndpointOriginator::start) {
            Some(TlsStart::Direct) => true,
            Some(TlsStart::Upgrade | TlsStart::EitherWay) => !settings.protocol.server_greets(),
            None => has_spoken && !settings.protocol.server_greets(),
        }
    }

    /// Runs the upgrade and the TLS handshake.
    async fn secure(
        &self,
        originator: &EndpointOriginator,
        way: Way,
        socket: Socket,
        record: &mut DialRecord,
    ) -> Result<AttemptResult, DialError> {
        let begun = clock::now();
        let dialogue = match way {
            Way::Upgrade => self.settings.protocol.upgrade_for(self.preface),
            Way::Direct => None,
        };
        let mut upgrading =
            dialogue.map(|dialogue| Upgrading::begin(&socket, &*self.settings.protocol, dialogue));
        if let Some(upgrading) = upgrading.as_mut().filter(|_| self.settings.protocol.server_greets()) {
            let greeted = self.await_greeting(upgrading, &socket).await;
            record.greeting = (clock::now() - begun).into();
            greeted?;
        }
        let greeted = clock::now();
        let deadline = self.deadline.without(record.greeting.get().unwrap_or_default());
        let limit =
            AttemptDeadline::after(greeted, AttemptBound::Handshake, self.settings.dial.handshake_timeout);
        let limit = limit.within(deadline);
        let mut step = AttemptStep::Upgrade;
        let securing = async {
            let upgraded = match upgrading {
                Some(upgrading) => {
                    let led = upgrading.run(&socket).await;
                    match led.map_err(|failure| self.upgrade_failed(&failure))? {
                        UpgradeProgress::Upgraded(upgraded) => upgraded,
                        UpgradeProgress::AwaitsClientReply(greeting) => {
                            return Ok(Secured::AwaitsClientReply(socket, greeting));
                        }
                    }
                }
                None => Upgraded::new(NothingBuffered::tls_from_first_byte()),
            };
            step = AttemptStep::Handshake;
            self.shake_hands(originator, way, socket, upgraded, true)
                .await
                .map(|(ready, agreed)| Secured::Ready(ready, agreed))
        };
        let secured = alarm::timeout_at(limit.at, securing).await;
        match secured.unwrap_or_else(|Elapsed| Err(self.timeout(step, limit)))? {
            Secured::AwaitsClientReply(socket, greeting) => {
                Ok(AttemptResult::AwaitsClientReply(socket, greeting))
            }
            Secured::Ready(ready, agreed) => {
                self.note(greeted, agreed, record);
                Ok(AttemptResult::Ready(ready))
            }
        }
    }

    /// Waits for the greeting, longer than for any other step: a server may look up its client first, or delay the
    /// greeting to expose impatient clients (RFC 5321 §4.5.3.2.1 has SMTP clients wait five minutes).
    async fn await_greeting(&self, upgrading: &mut Upgrading<'_>, socket: &Socket) -> Result<(), DialError> {
        let begun = clock::now();
        let greeting_timeout = self.settings.dial.greeting_timeout;
        let limit = match self.is_probe && greeting_timeout > PROBE_GREETING_MAX {
            true => AttemptDeadline::after(begun, AttemptBound::Probe, PROBE_GREETING_MAX),
            false => AttemptDeadline::after(begun, AttemptBound::Greeting, greeting_timeout),
        };
        let limit = if self.deadline.is_firm { limit.within(self.deadline) } else { limit };
        let soon = limit.at.min(begun + self.settings.dial.handshake_timeout.min(silence::SILENCE));
        let mut heard = alarm::timeout_at(soon, upgrading.wait_greeting(socket)).await;
        if heard.is_err() && soon < limit.at {
            heard = match self.on_silence.filter(|_| !upgrading.has_heard()) {
                // Boxed: rarely needed, and it would enlarge every dial.
                Some(tell) => Box::pin(self.examine_silence(upgrading, socket, limit, tell)).await?,
                None => {
                    self.warn_of_silence(limit);
                    alarm::timeout_at(limit.at, upgrading.wait_greeting(socket)).await
                }
            };
        }
        match heard {
            Ok(heard) => heard.map_err(|failure| self.upgrade_failed(&failure)),
            Err(Elapsed) => Err(DialError::Silent {
                endpoint: self.endpoint.settings().name.clone(),
                protocol: self.settings.protocol.label(),
                has_begun: upgrading.has_heard(),
                bound: limit.bound,
                timeout: limit.length,
            }),
        }
    }

    /// Logs once that a server has not greeted: it may be one that never does.
    fn warn_of_silence(&self, limit: AttemptDeadline) {
        if self.is_probe || !self.endpoint.note_slow_greeting() {
            return;
        }
        let (cluster, endpoint) = (&self.settings.name, &self.endpoint.settings().name);
        let (protocol, waits) = (self.settings.protocol.label(), limit.length);
        tracing::warn!(
            %cluster, %endpoint, protocol, ?waits,
            "the server has accepted and not greeted yet, as servers of this protocol do; one that waits for its client \
             speaks another protocol, or TLS with the first byte (write tls.start: direct)"
        );
    }

    /// The rest of an upgrade after the client's reply: the request for TLS, then TLS.
    pub(super) async fn secure_after_reply(
        &self,
        socket: Socket,
        request: &[u8],
        upgraded: Upgraded,
        record: &mut DialRecord,
    ) -> Result<Ready, DialError> {
        let originator = self.endpoint.originator().expect("an upgrade was begun, so there is TLS");
        let begun = clock::now();
        let limit = self.limit(begun, AttemptBound::Handshake, self.settings.dial.handshake_timeout);
        let securing = async {
            let protocol = &*self.settings.protocol;
            let is_quiet = || {
                check_nothing_buffered(&socket, protocol).map_err(|error| self.upgrade_failed(&error.into()))
            };
            is_quiet()?;
            if let Err(error) = socket.send_all(request).await {
                // The server may have sent the reason before it closed.
                is_quiet()?;
                let protocol = protocol.label();
                return Err(self.upgrade_failed(&UpgradeFailure::Io { protocol, error }));
            }
            // No resumption for sessions: if the server closed over the offer, there would be no second attempt,
            // because the client has replied to this connection's greeting.
            self.shake_hands(originator, Way::Upgrade, socket, upgraded, self.is_probe).await
        };
        let secured = alarm::timeout_at(limit.at, securing).await;
        let (ready, agreed) =
            secured.unwrap_or_else(|Elapsed| Err(self.timeout(AttemptStep::Handshake, limit)))?;
        self.note(begun, agreed, record);
        Ok(ready)
    }

    /// `resumes`: whether to offer resumption of an earlier TLS session.
    async fn shake_hands(
        &self,
        originator: &EndpointOriginator,
        way: Way,
        socket: Socket,
        upgraded: Upgraded,
        resumes: bool,
    ) -> Result<(Ready, HandshakeInfo), DialError> {
        let Upgraded { proof, wrapping, answer, welcome, first, dialogue } = upgraded;
        let server_name = self.endpoint.settings().server_name.clone();
        let options = HandshakeOptions {
            proof,
            wrapping,
            packets: self.settings.protocol.packets(),
            last_flight: self.last_flight,
        };
        let shaken = match resumes {
            true => originator.originate(self.identity, socket, server_name, options).await,
            false => originator.originate_in_full(self.identity, socket, server_name, options).await,
        };
        let (stream, agreed) = shaken.map_err(|error| self.handshake_failed(way, error))?;
        let is_upgraded = way == Way::Upgrade && self.settings.protocol.upgrade().is_some();
        let end = UpstreamStream::Tls(stream);
        Ok((
            Ready { stream: end, welcome, first, dialogue, is_upgraded, answer, said: 0, signed_in: None },
            agreed,
        ))
    }

    fn note(&self, begun: Instant, agreed: HandshakeInfo, record: &mut DialRecord) {
        let took = clock::now() - begun;
        if !self.is_probe {
            self.endpoint.metrics().record_handshake(took, agreed.resumed);
        }
        record.handshake = took.into();
        record.agreed = Some(Box::new(agreed));
    }

    /// Classifies the error: a server that expects its protocol's own upgrade mostly just closes when it gets a TLS
    /// hello.
    fn handshake_failed(&self, way: Way, error: HandshakeError) -> DialError {
        let endpoint = self.endpoint.settings().name.clone();
        if let HandshakeError::Plaintext { said, .. } = &error
            && let Some(by) = self.settings.protocol.parse_refusal(said)
        {
            return DialError::Refused { endpoint, by: Box::new(by) };
        }
        let has_ended = matches!(error, HandshakeError::Closed | HandshakeError::Io(_));
        let is_refused = way == Way::Direct && has_ended && self.settings.protocol.upgrade().is_some();
        DialError::Tls { endpoint, error: if is_refused { HandshakeError::ClosedDirect } else { error } }
    }

    fn upgrade_failed(&self, failure: &UpgradeFailure) -> DialError {
        let endpoint = self.endpoint.settings().name.clone();
        if let UpgradeFailure::Answer(UpgradeError::TurnedAway(by)) = failure {
            return DialError::Refused { endpoint, by: Box::new(by.clone()) };
        }
        let mut reason = failure.to_string();
        if failure.is_an_end() && self.settings.protocol.starts_either_way() {
            reason += "; a server that takes TLS with the first byte only ends it so: see tls.start";
        }
        DialError::Upgrade { endpoint, reason, is_an_end: failure.is_an_end() }
    }

    fn limit(&self, begun: Instant, bound: AttemptBound, length: Duration) -> AttemptDeadline {
        AttemptDeadline::after(begun, bound, length).within(self.deadline)
    }

    fn timeout(&self, step: AttemptStep, limit: AttemptDeadline) -> DialError {
        let AttemptDeadline { bound, length: timeout, .. } = limit;
        // Earlier attempts may have used up nearly all of the deadline.
        let is_fair = match bound {
            AttemptBound::Connect
            | AttemptBound::Handshake
            | AttemptBound::Greeting
            | AttemptBound::Probe => true,
            AttemptBound::Deadline => (clock::now() - self.begun) * 2 >= self.settings.dial.deadline,
        };
        DialError::Timeout { endpoint: self.endpoint.settings().name.clone(), step, bound, timeout, is_fair }
    }
}

/// The result of upgrade and TLS.
enum Secured {
    Ready(Ready, HandshakeInfo),
    AwaitsClientReply(Socket, Greeting),
}

/// With the first write, where the client has said something: nothing but the dial is between that and the relay. A client that waits
/// for the server to speak may say nothing for long.
fn last_flight(opening: first_words::Opening<'_>) -> LastFlight {
    if opening.is_some_and(|opening| !opening.is_empty()) {
        LastFlight::WithFirstWrite
    } else {
        LastFlight::AtOnce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_waits_for_no_client_that_has_said_nothing() {
        for (opening, expected) in [
            (None, LastFlight::AtOnce),
            (Some(&b""[..]), LastFlight::AtOnce),
            (Some(b"PING\r\n"), LastFlight::WithFirstWrite),
        ] {
            assert_eq!(last_flight(opening), expected, "{opening:?}");
        }
    }
}
