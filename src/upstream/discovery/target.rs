//! What a cluster is told about its servers, before it is known where they are.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::upstream::endpoint::{Address, Host, Settings};

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The configuration names them.
    Listed(Vec<Target>),
    /// An SRV record does.
    Service(SrvService),
    /// A file does, which somebody else writes.
    File(EndpointsFile),
}

/// A server that was named. Each of its addresses becomes an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its host, by address or by name, and its port.
    pub address: Address,
    /// The share of each of its endpoints, at least 1.
    pub weight: u32,
    /// Those of a higher number are for when nobody of a lower one can be used.
    pub priority: u32,
    /// The name sent and verified in TLS.
    pub server_name: ServerName<'static>,
}

impl Target {
    /// Whether the endpoint was found by its name.
    pub(super) fn leads_to(&self, endpoint: &Settings) -> bool {
        let Host::Name(name) = &self.address.host else { return false };
        let has_port = endpoint.addresses.iter().all(|address| address.port() == self.address.port);
        has_port && endpoint.host.as_deref() == Some(name.trim_end_matches('.'))
    }
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvService {
    /// As it is asked for, such as `_postgresql._tcp.example.com`.
    pub name: String,
    /// The name sent and verified in TLS, for every server; `None`: each one's own.
    pub server_name: Option<ServerName<'static>>,
    /// Whether servers outside the record's own domain are left out. Where a server is verified by a name that only the
    /// answer has, whoever can forge an answer could name a server of his own, with a certificate that is in order.
    pub own_domain_only: bool,
}

/// A file with endpoints.
#[derive(Clone)]
pub struct EndpointsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What makes targets of its bytes, or says in words what is wrong with them, and where.
    pub parse: Parse,
}

/// See [`EndpointsFile::parse`].
pub(crate) type Parse = Arc<dyn Fn(&[u8]) -> Result<Vec<Target>, String> + Send + Sync>;

impl fmt::Debug for EndpointsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointsFile").field("path", &self.path).finish_non_exhaustive()
    }
}
