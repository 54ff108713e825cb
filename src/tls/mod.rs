//! TLS towards the upstream: what a cluster offers and demands, made ready once, and the handshake.
//!
//! Everything that can fail because of a file fails when the configuration is compiled; what is left for a
//! session is one handshake. Identities and trust may be replaced while in use; a handshake takes what is there when it
//! begins. Each endpoint has a ticket store of its own, because a ticket of one server is worthless at another of the
//! same name, and a new one for each content of its credentials. kTLS is not here (docs/DECISIONS.md).

mod chain;
mod constraints;
mod endpoint;
mod extra_checks;
mod federation;
mod identities;
mod identity;
mod key_usage;
mod pem_file;
mod pinned;
mod refusal;
mod signed;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tickets;
mod uncertified;
mod verifier;
mod verify;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::client::{ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, SupportedProtocolVersion};

pub(crate) use endpoint::{CredentialGenerations, EndpointOriginator, HandshakeInfo, HandshakeOptions};
pub(crate) use extra_checks::{ExtraChecks, Pin};
pub(crate) use identities::{Identities, IdentityChoice, NoIdentity};
pub(crate) use identity::{
    Bundles, Generation, Identity, IdentityError, IdentitySource, Issued, NoCertificate,
};
pub(crate) use key_usage::{KeyLimit, KeyLimitDue};
pub(crate) use stream::Stream;
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
    /// TLS 1.3 only.
    Tls13,
}

/// How TLS begins on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsStart {
    /// By the protocol's own dialogue, where it has one.
    Upgrade,
    /// As one of the two that the server takes: the other is tried where it ends the first.
    EitherWay,
    /// With the first byte.
    Direct,
}

/// What a cluster demands and offers. The files are read by [`Originator::new`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the server's certificate has to fulfil. `None`: any will do, and whoever sits between is not noticed.
    pub terms: Option<PeerVerification>,
    /// Our certificates and keys, where the server asks for one.
    pub identities: Identities,
    /// The name sent and verified for every endpoint without one of its own.
    pub server_name: Option<ServerName<'static>>,
    /// Offered in this order; none means that ALPN is not used.
    pub alpn: Vec<String>,
    /// The lowest version accepted.
    pub min_version: MinVersion,
    /// How TLS begins.
    pub start: TlsStart,
}

/// Why TLS could not be set up from its files.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Whom to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The provider does not support the versions.
    #[error("these TLS versions cannot be used: {0}")]
    Versions(rustls::Error),
}

/// Makes TLS connections for one cluster. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Originator(Arc<Shared>);

/// An originator as long as somebody else holds it.
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
    /// One side objected; rustls says which and to what.
    #[error("{}", explain(.0))]
    Tls(rustls::Error),
    /// The server's certificate is not what the cluster wants, in words.
    #[error("{0}")]
    Certificate(String),
    /// What came instead of TLS' first record is none.
    #[error("{}", explain(error))]
    Plaintext {
        /// The beginning of it.
        said: Box<[u8]>,
        error: Box<rustls::Error>,
    },
    /// The connection ended in the middle.
    #[error("the server closed the connection during the TLS handshake; it may speak no TLS on this port")]
    Closed,
    /// The same where TLS began with the first byte, of a protocol that has an upgrade.
    #[error(
        "the server closed the connection at the TLS hello; it may not take one without the protocol's own upgrade: \
         leave `start: direct` out of the cluster's `tls` (PostgreSQL takes it since version 17)"
    )]
    ClosedDirect,
    /// The same, where it had asked for a certificate and got none.
    #[error("{UNCERTIFIED}")]
    Uncertified,
    /// It ended a handshake that offered to resume a session, where a full one may succeed.
    #[error(
        "the server ended a handshake that offered to resume a session (it is offered none for {rest:?}): {error}"
    )]
    ResumptionRefused {
        /// For how long it is offered none.
        rest: Duration,
        error: Box<Self>,
    },
    /// We have nothing to show.
    #[error(transparent)]
    Absent(#[from] NoCertificate),
    /// The handshake did not come as the protocol carries it.
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
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // AWS-LC gathers entropy for its first random bytes, some 30 ms of work; the first handshake would stall all
        // sessions of its worker for that long.
        let _ = provider.secure_random.fill(&mut [0]);
        let originator = Self(Arc::new(Shared {
            trust: Trust::load(settings.terms.clone(), &provider)?,
            provider,
            identities: settings.identities.clone(),
            alpn: settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            server_name: settings.server_name.clone(),
            min_version: settings.min_version,
            start: settings.start,
            verifies: settings.terms.is_some(),
        }));
        originator
            .0
            .client_config(None, &originator.trust().current(), Arc::default(), false)
            .map_err(SetupError::Versions)?;
        Ok(originator)
    }

    /// For one endpoint: with tickets of its own.
    #[must_use]
    pub fn for_endpoint(&self) -> EndpointOriginator {
        EndpointOriginator::new(self.clone())
    }

    /// For somebody who is to know of it only while it is in use.
    #[must_use]
    pub fn downgrade(&self) -> WeakOriginator {
        WeakOriginator(Arc::downgrade(&self.0))
    }

    /// The same trust and the same identity for HTTPS.
    #[must_use]
    pub fn for_http(&self) -> EndpointOriginator {
        EndpointOriginator::http(self.clone())
    }

    /// The cluster's own server name, where the file gives one.
    #[must_use]
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.0.server_name.as_ref()
    }

    /// How TLS begins.
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

    /// Whom it trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }
}

impl WeakOriginator {
    /// The originator, if it is still in use.
    #[must_use]
    pub fn upgrade(&self) -> Option<Originator> {
        self.0.upgrade().map(Originator)
    }
}

impl Shared {
    /// What rustls needs for handshakes with these credentials, with a ticket store that is its own. One that is wrapped
    /// ends with the server's Finished, behind which nothing of TLS' own may come: no TLS 1.3, whose tickets do, and
    /// no resumption, by which the client would be last (microsoft/mssql-jdbc#1524).
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
}

/// What it means that a server asks for a certificate, gets none, and ends the connection without a word.
pub(crate) const UNCERTIFIED: &str = "the server asked for a client certificate, got none, and ended the connection without a word: \
                               give the cluster one (tls.identity, or tls.cert and tls.key)";

/// The TLS error inside an I/O error of an established stream: an alert that came late, as TLS 1.3 does when
/// the server rejects our certificate after our side of the handshake is done (RFC 8446 §4.4.2.4).
#[must_use]
pub(crate) fn late_rejection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(explain(error))
}

/// What [`late_rejection`] says, only where the server objects to who we are.
#[must_use]
pub(crate) fn late_objection(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    HandshakeError::Tls(error.clone()).is_about_us().then(|| explain(error))
}

/// What broke TLS in a session that was established, in words; `None` where it was not TLS.
#[must_use]
#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
pub(crate) fn failed_in_session(error: &io::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, Error};
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let words = match error {
        // What OpenSSL says to the no_renegotiation that it gets (RFC 5246 §7.2.2).
        Error::AlertReceived(Alert::HandshakeFailure | Alert::NoRenegotiation) => {
            "the server ended TLS in the middle of the session; it may have asked for a renegotiation, which we do not do"
        }
        Error::AlertReceived(_) => "the server ended TLS in the middle of the session",
        _ => "TLS broke in the middle of the session by what the server sent",
    };
    Some(format!("{words} ({error})"))
}

/// Whether a server ended TLS by an alert.
#[must_use]
pub(crate) fn is_alert(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::AlertReceived(_)))
}

impl HandshakeError {
    /// Asked right after rustls gave the error, on the same thread: that is where a verifier leaves its words.
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

    /// Whether the server may have ended the handshake because of what it offered.
    const fn may_refuse_resumption(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::AlertReceived(_)) | Self::Closed | Self::Io(_))
    }

    /// Whether the server objects to who we are: to our certificate, or to our having none.
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

/// rustls' own sentence, with what to do about the usual ones.
#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
fn explain(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, Error};
    let hint = match error {
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
