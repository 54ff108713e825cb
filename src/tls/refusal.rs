//! Explains why a server's certificate was refused: by which rule, which certificate, and what to do.
//!
//! rustls passes on a verifier's error, which selects the alert, but no text. So the text waits in a thread-local until
//! the driver of the handshake takes it; the handshake does not yield in between. Nothing is decided here.

use std::cell::RefCell;
use std::fmt::Write;

use ::aws_lc_rs::digest;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error};
use x509_parser::prelude::{GeneralName, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

use super::extra_checks::Unacceptable;
use super::signed::{is_of_version_1, is_self_issued, parsed};

thread_local! {
    static WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the text that the last verifier of this thread left on refusing a certificate.
pub(super) fn take() -> Option<String> {
    WORDS.take()
}

fn note(words: String) {
    WORDS.set(Some(words));
}

pub(super) struct VerifiedCertificate<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// The certificates of the file of `tls.ca`.
    pub(super) named: &'a [CertificateDer<'a>],
    pub(super) server_name: &'a ServerName<'a>,
    pub(super) now: UnixTime,
}

/// Leaves the text on a certificate that a verifier is about to refuse.
pub(super) fn of_certificate(
    error: &Error,
    shown: &VerifiedCertificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) {
    let (words, which) = shown.words(error, algorithms);
    note(format!("{words} ({})", describe(which)));
}

/// Leaves the text on a handshake with a wrong signature, or one that is not accepted.
pub(super) fn of_signature(error: &Error, certificate: &CertificateDer<'_>) {
    let words = match (error, weakness(certificate)) {
        (Error::InvalidCertificate(_), Some(weak)) => {
            format!("the server's key is {weak}: it needs a new one, whatever tls.verify says")
        }
        (Error::InvalidCertificate(CertificateError::BadSignature), None) => {
            "the server does not hold the key of the certificate that it shows".into()
        }
        (Error::InvalidCertificate(CertificateError::BadEncoding), None) => {
            "the server's certificate cannot be read".into()
        }
        (Error::InvalidCertificate(_), None) => {
            "the server signed the handshake in a way that the key of its certificate is not for".into()
        }
        _ => return,
    };
    note(format!("{words} ({})", describe(certificate)));
}

/// Leaves the text on a certificate that was refused by an extra check alone.
pub(super) fn of_extra_check(error: &Error, certificate: &CertificateDer<'_>) {
    let words = own_words(error).unwrap_or_else(|| "the server's certificate cannot be read".into());
    note(format!("{words} ({})", describe(certificate)));
}

fn own_words(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return None };
    other.0.downcast_ref::<Unacceptable>().map(ToString::to_string)
}

impl<'a> VerifiedCertificate<'a> {
    fn sent(&self) -> impl Iterator<Item = &'a CertificateDer<'a>> {
        std::iter::once(self.end_entity).chain(self.intermediates)
    }

    /// The first certificate sent for which `is_it` is true, else the server's own.
    fn first(&self, is_it: impl Fn(&X509Certificate<'_>) -> bool) -> &'a CertificateDer<'a> {
        let mut sent = self.sent();
        sent.find(|sent| parsed(sent).is_ok_and(|sent| is_it(&sent))).unwrap_or(self.end_entity)
    }

    /// The text, and the certificate that it is about.
    #[expect(clippy::wildcard_enum_match_arm, reason = "an open enum, and not ours")]
    fn words(
        &self,
        error: &Error,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> (String, &'a CertificateDer<'a>) {
        use CertificateError as Refused;
        let Error::InvalidCertificate(reason) = error else {
            let words =
                "a revocation list of tls.crl is not signed by the CA whose name it bears, or cannot be used";
            return (format!("{words} ({error})"), self.end_entity);
        };
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        let words = match reason {
            Refused::UnknownIssuer => return self.unknown_issuer(),
            Refused::BadSignature => return self.bad_signature(),
            Refused::Expired | Refused::ExpiredContext { .. } => {
                let which = self.first(|sent| sent.validity().not_after.timestamp() < now);
                let end = parsed(which).map(|which| which.validity().not_after.to_string());
                let whose = self.whose(which);
                return (format!("{whose} has expired; it ended on {}", end.unwrap_or_default()), which);
            }
            Refused::NotValidYet | Refused::NotValidYetContext { .. } => {
                let which = self.first(|sent| sent.validity().not_before.timestamp() > now);
                let begin = parsed(which).map(|which| which.validity().not_before.to_string());
                let (whose, begin) = (self.whose(which), begin.unwrap_or_default());
                let words = format!("{whose} is not valid before {begin}; a clock, here or there, may be wrong");
                return (words, which);
            }
            Refused::NotValidForName | Refused::NotValidForNameContext { .. } => self.another_name(),
            Refused::Revoked => {
                "the server's certificate, or that of a CA above it, is revoked by tls.crl".into()
            }
            Refused::UnknownRevocationStatus => {
                "tls.crl has no list of a CA that signed the server's certificate or one above it".into()
            }
            Refused::ExpiredRevocationList | Refused::ExpiredRevocationListContext { .. } => {
                "a revocation list of tls.crl has expired".into()
            }
            Refused::InvalidPurpose | Refused::InvalidPurposeContext { .. } => {
                "the server's certificate, or that of a CA above it, is not for servers: its extended key usage lacks \
                 serverAuth"
                    .into()
            }
            Refused::UnsupportedSignatureAlgorithmContext { .. }
            | Refused::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                return self.unsupported_signature(algorithms);
            }
            Refused::BadEncoding => {
                "the server's certificate, or one that it sent with it, cannot be read: it is not what X.509 allows".into()
            }
            Refused::Other(other) => match own_words(error) {
                Some(words) => words,
                None => return self.by_webpki(&other.0.to_string()),
            },
            other => format!("the server's certificate is refused: {other}"),
        };
        (words, self.end_entity)
    }

    fn whose(&self, which: &CertificateDer<'_>) -> &'static str {
        if which == self.end_entity {
            "the server's certificate"
        } else {
            "the certificate of a CA that the server sent with its own"
        }
    }

    fn unknown_issuer(&self) -> (String, &'a CertificateDer<'a>) {
        const NOT_SIGNED: &str = "the server's certificate is not signed by a CA of tls.ca";
        let own = parsed(self.end_entity);
        if own.as_ref().is_ok_and(is_self_issued) {
            let words =
                "it is self-signed; if it is the right one, name it, or a copy of it, as `ca` of the cluster";
            return (format!("{NOT_SIGNED}: {words}"), self.end_entity);
        }
        // Upwards through the certificates sent; each is used once, so the loop ends.
        let (mut top, mut left) = (self.end_entity, self.intermediates.iter().collect::<Vec<_>>());
        while let Some(at) = left.iter().position(|above| is_named_by(above, top)) {
            top = left.swap_remove(at);
        }
        let issuer = parsed(top).map(|top| named(top.issuer())).unwrap_or_default();
        let words = match parsed(top).is_ok_and(|top| is_self_issued(&top)) {
            true => format!("its chain ends with the root {issuer}, which tls.ca does not have"),
            false if self.named.iter().any(|named| is_named_by(named, top)) => format!(
                "that of {issuer} in tls.ca is no CA's (no basic constraints with CA:TRUE) and speaks for itself alone"
            ),
            false => format!(
                "neither tls.ca nor what the server sent has the CA {issuer}: the server lacks intermediate certificates, \
                 or tls.ca is another CA's"
            ),
        };
        (format!("{NOT_SIGNED}: {words}"), top)
    }

    fn bad_signature(&self) -> (String, &'a CertificateDer<'a>) {
        let issuers = || self.named.iter().chain(self.intermediates);
        let weak = self.sent().find_map(|sent| {
            let weak = issuers().filter(|issuer| is_named_by(issuer, sent)).find_map(weakness)?;
            Some((sent, weak))
        });
        match weak {
            Some((sent, weak)) => {
                let words = format!("{} is signed with a key that is {weak}", self.whose(sent));
                (format!("{words}: the CA needs a new one"), sent)
            }
            None => {
                let words =
                    "one of the name of its issuer is there, with another key; it may have been made anew";
                (
                    format!("the server's certificate is not signed by a CA of tls.ca: {words}"),
                    self.end_entity,
                )
            }
        }
    }

    fn unsupported_signature(
        &self,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> (String, &'a CertificateDer<'a>) {
        let is_known = |id: &x509_parser::x509::AlgorithmIdentifier<'_>| {
            let id = id.algorithm.as_bytes();
            // Inside an AlgorithmIdentifier the OID comes first, with tag and length.
            algorithms.all.iter().any(|one| one.signature_alg_id().get(2..2 + id.len()) == Some(id))
        };
        let which = self.first(|sent| !is_known(&sent.signature_algorithm));
        let id = parsed(which).map(|which| which.signature_algorithm.algorithm.to_id_string());
        let id = id.unwrap_or_default();
        let words = match algorithm(&id) {
            Some((name, reason)) => format!("is signed with {name}, {reason}"),
            None => format!("is signed with an algorithm that is not taken ({id})"),
        };
        (format!("{} {words}; it has to be issued anew", self.whose(which)), which)
    }

    fn another_name(&self) -> String {
        const ANOTHER: &str = "the server's certificate is for another name";
        let wanted = self.server_name.to_str();
        let Ok(own) = parsed(self.end_entity) else { return format!("{ANOTHER} than {wanted}") };
        let names = own.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(shown).collect::<Vec<_>>());
        match names.unwrap_or_default() {
            none if none.is_empty() => {
                let words = if is_of_version_1(&own) { ", being of X.509 version 1" } else { "" };
                format!(
                    "{ANOTHER} than {wanted}: it has no subject alternative name{words}, and a common name is not looked at \
                     (RFC 9525); see tls.verify: `ca` asks for no name, `pin` for this one certificate"
                )
            }
            names => {
                format!("{ANOTHER} than {wanted}: it is for {}; see tls.server_name", cut(&names.join(", ")))
            }
        }
    }

    /// The text for errors of webpki for which rustls has no variant, by webpki's name of them.
    fn by_webpki(&self, name: &str) -> (String, &'a CertificateDer<'a>) {
        let words = match name {
            "CaUsedAsEndEntity" => {
                "the server's certificate is a CA's (CA:TRUE), which counts as a server's only where it is itself in the file \
                 of tls.ca"
            }
            "UnsupportedCertVersion" => {
                let which = self.first(is_of_version_1);
                let words = "is of X.509 version 1: it is taken with `verify: ca`, without `crl`, where it is in the file \
                             of tls.ca or a CA of that file, without name constraints, signed it itself, and with `verify: pin`";
                return (format!("{} {words}", self.whose(which)), which);
            }
            "NameConstraintViolation" => {
                "the server's certificate, or that of a CA below, has a name that the constraints of a CA above it do not \
                 permit (those of an intermediate CA on directory names permit none here)"
            }
            "PathLenConstraintViolated" => {
                "there are more CAs below one of the server's chain than its path length allows"
            }
            "EndEntityUsedAsCa" => {
                "the server's certificate is signed by a certificate that is no CA's (CA:FALSE, or no basic constraints)"
            }
            "UnsupportedCriticalExtension" => {
                let which = self.first(|sent| parsed_critical(sent).is_some());
                let id = parsed(which).ok().and_then(|which| parsed_critical(&which)).unwrap_or_default();
                let words = "has an extension that is marked critical and that is not known here";
                return (format!("{} {words} ({id})", self.whose(which)), which);
            }
            "UnsupportedNameType" => {
                "the server is asked for by a kind of name that certificates do not bear"
            }
            other => return (format!("the server's certificate is refused: {other}"), self.end_entity),
        };
        (words.into(), self.end_entity)
    }
}

/// The first critical extension that RFC 5280 does not have.
fn parsed_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    const KNOWN: &str = "2.5.29.";
    let unknown = |id: &String| !id.starts_with(KNOWN);
    let critical = certificate.extensions().iter().filter(|extension| extension.critical);
    critical.map(|extension| extension.oid.to_id_string()).find(unknown)
}

/// Whether the subject of `above` is the issuer of `below`.
fn is_named_by(above: &CertificateDer<'_>, below: &CertificateDer<'_>) -> bool {
    let (Ok(issuer), Ok(below)) = (parsed(above), parsed(below)) else { return false };
    above.as_ref() != below.tbs_certificate.as_ref() && issuer.subject().as_raw() == below.issuer().as_raw()
}

/// Why a public key is too weak or too long, where that is known.
fn weakness(certificate: &CertificateDer<'_>) -> Option<String> {
    const LEAST: usize = 2048;
    const MOST: usize = 8192;
    let parsed = parsed(certificate).ok()?;
    let Ok(PublicKey::RSA(key)) = parsed.public_key().parsed() else { return None };
    match key.key_size() {
        bits if bits < LEAST => Some(format!("RSA of {bits} bits, of which it must have {LEAST}")),
        bits if bits > MOST => Some(format!("RSA of {bits} bits, of which it may have {MOST}")),
        _ => None,
    }
}

/// Algorithms that occur in the field and are not accepted.
fn algorithm(id: &str) -> Option<(&'static str, &'static str)> {
    const BROKEN: &str = "which anybody can forge";
    const UNKNOWN: &str = "which is not known here";
    Some(match id {
        "1.2.840.113549.1.1.4" => ("MD5", BROKEN),
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => ("SHA-1", BROKEN),
        "1.2.840.113549.1.1.10" => (
            "RSA-PSS",
            "of parameters that are not taken (SHA-256, 384 or 512, and a salt as long as the digest)",
        ),
        "1.3.101.113" => ("Ed448", UNKNOWN),
        "2.16.840.1.101.3.4.3.17" => ("ML-DSA-44", UNKNOWN),
        "2.16.840.1.101.3.4.3.18" => ("ML-DSA-65", UNKNOWN),
        "2.16.840.1.101.3.4.3.19" => ("ML-DSA-87", UNKNOWN),
        _ => return None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "names of other kinds are not compared with")]
fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// Subject, issuer and fingerprint, as `openssl x509 -noout -subject -issuer -fingerprint -sha256` shows them.
pub(super) fn describe(certificate: &CertificateDer<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    let fingerprint = hex(digest.as_ref());
    match parsed(certificate) {
        Ok(read) => format!(
            "certificate of {}, issued by {}, SHA-256 {fingerprint}",
            named(read.subject()),
            named(read.issuer()),
        ),
        Err(_) => format!("certificate with SHA-256 {fingerprint}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (number, byte) in bytes.iter().enumerate() {
        let colon = if number == 0 { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02X}");
    }
    text
}

fn named(name: &X509Name<'_>) -> String {
    match name.to_string() {
        nothing if nothing.is_empty() => "nobody".into(),
        name => format!("`{}`", cut(&name)),
    }
}

/// Names in certificates may be of any length.
fn cut(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
