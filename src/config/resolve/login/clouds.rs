//! The sources `aws_rds_iam`, `aws_elasticache_iam`, `azure` and `gcp` of `clusters.NAME.login`.

use super::SettingsBuilder;
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::credentials::{
    AZURE_DATABASES, AwsEnvironment, AwsIam, AwsService, Cloud, CloudToken, OAuth2, TokenUser,
};
use crate::protocol::{Protocol, SecretKind};
use crate::tls::Roots;

/// What Google's tokens are for by default, by how a server takes them.
const CLOUD_SQL: &str = "https://www.googleapis.com/auth/sqlservice.login";
const CLOUD: &str = "https://www.googleapis.com/auth/cloud-platform";
const MAIL: &str = "https://mail.google.com/";

impl SettingsBuilder<'_> {
    /// `around`: the cluster, whose endpoint a token of RDS is for.
    pub(super) fn aws(&mut self, key: &str, section: &Section, around: &Section) -> Option<AwsIam> {
        let user = self.user_of(key, section);
        let source = section.section(key)?;
        let region = source.text("region")?;
        if !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            let message = format!("{} is no region of AWS: write one such as eu-central-1", quoted(region));
            self.findings.mistake(&source.at("region"), message);
            return None;
        }
        let service = match key {
            "aws_rds_iam" => AwsService::Rds { host: self.rds_host(source, around)? },
            _ => {
                let service =
                    source.choice("service", &[("elasticache", "elasticache"), ("memorydb", "memorydb")])?;
                AwsService::Cache { service, name: source.text("cache")?.to_ascii_lowercase() }
            }
        };
        let environment = AwsEnvironment::read(&self.environment);
        Some(AwsIam { user: user?, region: region.to_owned(), service, environment })
    }

    /// A token is for one host and port, as AWS calls it; a tunnel to it has another name.
    fn rds_host(&mut self, source: &Section, around: &Section) -> Option<String> {
        if let Some(host) = source.optional_text("host")? {
            if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                return Some(host.to_owned());
            }
            let message = format!("{} has no port: write HOST:PORT as RDS shows the endpoint", quoted(host));
            self.findings.mistake(&source.at("host"), message);
            return None;
        }
        let only = match around.list("endpoints") {
            Some([only]) => only.text().or_else(|| only.section()?.text("address")),
            Some(_) | None => None,
        };
        if only.is_none() {
            let message = "a token is for one host: name it as `host: HOST:PORT`, as the cluster has not exactly one endpoint";
            self.findings.mistake(&source.at, message);
        }
        only.map(ToOwned::to_owned)
    }

    pub(super) fn cloud(
        &mut self,
        key: &str,
        section: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<CloudToken> {
        let user = self.user_of(key, section);
        let source = section.section(key)?;
        if key == "gcp" {
            if source.is_given("scopes") {
                let message =
                    "goes with `service_account`: those of the machine's tokens are set at the machine";
                self.findings.mistake(&source.at("scopes"), message);
            }
            self.warn_of_account_name(section, protocol);
        }
        let cloud = match key {
            "azure" => {
                let resource = source.optional_text("resource")?.unwrap_or(AZURE_DATABASES);
                Cloud::azure(&self.environment, source.optional_text("client_id")?, resource)
            }
            _ => Cloud::gcp(&self.environment),
        };
        Some(CloudToken { user: user?, cloud, kind: kind_for(protocol?) })
    }

    /// `gcp: { service_account }`: the key of an account in a file, instead of the machine's own account.
    pub(super) fn google_account(
        &mut self,
        section: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<OAuth2> {
        let source = section.section("gcp")?;
        let grant = self.account_grant(source);
        let scopes = self.scopes(source);
        let protocol = protocol?;
        let (user, scope) = match (protocol.label(), kind_for(protocol)) {
            ("postgres", _) => (Some(TokenUser::WithoutDomain), CLOUD_SQL),
            ("mysql", _) => (Some(TokenUser::BeforeAt), CLOUD_SQL),
            (_, SecretKind::BearerToken) => (None, MAIL),
            _ => (None, CLOUD),
        };
        self.warn_of_account_name(section, Some(protocol));
        let user = match section.optional_text("as")? {
            Some(user) => Some(TokenUser::Named(user.to_owned())),
            None if user.is_some() => user,
            None => self.user_of("gcp", section).map(TokenUser::Named),
        };
        let mut scopes = scopes?;
        if scopes.is_empty() {
            scopes.push(scope.to_owned());
        }
        let source_of = |user, grant| OAuth2 {
            user,
            label: "gcp",
            kind: kind_for(protocol),
            token_url: None,
            roots: Roots::System,
            grant,
            scopes,
            seen: Default::default(),
        };
        self.examined(source_of(user?, grant?), source)
    }

    /// Cloud SQL knows an account by another name than its address.
    fn warn_of_account_name(&mut self, section: &Section, protocol: Option<&dyn Protocol>) {
        let Some(user) = section.text("as").filter(|_| section.is_given("as")) else { return };
        let name = match protocol.map(Protocol::label) {
            Some("postgres") => user.strip_suffix(".gserviceaccount.com"),
            Some("mysql") => user.split_once('@').map(|(name, _)| name),
            _ => None,
        };
        if let Some(name) = name {
            let message = format!("Cloud SQL calls this user {}", quoted(name));
            self.findings.warning(&section.at("as"), message);
        }
    }

    /// No cloud says who the token's bearer is at the server.
    fn user_of(&mut self, key: &str, section: &Section) -> Option<String> {
        let user = section.optional_text("as")?;
        if user.is_none() {
            let message = format!("`as` is missing: `{key}` does not say who is signed in");
            self.findings.mistake(&section.at, message);
        }
        user.map(ToOwned::to_owned)
    }
}

/// Databases take the token as a password, mail servers as a bearer's.
fn kind_for(protocol: &dyn Protocol) -> SecretKind {
    match protocol.login_secrets().contains(&SecretKind::PasswordToken) {
        true => SecretKind::PasswordToken,
        false => SecretKind::BearerToken,
    }
}
