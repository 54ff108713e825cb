//! A throw-away CA with a certificate for either side, and the endpoint's side of mTLS.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::Failure;

/// The name in the certificate of the endpoint.
pub(crate) const SERVER_NAME: &str = "localhost";

/// Writes `ca.pem`, `client.pem` and `client.key` for the daemon; returns the configuration of the endpoint.
pub(crate) fn write(folder: &Path) -> Result<Arc<ServerConfig>, Failure> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    fs::write(folder.join("ca.pem"), ca_certificate.pem())?;
    let issuer = Issuer::new(ca, ca_key);

    let client_key = KeyPair::generate()?;
    let client = CertificateParams::new(["client".to_owned()])?.signed_by(&client_key, &issuer)?;
    fs::write(folder.join("client.pem"), client.pem())?;
    fs::write(folder.join("client.key"), client_key.serialize_pem())?;

    let server_key = KeyPair::generate()?;
    let server = CertificateParams::new([SERVER_NAME.to_owned()])?.signed_by(&server_key, &issuer)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone())?;
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let key = PrivateKeyDer::try_from(server_key.serialize_der())?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![server.der().clone()], key)?;
    // Stateless, so that every session but the first resumes, however many there are.
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}
