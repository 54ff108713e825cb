//! `login.certificate: true`: no secret at all. The cluster's TLS client certificate proves the user, and a replaced
//! certificate is another credential.

use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{FetchError, FetchedLogin, LoginSource};
use crate::protocol::{LoginCredentials, Secret, SecretKind};
use crate::tls::Identity;

/// The client certificates of a cluster as the proof of a login.
#[derive(Debug)]
pub(crate) struct CertificateProof {
    /// Empty: the server takes the name from the certificate.
    pub(crate) user: String,
    /// Those that the cluster's connections may have.
    pub(crate) identities: Vec<Arc<Identity>>,
}

impl LoginSource for CertificateProof {
    fn label(&self) -> &'static str {
        "certificate"
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::Certificate
    }

    /// Whoever follows the identities has this read again.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        let numbers = self.identities.iter().map(|identity| {
            identity.generation().map_or(String::new(), |generation| generation.number().to_string())
        });
        let content = Zeroizing::new(numbers.collect::<Vec<_>>().join(" "));
        let secret = Secret::new(SecretKind::Certificate, content);
        let credentials = LoginCredentials { user: self.user.clone(), secret };
        Ok(FetchedLogin { credentials, expires: None })
    }
}
