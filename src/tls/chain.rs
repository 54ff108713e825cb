//! The verifier of a cluster that trusts CAs: webpki's verdict, and our own where webpki has none.
//!
//! webpki accepts no end-entity certificate that is itself a trust anchor, none of X.509 version 1, and no name
//! constraint on directory names. Each of these is verified here, by narrower rules and only where webpki refused; what
//! a revocation list revokes stays refused. Whether the name counts, and the extra checks, are decided here as well.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::prelude::{ASN1Time, X509Certificate};

use super::constraints::Permitted;
use super::extra_checks::{ExtraChecks, Unacceptable, unacceptable};
use super::refusal::{self, VerifiedCertificate};
use super::signed::{PublicKey, is_of_version_1, is_self_issued, parsed};
use super::verifier::{Judge, Presented};

/// Verifies that the server's certificate leads to a trusted CA.
#[derive(Debug)]
pub(super) struct Chain {
    /// All CAs without constraints on directory names together, and each of the others alone.
    cas: Vec<Cas>,
    /// The certificates of the file, any of which may be the server's own.
    named: Vec<CertificateDer<'static>>,
    terms: ChainChecks,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
pub(super) struct ChainChecks {
    /// Whether the certificate has to be for the server's name.
    pub(super) name_counts: bool,
    /// Further checks of the certificate.
    pub(super) extra_checks: ExtraChecks,
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
}

#[derive(Debug)]
struct Cas {
    webpki: Arc<WebPkiServerVerifier>,
    permitted: Option<Permitted>,
}

impl Chain {
    /// `named` are the certificates that the anchors come from, where they come from a file.
    pub(super) fn new(
        anchors: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        terms: ChainChecks,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let cas = |anchors: Vec<TrustAnchor<'static>>, permitted| {
            let store = Arc::new(RootCertStore { roots: anchors });
            let webpki = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider))
                .with_crls(terms.lists.iter().cloned())
                .enforce_revocation_expiration()
                .build()?;
            Ok::<_, VerifierBuilderError>(Cas { webpki, permitted })
        };
        let (mut limited, mut others) = (Vec::new(), Vec::new());
        for mut anchor in anchors.roots {
            match Permitted::take_from(&mut anchor) {
                Some(permitted) => limited.push(cas(vec![anchor], Some(permitted))?),
                None => others.push(anchor),
            }
        }
        // `others` is empty where the file has only servers' own certificates.
        if !others.is_empty() {
            limited.insert(0, cas(others, None)?);
        }
        Ok(Self { cas: limited, named, terms, algorithms: provider.signature_verification_algorithms })
    }

    fn verdict(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut refused: Option<Error> = None;
        for cas in &self.cas {
            match self.signed_by(cas, end_entity, intermediates, server_name, now) {
                Ok(()) => return self.terms.extra_checks.judge(end_entity),
                // Keep the first error that says more than that the CA is unrelated.
                Err(error) if refused.as_ref().is_none_or(is_unconcerned) => refused = Some(error),
                Err(_) => {}
            }
        }
        let refused = refused.unwrap_or_else(|| CertificateError::UnknownIssuer.into());
        if is_about_revocation(&refused) {
            return Err(refused);
        }
        match self.by_itself(end_entity) {
            Some(verdict) => verdict?,
            None => return Err(refused),
        }
        self.alone(end_entity, server_name, now)?;
        self.terms.extra_checks.judge(end_entity)
    }

    /// Whether webpki accepts the certificate with these CAs.
    fn signed_by(
        &self,
        cas: &Cas,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        match cas.webpki.verify_server_cert(end_entity, intermediates, server_name, &[], now) {
            Ok(_) => {}
            // rustls checks the name last: chain, dates, purpose and revocation were right. A test verifies this order.
            Err(error) if is_about_the_name(&error) && !self.name_counts() => {}
            Err(error) => return Err(error),
        }
        let Some(permitted) = &cas.permitted else { return Ok(()) };
        // Which of them are in the path is not known, so all must conform, except roots of the file that the server
        // sends.
        let mut below = intermediates.iter().filter(|sent| !self.named.iter().any(|named| named == *sent));
        match permitted.permits(end_entity) && below.all(|sent| permitted.permits(sent)) {
            true => Ok(()),
            false => Err(unacceptable(Unacceptable::DirectoryName)),
        }
    }

    const fn name_counts(&self) -> bool {
        self.terms.name_counts && self.terms.extra_checks.uris.is_empty()
    }

    /// Whether it is one of the file's certificates, or one without extensions that a CA of the file signed; `None`:
    /// neither. Where there are revocation lists, only a self-issued certificate is accepted here.
    fn by_itself(&self, certificate: &CertificateDer<'_>) -> Option<Result<(), Error>> {
        let read = parsed(certificate).ok()?;
        let may_be_revoked = !self.terms.lists.is_empty();
        if self.named.iter().any(|named| named == certificate) {
            return (!may_be_revoked || is_self_issued(&read)).then_some(Ok(()));
        }
        if !is_of_version_1(&read) || may_be_revoked {
            return None;
        }
        let mut verdict = None;
        for ca in &self.named {
            if !parsed(ca).is_ok_and(|ca| may_have_issued(&ca, &read)) {
                continue;
            }
            let signed =
                PublicKey::of(ca).and_then(|key| key.signed_certificate(certificate, &self.algorithms));
            match signed {
                Ok(()) => return Some(Ok(())),
                Err(error) => verdict = Some(Err(error)),
            }
        }
        verdict
    }

    /// The checks that webpki would do besides: dates, purpose and name.
    fn alone(
        &self,
        certificate: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let read = parsed(certificate)?;
        in_time(&read, now)?;
        if is_of_version_1(&read) {
            // Version 1 has no place for a name.
            return match self.name_counts() {
                true => Err(CertificateError::NotValidForName.into()),
                false => Ok(()),
            };
        }
        // This also refuses unknown critical extensions.
        let webpki = ParsedCertificate::try_from(certificate)?;
        let purpose = read.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        if purpose.is_some_and(|purpose| !purpose.value.server_auth) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        if self.name_counts() { verify_server_name(&webpki, server_name) } else { Ok(()) }
    }
}

/// Whether a certificate of the file may have signed others, as OpenSSL decides it; webpki does not check that of
/// anchors. Of two servers whose own certificates are in one file, neither may sign for the other.
pub(super) fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    match (certificate.basic_constraints(), certificate.key_usage()) {
        (Ok(Some(basic)), _) => basic.value.ca,
        (Ok(None), Ok(Some(usage))) => usage.value.key_cert_sign(),
        (Ok(None), Ok(None)) => is_of_version_1(certificate) && is_self_issued(certificate),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// By name and by permission. A CA with name constraints is excluded, as the certificate can have no names to check.
fn may_have_issued(ca: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    let is_limited = !matches!(ca.name_constraints(), Ok(None));
    ca.subject().as_raw() == certificate.issuer().as_raw() && may_issue(ca) && !is_limited
}

fn in_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let moment = |time: ASN1Time| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(time.timestamp()).unwrap_or_default(),
        ))
    };
    let validity = certificate.validity();
    let (not_before, not_after) = (moment(validity.not_before), moment(validity.not_after));
    match now {
        time if time < not_before => Err(CertificateError::NotValidYetContext { time, not_before }.into()),
        time if time > not_after => Err(CertificateError::ExpiredContext { time, not_after }.into()),
        _ => Ok(()),
    }
}

const fn is_unconcerned(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

pub(super) const fn is_about_the_name(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
const fn is_about_revocation(error: &Error) -> bool {
    use CertificateError as Refused;
    match error {
        Error::InvalidCertRevocationList(_) => true,
        Error::InvalidCertificate(reason) => matches!(
            reason,
            Refused::Revoked
                | Refused::UnknownRevocationStatus
                | Refused::ExpiredRevocationList
                | Refused::ExpiredRevocationListContext { .. }
        ),
        _ => false,
    }
}

impl Judge for Chain {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let Presented { end_entity, intermediates, server_name, now } = *presented;
        self.verdict(end_entity, intermediates, server_name, now).inspect_err(|error| {
            let shown =
                VerifiedCertificate { end_entity, intermediates, named: &self.named, server_name, now };
            refusal::of_certificate(error, &shown, &self.algorithms);
        })
    }
}
