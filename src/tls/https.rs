//! TLS for our own HTTPS requests: full verification, no certificate of ours, no resumption beyond one request.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;

use super::{
    CredentialFiles, HandshakeError, Identities, MinVersion, Originator, PeerVerification, Roots, Settings,
    SetupError, TlsStart, Verify,
};

/// The version of HTTP that is spoken over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    /// For gRPC.
    Http2,
}

impl HttpVersion {
    /// Its name in ALPN (RFC 7301 §6, RFC 9113 §3.2).
    const fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// rustls' configuration for a request to a server that these CAs have certified. It reads the CAs, which may block.
///
/// # Errors
/// The CAs cannot be used.
pub(crate) fn https_config(
    roots: Roots,
    version: HttpVersion,
    files: &CredentialFiles,
) -> Result<Arc<ClientConfig>, SetupError> {
    let terms = PeerVerification {
        verify: Verify::Full,
        roots,
        crls: Vec::new(),
        extra_checks: super::ExtraChecks::default(),
    };
    let settings = Settings {
        terms: Some(terms),
        identities: Identities::default(),
        server_name: None,
        alpn: vec![version.alpn().into()],
        min_version: MinVersion::Tls12,
        start: TlsStart::Direct,
    };
    let originator = Originator::new(&settings, files)?;
    let shared = &originator.0;
    let config = shared.client_config(None, &shared.trust.current(), Arc::default(), false);
    config.map(Arc::new).map_err(SetupError::Versions)
}

/// Why an HTTPS handshake failed, in words; to be called on the thread that did it.
#[must_use]
pub(crate) fn https_failure(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(error) => HandshakeError::of(error.clone()).to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => HandshakeError::Closed.to_string(),
        None => error.to_string(),
    }
}
