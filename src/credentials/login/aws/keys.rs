//! Where AWS keys come from.

use std::fmt;
use std::path::PathBuf;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::sigv4::AwsKeys;
use crate::credentials::login::FetchError;
use crate::credentials::login::answer::secret;
use crate::http::moment::of_iso as moment;
use crate::http::{self, HttpAnswer, HttpField, HttpRequest, HttpUrl, PlainHttp};
use crate::tls::{Roots, read_secret};

/// What the environment says about keys, as it was when the configuration was read.
#[derive(Clone, Default)]
pub(crate) struct AwsEnvironment {
    /// Keys in variables.
    fixed: Option<AwsKeys>,
    web_identity: Option<WebIdentity>,
    shared_file: Option<PathBuf>,
    profile: Option<String>,
    container: Option<Container>,
    /// Of the metadata service; `None`: it is switched off.
    metadata: Option<String>,
}

/// A role that a token of another issuer may take on (Kubernetes service accounts).
#[derive(Clone)]
struct WebIdentity {
    token: PathBuf,
    role: String,
    session: String,
    /// Another endpoint than AWS' own.
    endpoint: Option<String>,
}

/// The endpoint of ECS, EKS or Greengrass beside a container.
#[derive(Clone)]
struct Container {
    url: String,
    token: Option<Zeroizing<String>>,
    token_file: Option<PathBuf>,
}

const CONTAINER_HOST: &str = "http://169.254.170.2";
const METADATA: &str = "http://169.254.169.254";
/// Seconds that a session with the metadata service lasts: it is used for the requests of one fetch.
const METADATA_SESSION: &str = "60";

impl AwsEnvironment {
    /// Reads the variables of AWS' SDKs.
    #[must_use]
    pub(crate) fn read(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| environment(name).filter(|value| !value.is_empty());
        let fixed =
            given("AWS_ACCESS_KEY_ID").zip(given("AWS_SECRET_ACCESS_KEY")).map(|(id, secret)| AwsKeys {
                id,
                secret: Zeroizing::new(secret),
                session_token: given("AWS_SESSION_TOKEN").map(Zeroizing::new),
                expires: None,
            });
        let web_identity = given("AWS_WEB_IDENTITY_TOKEN_FILE").zip(given("AWS_ROLE_ARN"));
        let relative =
            given("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER_HOST}{path}"));
        let is_off = given("AWS_EC2_METADATA_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"));
        let metadata = given("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA.into());
        Self {
            fixed,
            web_identity: web_identity.map(|(token, role)| WebIdentity {
                token: token.into(),
                role,
                session: given("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "ambassador".into()),
                endpoint: given("AWS_ENDPOINT_URL_STS"),
            }),
            shared_file: given("AWS_SHARED_CREDENTIALS_FILE")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(given("HOME")?).join(".aws/credentials")))
                .filter(|path| path.exists()),
            profile: given("AWS_PROFILE"),
            container: relative.or_else(|| given("AWS_CONTAINER_CREDENTIALS_FULL_URI")).map(|url| {
                Container {
                    url,
                    token: given("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Zeroizing::new),
                    token_file: given("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
                }
            }),
            metadata: (!is_off).then_some(metadata),
        }
    }

    /// The files of what is asked.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        if self.fixed.is_some() {
            return Vec::new();
        }
        let token = self.web_identity.as_ref().map(|web_identity| web_identity.token.clone());
        let beside = self.container.as_ref().and_then(|container| container.token_file.clone());
        token.into_iter().chain(self.shared_file.clone()).chain(beside).collect()
    }

    /// The keys of the first source that is there. One that is there and fails is an error: another one's keys would be of
    /// another identity.
    pub(super) fn keys(&self, region: &str) -> Result<AwsKeys, FetchError> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        if let Some(web_identity) = &self.web_identity {
            return web_identity.keys(region);
        }
        if let Some(file) = &self.shared_file {
            let shown = file.display();
            let text = text_of(file)?;
            let profile = self.profile.as_deref().unwrap_or("default");
            match of_profile(&text, profile) {
                Some(keys) => return Ok(keys),
                None if self.profile.is_some() => {
                    return Err(format!("{shown} has no keys of profile {profile}").into());
                }
                None => {}
            }
        }
        if let Some(container) = &self.container {
            return container.keys();
        }
        match &self.metadata {
            Some(endpoint) => of_instance(endpoint),
            None => Err("no source of AWS keys: neither the environment nor a file has any, and the metadata service is off".to_owned().into()),
        }
    }
}

/// The sources, and nothing that is secret.
impl fmt::Debug for AwsEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsEnvironment")
            .field("fixed", &self.fixed.as_ref().map(|keys| &keys.id))
            .field("web_identity", &self.web_identity.as_ref().map(|web_identity| &web_identity.role))
            .field("shared_file", &self.shared_file)
            .field("profile", &self.profile)
            .field("container", &self.container.as_ref().map(|container| &container.url))
            .field("metadata", &self.metadata)
            .finish()
    }
}

fn text_of(path: &std::path::Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let bytes = read_secret(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The keys of a profile of the shared credentials file: an INI file.
fn of_profile(text: &str, profile: &str) -> Option<AwsKeys> {
    let mut is_ours = false;
    let (mut id, mut secret, mut session_token) = (None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_ours = name.trim() == profile;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| is_ours) else { continue };
        let value = value.trim().to_owned();
        match key.trim() {
            "aws_access_key_id" => id = Some(value),
            "aws_secret_access_key" => secret = Some(Zeroizing::new(value)),
            "aws_session_token" => session_token = Some(Zeroizing::new(value)),
            _ => {}
        }
    }
    Some(AwsKeys { id: id?, secret: secret?, session_token, expires: None })
}

fn ask(
    method: Method,
    url: &str,
    headers: Vec<HttpField>,
    body: Zeroizing<Vec<u8>>,
) -> Result<HttpAnswer, FetchError> {
    let parsed = HttpUrl::parse(url, PlainHttp::Local).map_err(|reason| format!("{url} {reason}"))?;
    let answer = http::send(HttpRequest { method, url: &parsed, headers, body }, &Roots::System);
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(answer),
        status => Err(FetchError::by(&answer, format!("{parsed} answers with HTTP {status}"))),
    }
}

fn header(name: &'static str, value: &str) -> HttpField {
    HttpField(HeaderName::from_static(name), Zeroizing::new(value.to_owned()))
}

/// `{"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}`, of a container's endpoint and of the metadata service.
fn of_json(body: &[u8], from: &str) -> Result<AwsKeys, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answered {
        access_key_id: String,
        #[serde(deserialize_with = "secret")]
        secret_access_key: Option<Zeroizing<String>>,
        #[serde(deserialize_with = "secret", default)]
        token: Option<Zeroizing<String>>,
        expiration: Option<String>,
    }
    let bad = || format!("{from} has answered with no keys of AWS");
    let answered: Answered = serde_json::from_slice(body).map_err(|_| bad())?;
    Ok(AwsKeys {
        id: answered.access_key_id,
        secret: answered.secret_access_key.ok_or_else(bad)?,
        session_token: answered.token,
        expires: answered.expiration.as_deref().and_then(moment),
    })
}

impl Container {
    fn keys(&self) -> Result<AwsKeys, FetchError> {
        let token = match &self.token_file {
            Some(file) => Some(text_of(file)?),
            None => self.token.clone(),
        };
        let headers = token.map(|token| HttpField(AUTHORIZATION, Zeroizing::new(token.trim().to_owned())));
        let answer = ask(Method::GET, &self.url, headers.into_iter().collect(), Zeroizing::default())?;
        Ok(of_json(&answer.body, &self.url)?)
    }
}

/// By IMDSv2 alone: version 1 has no session, and answers whoever makes a program ask.
fn of_instance(endpoint: &str) -> Result<AwsKeys, FetchError> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let endpoint = endpoint.trim_end_matches('/');
    let session = ask(
        Method::PUT,
        &format!("{endpoint}/latest/api/token"),
        vec![header("x-aws-ec2-metadata-token-ttl-seconds", METADATA_SESSION)],
        Zeroizing::default(),
    )?;
    let session =
        std::str::from_utf8(&session.body).map_err(|_| format!("{endpoint} gives no session"))?.trim();
    let get = |path: &str| {
        let headers = vec![header("x-aws-ec2-metadata-token", session)];
        ask(Method::GET, &format!("{endpoint}{path}"), headers, Zeroizing::default())
    };
    let roles = get(ROLES)?;
    let role = std::str::from_utf8(&roles.body).ok().and_then(|text| text.lines().next()).map(str::trim);
    let role = role.filter(|role| !role.is_empty() && role.bytes().all(|byte| byte.is_ascii_graphic()));
    let role = role.ok_or_else(|| format!("{endpoint} names no role of this instance"))?;
    Ok(of_json(&get(&format!("{ROLES}{role}"))?.body, endpoint)?)
}

impl WebIdentity {
    /// AssumeRoleWithWebIdentity of STS, which needs no keys.
    fn keys(&self, region: &str) -> Result<AwsKeys, FetchError> {
        let endpoint =
            self.endpoint.clone().unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com/"));
        let token = text_of(&self.token)?;
        let (form, body) = http::form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", &self.role),
            ("RoleSessionName", &self.session),
            ("WebIdentityToken", token.trim()),
        ]);
        let answer = ask(Method::POST, &endpoint, vec![form], body)?;
        let text = Zeroizing::new(String::from_utf8_lossy(&answer.body).into_owned());
        of_xml(&text).ok_or_else(|| format!("{endpoint} has answered with no keys of AWS").into())
    }
}

/// The answer of STS. Its elements are few, flat and without attributes.
fn of_xml(text: &str) -> Option<AwsKeys> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        // Base64 and names have nothing that XML escapes but `+` of some encoders.
        let value = Zeroizing::new(value.trim().replace("&#43;", "+"));
        Some(Zeroizing::new(value.replace("&amp;", "&")))
    };
    Some(AwsKeys {
        id: element("AccessKeyId")?.to_string(),
        secret: element("SecretAccessKey")?,
        session_token: Some(element("SessionToken")?),
        expires: element("Expiration").and_then(|text| moment(&text)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> AwsEnvironment {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        AwsEnvironment::read(&move |name: &str| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn keys_of_the_environment_come_first() {
        let both = environment(&[
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "session"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such"),
            ("AWS_ROLE_ARN", "arn"),
        ]);
        let keys = both.keys("eu-central-1").unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("AKID", "secret"));
        assert!(both.files().is_empty());
        let shown = format!("{both:?}");
        assert!(
            shown.contains("AKID") && !shown.contains("secret\"") && !shown.contains("session"),
            "{shown}"
        );
        let off = environment(&[("AWS_EC2_METADATA_DISABLED", "true")]);
        assert!(off.keys("x").err().is_some_and(|error| error.reason.starts_with("no source of AWS keys")));
        // Half a source is none of its own, and a source that fails is not passed over.
        let failing = environment(&[
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such"),
            ("AWS_ROLE_ARN", "arn"),
        ]);
        assert!(
            failing.keys("x").err().is_some_and(|error| error.reason.starts_with("cannot read /no/such"))
        );
    }

    #[test]
    fn a_profile_of_the_shared_file() {
        const FILE: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=B = C\n\n\
                            [ops]\naws_access_key_id=D\naws_secret_access_key=E\naws_session_token=F\n[empty]\n";
        let keys = of_profile(FILE, "default").unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.session_token), ("A", "B = C", None));
        let keys = of_profile(FILE, "ops").unwrap();
        assert_eq!((keys.id.as_str(), keys.session_token.unwrap().as_str()), ("D", "F"));
        assert!(of_profile(FILE, "empty").is_none() && of_profile(FILE, "none").is_none());
    }

    #[test]
    fn answers_of_endpoints() {
        let body = br#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"B","Token":"C","Expiration":"2026-11-30T12:00:00Z"}"#;
        let keys = of_json(body, "here").unwrap();
        assert_eq!(keys.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_040_000)));
        assert_eq!(
            of_json(b"{\"message\":\"B\"}", "here").err().unwrap(),
            "here has answered with no keys of AWS"
        );
        let xml = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>S+/=</SessionToken>\
                   <SecretAccessKey>K</SecretAccessKey><Expiration>2026-11-30T12:00:00.123Z</Expiration><AccessKeyId>I</AccessKeyId>\
                   </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
        let keys = of_xml(xml).unwrap();
        assert_eq!((keys.id.as_str(), keys.session_token.unwrap().as_str()), ("I", "S+/="));
        assert!(of_xml("<Error><Code>InvalidIdentityToken</Code></Error>").is_none());
    }
}
