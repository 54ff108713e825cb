//! A cluster's trusted CAs and revocation lists, and the verifier made of them; read again while in use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::VerifierBuilderError;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::{Error, RootCertStore};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::chain::{Chain, ChainChecks, may_issue};
use super::credential_files::{CredentialFiles, FileText, unreadable};
use super::extra_checks::ExtraChecks;
use super::federation::{Federation, trust_domain};
use super::identity::{Bundles, Generation, Identity, certificates_of, moment, not_after};
use super::pem_file::{ExpectedContent, explain_mismatch};
use super::pinned::Pinned;
use super::shared_content::SharedContent;
use super::signed::parsed;
use super::verifier::{AcceptAny, Judge, RejectAll, Verifier};
use crate::clock;
use crate::digest::{Digest, Digester};
use crate::sync::Mutex;

/// Where the trusted CAs come from.
#[derive(Debug, Clone)]
pub enum Roots {
    File(PathBuf),
    /// The host's own trust store (or `SSL_CERT_FILE`, `SSL_CERT_DIR`).
    System,
    /// Mozilla's CAs, compiled in (webpki-roots).
    WebPki,
    /// The CAs of the identity's trust domain and of the domains federated with it, from its agent.
    Bundle(Arc<Identity>),
    /// None: only the pins of [`Verify::Pin`] count.
    Nobody,
}

/// How much of a server's certificate is verified, in libpq's terms (`sslmode`) and one more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Chain, dates, purpose and name, as `verify-full`.
    #[default]
    Full,
    /// All but the name, as `verify-ca`.
    Ca,
    /// That it is one of the file's certificates or has one of the pinned keys, and nothing else: not even its dates,
    /// as for a DANE-EE record (RFC 7671 §5.1).
    Pin,
}

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("{0}")]
    Crl(String),
}

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be used.
    #[error("{0}")]
    File(String),
    /// A certificate of the file cannot be a trust anchor.
    #[error("{path} holds a certificate that cannot be a trust anchor: {reason}")]
    Anchor { path: String, reason: Error },
    /// The host's trust store has no usable CA.
    #[error("the system's trust store has no usable CA{0}")]
    System(String),
    /// The verifier refused them.
    #[error("the CAs cannot be used: {0}")]
    Verifier(String),
}

/// The CAs or pins that a cluster trusts; always returns the current verifier.
#[derive(Debug)]
pub struct Trust {
    terms: Option<PeerVerification>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Trusted>,
}

/// What a server's certificate has to fulfil.
#[derive(Debug, Clone)]
pub struct PeerVerification {
    /// How much of the certificate is verified.
    pub verify: Verify,
    /// The CAs; for [`Verify::Pin`], the certificates themselves.
    pub roots: Roots,
    /// PEM files of revocation lists. When empty, revocation is not checked; else there must be a list of each CA of
    /// the chain, and none that has expired.
    pub crls: Vec<PathBuf>,
    /// Pins and URIs, in addition to the name or instead of it.
    pub extra_checks: ExtraChecks,
}

/// A verifier and the content of its files.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    /// The first as long as no revocation list has expired, and another from the expiry of each on, in the order of
    /// `lists_end`.
    generations: Vec<Generation>,
    lists_end: Vec<SystemTime>,
    /// Whether a certificate that has expired is refused.
    pub(super) reads_dates: bool,
    /// The content of the files.
    held: (Vec<CertificateDer<'static>>, Vec<CertificateRevocationListDer<'static>>),
    ends: Vec<(CredentialRole, SystemTime)>,
}

/// What kind of credential expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialRole {
    /// The certificate that we show.
    Client,
    /// A CA of the file.
    Ca,
    Crl,
}

impl CredentialRole {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Ca => "ca",
            Self::Crl => "crl",
        }
    }
}

impl Trust {
    /// Reads the files. Without terms any certificate is accepted.
    pub(super) fn load(
        terms: Option<PeerVerification>,
        provider: &Arc<CryptoProvider>,
        files: &CredentialFiles,
    ) -> Result<Self, TrustError> {
        let current = ArcSwap::new(Trusted::read(terms.as_ref(), provider, files)?);
        Ok(Self { terms, provider: Arc::clone(provider), current })
    }

    /// Reads the files again, for handshakes that begin from now on. `false` when the content is the same.
    ///
    /// # Errors
    /// See [`TrustError`]; the previous content stays in use.
    pub fn refresh(&self, files: &CredentialFiles) -> Result<bool, TrustError> {
        let never_changes = |terms: &PeerVerification| {
            terms.crls.is_empty() && matches!(terms.roots, Roots::System | Roots::WebPki | Roots::Nobody)
        };
        if self.terms.as_ref().is_none_or(never_changes) {
            return Ok(false);
        }
        let before = self.current();
        let trusted = Trusted::read(self.terms.as_ref(), &self.provider, files)?;
        if Arc::ptr_eq(&before, &trusted) || before.held == trusted.held {
            return Ok(false);
        }
        // If another reading has replaced the content since, this one is outdated: it hung, and was given up.
        let found = self.current.compare_and_swap(&before, trusted);
        Ok(Arc::ptr_eq(&found, &before))
    }

    /// The files it is made of.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.terms.iter().flat_map(|terms| terms.roots.file().into_iter().chain(&terms.crls))
    }

    /// When the first of the file's CAs expires, and the first of the revocation lists.
    #[must_use]
    pub fn ends(&self) -> Vec<(CredentialRole, SystemTime)> {
        self.current().ends.clone()
    }

    pub(super) fn current(&self) -> Arc<Trusted> {
        self.current.load_full()
    }
}

impl Trusted {
    /// Reads the files. Clusters that demand the same of the same content share it.
    fn read(
        terms: Option<&PeerVerification>,
        provider: &Arc<CryptoProvider>,
        files: &CredentialFiles,
    ) -> Result<Arc<Self>, TrustError> {
        static SHARED: SharedContent<Trusted> = SharedContent::new();
        let Some(terms) = terms else {
            return Ok(Arc::new(Self::without_roots(Arc::new(AcceptAny), provider)));
        };
        let files = TrustFiles::read(terms, files)?;
        match files.content(terms) {
            Some(content) => SHARED.of(content, || Self::of(terms, &files, provider)),
            None => Self::of(terms, &files, provider).map(Arc::new),
        }
    }

    fn of(
        terms: &PeerVerification,
        files: &TrustFiles,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TrustError> {
        let PeerVerification { verify, roots, crls, extra_checks } = terms;
        let mut lists = Vec::new();
        let mut lists_end = Vec::new();
        for (path, text) in crls.iter().zip(&files.crls) {
            let (more, until) = revocation_lists_of(path, text.bytes()).map_err(TrustError::Crl)?;
            lists.extend(more);
            lists_end.extend(until);
        }
        lists_end.sort_unstable();
        let over = |store: RootCertStore, named: &[CertificateDer<'static>]| {
            let (name_counts, extra_checks) = (*verify == Verify::Full, extra_checks.clone());
            let terms = ChainChecks { name_counts, extra_checks, lists: lists.clone() };
            let chain = Chain::new(store, named.to_vec(), terms, provider).map_err(unbuildable)?;
            Ok::<_, TrustError>(Arc::new(chain) as Arc<dyn Judge>)
        };
        let (judge, certificates): (Arc<dyn Judge>, _) = if *verify == Verify::Pin {
            let named = files.named(roots)?;
            (Arc::new(Pinned::new(named.clone(), extra_checks.pins.clone())), named)
        } else if let Roots::Bundle(identity) = roots {
            let bundles = trusted_bundles(&identity.bundles(), extra_checks);
            let mut all = BTreeMap::new();
            for (domain, certificates) in &bundles.all {
                let mut store = RootCertStore::empty();
                store.add_parsable_certificates(certificates.iter().cloned());
                if !store.is_empty() {
                    all.insert(domain.clone(), over(store, &[])?);
                }
            }
            let Some(own) = all.get(&bundles.own).map(Arc::clone) else {
                return Ok(Self::without_roots(Arc::new(RejectAll), provider));
            };
            (Arc::new(Federation { own, all }), bundles.all.into_values().flatten().collect())
        } else {
            let (store, certificates) = files.load(roots)?;
            (over(store, &certificates)?, certificates)
        };
        // A certificate that cannot be read was no trust anchor either.
        let first_end = certificates.iter().filter_map(|certificate| not_after(certificate).ok()).min();
        let ends = [(CredentialRole::Ca, first_end), (CredentialRole::Crl, lists_end.first().copied())];
        Ok(Self {
            verifier: Arc::new(Verifier::new(judge, provider)),
            generations: (0..=lists_end.len()).map(|_| Generation::next()).collect(),
            lists_end,
            reads_dates: *verify != Verify::Pin,
            held: (certificates, lists),
            ends: ends.into_iter().filter_map(|(role, end)| Some((role, end?))).collect(),
        })
    }

    /// A verifier that reads no certificate.
    fn without_roots(judge: Arc<dyn Judge>, provider: &CryptoProvider) -> Self {
        Self {
            verifier: Arc::new(Verifier::new(judge, provider)),
            generations: vec![Generation::next()],
            lists_end: Vec::new(),
            reads_dates: false,
            held: (Vec::new(), Vec::new()),
            ends: Vec::new(),
        }
    }

    /// The generation at that time: when a list expires, servers are verified differently, so what was made before is
    /// as outdated as by a new list. Above all tickets, because a resumed session verifies nothing.
    pub(super) fn generation(&self, wall: SystemTime) -> Generation {
        self.generations[self.lists_end.partition_point(|end| *end <= wall)]
    }
}

/// The bundles of our own trust domain and of those that `extra_checks` names; no other is trusted.
fn trusted_bundles(bundles: &Bundles, extra_checks: &ExtraChecks) -> Bundles {
    let is_named = |domain: &str| extra_checks.uris.iter().any(|uri| trust_domain(uri) == Some(domain));
    let all = bundles.all.iter().filter(|(domain, _)| **domain == bundles.own || is_named(domain));
    Bundles {
        own: bundles.own.clone(),
        all: all.map(|(domain, certificates)| (domain.clone(), certificates.clone())).collect(),
    }
}

fn unbuildable(error: VerifierBuilderError) -> TrustError {
    if let VerifierBuilderError::InvalidCrl(reason) = error {
        return TrustError::Crl(format!("a revocation list cannot be used: {reason:?}"));
    }
    RootsError::Verifier(error.to_string()).into()
}

/// Revocation lists, and when they expire.
type RevocationLists = (Vec<CertificateRevocationListDer<'static>>, Vec<SystemTime>);

/// The revocation lists of a PEM file, at least one, and when they expire.
///
/// # Errors
/// In words.
pub(crate) fn revocation_lists(path: &Path, files: &CredentialFiles) -> Result<RevocationLists, String> {
    revocation_lists_of(path, files.text(path)?.bytes())
}

fn revocation_lists_of(path: &Path, text: &[u8]) -> Result<RevocationLists, String> {
    let read = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let other = || explain_mismatch(path, text, ExpectedContent::RevocationList);
    let lists: Vec<_> = Result::map_err(read, |error| other().unwrap_or_else(|| unreadable(path, &error)))?;
    let mut ends = Vec::new();
    for list in &lists {
        let (_, parsed) = CertificateRevocationList::from_der(list)
            .map_err(|error| format!("{} is no revocation list: {error}", path.display()))?;
        ends.extend(parsed.next_update().map(moment));
    }
    if lists.is_empty() {
        let none = || format!("{} holds no PEM revocation list (X509 CRL)", path.display());
        return Err(other().unwrap_or_else(none));
    }
    Ok((lists, ends))
}

impl Roots {
    const fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::System | Self::WebPki | Self::Bundle(_) | Self::Nobody => None,
        }
    }
}

/// The files that trust is made of, as they were read.
struct TrustFiles {
    /// `None`: the CAs are not of a file.
    roots: Option<Rc<FileText>>,
    crls: Vec<Rc<FileText>>,
    /// Those of the host's trust store, where they are asked for.
    system: Option<Arc<SystemCertificates>>,
}

/// The host's trust store, and what of it could not be read.
struct SystemCertificates {
    certificates: Vec<CertificateDer<'static>>,
    digest: Digest,
    errors: String,
}

/// The host's trust store is some 150 files, so what many clusters ask for in a moment is read once.
const SYSTEM_FRESH: Duration = Duration::from_secs(1);

impl SystemCertificates {
    fn read() -> Arc<Self> {
        // Kept: nobody else holds it from one cluster to the next.
        static LAST: Mutex<Option<(Instant, Arc<SystemCertificates>)>> = Mutex::new(None);
        let mut last = LAST.lock();
        if let Some((at, known)) = &*last
            && clock::now() < *at + SYSTEM_FRESH
        {
            return Arc::clone(known);
        }
        let found = rustls_native_certs::load_native_certs();
        let errors = found.errors.iter().map(|error| format!("; {error}")).collect();
        let mut digester = Digester::default();
        found.certs.iter().for_each(|certificate| digester.add(certificate));
        let read = Arc::new(Self { certificates: found.certs, digest: digester.digest(), errors });
        // The second begins when it has been read, which may take as long.
        *last = Some((clock::now(), Arc::clone(&read)));
        read
    }
}

impl TrustFiles {
    fn read(terms: &PeerVerification, files: &CredentialFiles) -> Result<Self, TrustError> {
        let crls = terms.crls.iter().map(|path| files.text(path)).collect::<Result<_, _>>();
        let crls = crls.map_err(TrustError::Crl)?;
        let roots = terms.roots.file().map(|path| files.text(path)).transpose().map_err(RootsError::File)?;
        let system = matches!(terms.roots, Roots::System).then(SystemCertificates::read);
        Ok(Self { roots, crls, system })
    }

    /// The digest of everything that the verifier is made of. `None`: an agent's CAs, which come later.
    fn content(&self, terms: &PeerVerification) -> Option<Digest> {
        let mut content = Digester::default();
        let kind: &[u8] = match &terms.roots {
            Roots::File(_) => b"file",
            Roots::System => b"system",
            Roots::WebPki => b"webpki",
            Roots::Nobody => b"nobody",
            Roots::Bundle(_) => return None,
        };
        content.add(kind);
        content.add(format!("{:?} {:?}", terms.verify, terms.extra_checks).as_bytes());
        content.add(self.roots.as_ref().map(|text| text.digest().as_ref()).unwrap_or_default());
        self.system.iter().for_each(|system| content.add(system.digest.as_ref()));
        content.add(b"crls");
        self.crls.iter().for_each(|text| content.add(text.digest().as_ref()));
        Some(content.digest())
    }

    /// The certificates of the file, where there is one.
    fn named(&self, roots: &Roots) -> Result<Vec<CertificateDer<'static>>, RootsError> {
        let (Some(path), Some(text)) = (roots.file(), &self.roots) else { return Ok(Vec::new()) };
        certificates_of(path, text.bytes()).map_err(RootsError::File)
    }

    /// The trust anchors, and the certificates of the file that they come from.
    fn load(&self, roots: &Roots) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), RootsError> {
        let mut store = RootCertStore::empty();
        match roots {
            Roots::WebPki => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Roots::File(path) => {
                let certificates = self.named(roots)?;
                for certificate in &certificates {
                    store
                        .add(certificate.clone())
                        .map_err(|reason| RootsError::Anchor { path: path.display().to_string(), reason })?;
                    if parsed(certificate).is_ok_and(|read| !may_issue(&read)) {
                        // It counts as a server's own certificate only.
                        store.roots.pop();
                    }
                }
                return Ok((store, certificates));
            }
            // A bundle has a store for each trust domain, made by the caller.
            Roots::Bundle(_) | Roots::Nobody => {}
            Roots::System => {
                let found = self.system.iter().flat_map(|system| system.certificates.iter().cloned());
                // A trust store may have certificates that webpki cannot read; the others still count.
                let (usable, _) = store.add_parsable_certificates(found);
                if usable == 0 {
                    let why = self.system.as_ref().map(|system| system.errors.clone());
                    return Err(RootsError::System(why.unwrap_or_default()));
                }
            }
        }
        Ok((store, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was kept as long as one cluster was read, so that each cluster read the whole trust store.
    #[test]
    fn the_hosts_trust_store_is_read_once_for_many_clusters() {
        let is_read_once = || {
            // Nobody holds it but the cell.
            let first = Arc::downgrade(&SystemCertificates::read());
            let second = SystemCertificates::read();
            first.upgrade().is_some_and(|first| Arc::ptr_eq(&first, &second))
        };
        // The second may be over between the two, but not each time.
        assert!((0..10).any(|_| is_read_once()));
    }
}
