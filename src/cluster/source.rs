//! A cluster's servers as the configuration or discovery names them, before they are resolved.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::endpoint::{Address, Host, Settings};

/// The most endpoints that discovery gives a cluster. A longer file is a mistake; what names and records have beyond it is left
/// out, with a warning.
pub(crate) const ENDPOINTS_MAX: usize = 4096;

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The configuration lists them.
    Listed(Vec<Target>),
    /// An SRV record lists them.
    Service(SrvService),
    /// A file lists them, which another program writes.
    File(EndpointsFile),
}

impl Source {
    /// The targets that the configuration lists; empty where something else does.
    pub(crate) fn listed(&self) -> &[Target] {
        match self {
            Self::Listed(targets) => targets,
            Self::Service(_) | Self::File(_) => &[],
        }
    }

    /// The file that it reads, if it reads one. Landlock denies whatever is not named here.
    pub(crate) const fn file(&self) -> Option<&EndpointsFile> {
        match self {
            Self::File(file) => Some(file),
            Self::Listed(_) | Self::Service(_) => None,
        }
    }

    /// What is queried until it has answered, for the log: "the endpoints of …".
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Listed(targets) => {
                let names = targets.iter().filter(|target| matches!(target.address.host, Host::Name(_)));
                let names: BTreeSet<_> = names.map(|target| target.address.to_string()).collect();
                format!("{} name(s) that are being asked for", names.len())
            }
            Self::Service(service) => format!("the SRV record {}, which is being asked for", service.name),
            Self::File(file) => format!("{}, which is being read", file.path.display()),
        }
    }
}

/// A server that was named. Each of its addresses becomes an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its host, by address or by name, and its port.
    pub address: Address,
    /// The weight of each of its endpoints, at least 1.
    pub weight: u32,
    /// Endpoints of a higher number are used only when none of a lower one is usable.
    pub priority: u32,
    /// The name sent and verified in TLS.
    pub server_name: ServerName<'static>,
}

impl Target {
    /// Whether the endpoint was resolved from this target's name.
    pub(crate) fn leads_to(&self, endpoint: &Settings) -> bool {
        let Host::Name(name) = &self.address.host else { return false };
        let has_port = endpoint.addresses.iter().all(|address| address.port() == self.address.port);
        has_port && endpoint.host.as_deref() == Some(name.trim_end_matches('.'))
    }
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvService {
    /// The name to query, such as `_postgresql._tcp.example.com`.
    pub name: String,
    /// The name sent and verified in TLS, for every server; `None`: each one's own.
    pub server_name: Option<ServerName<'static>>,
    /// Whether servers outside the record's own domain are left out. If a server is verified by a name from the answer
    /// alone, an attacker who can forge answers could name a server with a valid certificate of the attacker's own.
    pub own_domain_only: bool,
}

/// A file with endpoints.
#[derive(Clone)]
pub struct EndpointsFile {
    /// The file's path.
    pub path: PathBuf,
    /// Parses its bytes to targets. The error says what is wrong with them, and where.
    pub parse: Parse,
}

/// See [`EndpointsFile::parse`].
pub(crate) type Parse = Arc<dyn Fn(&[u8]) -> Result<Vec<Target>, String> + Send + Sync>;

impl fmt::Debug for EndpointsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointsFile").field("path", &self.path).finish_non_exhaustive()
    }
}
