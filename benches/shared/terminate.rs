//! The TLS parameters with which our upstreams terminate mTLS.
//!
//! One version, one suite, one key exchange, all of which every proxy has: the upstream fixes them so that all do the
//! same cryptography. Lacks early data, ALPN and a choice of names.
use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::pki::Pki;

/// Named in every report.
pub(crate) const TLS_TERMS: &str = "TLS 1.3, AES-256-GCM, X25519, ECDSA P-256 on both sides, session tickets";

/// With `resume` sessions can be resumed; without it no tickets are issued.
pub(crate) fn server_config(pki: &Pki, resume: bool) -> io::Result<Arc<ServerConfig>> {
    build(pki, resume).map_err(|error| io::Error::other(format!("cannot set up TLS: {error}")))
}

fn build(pki: &Pki, resume: bool) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca())?)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(pki.certificate("server"))?],
            PrivateKeyDer::from_pem_file(pki.key("server"))?,
        )?;
    if resume {
        // Stateless: a cache of sessions would overflow in the connect row and prevent resumption at random.
        config.ticketer = Ticketer::new()?;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}
