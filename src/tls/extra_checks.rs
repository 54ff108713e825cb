//! What a cluster requires of a server's certificate in addition to the ordinary verification, which comes first: a
//! public key among its pins, a URI among its names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error, OtherError};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The SHA-256 of a SubjectPublicKeyInfo (RFC 7469 §2.4), written as curl writes it: `sha256//BASE64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; digest::SHA256_OUTPUT_LEN]);

/// What is required; nothing, where both are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraChecks {
    /// The server's public key has to be one of these.
    pub pins: Vec<Pin>,
    /// One of the certificate's URI names has to equal one of these. Then no other name is checked.
    pub uris: Vec<String>,
}

/// Why a certificate that passed the ordinary verification is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unacceptable {
    #[error("the server's public key is none of tls.pins; it is {0}")]
    Pin(Pin),
    #[error("the server's certificate has none of tls.allowed_uris; its URI names are [{0}]")]
    Uri(String),
    #[error("the server's certificate has several URI names, so its trust domain is not known: [{0}]")]
    Ambiguous(String),
    #[error("the SPIFFE agent has given no CAs of trust domain {0}, or none that tls.allowed_uris is about")]
    Foreign(String),
    #[error(
        "the server's certificate, or that of a CA that it sent, has a directory name that the CA of tls.ca is not permitted \
         to sign for (name constraints)"
    )]
    DirectoryName,
    #[error("the SPIFFE agent has sent no CAs yet")]
    Nobody,
    #[error("the server's certificate is none of tls.ca, which `verify: pin` asks for; its key is {0}")]
    Certificate(Pin),
}

impl ExtraChecks {
    /// To be called after the chain and the name were verified.
    pub(super) fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if !self.uris.is_empty() {
            let uris = uris(&parsed)?;
            if !uris.iter().any(|uri| self.uris.iter().any(|allowed| allowed == uri)) {
                return Err(unacceptable(Unacceptable::Uri(uris.join(", "))));
            }
        }
        let pin = Pin::of(parsed.public_key().raw);
        if !self.pins.is_empty() && !self.pins.contains(&pin) {
            return Err(unacceptable(Unacceptable::Pin(pin)));
        }
        Ok(())
    }
}

pub(super) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, Error> {
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &'a GeneralName<'_>| if let GeneralName::URI(uri) = name { Some(*uri) } else { None };
    Ok(names.iter().filter_map(uri).collect())
}

pub(super) fn unacceptable(why: Unacceptable) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

const SHA256: &str = "sha256//";

impl Pin {
    pub(super) fn of(public_key_info: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, public_key_info);
        let mut pin = [0; digest::SHA256_OUTPUT_LEN];
        pin.copy_from_slice(digest.as_ref());
        Self(pin)
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(SHA256).ok_or("begins otherwise than `sha256//`")?;
        let bytes = BASE64.decode(digits.as_bytes()).map_err(|_| "is not base64 behind `sha256//`")?;
        bytes.try_into().map(Self).map_err(|_| "is no SHA-256: that has 32 bytes, 44 characters of base64")
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SHA256}{}", BASE64.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertifiedIssuer, ExtendedKeyUsagePurpose, KeyPair, SanType};
    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{ServerName, UnixTime};

    use crate::tls::chain::{Chain, ChainChecks};
    use crate::tls::tests::workshop::{ca, named};
    use crate::tls::verifier::{Judge, Presented};

    use super::*;

    const URI: &str = "spiffe://example.com/orders-db";

    /// A server's certificate for `db.test` and these URIs, with its pin.
    fn leaf(
        ca: &CertifiedIssuer<'_, KeyPair>,
        uris: &[&str],
        purpose: ExtendedKeyUsagePurpose,
    ) -> (CertificateDer<'static>, Pin) {
        let mut params = named(&["db.test"]);
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, ca).unwrap().der().clone();
        let pin = Pin::of(X509Certificate::from_der(&certificate).unwrap().1.public_key().raw);
        (certificate, pin)
    }

    fn judged(
        ca: &CertifiedIssuer<'_, KeyPair>,
        extra_checks: &ExtraChecks,
        certificate: &CertificateDer<'_>,
        name: &str,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let terms = ChainChecks { name_counts: true, extra_checks: extra_checks.clone(), lists: Vec::new() };
        let chain = Chain::new(roots, Vec::new(), terms, &Arc::new(default_provider())).unwrap();
        let server_name = &ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        chain.judge(&Presented { end_entity: certificate, intermediates: &[], server_name, now })
    }

    fn demanding(pins: &[Pin], uris: &[&str]) -> ExtraChecks {
        ExtraChecks { pins: pins.to_vec(), uris: uris.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_uri_stands_for_the_name_and_nothing_else() {
        let (ca, other) = (ca("A"), ca("A"));
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        let uris = demanding(&[], &["spiffe://example.com/other", URI]);
        let (right, _) = leaf(&ca, &["spiffe://example.com/x", URI], server.clone());
        assert_eq!(judged(&ca, &uris, &right, "db.test"), Ok(()));
        assert_eq!(judged(&ca, &uris, &right, "quite.another.name"), Ok(()));
        // Issuer and purpose still count.
        assert!(judged(&other, &uris, &right, "quite.another.name").is_err());
        let (misused, _) = leaf(&ca, &[URI], client);
        assert!(judged(&ca, &uris, &misused, "quite.another.name").is_err());
        for wrong in [&[][..], &["spiffe://example.com/orders-db2"], &["spiffe://EXAMPLE.com/orders-db"]] {
            let (wrong, _) = leaf(&ca, wrong, server.clone());
            let error = judged(&ca, &uris, &wrong, "db.test").expect_err("none of the URIs");
            assert!(format!("{error:?}").contains("Uri"), "{error:?}");
        }
    }

    #[test]
    fn a_pin_comes_on_top() {
        let ca = ca("A");
        let (one, pin) = leaf(&ca, &[URI], ExtendedKeyUsagePurpose::ServerAuth);
        let (two, _) = leaf(&ca, &[URI], ExtendedKeyUsagePurpose::ServerAuth);
        for uris in [&[][..], &[URI]] {
            let extra_checks = demanding(&[Pin([7; 32]), pin], uris);
            assert_eq!(judged(&ca, &extra_checks, &one, "db.test"), Ok(()));
            let error = judged(&ca, &extra_checks, &two, "db.test").expect_err("another key");
            assert!(format!("{error:?}").contains("Pin"), "{error:?}");
        }
        assert!(judged(&ca, &demanding(&[pin], &[]), &one, "other.test").is_err(), "the name counts");
        assert!(
            judged(&crate::tls::tests::workshop::ca("A"), &demanding(&[pin], &[]), &one, "db.test").is_err(),
            "so does the chain"
        );
    }

    #[test]
    fn pins_are_written_as_curl_writes_them() {
        let text = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(text.parse::<Pin>(), Ok(Pin([0; 32])));
        assert_eq!(Pin([0; 32]).to_string(), text);
        for wrong in [
            "",
            "sha256/AAAA",
            "sha1//AAAA",
            "sha256//AAAA",
            "sha256//!",
            "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }
}
