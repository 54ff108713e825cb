//! TLS towards the upstream: what a cluster offers and requires, prepared once, and the handshake.
//!
//! Everything that can fail because of a file fails when the configuration is compiled; a session does one handshake.
//! Identities and trust may be replaced while in use; a handshake takes those that are current when it begins. Each
//! endpoint has a ticket store of its own, because a ticket of one server is worthless at another of the same name, and
//! a new one for each content of its credentials. kTLS is not here (docs/DECISIONS.md).

mod chain;
mod channel_binding;
mod constraints;
mod credential_files;
mod endpoint;
mod extra_checks;
mod federation;
mod https;
mod identities;
mod identity;
mod key_usage;
mod pem_file;
mod pinned;
mod refusal;
mod shared_content;
mod signed;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tickets;
mod uncertified;
mod verifier;
mod verify;

use std::io;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use rustls::client::{ClientSessionStore, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedCipherSuite, SupportedProtocolVersion};

pub(crate) use credential_files::{CredentialFiles, secret as read_secret};
pub(crate) use endpoint::{CredentialGenerations, EndpointOriginator, HandshakeInfo, HandshakeOptions};
pub(crate) use extra_checks::{ExtraChecks, Pin};
pub(crate) use https::{HttpVersion, https_config, https_failure};
pub(crate) use identities::{Identities, IdentityChoice, NoIdentity};
pub(crate) use identity::{
    Bundles, Generation, Identity, IdentityError, IdentitySource, Issued, NoCertificate,
};
pub(crate) use identity::{certificates as read_certificates, private_key as read_private_key};
pub(crate) use key_usage::{KeyLimit, KeyLimitDue};
pub(crate) use stream::{LastFlight, Stream};
pub(crate) use verify::{
    CredentialRole, PeerVerification, Roots, Trust, TrustError, Verify, revocation_lists,
};

use identity::CertifiedPair;
use tickets::Tickets;
use uncertified::Uncertified;
use verify::Trusted;

use crate::protocol::WrappingError;

/// The lowest version accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    Tls13,
}

/// How TLS begins on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsStart {
    /// By the protocol's own upgrade, where it has one.
    Upgrade,
    /// By one of the two ways that the server may accept: when it ends the first, the other is tried.
    EitherWay,
    /// With the first byte.
    Direct,
}

/// What a cluster requires and offers. The files are read by [`Originator::new`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the server's certificate has to fulfil. `None`: any is accepted, and a man in the middle is not noticed.
    pub terms: Option<PeerVerification>,
    /// Our certificates and keys, where the server asks for one.
    pub identities: Identities,
    /// The name sent and verified for every endpoint without one of its own.
    pub server_name: Option<ServerName<'static>>,
    /// Offered in this order; none means that ALPN is not used.
    pub alpn: Vec<String>,
    /// The lowest version accepted.
    pub min_version: MinVersion,
    pub start: TlsStart,
}

/// Why TLS could not be set up from its files.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The trusted CAs cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The provider does not support the versions.
    #[error("these TLS versions cannot be used: {0}")]
    Versions(rustls::Error),
}

/// Makes TLS connections for one cluster. Clones share one state.
#[derive(Debug, Clone)]
pub struct Originator(Arc<Shared>);

/// An originator that exists only as long as it is in use elsewhere.
#[derive(Debug, Clone)]
pub struct WeakOriginator(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    provider: Arc<CryptoProvider>,
    trust: Trust,
    identities: Identities,
    alpn: Vec<Vec<u8>>,
    server_name: Option<ServerName<'static>>,
    min_version: MinVersion,
    start: TlsStart,
    verifies: bool,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// One side rejected the handshake; rustls says which and why.
    #[error("{}", explain(.0))]
    Tls(rustls::Error),
    /// The server's certificate is refused, with the reason for people.
    #[error("{0}")]
    Certificate(String),
    /// The first bytes received are no TLS record.
    #[error("{}", explain(error))]
    Plaintext {
        /// The first bytes that the server sent, some of them.
        said: Box<[u8]>,
        error: Box<rustls::Error>,
    },
    /// The connection ended in the middle.
    #[error("the server closed the connection during the TLS handshake; it may speak no TLS on this port")]
    Closed,
    /// [`Self::Closed`] where TLS began with the first byte, in a protocol that has an upgrade.
    #[error(
        "the server closed the connection at the TLS hello; it may not take one without the protocol's own upgrade: \
         leave `start: direct` out of the cluster's `tls` (PostgreSQL takes it since version 17)"
    )]
    ClosedDirect,
    /// [`Self::Closed`] where the server had asked for a certificate and got none.
    #[error("{UNCERTIFIED}")]
    Uncertified,
    /// The server ended a handshake that offered to resume a session; a full one may succeed.
    #[error(
        "the server ended a handshake that offered to resume a session (it is offered none for {rest:?}): {error}"
    )]
    ResumptionRefused {
        /// For how long no session is offered.
        rest: Duration,
        error: Box<Self>,
    },
    /// Our identity has no certificate yet.
    #[error(transparent)]
    Absent(#[from] NoCertificate),
    /// The handshake is not packed as the protocol requires.
    #[error(transparent)]
    Wrapping(#[from] WrappingError),
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(io::Error),
}

impl Originator {
    /// Reads the roots and prepares what every handshake of the cluster shares.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn new(settings: &Settings, files: &CredentialFiles) -> Result<Self, SetupError> {
        let provider = Arc::clone(provider());
        // AWS-LC gathers entropy for its first random bytes, some 30 ms of work; the first handshake would stall all
        // sessions of its worker for that long.
        let _ = provider.secure_random.fill(&mut [0]);
        let originator = Self(Arc::new(Shared {
            trust: Trust::load(settings.terms.clone(), &provider, files)?,
            provider,
            identities: settings.identities.clone(),
            alpn: settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            server_name: settings.server_name.clone(),
            min_version: settings.min_version,
            start: settings.start,
            verifies: settings.terms.is_some(),
        }));
        settings.min_version.check(&originator.0.provider).map_err(SetupError::Versions)?;
        Ok(originator)
    }

    /// With a ticket store of its own.
    #[must_use]
    pub fn for_endpoint(&self) -> EndpointOriginator {
        EndpointOriginator::new(self.clone())
    }

    /// For an observer that must not keep it in use.
    #[must_use]
    pub fn downgrade(&self) -> WeakOriginator {
        WeakOriginator(Arc::downgrade(&self.0))
    }

    /// The same trust and identity, for HTTPS.
    #[must_use]
    pub fn for_http(&self) -> EndpointOriginator {
        EndpointOriginator::http(self.clone())
    }

    /// The cluster's own server name, where the file gives one.
    #[must_use]
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.0.server_name.as_ref()
    }

    #[must_use]
    pub fn start(&self) -> TlsStart {
        self.0.start
    }

    /// Whether the server's certificate is checked.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.0.verifies
    }

    /// Our certificates and keys.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.0.identities
    }

    /// The CAs or pins that it trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }
}

/// What rustls computes with; the same for all.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let cipher_suites = CIPHER_SUITES.to_vec();
        Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
    });
    &PROVIDER
}

/// All suites of rustls, in the order of what we offer: AES-128 before AES-256, as browsers, Go and Envoy have it. Fourteen rounds a
/// block instead of ten, and SHA-384 instead of SHA-256 in each handshake, protect from no attack that is known or in sight; AES-128-GCM
/// is the suite that every implementation has (RFC 8446 §9.1). A server that prefers another one still gets it.
static CIPHER_SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

impl WeakOriginator {
    /// The originator, if it is still in use.
    #[must_use]
    pub fn upgrade(&self) -> Option<Originator> {
        self.0.upgrade().map(Originator)
    }
}

impl Shared {
    /// rustls' configuration for handshakes with these credentials, with a ticket store of its own. A wrapped handshake
    /// ends with the server's Finished, and no handshake record may follow it: so no TLS 1.3, whose tickets do, and no
    /// resumption, where the client's Finished would come last (microsoft/mssql-jdbc#1524).
    fn client_config(
        &self,
        pair: Option<&CertifiedPair>,
        trusted: &Trusted,
        tickets: Arc<Tickets>,
        is_wrapped: bool,
    ) -> Result<ClientConfig, rustls::Error> {
        let versions = if is_wrapped { TLS12_ONLY } else { self.min_version.versions() };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trusted.verifier));
        let mut config = match pair {
            None => builder.with_client_cert_resolver(Arc::new(Uncertified)),
            Some(pair) => builder.with_client_cert_resolver(pair.resolver()),
        };
        if is_wrapped {
            config.resumption = Resumption::disabled();
        } else {
            config.alpn_protocols.clone_from(&self.alpn);
            config.resumption = Resumption::store(tickets as Arc<dyn ClientSessionStore>);
        }
        Ok(config)
    }
}

static TLS12_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static TLS13_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => TLS13_ONLY,
        }
    }

    /// Whether the provider supports the versions; a configuration is made of them at the first handshake.
    fn check(self, provider: &Arc<CryptoProvider>) -> Result<(), rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
        builder.with_protocol_versions(self.versions()).map(drop)
    }
}

/// Shown when a server asks for a certificate, gets none, and closes the connection without an alert.
pub(crate) const UNCERTIFIED: &str = "the server asked for a client certificate, got none, and ended the connection without a word: \
                               give the cluster one (tls.identity, or tls.cert and tls.key)";

/// The TLS error inside an I/O error of an established stream: an alert that came late, as TLS 1.3 does when
/// the server rejects our certificate after our side of the handshake is done (RFC 8446 §4.4.2.4).
#[must_use]
pub(crate) fn late_rejection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(explain(error))
}

/// [`late_rejection`], only where the server rejects our certificate or its absence.
#[must_use]
pub(crate) fn late_objection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    HandshakeError::Tls(error.clone()).is_about_us().then(|| explain(error))
}

/// The TLS error that ended an established session, in words; `None` where the error is not of TLS.
#[must_use]
#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
pub(crate) fn failed_in_session(error: &io::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, Error};
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let words = match error {
        // OpenSSL's response to our no_renegotiation (RFC 5246 §7.2.2).
        Error::AlertReceived(Alert::HandshakeFailure | Alert::NoRenegotiation) => {
            "the server ended TLS in the middle of the session; it may have asked for a renegotiation, which we do not do"
        }
        Error::AlertReceived(_) => "the server ended TLS in the middle of the session",
        _ => "TLS broke in the middle of the session by what the server sent",
    };
    Some(format!("{words} ({error})"))
}

/// Whether the server ended TLS by an alert.
#[must_use]
pub(crate) fn is_alert(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::AlertReceived(_)))
}

impl HandshakeError {
    /// To be called right after rustls returned the error, on the same thread: there the verifier left its reason.
    fn of(error: rustls::Error) -> Self {
        let words = refusal::take();
        match (&error, words) {
            (
                rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_),
                Some(words),
            ) => Self::Certificate(words),
            _ => Self::Tls(error),
        }
    }

    /// Whether the server may have ended the handshake because of the session that it was offered.
    const fn may_refuse_resumption(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::AlertReceived(_)) | Self::Closed | Self::Io(_))
    }

    /// Whether the server rejects our certificate, or our having none.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
    pub const fn is_about_us(&self) -> bool {
        use rustls::{AlertDescription as Alert, Error};
        match self {
            Self::Tls(Error::AlertReceived(alert)) => matches!(
                alert,
                Alert::CertificateRequired
                    | Alert::AccessDenied
                    | Alert::UnknownCA
                    | Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateUnknown
                    | Alert::CertificateExpired
                    | Alert::CertificateRevoked
                    | Alert::DecryptError
            ),
            Self::Uncertified => true,
            _ => false,
        }
    }
}

/// rustls' own message, with advice on the usual errors.
#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
fn explain(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, Error};
    let hint = match error {
        Error::AlertReceived(Alert::CertificateRequired) => "the server demands a client certificate",
        // decrypt_error: the server knows the CA by name, but with another key, as after the CA was made anew.
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
