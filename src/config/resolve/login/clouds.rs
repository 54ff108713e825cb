//! The sources `aws_rds_iam`, `aws_elasticache_iam`, `azure` and `gcp` of `clusters.NAME.login`.

use super::SettingsBuilder;
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::credentials::{AZURE_DATABASES, AwsEnvironment, AwsIam, AwsService, Cloud, CloudToken};
use crate::protocol::{Protocol, SecretKind};

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
        let cloud = match key {
            "azure" => {
                let resource = source.optional_text("resource")?.unwrap_or(AZURE_DATABASES);
                Cloud::azure(&self.environment, source.optional_text("client_id")?, resource)
            }
            _ => Cloud::gcp(&self.environment),
        };
        // Databases take the token as a password, mail servers as a bearer's.
        let is_password = protocol?.login_secrets().contains(&SecretKind::PasswordToken);
        let kind = if is_password { SecretKind::PasswordToken } else { SecretKind::BearerToken };
        Some(CloudToken { user: user?, cloud, kind })
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
