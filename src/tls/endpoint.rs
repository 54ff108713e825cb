//! TLS towards one endpoint: its tickets, and the handshake with the current credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use super::identities::{IdentityChoice, NoIdentity};
use super::identity::{Generation, not_after};
use super::tickets::{Tickets, watched};
use super::{HandshakeError, LastFlight, Originator, Stream, TlsStart};
use crate::caller::Caller;
use crate::clock;
use crate::name::IdentityName;
use crate::protocol::{NothingBuffered, Packets, Wrapping};
use crate::sync::Mutex;
use crate::sys::Socket;

/// Makes TLS connections to one endpoint.
#[derive(Debug)]
pub struct EndpointOriginator {
    originator: Originator,
    speaks_http: bool,
    /// Indexed by [`IdentityChoice`], and by whether the handshake is wrapped.
    made: Mutex<Vec<[Option<SharedHandshakeState>; 2]>>,
    /// For a server that accepts one of two ways to TLS: TLS with the first byte succeeded last.
    is_direct: AtomicBool,
}

/// What a protocol requires of the TLS connection that follows it.
#[derive(Debug)]
pub struct HandshakeOptions {
    /// Proof that no plaintext is left in the buffer.
    pub proof: NothingBuffered,
    /// How the handshake travels in the protocol's packets, if it does.
    pub wrapping: Option<Wrapping>,
    /// Cuts the client's bytes into records, for servers that expect one packet in each.
    pub packets: Option<Packets>,
    /// When our last message is sent.
    pub last_flight: LastFlight,
}

impl HandshakeOptions {
    /// Plain TLS from the first byte.
    #[must_use]
    pub const fn plain() -> Self {
        Self {
            proof: NothingBuffered::tls_from_first_byte(),
            wrapping: None,
            packets: None,
            last_flight: LastFlight::AtOnce,
        }
    }
}

/// What handshakes share until a credential is replaced. A resumed session skips the verification of both certificates,
/// so tickets are replaced together with the credentials of their handshake.
#[derive(Debug, Clone)]
struct SharedHandshakeState {
    identity: Option<Generation>,
    trust: Generation,
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
    until: Arc<Until>,
}

/// The earliest expiry of the certificates that the server has shown, in seconds since 1970. After it, a resumption
/// would accept a server whose certificate a full handshake would refuse.
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

    /// Records a certificate that was accepted, where dates are verified.
    fn note_certificate(&self, certificate: &CertificateDer<'_>) {
        if let Ok(end) = not_after(certificate) {
            self.0.fetch_min(seconds_since_1970(end), Ordering::Relaxed);
        }
    }
}

fn seconds_since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What was agreed in a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeInfo {
    /// The name of the identity that was offered; whether the server asked for it is not known.
    pub identity: Option<IdentityName>,
    /// The cipher suite by its IANA name.
    pub cipher: &'static str,
    /// The generation of the identity's certificate.
    pub generation: Option<Generation>,
    trust: Generation,
    /// The expiry of the server's certificate, in seconds since 1970.
    until: u64,
    version: ProtocolVersion,
    /// Whether an earlier session was resumed, which skips the certificates and their verification.
    pub resumed: bool,
}

/// The generations of the credentials of a handshake: our identity, and what the server is verified by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialGenerations {
    identity: Option<Generation>,
    trust: Generation,
}

impl EndpointOriginator {
    pub(super) const fn new(originator: Originator) -> Self {
        Self {
            originator,
            speaks_http: false,
            made: Mutex::new(Vec::new()),
            is_direct: AtomicBool::new(false),
        }
    }

    /// HTTP runs above TLS, whatever the cluster's protocol is. No session is resumed, so each handshake verifies the
    /// server's certificate.
    pub(super) fn http(originator: Originator) -> Self {
        Self { speaks_http: true, ..Self::new(originator) }
    }

    /// The identity for a connection without a caller.
    #[must_use]
    pub fn for_nobody(&self) -> IdentityChoice {
        self.originator.identities().for_nobody()
    }

    /// The identity for a connection of this caller.
    ///
    /// # Errors
    /// See [`NoIdentity`].
    pub fn for_caller(&self, caller: Option<&Caller>) -> Result<IdentityChoice, NoIdentity> {
        self.originator.identities().choose(caller)
    }

    #[must_use]
    pub fn start(&self) -> TlsStart {
        self.originator.start()
    }

    /// For [`TlsStart::EitherWay`]: whether TLS with the first byte succeeded last.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.is_direct.load(Ordering::Relaxed)
    }

    /// Records which way succeeded.
    pub fn set_direct(&self, is_direct: bool) {
        self.is_direct.store(is_direct, Ordering::Relaxed);
    }

    /// Whether a handshake now would use the same credentials as the one that agreed on this, and they have not
    /// expired.
    #[must_use]
    pub fn is_current(&self, choice: IdentityChoice, agreed: &HandshakeInfo) -> bool {
        let identity = self.originator.identities().get(choice);
        let current = identity.map(|identity| identity.current()).transpose();
        let wall = clock::wall();
        let is_trusted = self.originator.trust().current().generation(wall) == agreed.trust;
        is_trusted
            && seconds_since_1970(wall) <= agreed.until
            && current.is_ok_and(|pair| pair.map(|pair| pair.generation()) == agreed.generation)
    }

    /// Does the handshake, in the protocol's packets if `options.wrapping` is set, without a deadline of its own.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn originate(
        &self,
        choice: IdentityChoice,
        socket: Socket,
        name: ServerName<'static>,
        options: HandshakeOptions,
    ) -> Result<(Box<Stream>, HandshakeInfo), HandshakeError> {
        let made = self.made(choice, options.wrapping.is_some())?;
        let config = Arc::clone(&made.config);
        self.shake(choice, &made, config, socket, name, options).await
    }

    /// [`Self::originate`] without an offer to resume a session: for connections that cannot be retried if the server
    /// rejects it.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn originate_in_full(
        &self,
        choice: IdentityChoice,
        socket: Socket,
        name: ServerName<'static>,
        options: HandshakeOptions,
    ) -> Result<(Box<Stream>, HandshakeInfo), HandshakeError> {
        let made = self.made(choice, options.wrapping.is_some())?;
        let mut config = ClientConfig::clone(&made.config);
        config.resumption = Resumption::disabled();
        self.shake(choice, &made, Arc::new(config), socket, name, options).await
    }

    async fn shake(
        &self,
        choice: IdentityChoice,
        made: &SharedHandshakeState,
        config: Arc<ClientConfig>,
        socket: Socket,
        name: ServerName<'static>,
        HandshakeOptions { proof: _, wrapping, packets, last_flight }: HandshakeOptions,
    ) -> Result<(Box<Stream>, HandshakeInfo), HandshakeError> {
        let (hello, is_offered) = watched(|| Stream::hello(config, name));
        let shaken =
            Stream::handshake(socket, hello.map_err(HandshakeError::Tls)?, wrapping, last_flight).await;
        let stream = shaken.map_err(|error| match is_offered && error.may_refuse_resumption() {
            true => HandshakeError::ResumptionRefused {
                rest: made.tickets.note_refused(),
                error: Box::new(error),
            },
            false => error,
        })?;
        let agreed = self.agreed(choice, made, stream.connection());
        if agreed.resumed {
            made.tickets.note_resumed();
        }
        Ok((Box::new(stream.cut_by(packets)), agreed))
    }

    /// Returns the shared state for the current credentials, made anew if they were replaced or have expired.
    fn made(&self, choice: IdentityChoice, is_wrapped: bool) -> Result<SharedHandshakeState, HandshakeError> {
        let shared = &self.originator.0;
        let pair = shared.identities.get(choice).map(|identity| identity.current()).transpose()?;
        let trusted = shared.trust.current();
        let wall = clock::wall();
        let (identity, trust) = (pair.as_ref().map(|pair| pair.generation()), trusted.generation(wall));
        let is_current = |made: &SharedHandshakeState| {
            (made.identity, made.trust) == (identity, trust)
                && seconds_since_1970(wall) <= made.until.seconds()
        };
        let mut all = self.made.lock();
        if all.len() <= choice.index() {
            all.resize(choice.index() + 1, [None, None]);
        }
        match &mut all[choice.index()][usize::from(is_wrapped)] {
            Some(made) if is_current(made) => Ok(made.clone()),
            stale => {
                let tickets = Arc::<Tickets>::default();
                let config =
                    shared.client_config(pair.as_deref(), &trusted, Arc::clone(&tickets), is_wrapped);
                let mut config = config.map_err(HandshakeError::Tls)?;
                if self.speaks_http {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                    config.resumption = Resumption::disabled();
                }
                let until = Arc::<Until>::default();
                Ok(stale
                    .insert(SharedHandshakeState {
                        identity,
                        trust,
                        config: Arc::new(config),
                        tickets,
                        until,
                    })
                    .clone())
            }
        }
    }

    fn agreed(
        &self,
        choice: IdentityChoice,
        made: &SharedHandshakeState,
        connection: &UnbufferedClientConnection,
    ) -> HandshakeInfo {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let shown = connection.peer_certificates().and_then(|chain| chain.first());
        if let Some(certificate) = shown.filter(|_| !resumed && self.originator.trust().current().reads_dates)
        {
            made.until.note_certificate(certificate);
        }
        HandshakeInfo {
            identity: self.originator.identities().name(choice).cloned(),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            generation: made.identity,
            trust: made.trust,
            until: made.until.seconds(),
            version: connection.protocol_version().unwrap_or(ProtocolVersion::TLSv1_2),
            resumed,
        }
    }
}

impl HandshakeInfo {
    /// The generations of the credentials that were used.
    #[must_use]
    pub const fn generations(&self) -> CredentialGenerations {
        CredentialGenerations { identity: self.generation, trust: self.trust }
    }

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
