//! What a dial did, for the access log.

use std::time::Duration;

use crate::cluster::Lease;
use crate::name::EndpointName;
use crate::tls::HandshakeInfo;

/// What a dial did, for the access log: the last attempt's endpoint and times.
#[derive(Debug, Default, Clone)]
pub(crate) struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last attempt.
    pub endpoint: Option<EndpointName>,
    /// How long it waited for the first discovery result; `None`: there was one already.
    pub resolve: Option<Duration>,
    /// How long TCP took.
    pub connect: Option<Duration>,
    /// How long the server took to greet, where it greets before TLS.
    pub greeting: Option<Duration>,
    /// How long upgrade and TLS took.
    pub handshake: Option<Duration>,
    /// What TLS agreed on.
    pub agreed: Option<Box<HandshakeInfo>>,
    /// Who the session was signed in as, and how long that took.
    pub login: Option<(Box<str>, Duration)>,
}

impl DialRecord {
    /// Time of the last attempt: connect, greeting and handshake.
    pub(super) fn took(&self) -> Duration {
        [self.connect, self.greeting, self.handshake].into_iter().flatten().sum()
    }

    pub(super) fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, resolve: self.resolve, ..Self::default() };
    }
}
