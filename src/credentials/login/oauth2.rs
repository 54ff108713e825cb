//! `login.oauth2`: access tokens from a token endpoint (RFC 6749), by one of three grants: client credentials (§4.4), a
//! refresh token (§6), or the signed assertion of a service account (RFC 7523 §2.1).
//!
//! The client authenticates by a secret or by a signed assertion (RFC 7523 §2.2). A refresh token is obtained by a person
//! (`device`), and replaced in its file when the server replaces it (`refresh_token`).

mod device;
mod jwt;
mod refresh_token;
mod service_account;

use std::fmt::Write as _;
use std::path::PathBuf;

use aws_lc_rs::digest;
use data_encoding::BASE64;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION};
use zeroize::Zeroizing;

use super::answer::{OAuth2Error, TokenAnswer};
use super::file::secret_of;
use super::{FetchError, FetchedLogin, LoginSource};
use crate::clock;
use crate::http::{self, HttpAnswer, HttpField, HttpRequest, HttpUrl, KEPT, percent_encoded};
use crate::protocol::{LoginCredentials, Secret, SecretKind};
use crate::sync::Mutex;
use crate::tls::{Roots, read_secret};

pub(crate) use device::SignInProgress;
pub(crate) use jwt::{AssertionSettings, JwtAlgorithm};
pub(crate) use refresh_token::RefreshTokenFile;
pub(crate) use service_account::ServiceAccount;

use service_account::GOOGLE_LIFE;

/// A token endpoint, and how a token is asked for there.
#[derive(Debug)]
pub(crate) struct OAuth2 {
    /// Who the token is for, at the server that is signed in to.
    pub(crate) user: TokenUser,
    /// The key in the file that it stands under.
    pub(crate) label: &'static str,
    /// How the server takes the token.
    pub(crate) kind: SecretKind,
    /// `None`: the service account's.
    pub(crate) token_url: Option<HttpUrl>,
    /// The CAs of the token endpoint.
    pub(crate) roots: Roots,
    pub(crate) grant: Grant,
    pub(crate) scopes: Vec<String>,
    /// The content of the files after the last fetch.
    pub(crate) seen: SeenFiles,
}

/// Who is signed in by a token.
#[derive(Debug)]
pub(crate) enum TokenUser {
    /// As the configuration says.
    Named(String),
    /// The service account, as Cloud SQL for PostgreSQL calls it: without `.gserviceaccount.com`.
    WithoutDomain,
    /// The service account, as Cloud SQL for MySQL calls it: what is before `@`.
    BeforeAt,
}

impl std::fmt::Display for TokenUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::WithoutDomain | Self::BeforeAt => f.write_str("the service account"),
        }
    }
}

/// What the email address of a service account ends with.
const ACCOUNT_DOMAIN: &str = ".gserviceaccount.com";

impl TokenUser {
    /// The user, where the service account has that address.
    fn of(&self, account: &str) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::WithoutDomain => account.strip_suffix(ACCOUNT_DOMAIN).unwrap_or(account).to_owned(),
            Self::BeforeAt => account.split('@').next().unwrap_or(account).to_owned(),
        }
    }
}

/// What the token is given for.
#[derive(Debug)]
pub(crate) enum Grant {
    /// The client itself.
    ClientCredentials(OAuth2Client),
    /// A person's consent.
    RefreshToken {
        client: OAuth2Client,
        file: RefreshTokenFile,
        /// The device authorization endpoint (RFC 8628 §3.1), for `sign-in`.
        device_url: Option<HttpUrl>,
    },
    /// A key of a service account.
    ServiceAccount(ServiceAccount),
}

/// Us, as the token endpoint knows us.
#[derive(Debug)]
pub(crate) struct OAuth2Client {
    pub(crate) id: String,
    pub(crate) proof: ClientProof,
}

/// How the client authenticates.
#[derive(Debug)]
pub(crate) enum ClientProof {
    /// Not at all: a public client.
    None,
    /// By a secret in a file.
    Secret {
        file: PathBuf,
        /// By HTTP Basic, instead of in the body (RFC 6749 §2.3.1).
        is_basic: bool,
    },
    /// By a signed assertion.
    Assertion(AssertionSettings),
}

/// Digests of files, to find out whether they have changed: of those that are only read, and of those that are also replaced.
#[derive(Default)]
pub(crate) struct SeenFiles(Mutex<Option<[digest::Digest; 2]>>);

/// Settings are compared by their `Debug`, and this is none.
impl std::fmt::Debug for SeenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeenFiles")
    }
}

/// The parameters of a request, and which of them are secret.
#[derive(Default)]
struct Form {
    fields: Vec<(&'static str, Zeroizing<String>)>,
    secrets: Vec<usize>,
    authorization: Option<Zeroizing<String>>,
    /// A secret that is only in the header.
    header_secret: Option<Zeroizing<String>>,
}

impl Form {
    fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.fields.push((name, Zeroizing::new(value.into())));
    }

    fn add_secret(&mut self, name: &'static str, value: Zeroizing<String>) {
        self.secrets.push(self.fields.len());
        self.fields.push((name, value));
    }

    fn encoded(&self) -> (HttpField, Zeroizing<Vec<u8>>) {
        let fields: Vec<_> = self.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http::form(&fields)
    }

    /// What must not be repeated in any message.
    fn secrets(&self) -> Vec<&str> {
        let secrets = self.secrets.iter().map(|index| self.fields[*index].1.as_str());
        secrets.chain(self.header_secret.iter().map(|secret| secret.as_str())).collect()
    }

    /// Sends it.
    fn post(&self, url: &HttpUrl, roots: &Roots) -> Result<HttpAnswer, String> {
        let (form, body) = self.encoded();
        let mut headers = vec![HttpField(ACCEPT, Zeroizing::new("application/json".into())), form];
        headers.extend(self.authorization.iter().map(|value| HttpField(AUTHORIZATION, value.clone())));
        let request = HttpRequest { method: Method::POST, url, headers, body };
        http::send(request, roots).map_err(|error| error.to_string())
    }
}

impl OAuth2Client {
    /// Adds who we are, and the proof of it.
    fn authenticate(&self, form: &mut Form, token_url: &HttpUrl) -> Result<(), String> {
        match &self.proof {
            ClientProof::None => form.add("client_id", &*self.id),
            ClientProof::Secret { file, is_basic: false } => {
                form.add("client_id", &*self.id);
                form.add_secret("client_secret", secret_of(file)?);
            }
            ClientProof::Secret { file, is_basic: true } => {
                let secret = secret_of(file)?;
                let (id, proof) = (percent_encoded(&self.id, KEPT), percent_encoded(&secret, KEPT));
                let both = Zeroizing::new([id.as_str(), ":", &proof].concat());
                let mut header = Zeroizing::new(String::with_capacity(both.len() * 4 / 3 + 16));
                header.push_str("Basic ");
                BASE64.encode_append(both.as_bytes(), &mut header);
                form.authorization = Some(header);
                form.header_secret = Some(secret);
            }
            ClientProof::Assertion(settings) => {
                form.add("client_id", &*self.id);
                form.add("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
                let audience = token_url.to_string();
                form.add_secret("client_assertion", settings.sign(&self.id, &audience, clock::wall())?);
            }
        }
        Ok(())
    }

    fn files(&self) -> Vec<PathBuf> {
        match &self.proof {
            ClientProof::None => Vec::new(),
            ClientProof::Secret { file, .. } => vec![file.clone()],
            ClientProof::Assertion(settings) => settings.files(),
        }
    }
}

impl OAuth2 {
    /// Asks for a token, and says of which user it is.
    fn token(&self) -> Result<(TokenAnswer, String), FetchError> {
        let begun = clock::wall();
        let mut form = Form::default();
        let account;
        let mut user = self.user.of("");
        let url = match &self.grant {
            Grant::ClientCredentials(client) => {
                let url = self.token_url()?;
                form.add("grant_type", "client_credentials");
                client.authenticate(&mut form, url)?;
                self.add_scopes(&mut form);
                url
            }
            Grant::RefreshToken { client, file, .. } => {
                let url = self.token_url()?;
                form.add("grant_type", "refresh_token");
                form.add_secret("refresh_token", file.read()?);
                client.authenticate(&mut form, url)?;
                self.add_scopes(&mut form);
                url
            }
            Grant::ServiceAccount(settings) => {
                account = settings.read()?;
                user = self.user.of(&account.email);
                let url = self.token_url.as_ref().unwrap_or(&account.token_url);
                form.add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                let scope = self.scopes.join(" ");
                let assertion = account.sign(settings.subject.as_deref(), &scope, url, begun, GOOGLE_LIFE)?;
                form.add_secret("assertion", assertion);
                url
            }
        };
        let answer = form.post(url, &self.roots)?;
        let token = TokenAnswer::read(&answer, &form.secrets(), begun)
            .map_err(|error| FetchError::by(&answer, self.explain(url, &error)))?;
        Ok((token, user))
    }

    fn token_url(&self) -> Result<&HttpUrl, String> {
        self.token_url.as_ref().ok_or_else(|| "there is no token_url".to_owned())
    }

    fn add_scopes(&self, form: &mut Form) {
        if !self.scopes.is_empty() {
            form.add("scope", self.scopes.join(" "));
        }
    }

    fn explain(&self, url: &HttpUrl, error: &OAuth2Error) -> String {
        let mut text = format!("{url}: {error}");
        if error.is("invalid_grant") && matches!(self.grant, Grant::RefreshToken { .. }) {
            let _ =
                write!(text, " (the refresh token is no longer valid: `ambassador sign-in` gets another)");
        }
        text
    }

    /// Tries everything that a request needs of this host, without a request.
    ///
    /// # Errors
    /// In words, without any secret.
    pub(crate) fn examine(&self) -> Result<(), String> {
        match &self.grant {
            Grant::ClientCredentials(client) | Grant::RefreshToken { client, .. } => {
                client.authenticate(&mut Form::default(), self.token_url()?)
            }
            Grant::ServiceAccount(settings) => {
                let account = settings.read()?;
                account.sign(None, "", &account.token_url, clock::wall(), GOOGLE_LIFE).map(drop)
            }
        }
    }

    /// Continues with what an earlier source of the same settings has only in memory.
    pub(super) fn adopt(&self, earlier: &Self) {
        if let (Grant::RefreshToken { file, .. }, Grant::RefreshToken { file: before, .. }) =
            (&self.grant, &earlier.grant)
        {
            file.adopt(before);
        }
    }

    fn digests(&self) -> [digest::Digest; 2] {
        [self.files(), self.written()].map(|paths| {
            let mut context = digest::Context::new(&digest::SHA256);
            for path in paths {
                match read_secret(&path) {
                    Ok(bytes) => context.update(digest::digest(&digest::SHA256, &bytes).as_ref()),
                    Err(error) => context.update(error.to_string().as_bytes()),
                }
            }
            context.finish()
        })
    }
}

impl LoginSource for OAuth2 {
    fn label(&self) -> &'static str {
        self.label
    }

    fn secret_kind(&self) -> SecretKind {
        self.kind
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = match &self.grant {
            Grant::ClientCredentials(client) | Grant::RefreshToken { client, .. } => client.files(),
            Grant::ServiceAccount(settings) => vec![settings.file.clone()],
        };
        if let Roots::File(path) = &self.roots {
            files.push(path.clone());
        }
        files
    }

    fn written(&self) -> Vec<PathBuf> {
        match &self.grant {
            Grant::RefreshToken { file, .. } => vec![file.path().to_owned()],
            Grant::ClientCredentials(_) | Grant::ServiceAccount(_) => Vec::new(),
        }
    }

    fn is_news(&self, counts_written: bool) -> bool {
        let now = self.digests();
        let before = self.seen.0.lock().replace(now);
        let is_other = |index: usize| {
            before.is_some_and(|before: [digest::Digest; 2]| before[index].as_ref() != now[index].as_ref())
        };
        is_other(0) || (counts_written && is_other(1))
    }

    fn oauth2(&self) -> Option<&OAuth2> {
        Some(self)
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        let _lock = match &self.grant {
            Grant::RefreshToken { file, .. } => file.lock(),
            Grant::ClientCredentials(_) | Grant::ServiceAccount(_) => None,
        };
        *self.seen.0.lock() = Some(self.digests());
        let (TokenAnswer { access_token, refresh_token, expires }, user) = self.token()?;
        if let (Grant::RefreshToken { file, .. }, Some(new)) = (&self.grant, refresh_token) {
            file.rotate(new);
            // Its own writing is no news.
            *self.seen.0.lock() = Some(self.digests());
        }
        let secret = Secret::new(self.kind, access_token);
        let credentials = LoginCredentials { user, secret };
        Ok(FetchedLogin { credentials, expires: Some(expires) })
    }
}

#[cfg(test)]
mod tests;
