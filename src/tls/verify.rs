//! Who may have signed a server's certificate, and the verifier that asks; read again while in use.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::identity::{Stamp, certificates, not_after};

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

/// Whom a cluster trusts. Whoever holds it has the current verifier at any time.
#[derive(Debug)]
pub struct Trust {
    roots: Option<Roots>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<Trusted>>,
}

/// A verifier, as its files were read.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) stamp: Stamp,
    /// What the files held.
    certificates: Vec<CertificateDer<'static>>,
    not_after: Option<SystemTime>,
}

impl Trust {
    /// Reads the roots. `None` trusts anyone.
    pub(super) fn load(roots: Option<Roots>, provider: &Arc<CryptoProvider>) -> Result<Self, RootsError> {
        let current = RwLock::new(Arc::new(Trusted::read(roots.as_ref(), provider)?));
        Ok(Self { roots, provider: Arc::clone(provider), current })
    }

    /// Reads the files again. Handshakes that begin from now on ask who is there now; `false` when that is who was there.
    ///
    /// # Errors
    /// See [`RootsError`]; who was there stays.
    pub fn refresh(&self) -> Result<bool, RootsError> {
        if self.files().next().is_none() {
            return Ok(false);
        }
        let trusted = Trusted::read(self.roots.as_ref(), &self.provider)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = current.certificates != trusted.certificates;
        if is_new {
            *current = Arc::new(trusted);
        }
        Ok(is_new)
    }

    /// The files it is made of.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().filter_map(Roots::file)
    }

    /// When the first of the file's CAs ends.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.current().not_after
    }

    pub(super) fn current(&self) -> Arc<Trusted> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Trusted {
    fn read(roots: Option<&Roots>, provider: &Arc<CryptoProvider>) -> Result<Self, RootsError> {
        let Some(roots) = roots else { return Ok(Self::anyone(provider)) };
        let (store, certificates) = roots.load()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .map_err(|error| RootsError::Verifier(error.to_string()))?;
        // One that cannot be read was no trust anchor either.
        let not_after = certificates.iter().filter_map(|certificate| not_after(certificate).ok()).min();
        Ok(Self { verifier, stamp: Stamp::next(), certificates, not_after })
    }

    fn anyone(provider: &Arc<CryptoProvider>) -> Self {
        let verifier = Arc::new(Anyone(Arc::clone(provider)));
        Self { verifier, stamp: Stamp::next(), certificates: Vec::new(), not_after: None }
    }
}

impl Roots {
    const fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::System | Self::WebPki => None,
        }
    }

    /// The anchors, and the certificates that a file had for them.
    fn load(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), RootsError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::WebPki => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Self::File(path) => {
                let certificates = certificates(path).map_err(RootsError::File)?;
                for certificate in &certificates {
                    store
                        .add(certificate.clone())
                        .map_err(|reason| RootsError::Anchor { path: path.display().to_string(), reason })?;
                }
                return Ok((store, certificates));
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
        Ok((store, Vec::new()))
    }
}

/// `insecure_skip_verify`: the server must hold the key of the certificate it shows, and that is all.
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
