//! TLS towards one endpoint: its tickets, and the handshake with the credentials of the moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use super::choice::{Choice, NoIdentity};
use super::identity::{Stamp, not_after};
use super::tickets::{Tickets, watched};
use super::{HandshakeError, Originator, Start, Stream};
use crate::caller::Caller;
use crate::clock;
use crate::name::IdentityName;
use crate::protocol::NothingBuffered;
use crate::sys::Socket;

/// Makes TLS connections to one endpoint.
#[derive(Debug)]
pub struct EndpointOriginator {
    originator: Originator,
    speaks_http: bool,
    /// By [`Choice`].
    made: Mutex<Vec<Option<Made>>>,
}

/// What handshakes share as long as no credential is replaced. A ticket is worth as much as the handshake it comes from:
/// resumed, a session skips both certificates. So the tickets are in here too, and go with it.
#[derive(Debug, Clone)]
struct Made {
    identity: Option<Stamp>,
    trust: Stamp,
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
    until: Arc<Until>,
}

/// When the first of the certificates ends that the server has shown: seconds since 1970. From then on it would be refused, and
/// who resumes shows none.
#[derive(Debug)]
struct Until(AtomicU64);

impl Default for Until {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Until {
    fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A certificate that was right, as far as dates were looked at.
    fn seen(&self, certificate: &CertificateDer<'_>) {
        if let Ok(end) = not_after(certificate) {
            self.0.fetch_min(seconds_since_1970(end), Ordering::Relaxed);
        }
    }
}

fn seconds_since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The identity that was at hand, by name; whether the server asked for it is not known.
    pub identity: Option<IdentityName>,
    /// The suite by its IANA name.
    pub cipher: &'static str,
    /// Which content the identity had.
    pub stamp: Option<Stamp>,
    /// Who was trusted.
    trust: Stamp,
    /// Until when the server's certificate was good: seconds since 1970.
    until: u64,
    version: ProtocolVersion,
    /// Whether an earlier session was resumed, which saves the certificates and their checks.
    pub resumed: bool,
}

/// The content of the credentials of a handshake: of ours, and of those that the server's are checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    identity: Option<Stamp>,
    trust: Stamp,
}

impl EndpointOriginator {
    pub(super) const fn new(originator: Originator) -> Self {
        Self { originator, speaks_http: false, made: Mutex::new(Vec::new()) }
    }

    /// What is above TLS is HTTP, whatever the cluster's servers speak. Nothing is resumed: each handshake sees the whole
    /// certificate.
    pub(super) const fn http(originator: Originator) -> Self {
        Self { originator, speaks_http: true, made: Mutex::new(Vec::new()) }
    }

    /// For a connection that no caller asks for.
    #[must_use]
    pub fn for_nobody(&self) -> Choice {
        self.originator.identities().for_nobody()
    }

    /// For a connection that this caller asks for.
    ///
    /// # Errors
    /// See [`NoIdentity`].
    pub fn for_caller(&self, caller: Option<&Caller>) -> Result<Choice, NoIdentity> {
        self.originator.identities().choose(caller)
    }

    /// How TLS begins.
    #[must_use]
    pub fn start(&self) -> Start {
        self.originator.start()
    }

    /// Whether a handshake now would show the same identity, and ask the same of the server, as the one that agreed on this.
    #[must_use]
    pub fn is_current(&self, choice: Choice, agreed: &Agreed) -> bool {
        let identity = self.originator.identities().get(choice);
        let current = identity.map(|identity| identity.current()).transpose();
        let wall = clock::wall();
        let is_trusted = self.originator.trust().current().stamp(wall) == agreed.trust;
        is_trusted
            && seconds_since_1970(wall) <= agreed.until
            && current.is_ok_and(|pair| pair.map(|pair| pair.stamp()) == agreed.stamp)
    }

    /// The handshake, without a deadline of its own. The proof says that nothing of the plaintext before it
    /// can be taken for a part of it.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn originate(
        &self,
        choice: Choice,
        socket: Socket,
        name: ServerName<'static>,
        proof: NothingBuffered,
    ) -> Result<(Box<Stream>, Agreed), HandshakeError> {
        let made = self.made(choice)?;
        let config = Arc::clone(&made.config);
        self.shake(choice, &made, config, socket, name, proof).await
    }

    /// The same without an offer to resume a session: where there is no second try, should the server end the connection over it.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn originate_in_full(
        &self,
        choice: Choice,
        socket: Socket,
        name: ServerName<'static>,
        proof: NothingBuffered,
    ) -> Result<(Box<Stream>, Agreed), HandshakeError> {
        let made = self.made(choice)?;
        let mut config = ClientConfig::clone(&made.config);
        config.resumption = Resumption::disabled();
        self.shake(choice, &made, Arc::new(config), socket, name, proof).await
    }

    async fn shake(
        &self,
        choice: Choice,
        made: &Made,
        config: Arc<ClientConfig>,
        socket: Socket,
        name: ServerName<'static>,
        _: NothingBuffered,
    ) -> Result<(Box<Stream>, Agreed), HandshakeError> {
        let (hello, is_offered) = watched(|| Stream::hello(config, name));
        let shaken = Stream::handshake(socket, hello.map_err(HandshakeError::Tls)?).await;
        let stream = shaken.map_err(|error| match is_offered && error.may_refuse_resumption() {
            true => {
                HandshakeError::ResumptionRefused { rest: made.tickets.refused(), error: Box::new(error) }
            }
            false => error,
        })?;
        let agreed = self.agreed(choice, made, stream.connection());
        if agreed.resumed {
            made.tickets.resumed();
        }
        Ok((Box::new(stream), agreed))
    }

    /// With the credentials of this moment.
    fn made(&self, choice: Choice) -> Result<Made, HandshakeError> {
        let shared = &self.originator.0;
        let pair = shared.identities.get(choice).map(|identity| identity.current()).transpose()?;
        let trusted = shared.trust.current();
        let wall = clock::wall();
        let (identity, trust) = (pair.as_ref().map(|pair| pair.stamp()), trusted.stamp(wall));
        let is_current = |made: &Made| {
            (made.identity, made.trust) == (identity, trust)
                && seconds_since_1970(wall) <= made.until.seconds()
        };
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= choice.place() {
            all.resize(choice.place() + 1, None);
        }
        match &mut all[choice.place()] {
            Some(made) if is_current(made) => Ok(made.clone()),
            stale => {
                let tickets = Arc::<Tickets>::default();
                let config = shared.client_config(pair.as_deref(), &trusted, Arc::clone(&tickets));
                let mut config = config.map_err(HandshakeError::Tls)?;
                if self.speaks_http {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                    config.resumption = Resumption::disabled();
                }
                let until = Arc::<Until>::default();
                Ok(stale.insert(Made { identity, trust, config: Arc::new(config), tickets, until }).clone())
            }
        }
    }

    fn agreed(&self, choice: Choice, made: &Made, connection: &UnbufferedClientConnection) -> Agreed {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let shown = connection.peer_certificates().and_then(|chain| chain.first());
        if let Some(certificate) = shown.filter(|_| !resumed && self.originator.trust().current().reads_dates)
        {
            made.until.seen(certificate);
        }
        Agreed {
            identity: self.originator.identities().name(choice).cloned(),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            stamp: made.identity,
            trust: made.trust,
            until: made.until.seconds(),
            version: connection.protocol_version().unwrap_or(ProtocolVersion::TLSv1_2),
            resumed,
        }
    }
}

impl Agreed {
    /// What was shown, and what was asked of the server.
    #[must_use]
    pub const fn shown(&self) -> Shown {
        Shown { identity: self.stamp, trust: self.trust }
    }

    /// `TLSv1.3` or `TLSv1.2`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        if self.is_judged_late() { "TLSv1.3" } else { "TLSv1.2" }
    }

    /// Whether the server judges our certificate after our side of the handshake is done (RFC 8446 §4.4.2.4).
    #[must_use]
    pub fn is_judged_late(&self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }
}
