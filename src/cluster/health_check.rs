//! How a cluster's endpoints are probed, and how the results are called in metrics.

use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;

use crate::policy::health;
use crate::tls::EndpointOriginator;

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a probe does.
    pub kind: ProbeKind,
    /// The time limit of a whole probe.
    pub timeout: Duration,
    /// How often probes run, and how many results in a row decide.
    pub rhythm: health::Settings,
}

/// What a probe does. All but `Http` connect as a session does, with the cluster's own settings.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    /// Connects.
    Tcp,
    /// Connects, upgrades and does the TLS handshake.
    Tls,
    /// As `Tls`, and has the protocol's conversation that shows a server at work.
    Protocol,
    /// Sends a request to an HTTP server on the endpoint's host.
    Http(Box<Http>),
    /// Sends bytes and looks for others in the answer.
    Exchange(ByteExchange),
}

/// The request of an HTTP probe.
#[derive(Debug, Clone)]
pub struct Http {
    /// The server's port.
    pub port: u16,
    /// The path and query of the request.
    pub path: PathAndQuery,
    /// The answers that mean healthy.
    pub statuses: Vec<u16>,
    /// `None`: plaintext.
    pub originator: Option<Arc<EndpointOriginator>>,
}

/// Bytes to send, and bytes to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteExchange {
    /// Sent first; nothing where the server speaks first.
    pub send: Vec<u8>,
    /// To be found near the beginning of the answer; never empty.
    pub expect: Vec<u8>,
}

/// The label `result` in metrics: the server's answer was not that of a server at work.
pub(crate) const BAD_ANSWER: &str = "bad_answer";
/// The label `result` in metrics: the probe's timeout elapsed.
pub(crate) const TIMEOUT: &str = "timeout";
