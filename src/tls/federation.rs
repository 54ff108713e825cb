//! Servers of several SPIFFE trust domains: the CAs of each count for the names of their own domain only.
//!
//! The domain is read from the certificate's only URI name (X509-SVID §2 allows no second) before anything is verified;
//! a certificate with a false name is verified by CAs that have not signed it, and refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::extra_checks::{Unacceptable, unacceptable, uris};
use super::refusal;
use super::verifier::{Judge, Presented};

/// Rules for each trust domain.
#[derive(Debug)]
pub(super) struct Federation {
    /// Also used for certificates without a SPIFFE ID.
    pub(super) own: Arc<dyn Judge>,
    /// By trust domain, including our own.
    pub(super) all: BTreeMap<String, Arc<dyn Judge>>,
}

/// The trust domain of a SPIFFE ID.
pub(super) fn trust_domain(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("spiffe://")?;
    Some(rest.split_once('/').map_or(rest, |(domain, _)| domain))
}

impl Federation {
    fn of(&self, certificate: &CertificateDer<'_>) -> Result<&Arc<dyn Judge>, Error> {
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

impl Judge for Federation {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let certificate = presented.end_entity;
        let of_domain =
            self.of(certificate).inspect_err(|error| refusal::of_extra_check(error, certificate))?;
        of_domain.judge(presented)
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
