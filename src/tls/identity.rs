//! Our own certificate and key: read, checked against each other, handed to handshakes.
//!
//! Keys in PKCS#8, PKCS#1 and SEC1 are read; an encrypted one is refused in words, because a daemon has
//! nobody to ask for its passphrase.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a certificate chain and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySource {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// Which of the two files is at fault, and why.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate's file.
    #[error("{0}")]
    Cert(String),
    /// The key's file.
    #[error("{0}")]
    Key(String),
    /// Each is fine, but they are not a pair.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

/// A usable certificate and key.
pub struct Identity {
    certified: Arc<SingleCertAndKey>,
    not_after: SystemTime,
}

impl Identity {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// Which file, and why; see [`IdentityError`].
    pub fn load(source: &IdentitySource) -> Result<Self, IdentityError> {
        let chain = certificates(&source.cert).map_err(IdentityError::Cert)?;
        let not_after = not_after(&chain[0]).map_err(IdentityError::Cert)?;
        let key = private_key(&source.key).map_err(IdentityError::Key)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| IdentityError::Key(format!("the private key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(IdentityError::Mismatch),
            Err(error) => {
                return Err(IdentityError::Cert(format!("the certificate cannot be used: {error}")));
            }
        }
        Ok(Self { certified: Arc::new(SingleCertAndKey::from(certified)), not_after })
    }

    /// When the certificate ends.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::clone(&self.certified) as Arc<dyn ResolvesClientCert>
    }
}

impl fmt::Debug for Identity {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Every certificate of a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable(path, &error))?;
    if certificates.is_empty() {
        return Err(format!("{} holds no PEM certificate", path.display()));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    match PrivateKeyDer::from_pem_file(path) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if mentions_encryption(path) => Err(format!(
            "{} is encrypted, and a daemon has nobody to ask for the passphrase; store it decrypted and readable \
             by this user only (openssl pkey -in KEY -out PLAIN)",
            path.display()
        )),
        Err(pem::Error::NoItemsFound) => {
            Err(format!("{} holds no PEM private key (PKCS#8, PKCS#1 or SEC1)", path.display()))
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn mentions_encryption(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains("ENCRYPTED"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
fn unreadable(path: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        error => format!("{} is not valid PEM: {error}", path.display()),
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate is not valid X.509: {error}"))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
