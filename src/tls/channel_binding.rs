//! `tls-server-end-point` (RFC 5929 §4): the hash of the server's certificate, by which a login is bound to the connection.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use rustls::pki_types::CertificateDer;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use super::signed::parsed;

/// The digests by their object identifiers: of signatures with RSA (RFC 4055 §5), with ECDSA (RFC 5758 §3.2), and, for
/// RSASSA-PSS, of the hash alone.
const DIGESTS: [(&str, &digest::Algorithm); 13] = [
    // MD5 and SHA-1 are replaced by SHA-256.
    ("1.2.840.113549.1.1.4", &SHA256),
    ("1.2.840.113549.1.1.5", &SHA256),
    ("1.2.840.10045.4.1", &SHA256),
    ("1.3.14.3.2.26", &SHA256),
    ("1.2.840.113549.1.1.11", &SHA256),
    ("1.2.840.113549.1.1.12", &SHA384),
    ("1.2.840.113549.1.1.13", &SHA512),
    ("1.2.840.10045.4.3.2", &SHA256),
    ("1.2.840.10045.4.3.3", &SHA384),
    ("1.2.840.10045.4.3.4", &SHA512),
    ("2.16.840.1.101.3.4.2.1", &SHA256),
    ("2.16.840.1.101.3.4.2.2", &SHA384),
    ("2.16.840.1.101.3.4.2.3", &SHA512),
];

/// `None`: the certificate's signature has no hash of its own (Ed25519), or an unknown one, for which the standard
/// defines no binding.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let read = parsed(certificate).ok()?;
    let hash = match SignatureAlgorithm::try_from(&read.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        Ok(_) | Err(_) => read.signature_algorithm.algorithm.to_id_string(),
    };
    let (_, algorithm) = DIGESTS.iter().find(|(id, _)| *id == hash)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (algorithm, expected) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap();
            let hash = server_end_point(certificate.der());
            assert_eq!(hash.as_ref().map(Vec::len), expected);
            if expected == Some(32) {
                assert_eq!(hash.unwrap(), digest::digest(&SHA256, certificate.der()).as_ref());
            }
        }
    }
}
