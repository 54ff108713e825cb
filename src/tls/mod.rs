//! TLS towards the upstream: what a cluster offers and demands, made ready once, and the handshake.
//!
//! Everything that can fail because of a file fails when the configuration is compiled; what is left for a
//! session is one handshake. Each endpoint has a ticket store of its own, because a ticket of one server is
//! worthless at another of the same name. kTLS is not here (docs/DECISIONS.md).

mod identity;
mod stream;
mod tickets;
mod verify;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};

pub use identity::{Identity, IdentityError, IdentitySource};
pub use stream::Stream;
pub use verify::{Roots, RootsError};

use crate::name::IdentityName;
use crate::protocol::NothingBuffered;
use crate::sys::Socket;
use tickets::Tickets;

/// The lowest version accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// How TLS begins on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By the protocol's own dialogue, where it has one.
    Upgrade,
    /// With the first byte.
    Direct,
}

/// What a cluster demands and offers. The files are read by [`Originator::new`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who may have signed the server's certificate.
    pub ca: Roots,
    /// Our certificate and key, where the server asks for one.
    pub identity: Option<(IdentityName, Arc<Identity>)>,
    /// The name sent and verified for every endpoint without one of its own.
    pub server_name: Option<ServerName<'static>>,
    /// Offered in this order; none means that ALPN is not used.
    pub alpn: Vec<String>,
    /// The lowest version accepted.
    pub min_version: MinVersion,
    /// How TLS begins.
    pub start: Start,
    /// Any certificate will do. Whoever sits between is not noticed.
    pub insecure_skip_verify: bool,
}

/// Why TLS could not be set up from its files.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Our certificate and key do not serve the versions asked for.
    #[error("the client certificate cannot be used: {0}")]
    Identity(rustls::Error),
    /// The provider does not support the versions.
    #[error("these TLS versions cannot be used: {0}")]
    Versions(rustls::Error),
}

/// Makes TLS connections for one cluster.
#[derive(Debug, Clone)]
pub struct Originator {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    identity: Option<(IdentityName, Arc<Identity>)>,
    start: Start,
    verifies: bool,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The suite by its IANA name.
    pub cipher: &'static str,
    /// Whether an earlier session was resumed, which saves the certificates and their checks.
    pub resumed: bool,
    /// The identity that was at hand, by name; whether the server asked for it is not known.
    pub identity: Option<IdentityName>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// One side objected; rustls says which and to what.
    #[error("{}", explain(.0))]
    Tls(rustls::Error),
    /// The connection ended in the middle.
    #[error("the server closed the connection during the TLS handshake; it may speak no TLS on this port")]
    Closed,
    /// The same where TLS began with the first byte, of a protocol that has an upgrade.
    #[error(
        "the server closed the connection at the TLS hello; it may not take one without the protocol's own upgrade: \
         leave `start: direct` out of the cluster's `tls` (PostgreSQL takes it since version 17)"
    )]
    ClosedDirect,
    /// The connection failed.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(io::Error),
}

impl Originator {
    /// Reads the roots and prepares what every handshake of the cluster shares.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // AWS-LC gathers entropy for its first random bytes, some 30 ms of work; the first handshake would stall all
        // sessions of its worker for that long.
        let _ = provider.secure_random.fill(&mut [0]);
        let verifier = verifier(settings, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(settings.min_version.versions())
            .map_err(SetupError::Versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some((_, identity)) => builder.with_client_cert_resolver(identity.resolver()),
        };
        config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            server_name: settings.server_name.clone(),
            identity: settings.identity.clone(),
            start: settings.start,
            verifies: !settings.insecure_skip_verify,
        })
    }

    /// The same settings with a ticket store of its own.
    #[must_use]
    pub fn for_endpoint(&self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// The cluster's own server name, where the file gives one.
    #[must_use]
    pub const fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// How TLS begins.
    #[must_use]
    pub const fn start(&self) -> Start {
        self.start
    }

    /// Whether the server's certificate is checked.
    #[must_use]
    pub const fn verifies(&self) -> bool {
        self.verifies
    }

    /// Whether a client certificate is at hand.
    #[must_use]
    pub const fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// When our certificate ends, if there is one.
    #[must_use]
    pub fn identity_expiry(&self) -> Option<SystemTime> {
        self.identity.as_ref().map(|(_, identity)| identity.not_after())
    }

    /// The handshake, without a deadline of its own. The proof says that nothing of the plaintext before it
    /// can be taken for a part of it.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn originate(
        &self,
        socket: Socket,
        name: ServerName<'static>,
        _: NothingBuffered,
    ) -> Result<(Box<Stream>, Agreed), HandshakeError> {
        let stream = Stream::handshake(socket, Arc::clone(&self.config), name).await?;
        let agreed = self.agreed(stream.connection());
        Ok((Box::new(stream), agreed))
    }

    fn agreed(&self, connection: &UnbufferedClientConnection) -> Agreed {
        Agreed {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            identity: self.identity.as_ref().map(|(name, _)| name.clone()),
        }
    }
}

static TLS13_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn verifier(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RootsError> {
    if settings.insecure_skip_verify {
        return Ok(verify::anyone(provider));
    }
    verify::signed_by(&settings.ca, provider)
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => TLS13_ONLY,
        }
    }
}

/// The TLS error inside an I/O error of an established stream: an alert that came late, as TLS 1.3 does when
/// the server rejects our certificate after our side of the handshake is done (RFC 8446 §4.4.2.4).
#[must_use]
pub fn late_rejection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(explain(error))
}

/// rustls' own sentence, with what to do about the usual ones.
#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
fn explain(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError, Error};
    let hint = match error {
        // A bad signature: a CA of the same name is there, with another key.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is not signed by a CA of tls.ca"
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate is for another name; see tls.server_name",
        Error::AlertReceived(Alert::CertificateRequired) => "the server demands a client certificate",
        // decrypt_error: signed by a CA of the right name with another key, as one is that was made anew.
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::DecryptError,
        ) => "the server rejected our client certificate",
        Error::AlertReceived(Alert::HandshakeFailure) => {
            "the server shares no version or cipher with us, or demands a client certificate"
        }
        Error::AlertReceived(Alert::NoApplicationProtocol) => "the server knows none of tls.alpn",
        Error::InvalidMessage(_) => "the server does not speak TLS on this port",
        _ => return error.to_string(),
    };
    format!("{hint} ({error})")
}
