//! Who may have signed a server's certificate, and the verifier that asks.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::identity::certificates;

/// Where the trusted CAs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// A PEM file.
    File(PathBuf),
    /// The host's own trust store (or `SSL_CERT_FILE`, `SSL_CERT_DIR`).
    System,
    /// Mozilla's, compiled in.
    WebPki,
}

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be used.
    #[error("{0}")]
    File(String),
    /// A certificate of the file cannot be a trust anchor.
    #[error("{path} holds a certificate that cannot be a trust anchor: {reason}")]
    Anchor {
        /// The file.
        path: String,
        /// Why.
        reason: Error,
    },
    /// The host trusts nobody.
    #[error("the system's trust store has no usable CA{0}")]
    System(String),
    /// The verifier refused them.
    #[error("the CAs cannot be used: {0}")]
    Verifier(String),
}

impl Roots {
    fn load(&self) -> Result<RootCertStore, RootsError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::WebPki => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Self::File(path) => {
                for certificate in certificates(path).map_err(RootsError::File)? {
                    store
                        .add(certificate)
                        .map_err(|reason| RootsError::Anchor { path: path.display().to_string(), reason })?;
                }
            }
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                // A trust store may hold oddities that webpki does not read; the rest of it still counts.
                let (usable, _) = store.add_parsable_certificates(found.certs);
                if usable == 0 {
                    let why: Vec<_> = found.errors.iter().map(|error| format!("; {error}")).collect();
                    return Err(RootsError::System(why.concat()));
                }
            }
        }
        Ok(store)
    }
}

/// The ordinary verifier: chain, dates, name.
pub(super) fn signed_by(
    roots: &Roots,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RootsError> {
    let store = Arc::new(roots.load()?);
    let verifier = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider))
        .build()
        .map_err(|error| RootsError::Verifier(error.to_string()))?;
    Ok(verifier)
}

/// `insecure_skip_verify`: the server must hold the key of the certificate it shows, and that is all.
pub(super) fn anyone(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anyone(Arc::clone(provider)))
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
