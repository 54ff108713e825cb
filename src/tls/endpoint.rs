//! TLS towards one endpoint: its tickets, and the handshake with the credentials of the moment.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use super::choice::{Choice, NoIdentity};
use super::identity::Stamp;
use super::{HandshakeError, Originator, Start, Stream};
use crate::caller::Caller;
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
        let is_trusted = self.originator.trust().current().stamp == agreed.trust;
        is_trusted && current.is_ok_and(|pair| pair.map(|pair| pair.stamp()) == agreed.stamp)
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
        _: NothingBuffered,
    ) -> Result<(Box<Stream>, Agreed), HandshakeError> {
        let Made { identity, trust, config } = self.made(choice)?;
        let stream = Stream::handshake(socket, config, name).await?;
        let agreed = self.agreed(choice, (identity, trust), stream.connection());
        Ok((Box::new(stream), agreed))
    }

    /// With the credentials of this moment.
    fn made(&self, choice: Choice) -> Result<Made, HandshakeError> {
        let shared = &self.originator.0;
        let pair = shared.identities.get(choice).map(|identity| identity.current()).transpose()?;
        let trusted = shared.trust.current();
        let (identity, trust) = (pair.as_ref().map(|pair| pair.stamp()), trusted.stamp);
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= choice.place() {
            all.resize(choice.place() + 1, None);
        }
        match &mut all[choice.place()] {
            Some(made) if (made.identity, made.trust) == (identity, trust) => Ok(made.clone()),
            stale => {
                let mut config =
                    shared.client_config(pair.as_deref(), &trusted).map_err(HandshakeError::Tls)?;
                if self.speaks_http {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                    config.resumption = Resumption::disabled();
                }
                Ok(stale.insert(Made { identity, trust, config: Arc::new(config) }).clone())
            }
        }
    }

    fn agreed(
        &self,
        choice: Choice,
        (stamp, trust): (Option<Stamp>, Stamp),
        connection: &UnbufferedClientConnection,
    ) -> Agreed {
        Agreed {
            identity: self.originator.identities().name(choice).cloned(),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            stamp,
            trust,
            version: connection.protocol_version().unwrap_or(ProtocolVersion::TLSv1_2),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
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
