//! A service account's key in Google's JSON form, and its assertion (RFC 7523 §2.1, as Google's endpoint wants it).

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::jwt::{JwtAlgorithm, SigningKey, seconds, sign};
use crate::credentials::login::answer::secret;
use crate::http::{HttpUrl, PlainHttp};
use crate::tls::read_secret;

/// The longest life that Google takes.
pub(super) const GOOGLE_LIFE: Duration = Duration::from_secs(3600);

/// The key's file, and whom it acts for.
#[derive(Debug)]
pub(crate) struct ServiceAccount {
    pub(crate) file: PathBuf,
    /// `sub`, by domain-wide delegation.
    pub(crate) subject: Option<String>,
}

/// The content of the file.
pub(super) struct ServiceAccountKey {
    pub(super) email: String,
    key_id: Option<String>,
    key: SigningKey,
    pub(super) token_url: HttpUrl,
}

impl ServiceAccount {
    pub(super) fn read(&self) -> Result<ServiceAccountKey, String> {
        #[derive(Deserialize)]
        struct Fields {
            client_email: String,
            private_key_id: Option<String>,
            #[serde(deserialize_with = "secret")]
            private_key: Option<Zeroizing<String>>,
            token_uri: String,
        }
        const WHAT: &str =
            "is no key of a service account: JSON with client_email, private_key and token_uri";
        let shown = self.file.display();
        let bytes = read_secret(&self.file).map_err(|error| format!("cannot read {shown}: {error}"))?;
        // serde's errors quote what they do not like.
        let fields: Fields = serde_json::from_slice(&bytes).map_err(|_| format!("{shown} {WHAT}"))?;
        let pem = fields.private_key.ok_or_else(|| format!("{shown} {WHAT}"))?;
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| format!("private_key in {shown} is no PEM private key"))?;
        let key = SigningKey::of(&der).map_err(|reason| format!("private_key in {shown} {reason}"))?;
        let token_url = HttpUrl::parse(&fields.token_uri, PlainHttp::Never)
            .map_err(|reason| format!("token_uri in {shown} {reason}"))?;
        Ok(ServiceAccountKey { email: fields.client_email, key_id: fields.private_key_id, key, token_url })
    }
}

impl ServiceAccountKey {
    pub(super) fn sign(
        &self,
        subject: Option<&str>,
        scope: &str,
        audience: &HttpUrl,
        now: SystemTime,
        life: Duration,
    ) -> Result<Zeroizing<String>, String> {
        let algorithm = match &self.key {
            SigningKey::Rsa(_) => JwtAlgorithm::Rs256,
            SigningKey::P256(_) => JwtAlgorithm::Es256,
        };
        let mut header =
            json!({ "alg": if algorithm == JwtAlgorithm::Es256 { "ES256" } else { "RS256" }, "typ": "JWT" });
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let now = seconds(now);
        let mut claims = json!({
            "iss": self.email,
            "scope": scope,
            "aud": audience.to_string(),
            "iat": now,
            "exp": now + life.as_secs(),
        });
        if let Some(subject) = subject {
            claims["sub"] = json!(subject);
        }
        sign(&header, &claims, &self.key, algorithm)
    }
}
