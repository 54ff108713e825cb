//! Servers of several SPIFFE trust domains: the CAs of each speak for the names of their own domain, and for no others.
//!
//! Which domain it is says the certificate's one URI name (X509-SVID §2 allows no second), before anything of it is believed;
//! whoever lies there is verified by CAs that have not signed it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::demands::{Unacceptable, unacceptable, uris};
use super::refusal;

/// A verifier for each trust domain.
#[derive(Debug)]
pub(super) struct Federation {
    /// For a certificate without a SPIFFE name too.
    pub(super) own: Arc<dyn ServerCertVerifier>,
    /// By trust domain, our own among them.
    pub(super) all: BTreeMap<String, Arc<dyn ServerCertVerifier>>,
}

/// The trust domain of a SPIFFE ID.
pub(super) fn trust_domain(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("spiffe://")?;
    Some(rest.split_once('/').map_or(rest, |(domain, _)| domain))
}

impl Federation {
    fn of(&self, certificate: &CertificateDer<'_>) -> Result<&Arc<dyn ServerCertVerifier>, Error> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let uris = uris(&parsed)?;
        match uris[..] {
            [one] => trust_domain(one).map_or(Ok(&self.own), |domain| {
                self.all.get(domain).ok_or_else(|| unacceptable(Unacceptable::Foreign(domain.to_owned())))
            }),
            _ if uris.iter().any(|uri| trust_domain(uri).is_some()) => {
                Err(unacceptable(Unacceptable::Ambiguous(uris.join(", "))))
            }
            _ => Ok(&self.own),
        }
    }
}

impl ServerCertVerifier for Federation {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let of_domain = self.of(end_entity).inspect_err(|error| refusal::of_demand(error, end_entity))?;
        of_domain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    // Of a signature nothing depends on who signed the certificate.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_domain_is_what_stands_between_the_scheme_and_the_path() {
        for (uri, expected) in [
            ("spiffe://example.com/orders-db", Some("example.com")),
            ("spiffe://example.com", Some("example.com")),
            ("spiffe://example.com.evil/orders-db", Some("example.com.evil")),
            ("https://example.com/", None),
            ("SPIFFE://example.com/", None),
        ] {
            assert_eq!(trust_domain(uri), expected, "{uri}");
        }
    }
}
