//! `login.aws_rds_iam` and `login.aws_elasticache_iam`: tokens in place of passwords, which this process signs itself with
//! AWS keys. The keys come from where AWS' own programs take them: the environment, a web identity (STS), the shared
//! credentials file, a container's endpoint, the instance's metadata (IMDSv2 alone), in this order.
//!
//! Sources: AWS SDKs and Tools Reference Guide, "Standardized credential providers"; EC2 User Guide, "Use IMDSv2".
//! Deliberately absent: SSO, `credential_process`, `source_profile`, the config file.

mod keys;
mod sigv4;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{FetchError, FetchedLogin, LoginSource};
use crate::clock;
use crate::protocol::{LoginCredentials, Secret, SecretKind};

pub(crate) use keys::AwsEnvironment;

use sigv4::Connect;

/// What is signed in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AwsService {
    /// A database of RDS or Aurora, by `HOST:PORT`.
    Rds {
        /// As its endpoint is called.
        host: String,
    },
    /// A cache of ElastiCache or a cluster of MemoryDB, by its name.
    Cache {
        /// `elasticache` or `memorydb`.
        service: &'static str,
        /// In lower case.
        name: String,
    },
}

/// Tokens for one user of one service.
#[derive(Debug)]
pub(crate) struct AwsIam {
    pub(crate) user: String,
    pub(crate) region: String,
    pub(crate) service: AwsService,
    pub(crate) environment: AwsEnvironment,
}

impl LoginSource for AwsIam {
    fn label(&self) -> &'static str {
        match self.service {
            AwsService::Rds { .. } => "aws_rds_iam",
            AwsService::Cache { .. } => "aws_elasticache_iam",
        }
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::PasswordToken
    }

    fn files(&self) -> Vec<PathBuf> {
        self.environment.files()
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        let keys = self.environment.keys(&self.region)?;
        let at = clock::wall();
        let connect = match &self.service {
            AwsService::Rds { host } => {
                Connect { service: "rds-db", region: &self.region, host, user: ("DBUser", &self.user) }
            }
            AwsService::Cache { service, name } => {
                Connect { service, region: &self.region, host: name, user: ("User", &self.user) }
            }
        };
        let secret = Secret::new(SecretKind::PasswordToken, sigv4::token(&connect, &keys, at));
        let end = at + Duration::from_secs(sigv4::LIFETIME);
        let expires: Option<SystemTime> = Some(keys.expires.map_or(end, |keys| keys.min(end)));
        Ok(FetchedLogin { credentials: LoginCredentials { user: self.user.clone(), secret }, expires })
    }
}
