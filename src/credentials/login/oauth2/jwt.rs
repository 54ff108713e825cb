//! Signed assertions: JSON Web Tokens (RFC 7519) by which a client proves that it has a key (RFC 7523 §2.2).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::nonce;
use crate::tls::{read_certificates, read_private_key};

/// How long an assertion is valid; Entra takes up to ten minutes.
const LIFE: Duration = Duration::from_secs(600);

/// A signature algorithm (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JwtAlgorithm {
    Rs256,
    Ps256,
    Es256,
}

/// A key, and how the token endpoint knows it.
#[derive(Debug)]
pub(crate) struct AssertionSettings {
    pub(crate) key: PathBuf,
    /// Its certificate; named by its digest, `x5t#S256`.
    pub(crate) cert: Option<PathBuf>,
    /// `kid`.
    pub(crate) key_id: Option<String>,
    /// `None`: by the key.
    pub(crate) algorithm: Option<JwtAlgorithm>,
}

/// A key that can sign.
pub(super) enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
}

impl JwtAlgorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
        }
    }
}

impl AssertionSettings {
    pub(super) fn files(&self) -> Vec<PathBuf> {
        std::iter::once(&self.key).chain(&self.cert).cloned().collect()
    }

    /// The assertion of that client for that token endpoint.
    pub(super) fn sign(
        &self,
        client: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, String> {
        let key = read_private_key(&self.key)?;
        let key = SigningKey::of(&key).map_err(|reason| format!("{} {reason}", self.key.display()))?;
        // Entra documents PS256 for certificates; RS256 is what every other server knows.
        let algorithm = self.algorithm.unwrap_or_else(|| match &key {
            SigningKey::P256(_) => JwtAlgorithm::Es256,
            SigningKey::Rsa(_) if self.cert.is_some() => JwtAlgorithm::Ps256,
            SigningKey::Rsa(_) => JwtAlgorithm::Rs256,
        });
        let mut header = json!({ "alg": algorithm.name(), "typ": "JWT" });
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        if let Some(path) = &self.cert {
            header["x5t#S256"] = json!(thumbprint(path, &key)?);
        }
        let now = seconds(now);
        let claims = json!({
            "aud": audience,
            "iss": client,
            "sub": client,
            "jti": HEXLOWER.encode(&nonce::fresh::<16>()),
            "nbf": now,
            "iat": now,
            "exp": now + LIFE.as_secs(),
        });
        sign(&header, &claims, &key, algorithm).map_err(|reason| format!("{} {reason}", self.key.display()))
    }
}

/// Seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The digest of the file's first certificate, which has to be the key's.
fn thumbprint(path: &Path, key: &SigningKey) -> Result<String, String> {
    let certificates = read_certificates(path)?;
    let first = certificates.first().ok_or_else(|| format!("{} holds no certificate", path.display()))?;
    let (_, read) =
        X509Certificate::from_der(first).map_err(|error| format!("{}: {error}", path.display()))?;
    if &*read.public_key().subject_public_key.data != key.public() {
        return Err(format!("{} is the certificate of another key", path.display()));
    }
    Ok(BASE64URL_NOPAD.encode(digest(&SHA256, first).as_ref()))
}

/// A token in compact serialisation (RFC 7515 §7.1).
pub(super) fn sign(
    header: &Value,
    claims: &Value,
    key: &SigningKey,
    algorithm: JwtAlgorithm,
) -> Result<Zeroizing<String>, String> {
    let encoded = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let mut token = Zeroizing::new(format!("{}.{}", encoded(header), encoded(claims)));
    let signature = key.sign(algorithm, token.as_bytes())?;
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    Ok(token)
}

impl SigningKey {
    pub(super) fn of(key: &PrivateKeyDer<'_>) -> Result<Self, &'static str> {
        const WHAT: &str = "is neither an RSA key of 2048 bits or more nor an EC key on P-256";
        let rsa = |read: Result<RsaKeyPair, _>| read.map(|pair| Self::Rsa(Box::new(pair)));
        let p256 = |read: Result<EcdsaKeyPair, _>| read.map(|pair| Self::P256(Box::new(pair)));
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        match key {
            PrivateKeyDer::Pkcs1(der) => rsa(RsaKeyPair::from_der(der.secret_pkcs1_der())),
            PrivateKeyDer::Sec1(der) => {
                p256(EcdsaKeyPair::from_private_key_der(curve, der.secret_sec1_der()))
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                rsa(RsaKeyPair::from_pkcs8(der)).or_else(|_| p256(EcdsaKeyPair::from_pkcs8(curve, der)))
            }
            _ => return Err(WHAT),
        }
        .map_err(|_| WHAT)
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::P256(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, algorithm: JwtAlgorithm, message: &[u8]) -> Result<Vec<u8>, String> {
        let random = SystemRandom::new();
        let failed = |_| "cannot sign".to_owned();
        match (self, algorithm) {
            (Self::P256(pair), JwtAlgorithm::Es256) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(failed)
            }
            (Self::Rsa(pair), JwtAlgorithm::Rs256 | JwtAlgorithm::Ps256) => {
                let padding = match algorithm {
                    JwtAlgorithm::Ps256 => &RSA_PSS_SHA256 as &dyn aws_lc_rs::signature::RsaEncoding,
                    JwtAlgorithm::Rs256 | JwtAlgorithm::Es256 => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            (Self::Rsa(_), _) => Err("is an RSA key, which cannot sign by ES256".into()),
            (Self::P256(_), _) => Err(format!("is an EC key, which cannot sign by {}", algorithm.name())),
        }
    }
}
