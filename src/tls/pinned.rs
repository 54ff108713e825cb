//! The verifier of `verify: pin`: a certificate byte by byte, or a public key by its digest, and the handshake's
//! signature by that key. CAs, names and dates are not checked.

use rustls::Error;
use rustls::pki_types::CertificateDer;

use super::extra_checks::{Pin, Unacceptable, unacceptable};
use super::refusal;
use super::signed::PublicKey;
use super::verifier::{Judge, Presented};

#[derive(Debug)]
pub(super) struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    pins: Vec<Pin>,
}

impl Pinned {
    /// Accepts one of these certificates or one of these keys; nothing, where both are empty.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>, pins: Vec<Pin>) -> Self {
        Self { certificates, pins }
    }

    fn verdict(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let pin = Pin::of(PublicKey::of(certificate)?.info);
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

impl Judge for Pinned {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let certificate = presented.end_entity;
        self.verdict(certificate).inspect_err(|error| refusal::of_extra_check(error, certificate))
    }

    /// If two parsers read a certificate differently, the pinned key and the key of the handshake must still be the
    /// same.
    fn reads_key_itself(&self) -> bool {
        true
    }
}
