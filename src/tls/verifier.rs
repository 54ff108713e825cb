//! The verifier that rustls calls during a handshake: the cluster's own rules ([`Judge`]) decide on the certificate,
//! and its key verifies the handshake's signature.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::extra_checks::{Unacceptable, unacceptable};
use super::refusal;
use super::signed::PublicKey;

/// What a server has sent, and the name and time it is verified for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Presented<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) server_name: &'a ServerName<'a>,
    pub(super) now: UnixTime,
}

/// Rules for servers' certificates.
pub(super) trait Judge: fmt::Debug + Send + Sync {
    /// Whether the server is accepted. The reason of a refusal is left with [`refusal`].
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error>;

    /// Whether the key is always taken as [`PublicKey`] parses it, and not only where webpki cannot parse it.
    fn reads_key_itself(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub(super) struct Verifier {
    judge: Arc<dyn Judge>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(judge: Arc<dyn Judge>, provider: &CryptoProvider) -> Self {
        Self { judge, algorithms: provider.signature_verification_algorithms }
    }

    /// Verifies by `webpki`, or by our own parsing of the key where that is required or webpki cannot.
    fn signature(
        &self,
        certificate: &CertificateDer<'_>,
        webpki: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
        own: impl FnOnce(PublicKey<'_>) -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified =
            match self.judge.reads_key_itself() || ParsedCertificate::try_from(certificate).is_err() {
                true => PublicKey::of(certificate).and_then(own),
                false => webpki(),
            };
        verified.inspect_err(|error| refusal::of_signature(error, certificate))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Presented { end_entity, intermediates, server_name, now };
        self.judge.judge(&presented).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let webpki = || verify_tls12_signature(message, certificate, signed, &self.algorithms);
        self.signature(certificate, webpki, |key| key.signed_tls12(message, signed, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let webpki = || verify_tls13_signature(message, certificate, signed, &self.algorithms);
        self.signature(certificate, webpki, |key| key.signed_tls13(message, signed, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// `insecure_skip_verify`: the server must only hold the key of the certificate that it shows.
#[derive(Debug)]
pub(super) struct AcceptAny;

impl Judge for AcceptAny {
    fn judge(&self, _: &Presented<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// No CA is trusted yet: the SPIFFE agent has not sent any.
#[derive(Debug)]
pub(super) struct RejectAll;

impl Judge for RejectAll {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let error = unacceptable(Unacceptable::Nobody);
        refusal::of_extra_check(&error, presented.end_entity);
        Err(error)
    }
}
