//! Signatures that webpki refuses to verify because of the certificate around the key, mainly of X.509 version 1.
//!
//! Only the certificate's structure is parsed here. Whether a signature is right, and which algorithms and key lengths
//! are accepted, is decided by the same functions of AWS-LC that webpki uses, and the key is always taken from the
//! bytes that were parsed.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// Parses a certificate without trailing bytes.
///
/// # Errors
/// [`CertificateError::BadEncoding`].
pub(super) fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// Of version 1, or of version 2 without extensions.
pub(super) fn is_of_version_1(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() != X509Version::V3 && certificate.extensions().is_empty()
}

pub(super) fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// A SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicKey<'a> {
    /// The whole structure, in DER.
    pub(super) info: &'a [u8],
    /// The content of its AlgorithmIdentifier.
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    pub(super) fn of(certificate: &'a CertificateDer<'_>) -> Result<Self, Error> {
        let info = parsed(certificate)?.tbs_certificate.subject_pki.raw;
        let read = || {
            let [algorithm, key] = elements(inside(info)?)?;
            Some(Self { info, algorithm: inside(algorithm)?, bits: bit_string(key)? })
        };
        read().ok_or_else(|| CertificateError::BadEncoding.into())
    }

    /// Verifies the signature of a TLS 1.2 handshake.
    pub(super) fn signed_tls12(
        self,
        message: &[u8],
        signed: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, Error> {
        // As in webpki, we must have offered the scheme, and the key must be of its kind and curve.
        let of_scheme = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let candidates = of_scheme.map(|(_, candidates)| *candidates).unwrap_or_default();
        let algorithm = candidates.iter().find(|one| one.public_key_alg_id().as_ref() == self.algorithm);
        let algorithm =
            algorithm.ok_or_else(|| CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: Vec::new(),
                public_key_algorithm_id: self.algorithm.to_vec(),
            })?;
        let verified = algorithm.verify_signature(self.bits, message, signed.signature());
        verified.map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Verifies the signature of a TLS 1.3 handshake.
    pub(super) fn signed_tls13(
        self,
        message: &[u8],
        signed: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, Error> {
        let info = SubjectPublicKeyInfoDer::from(self.info);
        verify_tls13_signature_with_raw_key(message, &info, signed, algorithms)
    }

    /// Verifies the signature of a certificate.
    ///
    /// # Errors
    /// It is wrong, or of an algorithm that is not accepted.
    pub(super) fn signed_certificate(
        self,
        certificate: &CertificateDer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let parsed = parsed(certificate)?;
        // RFC 5280 §4.1.1.2; the outer algorithm is not signed.
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(CertificateError::BadEncoding.into());
        }
        let read = || {
            let [tbs, algorithm, signature] = elements(inside(certificate)?)?;
            Some((tbs, inside(algorithm)?, bit_string(signature)?))
        };
        let (tbs, id, signature) = read().ok_or(CertificateError::BadEncoding)?;
        let is_meant = |public: &[u8], signature: &[u8]| public == self.algorithm && signature == id;
        let algorithm = algorithms
            .all
            .iter()
            .find(|one| is_meant(&one.public_key_alg_id(), &one.signature_alg_id()))
            .ok_or_else(|| CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: id.to_vec(),
                supported_algorithms: Vec::new(),
            })?;
        let verified = algorithm.verify_signature(self.bits, tbs, signature);
        verified.map_err(|_| CertificateError::BadSignature.into())
    }
}

/// The content of the only element in `der`.
fn inside(der: &[u8]) -> Option<&[u8]> {
    match Any::from_der(der) {
        Ok(([], any)) => Some(any.data),
        Ok(_) | Err(_) => None,
    }
}

/// Exactly `COUNT` whole elements.
fn elements<const COUNT: usize>(mut der: &[u8]) -> Option<[&[u8]; COUNT]> {
    let mut found = [&[][..]; COUNT];
    for element in &mut found {
        let (rest, _) = Any::from_der(der).ok()?;
        *element = &der[..der.len() - rest.len()];
        der = rest;
    }
    der.is_empty().then_some(found)
}

/// The content of a BIT STRING of whole bytes.
fn bit_string(der: &[u8]) -> Option<&[u8]> {
    const BIT_STRING: u8 = 3;
    match (der.first()?, inside(der)?) {
        (&BIT_STRING, [0, bits @ ..]) => Some(bits),
        _ => None,
    }
}
