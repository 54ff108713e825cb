//! Our own certificate and key under a name: read, checked against each other, handed to handshakes, and replaced while
//! in use.
//!
//! Keys in PKCS#8, PKCS#1 and SEC1 are read; an encrypted one is refused in words, because a daemon has
//! nobody to ask for its passphrase. When to look at the files again is not decided here.

use std::fmt;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::name::IdentityName;

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

/// Tells one content of a credential from every other that this process has had: each gets its own, ever higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(NonZeroU32);

/// An identity: a usable certificate and key under a name. Whoever holds it has the current pair at any time.
pub struct Identity {
    name: IdentityName,
    source: IdentitySource,
    current: RwLock<Arc<Pair>>,
}

/// A certificate with its key, as it was read.
pub(super) struct Pair {
    certified: Arc<SingleCertAndKey>,
    /// The certificates alone: their key cannot be another while they are the same.
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
    stamp: Stamp,
}

impl Stamp {
    /// One that nobody has had.
    pub(super) fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // Four thousand million contents later it begins anew.
        Self(NonZeroU32::new(next).unwrap_or(NonZeroU32::MIN))
    }

    /// As a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl Identity {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// Which file, and why; see [`IdentityError`].
    pub fn load(name: IdentityName, source: IdentitySource) -> Result<Self, IdentityError> {
        let current = RwLock::new(Arc::new(Pair::read(&source)?));
        Ok(Self { name, source, current })
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &IdentityName {
        &self.name
    }

    /// Its files.
    #[must_use]
    pub const fn source(&self) -> &IdentitySource {
        &self.source
    }

    /// Reads both files again. Handshakes that begin from now on have what is there; `false` when that is what there was.
    ///
    /// # Errors
    /// As [`Identity::load`]; what there was stays in use.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let pair = Pair::read(&self.source)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = current.chain != pair.chain;
        if is_new {
            *current = Arc::new(pair);
        }
        Ok(is_new)
    }

    /// When the current certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.current().not_after
    }

    /// Which content it has now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.current().stamp
    }

    /// Who else may read the key, in words, if more than its owner and group may.
    #[must_use]
    pub fn exposure(&self) -> Option<String> {
        const OTHERS: u32 = 0o007;
        let key = &self.source.key;
        let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o777;
        let words = "everybody on this host may read the key: chmod 0600, or 0640 with a group of its own";
        (mode & OTHERS != 0).then(|| format!("{} has mode {mode:04o}; {words}", key.display()))
    }

    pub(super) fn current(&self) -> Arc<Pair> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pair {
    fn read(source: &IdentitySource) -> Result<Self, IdentityError> {
        let chain = certificates(&source.cert).map_err(IdentityError::Cert)?;
        let not_after = not_after(&chain[0]).map_err(IdentityError::Cert)?;
        let key = private_key(&source.key).map_err(IdentityError::Key)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| IdentityError::Key(format!("the private key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(chain.clone(), key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(IdentityError::Mismatch),
            Err(error) => {
                return Err(IdentityError::Cert(format!("the certificate cannot be used: {error}")));
            }
        }
        let certified = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self { certified, chain, not_after, stamp: Stamp::next() })
    }

    pub(super) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::clone(&self.certified) as Arc<dyn ResolvesClientCert>
    }
}

impl fmt::Debug for Identity {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
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
pub(super) fn unreadable(path: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        error => format!("{} is not valid PEM: {error}", path.display()),
    }
}

pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate is not valid X.509: {error}"))?;
    Ok(moment(parsed.validity().not_after))
}

/// What is before 1970 has ended long ago.
pub(super) fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
