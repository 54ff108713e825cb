//! `login.azure` and `login.gcp`: access tokens that a cloud gives to what runs in it, from its metadata service, or, on Azure, for a
//! Kubernetes service account (workload identity).
//!
//! Sources: Microsoft, "Managed identities: get a token using HTTP" (IMDS and App Service), "Workload identity federation";
//! Google, "Authenticate workloads: access tokens from the metadata server".

use std::fmt;
use std::path::PathBuf;

use hyper::Method;
use hyper::header::HeaderName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::answer::TokenAnswer;
use super::{FetchError, FetchedLogin, LoginSource};
use crate::clock;
use crate::http::{self, HttpField, HttpRequest, HttpUrl, PlainHttp};
use crate::protocol::{LoginCredentials, Secret, SecretKind};
use crate::tls::{Roots, read_secret};

/// Which cloud, and how it is asked.
#[derive(Clone)]
pub(crate) enum Cloud {
    /// The instance metadata service (IMDS), or the endpoint of an App Service.
    AzureManaged {
        endpoint: String,
        /// The secret header of an App Service.
        app_service: Option<Zeroizing<String>>,
        /// One of several identities of the machine.
        client_id: Option<String>,
        /// What the token is for.
        resource: String,
    },
    /// A token of Kubernetes in place of a client's secret.
    AzureWorkload { token_url: String, client_id: String, token: PathBuf, resource: String },
    /// The metadata server of Google Cloud.
    Gcp { endpoint: String },
}

/// How the cloud is asked.
struct CloudRequest {
    method: Method,
    url: String,
    header: HttpField,
    body: Zeroizing<Vec<u8>>,
    /// What must not be repeated in any message.
    secrets: Vec<Zeroizing<String>>,
}

/// A token of the cloud for a user.
#[derive(Debug)]
pub(crate) struct CloudToken {
    pub(crate) user: String,
    pub(crate) cloud: Cloud,
    /// [`SecretKind::PasswordToken`] for databases, [`SecretKind::BearerToken`] for mail.
    pub(crate) kind: SecretKind,
}

/// For both clouds: an address that only what runs there reaches.
const METADATA: &str = "http://169.254.169.254";
/// Azure Database for PostgreSQL and MySQL.
pub(crate) const AZURE_DATABASES: &str = "https://ossrdbms-aad.database.windows.net";

impl Cloud {
    /// As the environment says: a workload identity, an App Service, or the machine's own.
    #[must_use]
    pub(crate) fn azure(
        environment: &dyn Fn(&str) -> Option<String>,
        client_id: Option<&str>,
        resource: &str,
    ) -> Self {
        let given = |name: &str| environment(name).filter(|value| !value.is_empty());
        let client_id = client_id.map(ToOwned::to_owned);
        let resource = resource.to_owned();
        if let (Some(token), Some(tenant), Some(client_id)) = (
            given("AZURE_FEDERATED_TOKEN_FILE"),
            given("AZURE_TENANT_ID"),
            client_id.clone().or_else(|| given("AZURE_CLIENT_ID")),
        ) {
            let host =
                given("AZURE_AUTHORITY_HOST").unwrap_or_else(|| "https://login.microsoftonline.com/".into());
            let token_url = format!("{}/{tenant}/oauth2/v2.0/token", host.trim_end_matches('/'));
            return Self::AzureWorkload { token_url, client_id, token: token.into(), resource };
        }
        match given("IDENTITY_ENDPOINT").zip(given("IDENTITY_HEADER")) {
            Some((endpoint, header)) => {
                let app_service = Some(Zeroizing::new(header));
                Self::AzureManaged { endpoint, app_service, client_id, resource }
            }
            None => {
                let endpoint = given("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA.into());
                let endpoint = format!("{}/metadata/identity/oauth2/token", endpoint.trim_end_matches('/'));
                Self::AzureManaged { endpoint, app_service: None, client_id, resource }
            }
        }
    }

    /// The metadata server, or another one (`GCE_METADATA_HOST`).
    #[must_use]
    pub(crate) fn gcp(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let host = environment("GCE_METADATA_HOST").filter(|host| !host.is_empty());
        Self::Gcp { endpoint: host.map_or_else(|| METADATA.into(), |host| format!("http://{host}")) }
    }

    fn request(&self) -> Result<CloudRequest, String> {
        let get = |url, header, secrets| CloudRequest {
            method: Method::GET,
            url,
            header,
            body: Zeroizing::default(),
            secrets,
        };
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let field = |name: &'static str, value: &str| {
            HttpField(HeaderName::from_static(name), Zeroizing::new(value.to_owned()))
        };
        Ok(match self {
            Self::AzureManaged { endpoint, app_service, client_id, resource } => {
                let (version, header) = match app_service {
                    Some(secret) => ("2019-08-01", field("x-identity-header", secret)),
                    None => ("2018-02-01", field("metadata", "true")),
                };
                let whose =
                    client_id.as_ref().map(|id| format!("&client_id={}", encoded(id))).unwrap_or_default();
                let url = format!("{endpoint}?api-version={version}&resource={}{whose}", encoded(resource));
                get(url, header, app_service.iter().cloned().collect())
            }
            Self::AzureWorkload { token_url, client_id, token, resource } => {
                let shown = token.display();
                let read = read_secret(token).map_err(|error| format!("cannot read {shown}: {error}"))?;
                let assertion =
                    std::str::from_utf8(&read).map_err(|_| format!("{shown} is not UTF-8"))?.trim();
                let (header, body) = http::form(&[
                    ("grant_type", "client_credentials"),
                    ("client_id", client_id),
                    ("scope", &format!("{}/.default", resource.trim_end_matches('/'))),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion),
                ]);
                let secrets = vec![Zeroizing::new(assertion.to_owned())];
                CloudRequest { method: Method::POST, url: token_url.clone(), header, body, secrets }
            }
            Self::Gcp { endpoint } => {
                let url = format!("{endpoint}/computeMetadata/v1/instance/service-accounts/default/token");
                get(url, field("metadata-flavor", "Google"), Vec::new())
            }
        })
    }
}

/// Without the secret header.
impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AzureManaged { endpoint, client_id, resource, .. } => {
                f.debug_tuple("AzureManaged").field(endpoint).field(client_id).field(resource).finish()
            }
            Self::AzureWorkload { token_url, client_id, token, resource } => f
                .debug_tuple("AzureWorkload")
                .field(token_url)
                .field(client_id)
                .field(token)
                .field(resource)
                .finish(),
            Self::Gcp { endpoint } => f.debug_tuple("Gcp").field(endpoint).finish(),
        }
    }
}

impl LoginSource for CloudToken {
    fn label(&self) -> &'static str {
        match self.cloud {
            Cloud::AzureManaged { .. } | Cloud::AzureWorkload { .. } => "azure",
            Cloud::Gcp { .. } => "gcp",
        }
    }

    fn secret_kind(&self) -> SecretKind {
        self.kind
    }

    fn files(&self) -> Vec<PathBuf> {
        match &self.cloud {
            Cloud::AzureWorkload { token, .. } => vec![token.clone()],
            Cloud::AzureManaged { .. } | Cloud::Gcp { .. } => Vec::new(),
        }
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        let CloudRequest { method, url, header, body, secrets } = self.cloud.request()?;
        let parsed = HttpUrl::parse(&url, PlainHttp::Local).map_err(|reason| format!("{url} {reason}"))?;
        let at = clock::wall();
        let answer =
            http::send(HttpRequest { method, url: &parsed, headers: vec![header], body }, &Roots::System);
        let answer = answer.map_err(|error| error.to_string())?;
        let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str()).collect();
        let TokenAnswer { access_token, expires, .. } = TokenAnswer::read(&answer, &secrets, at)
            .map_err(|error| FetchError::by(&answer, format!("{parsed}: {error}")))?;
        let secret = Secret::new(self.kind, access_token);
        let credentials = LoginCredentials { user: self.user.clone(), secret };
        Ok(FetchedLogin { credentials, expires: Some(expires) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_environment_says_which_of_azures_identities_it_is() {
        let url = |cloud: Cloud| cloud.request().unwrap().url;
        assert_eq!(
            url(Cloud::azure(&environment(&[]), Some("id 1"), AZURE_DATABASES)),
            "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=\
             https%3A%2F%2Fossrdbms%2Daad%2Edatabase%2Ewindows%2Enet&client_id=id%201"
        );
        let app =
            [("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"), ("IDENTITY_HEADER", "secret header")];
        let app: &'static [(&str, &str)] = Box::leak(Box::new(app));
        let app = Cloud::azure(&environment(app), None, "https://x");
        assert!(!format!("{app:?}").contains("secret header"));
        assert_eq!(
            url(app),
            "http://127.0.0.1:41741/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fx"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "e.y.J\n").unwrap();
        let shown = file.display().to_string();
        let pod = move |name: &str| match name {
            "AZURE_FEDERATED_TOKEN_FILE" => Some(shown.clone()),
            "AZURE_TENANT_ID" => Some("tenant".to_owned()),
            "AZURE_CLIENT_ID" => Some("client".to_owned()),
            _ => None,
        };
        let CloudRequest { method, url, body, secrets, .. } =
            Cloud::azure(&pod, None, AZURE_DATABASES).request().unwrap();
        assert_eq!(secrets, [Zeroizing::new("e.y.J".to_owned())]);
        assert_eq!(
            (method, url.as_str()),
            (Method::POST, "https://login.microsoftonline.com/tenant/oauth2/v2.0/token")
        );
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            body.contains(
                "client_id=client&scope=https%3A%2F%2Fossrdbms-aad.database.windows.net%2F.default&"
            ),
            "{body}"
        );
        assert!(body.ends_with("&client_assertion=e.y.J"), "{body}");
    }
}
