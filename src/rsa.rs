//! The RSA key by which MySQL clients encrypt their passwords on a connection without TLS. One for the process: it
//! protects nothing beyond it, because that connection ends here.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use zeroize::Zeroizing;

/// A key of 2048 bits, with its public half in the form that clients expect.
pub struct RsaKey {
    private: OaepPrivateDecryptingKey,
    public_pem: String,
}

/// The length of a ciphertext, in bytes.
const MODULUS: usize = 256;

impl RsaKey {
    /// The process' key, made on first use, which takes some 100 ms: not to be called on a worker.
    ///
    /// # Panics
    /// If the system has no random bytes.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RsaKey> = OnceLock::new();
        SHARED.get_or_init(|| {
            let private =
                PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("random bytes for an RSA key");
            let public: PublicKeyX509Der<'_> =
                private.public_key().as_der().expect("an RSA key has a public half");
            let block = pem::Pem::new("PUBLIC KEY", public.as_ref());
            let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
            let public_pem = pem::encode_config(&block, lines);
            Self {
                private: OaepPrivateDecryptingKey::new(private).expect("the key is fit for OAEP"),
                public_pem,
            }
        })
    }

    /// The public key: SubjectPublicKeyInfo in PEM.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Whether a ciphertext of that length may have been encrypted with the key.
    #[must_use]
    pub const fn may_have_encrypted(ciphertext: &[u8]) -> bool {
        ciphertext.len() == MODULUS
    }

    /// Decrypts by OAEP with SHA-1, as MySQL's clients use it. `None`: it was not encrypted with this key. Plaintext
    /// is overwritten when it is dropped.
    #[must_use]
    pub fn decrypt(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut memory = Zeroizing::new([0; MODULUS]);
        let plain = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, memory.as_mut(), None).ok()?;
        // With spare capacity: a vector that grows leaves a copy behind.
        let mut owned = Zeroizing::new(Vec::with_capacity(MODULUS));
        owned.extend_from_slice(plain);
        Some(owned)
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};

    #[test]
    fn what_the_public_half_encrypts_comes_back() {
        let key = RsaKey::shared();
        let der = pem::parse(key.public_pem()).expect("PEM");
        let public = PublicEncryptingKey::from_der(der.contents()).expect("a public key");
        let mut ciphertext = [0; MODULUS];
        let encrypting = OaepPublicEncryptingKey::new(public).expect("OAEP");
        encrypting.encrypt(&OAEP_SHA1_MGF1SHA1, b"secret", &mut ciphertext, None).expect("encrypted");
        assert_eq!(key.decrypt(&ciphertext).as_deref(), Some(&b"secret".to_vec()));
        assert_eq!(key.decrypt(&[7; MODULUS]), None);
        assert_eq!(key.decrypt(b"short"), None);
    }
}
