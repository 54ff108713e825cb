//! A cluster's servers as the configuration or discovery names them, before they are resolved.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, HeaderMap};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::discovery_status::OriginKind;
use super::endpoint::{Address, Host, Settings};
use crate::http::{HttpField, HttpUrl};
use crate::tls::Roots;
use crate::xds::Node;

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
    /// A server lists them, which is asked by HTTP.
    Remote(RemoteSource),
}

impl Source {
    /// The targets that the configuration lists; empty where something else does.
    pub(crate) fn listed(&self) -> &[Target] {
        match self {
            Self::Listed(targets) => targets,
            Self::Service(_) | Self::File(_) | Self::Remote(_) => &[],
        }
    }

    /// The file that it reads, if it reads one. Landlock denies whatever is not named here.
    pub(crate) const fn file(&self) -> Option<&EndpointsFile> {
        match self {
            Self::File(file) => Some(file),
            Self::Listed(_) | Self::Service(_) | Self::Remote(_) => None,
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
            Self::Remote(remote) => format!("{}, which is being asked", remote.describe()),
        }
    }

    /// The files that it reads beside its list: a token, CAs.
    pub(crate) fn further_files(&self) -> impl Iterator<Item = &PathBuf> {
        let remote = match self {
            Self::Remote(remote) => Some(remote),
            Self::Listed(_) | Self::Service(_) | Self::File(_) => None,
        };
        remote.into_iter().flat_map(|remote| {
            let ControlPlane { roots, token, .. } = &*remote.control_plane;
            let roots = match roots {
                Roots::File(path) => Some(path),
                Roots::System | Roots::WebPki | Roots::Bundle(_) | Roots::Nobody => None,
            };
            token.iter().chain(roots)
        })
    }

    /// What tells it from other sources; `None`: nothing is kept of it, as it is a file itself.
    pub(crate) fn identity(&self) -> Option<SourceIdentity> {
        let (asks_for, servers) = match self {
            Self::Listed(targets) => {
                let names = targets.iter().map(|target| {
                    let Target { address, weight, priority, server_name } = target;
                    format!("{address} ({weight}, {priority}, {})", server_name.to_str())
                });
                (format!("names {}", names.collect::<Vec<_>>().join(", ")), Vec::new())
            }
            Self::Service(SrvService { name, server_name, own_domain_only }) => {
                let server_name = server_name.as_ref().map_or_else(|| "".into(), ServerName::to_str);
                let domain = if *own_domain_only { "own domain only" } else { "any domain" };
                (format!("srv {name} ({server_name}, {domain})"), Vec::new())
            }
            Self::File(_) => return None,
            Self::Remote(RemoteSource { kind, name, control_plane, server_name, question, .. }) => {
                let servers = control_plane.servers.iter().map(ToString::to_string).collect();
                let as_whom = match question {
                    RemoteQuestion::Http(_) => String::new(),
                    RemoteQuestion::Xds(question) => format!(", as {}", question.node.describe()),
                };
                (format!("{} {name} ({server_name}{as_whom})", kind.label()), servers)
            }
        };
        Some(SourceIdentity { asks_for, servers })
    }
}

/// What tells a source from others: endpoints that were kept are used for the same one alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceIdentity {
    /// What it asks for, and all that decides which endpoints an answer gives.
    pub(crate) asks_for: String,
    /// Whom it asks, if they are named.
    pub(crate) servers: Vec<String>,
}

impl SourceIdentity {
    /// Whether both ask for the same, one of the other's servers at least: a list of members may have changed in part.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let shares_one = self.servers.iter().any(|server| other.servers.contains(server));
        self.asks_for == other.asks_for && (shares_one || self.servers.is_empty() && other.servers.is_empty())
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

/// Servers that are asked for endpoints, and how.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane {
    /// Where one fails, the next one is asked.
    pub(crate) servers: Vec<HttpUrl>,
    /// Who certifies them, where they are asked over TLS.
    pub(crate) roots: Roots,
    /// The file of the secret that they are asked with; it is read again for each request.
    pub(crate) token: Option<PathBuf>,
}

/// What is asked over the network for endpoints: Consul, etcd, Kubernetes, xDS.
#[derive(Clone)]
pub struct RemoteSource {
    /// Which of them.
    pub(crate) kind: OriginKind,
    /// What it is asked for, as people call it.
    pub name: String,
    /// Who is asked.
    pub(crate) control_plane: Arc<ControlPlane>,
    /// Whether an answer without any endpoint removes those that are known.
    pub accepts_empty: bool,
    /// The configured name for TLS to the endpoints; empty: their own.
    pub server_name: String,
    /// What is asked.
    pub(crate) question: RemoteQuestion,
}

/// What a server is asked.
#[derive(Clone)]
pub(crate) enum RemoteQuestion {
    /// By requests of its own: begins to ask.
    Http(MakeQuery),
    /// By a stream that all clusters share.
    Xds(XdsQuestion),
}

/// The endpoints of one cluster, by xDS.
#[derive(Clone)]
pub(crate) struct XdsQuestion {
    /// Who asks.
    pub(crate) node: Arc<Node>,
    /// The name of the ClusterLoadAssignment.
    pub(crate) resource: String,
    /// Makes targets.
    pub(crate) to_target: ToTarget,
}

/// Makes a target of an endpoint's host, port and weight.
pub(crate) type ToTarget = Arc<dyn Fn(&str, u16, u32) -> Result<Target, String> + Send + Sync>;

/// See [`RemoteQuestion::Http`].
pub(crate) type MakeQuery = Arc<dyn Fn() -> Box<dyn RemoteQuery> + Send + Sync>;

impl RemoteSource {
    /// Kind, name and servers in words.
    pub(crate) fn describe(&self) -> String {
        let servers: Vec<_> = self.control_plane.servers.iter().map(ToString::to_string).collect();
        format!("{} {} at {}", self.kind.label(), self.name, servers.join(", "))
    }
}

impl fmt::Debug for RemoteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSource")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a server is asked, and how its answers are read. Without I/O or a clock: [`crate::discovery`] sends and receives.
pub(crate) trait RemoteQuery: fmt::Debug + Send + Sync {
    /// The next request, with the secret if there is one.
    fn request(&mut self, token: Option<&str>) -> RemoteRequest;

    /// An answer that comes in lines has begun, with status 200: what is known without any of them.
    fn begin_lines(&mut self) -> RemoteProgress {
        RemoteProgress::NotYet
    }

    /// Takes an answer, or a line of one.
    ///
    /// # Errors
    /// Why it cannot be used, in words. The query begins anew with [`Self::reset`].
    fn take(&mut self, answer: &RemoteAnswer<'_>) -> Result<RemoteProgress, String>;

    /// Forgets where it was, or begins again from what is sure: after an error.
    fn reset(&mut self);

    /// Whether the next request is a part of the last one, and follows at once: a token was asked for, or a list that is to be
    /// watched now. Others are a second apart.
    fn continues(&self) -> bool {
        false
    }

    /// An answer of which no line has come for that long is left, and the next request made, which is no failure. `None`: it is one,
    /// after [`RemoteRequest::patience`].
    fn renewal(&self) -> Option<Duration> {
        None
    }
}

/// A request to a server that lists endpoints.
pub(crate) struct RemoteRequest {
    /// GET, or POST where the API is one of calls.
    pub(crate) method: Method,
    /// Path and query below the server's URL.
    pub(crate) target: String,
    /// Header fields beside the usual ones.
    pub(crate) headers: Vec<HttpField>,
    /// The body, which may hold a password; empty for a GET.
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// How the answer is read.
    pub(crate) reads: RemoteReads,
    /// How long the server may be silent.
    pub(crate) patience: Duration,
}

impl RemoteRequest {
    /// A GET of JSON, with the secret in a header field if there is one.
    pub(crate) fn get(
        target: String,
        secret: Option<HttpField>,
        reads: RemoteReads,
        patience: Duration,
    ) -> Self {
        let accept = HttpField(ACCEPT, Zeroizing::new("application/json".into()));
        let headers = secret.into_iter().chain([accept]).collect();
        Self { method: Method::GET, target, headers, body: Zeroizing::default(), reads, patience }
    }
}

impl fmt::Debug for RemoteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRequest")
            .field("method", &self.method)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// How an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemoteReads {
    /// As a whole.
    Whole,
    /// As a whole of at most 64 KiB, which is a secret.
    Secret,
    /// Line by line, as they come, if its status is 200.
    Lines,
}

/// An answer, or a line of one.
#[derive(Debug)]
pub(crate) struct RemoteAnswer<'a> {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The header.
    pub(crate) headers: &'a HeaderMap,
    /// The body, or the line.
    pub(crate) body: &'a [u8],
}

impl RemoteProgress {
    /// These endpoints, and what is wrong with others.
    pub(crate) fn known(targets: Vec<Target>, complaint: Option<String>) -> Self {
        match complaint {
            Some(complaint) => Self::Partly(targets, complaint),
            None => Self::Targets(targets),
        }
    }
}

/// What an answer was good for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RemoteProgress {
    /// The endpoints are these.
    Targets(Vec<Target>),
    /// The endpoints are these; what is wrong with others that were named, in words.
    Partly(Vec<Target>, String),
    /// They are those of before.
    Unchanged,
    /// What the server says they are cannot be used, for the reason in words; it is listened to further.
    Unusable(String),
    /// They are not known yet: the next request, or the next line, tells.
    NotYet,
    /// The next request has to be another one: the rest of this answer is not read.
    Anew,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{Locality, Struct};

    fn asked_as(node: Node) -> SourceIdentity {
        let servers = vec![HttpUrl::at_socket("/run/xds".into())];
        let control_plane = ControlPlane { servers, roots: Roots::WebPki, token: None };
        let to_target: ToTarget = Arc::new(|_, _, _| Err("nothing is asked".into()));
        let question = XdsQuestion { node: node.into(), resource: "orders".into(), to_target };
        let source = Source::Remote(RemoteSource {
            kind: OriginKind::Xds,
            name: "orders".into(),
            control_plane: control_plane.into(),
            accepts_empty: false,
            server_name: String::new(),
            question: RemoteQuestion::Xds(question),
        });
        source.identity().expect("it is kept")
    }

    /// A control plane may give staging other endpoints than production: what was kept as the one is not used as the other.
    #[test]
    fn what_a_control_plane_says_is_said_to_a_node() {
        let node = Node { id: "a".into(), cluster: "staging".into(), ..Node::default() };
        let known = asked_as(node.clone());
        let newer = Node { user_agent_version: "2".into(), ..node.clone() };
        assert!(known.is_same(&asked_as(newer)), "an upgrade keeps it");
        let region = Locality { region: "eu".into(), ..Locality::default() };
        for other in [
            Node { id: "b".into(), ..node.clone() },
            Node { cluster: "production".into(), ..node.clone() },
            Node { locality: Some(region), ..node.clone() },
            Node { metadata: Some(Struct::of_texts([("x".into(), "y".into())])), ..node },
        ] {
            assert!(!known.is_same(&asked_as(other.clone())), "{other:?}");
        }
    }
}
