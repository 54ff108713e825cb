//! The verifier of `verify: pin`: a certificate byte by byte, or a public key by its digest, and the handshake's signature by
//! that very key. No CA, no name and no date counts.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::demands::{Pin, Unacceptable, unacceptable};
use super::refusal;
use super::signed::Key;

#[derive(Debug)]
pub(super) struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    /// One of these certificates or of these keys; of none where there are none.
    pub(super) fn new(
        certificates: Vec<CertificateDer<'static>>,
        pins: Vec<Pin>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        Self { certificates, pins, algorithms: provider.signature_verification_algorithms }
    }

    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        // The signature is verified by the same reading of the key: a certificate that two parsers read in two ways must not
        // have one key for the pin and another for the handshake.
        let pin = Pin::of(Key::of(certificate)?.info);
        if self.certificates.iter().any(|named| named == certificate) || self.pins.contains(&pin) {
            return Ok(());
        }
        let why = match self.pins.is_empty() {
            true => Unacceptable::Certificate(pin),
            false => Unacceptable::Pin(pin),
        };
        Err(unacceptable(why))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity)
            .map(|()| ServerCertVerified::assertion())
            .inspect_err(|error| refusal::of_demand(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified =
            Key::of(certificate).and_then(|key| key.signed_tls12(message, signed, &self.algorithms));
        verified.inspect_err(|error| refusal::of_signature(error, certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified =
            Key::of(certificate).and_then(|key| key.signed_tls13(message, signed, &self.algorithms));
        verified.inspect_err(|error| refusal::of_signature(error, certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
