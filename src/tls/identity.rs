//! Our own certificate and key under a name: read, checked against each other, given to handshakes, and replaced while
//! in use.
//!
//! Keys in PKCS#8, PKCS#1 and SEC1 are read; an encrypted one is refused, because a daemon cannot ask for its
//! passphrase. When to read the files again is not decided here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use ::aws_lc_rs::digest::{Context, SHA256};
use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::pem_file::{ExpectedContent, explain_mismatch};
use super::refusal::describe;
use super::shared_content::SharedContent;
use super::signed::PublicKey;
use crate::digest::Digester;
use crate::name::IdentityName;

/// Where a certificate chain and its key come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    Files {
        /// PEM, leaf first.
        cert: PathBuf,
        /// PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
        key: PathBuf,
    },
    /// A SPIFFE Workload API at that unix socket, which also provides the CAs.
    Spiffe(PathBuf),
}

/// A certificate chain and its key as an agent sends them, all in DER.
pub struct Issued {
    /// The leaf comes first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Zeroizing<PrivateKeyDer<'static>>,
    /// The CAs of its trust domain and of those federated with it.
    pub bundles: Bundles,
}

/// The CAs of trust domains; those of a domain count for its names only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    /// The trust domain of the certificate.
    pub own: String,
    /// By trust domain; all but our own are federated ones.
    pub all: BTreeMap<String, Vec<CertificateDer<'static>>>,
}

/// Which of the two files is at fault, and why.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate's file is at fault.
    #[error("{0}")]
    Cert(String),
    /// The key's file is at fault.
    #[error("{0}")]
    Key(String),
    /// Both are valid, but do not belong together.
    #[error("the private key does not belong to the certificate{0}")]
    Mismatch(String),
}

/// There is no certificate yet; a handshake without it would be anonymous.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identity {name} has no certificate yet: the SPIFFE agent at {} has not given one", agent.display())]
pub struct NoCertificate {
    name: IdentityName,
    agent: PathBuf,
}

/// Identifies one content of a credential among all that this process has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(NonZeroU32);

/// A usable certificate and key under a name; always returns the current pair.
pub struct Identity {
    name: IdentityName,
    source: IdentitySource,
    /// `None` until an agent has sent one.
    current: ArcSwapOption<CertifiedPair>,
}

pub(super) struct CertifiedPair {
    certified: Arc<SingleCertAndKey>,
    /// The certificates alone suffice for comparison: the same certificate has the same key.
    chain: Vec<CertificateDer<'static>>,
    /// The CAs that an agent sent; empty where the source is files.
    bundles: Bundles,
    not_after: SystemTime,
    generation: Generation,
}

impl Generation {
    /// A number not used before.
    pub(super) fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // It wraps after 2^32 contents.
        Self(NonZeroU32::new(next).unwrap_or(NonZeroU32::MIN))
    }

    /// The same for the same certificates: sessions made before a reload are not outdated by reading them again. Two
    /// different contents share a number with a probability of 1 in 2^32.
    fn of(chain: &[CertificateDer<'static>]) -> Self {
        let mut digest = Context::new(&SHA256);
        chain.iter().for_each(|certificate| digest.update(certificate));
        let digest = digest.finish();
        let number = digest.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        Self(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
    }

    /// As a plain number, never 0.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl Identity {
    /// Reads and checks both files. An agent's certificate comes later, through [`Identity::install`].
    ///
    /// # Errors
    /// Which file, and why; see [`IdentityError`].
    pub fn load(name: IdentityName, source: IdentitySource) -> Result<Self, IdentityError> {
        let current = match &source {
            IdentitySource::Files { cert, key } => Some(CertifiedPair::read(cert, key)?),
            IdentitySource::Spiffe(_) => None,
        };
        Ok(Self { name, source, current: ArcSwapOption::new(current) })
    }

    /// The name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &IdentityName {
        &self.name
    }

    /// Where it comes from.
    #[must_use]
    pub const fn source(&self) -> &IdentitySource {
        &self.source
    }

    /// The files, or the socket, that it comes from.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        match &self.source {
            IdentitySource::Files { cert, key } => vec![cert.clone(), key.clone()],
            IdentitySource::Spiffe(agent) => vec![agent.clone()],
        }
    }

    /// Reads both files again, for handshakes that begin from now on. `false` when the content is the same, and always
    /// for an identity of an agent.
    ///
    /// # Errors
    /// As [`Identity::load`]; the previous content stays in use.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        match &self.source {
            IdentitySource::Files { cert, key } => {
                let before = self.pair();
                Ok(self.replace(&before, CertifiedPair::read(cert, key)?))
            }
            IdentitySource::Spiffe(_) => Ok(false),
        }
    }

    /// Takes what an agent has sent. Returns whether the certificate or the CAs are new.
    ///
    /// # Errors
    /// As [`Identity::load`]; the previous content stays in use.
    pub fn install(&self, issued: Issued) -> Result<bool, IdentityError> {
        let Issued { chain, key, bundles } = issued;
        let before = self.pair();
        Ok(self.replace(&before, Arc::new(CertifiedPair { bundles, ..CertifiedPair::new(chain, &key)? })))
    }

    /// `before`: the content when the reading began. If another reading has replaced it since, this one is outdated: it hung, and
    /// was given up.
    fn replace(&self, before: &Option<Arc<CertifiedPair>>, pair: Arc<CertifiedPair>) -> bool {
        if before.as_ref().is_some_and(|old| old.chain == pair.chain && old.bundles == pair.bundles) {
            return false;
        }
        let found = self.current.compare_and_swap(before, Some(pair));
        found.as_ref().map(Arc::as_ptr) == before.as_ref().map(Arc::as_ptr)
    }

    /// When the current certificate expires, if there is one.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.pair().map(|pair| pair.not_after)
    }

    /// The number of its current content, if any.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.pair().map(|pair| pair.generation)
    }

    /// A warning where users other than the key's owner and group may access the key.
    #[must_use]
    pub fn exposure(&self) -> Option<String> {
        const OTHERS: u32 = 0o007;
        let IdentitySource::Files { key, .. } = &self.source else { return None };
        let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o777;
        let words = "everybody on this host may read the key: chmod 0600, or 0640 with a group of its own";
        (mode & OTHERS != 0).then(|| format!("{} has mode {mode:04o}; {words}", key.display()))
    }

    pub(super) fn current(&self) -> Result<Arc<CertifiedPair>, NoCertificate> {
        self.pair().ok_or_else(|| NoCertificate {
            name: self.name.clone(),
            agent: self.paths().into_iter().next().unwrap_or_default(),
        })
    }

    /// The CAs that its agent sent; none before the first response.
    pub(super) fn bundles(&self) -> Bundles {
        self.pair().map(|pair| pair.bundles.clone()).unwrap_or_default()
    }

    fn pair(&self) -> Option<Arc<CertifiedPair>> {
        self.current.load_full()
    }
}

impl CertifiedPair {
    fn read(cert: &Path, key: &Path) -> Result<Arc<Self>, IdentityError> {
        static SHARED: SharedContent<CertifiedPair> = SharedContent::new();
        let chain_text = text(cert).map_err(IdentityError::Cert)?;
        let key_text = secret_text(key);
        let mut content = Digester::default();
        content.add(&chain_text);
        content.add(key_text.as_ref().map(|text| text.as_slice()).unwrap_or_default());
        SHARED.of(content.digest(), || {
            let chain = certificates_of(cert, &chain_text).map_err(IdentityError::Cert)?;
            // An invalid certificate is reported before the key is.
            not_after(&chain[0]).map_err(IdentityError::Cert)?;
            let key_text = key_text.as_ref().map_err(|reason| IdentityError::Key(reason.clone()))?;
            let key = private_key_of(key, key_text).map_err(IdentityError::Key)?;
            Self::new(chain, &key)
        })
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or_else(|| IdentityError::Cert("there is no certificate".into()))?;
        let not_after = not_after(leaf).map_err(IdentityError::Cert)?;
        let key = aws_lc_rs::sign::any_supported_type(key)
            .map_err(|error| IdentityError::Key(format!("the private key cannot be used: {error}")))?;
        // Not with rustls, which reads no certificate of X.509 version 1. Whether servers accept ours is not checked
        // here.
        let public = key.public_key();
        let belongs = |certificate: &CertificateDer<'_>| {
            let public = public.as_ref().map(AsRef::as_ref);
            PublicKey::of(certificate).is_ok_and(|certified| Some(certified.info) == public)
        };
        if !belongs(leaf) {
            let why = match chain.iter().position(belongs) {
                Some(at) => format!(
                    ": it belongs to number {} of its file, which has to be the first, and the CAs behind it",
                    at + 1
                ),
                None => format!(" ({})", describe(leaf)),
            };
            return Err(IdentityError::Mismatch(why));
        }
        let certified = CertifiedKey::new(chain.clone(), key);
        let certified = Arc::new(SingleCertAndKey::from(certified));
        let generation = Generation::of(&chain);
        Ok(Self { certified, chain, bundles: Bundles::default(), not_after, generation })
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::clone(&self.certified) as Arc<dyn ResolvesClientCert>
    }
}

impl fmt::Debug for Identity {
    /// The key is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

/// Every certificate of a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_of(path, &text(path)?)
}

/// [`certificates`] of a file that was read.
pub(super) fn certificates_of(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let other = || explain_mismatch(path, text, ExpectedContent::Certificate);
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| other().unwrap_or_else(|| unreadable(path, &error)))?;
    if certificates.is_empty() {
        return Err(other().unwrap_or_else(|| format!("{} holds no PEM certificate", path.display())));
    }
    Ok(certificates)
}

/// Reads a file that is not secret, of at most 64 MiB.
///
/// # Errors
/// In words.
pub(super) fn text(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    const LARGEST: u64 = 64 * 1024 * 1024;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| {
        // The file may have a key as well, so the buffer must not be reallocated, unless the file grows meanwhile.
        let size = file.metadata().map_or(0, |metadata| metadata.len()).min(LARGEST);
        bytes.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
        file.take(LARGEST + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LARGEST) => Ok(bytes),
        Ok(_) => Err(format!("{} is larger than 64 MiB", path.display())),
        Err(error) => Err(unreadable(path, &pem::Error::Io(error))),
    }
}

/// The file's text and the key are overwritten when they are dropped; the library has a copy of its own.
pub(crate) fn private_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    private_key_of(path, &secret_text(path)?)
}

fn secret_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret(path).map_err(|error| unreadable(path, &pem::Error::Io(error)))
}

fn private_key_of(path: &Path, text: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(error) => Err(explain_mismatch(path, text, ExpectedContent::Key).unwrap_or_else(|| {
            if matches!(error, pem::Error::NoItemsFound) {
                format!("{} holds no PEM private key (PKCS#8, PKCS#1 or SEC1)", path.display())
            } else {
                unreadable(path, &error)
            }
        })),
    }
}

/// Reads a file into memory that is never reallocated, because that would leave a copy behind.
///
/// # Errors
/// The file system's, or `EFBIG` for one of 256 KiB or more.
pub(crate) fn secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    /// Larger than any key file.
    const LARGEST: usize = 256 * 1024;
    let file = File::open(path)?;
    // All of it is overwritten in the end, so it is about as large as the file; a pipe has no size.
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(LARGEST);
    // Into less than 32 free bytes the library reads by way of a buffer on the stack, which nobody overwrites.
    let capacity = if size == 0 { LARGEST } else { LARGEST.min((size + 1).max(64)) };
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let most = u64::try_from(capacity).unwrap_or(u64::MAX);
    // Reads to the end of the file but not beyond the capacity, which would make the vector grow.
    file.take(most).read_to_end(&mut bytes)?;
    if bytes.len() == LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 256 KiB"));
    }
    if bytes.len() == capacity {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "grew while it was read"));
    }
    Ok(bytes)
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

/// A time before 1970 becomes 1970: it expired long ago.
pub(super) fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(cert: &Path, key: &Path) {
        let made = rcgen::generate_simple_self_signed(["client.test".to_owned()]).unwrap();
        std::fs::write(cert, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
    }

    /// A secret of up to 30 bytes was read by way of the stack, where a copy stayed.
    #[test]
    fn a_short_secret_is_read_into_memory_with_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for length in [1, 30, 31, 63, 64, 1000] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            let read = secret(&path).unwrap();
            assert_eq!(read.len(), length);
            assert_eq!(read.capacity(), (length + 1).max(64));
        }
    }

    /// The file system hung, the reading was given up because the files had changed, and a new one brought the new content. Then the
    /// first came back, and what it had read went in its place until the next look.
    #[test]
    fn a_reading_that_another_has_overtaken_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write(&cert, &key);
        let source = IdentitySource::Files { cert: cert.clone(), key: key.clone() };
        let identity = Identity::load(IdentityName::from("app"), source).unwrap();
        let before = identity.pair();
        write(&cert, &key);
        let overtaken = CertifiedPair::read(&cert, &key).unwrap();
        write(&cert, &key);
        assert!(identity.refresh().unwrap());
        let current = identity.generation();
        assert!(!identity.replace(&before, overtaken), "it began before");
        assert_eq!(identity.generation(), current);
        assert!(!identity.refresh().unwrap(), "what is in the files is what is in use");
    }
}
