//! The settings of a cluster, and of what works for it: dials, connections kept ready, the PROXY header. Those of its
//! probes are in [`health_check`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::credentials::LoginSettings;
use crate::digest::Digest;
use crate::name::ClusterName;
use crate::policy::admission::Needs;
use crate::policy::{
    balance, breaker, budget, cluster_state, eligibility, hedge, limits, outlier, queue, retry,
};
use crate::protocol::Protocol;
use crate::tls::{self, NoIdentity};
use crate::{relay, sys};

use super::endpoint::Settings as EndpointSettings;
use super::endpoint_map::EvictionSettings;
use super::health_check;
use super::source::Source;

/// One cluster, complete and consistent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Digest of the whole configuration of the cluster; a reload detects changes by it.
    pub digest: Digest,
    /// Digest of its TLS configuration alone.
    pub tls_digest: Digest,
    /// The protocol of its servers.
    pub protocol: Arc<dyn Protocol>,
    /// The initial endpoints, with distinct names. Empty if discovery is to find them.
    pub endpoints: Vec<EndpointSettings>,
    /// Where endpoints are discovered; `None`: the initial ones are final.
    pub source: Option<Source>,
    /// Which endpoint takes the next session.
    pub balance: balance::Policy,
    /// `None`: plaintext.
    pub tls: Option<tls::Originator>,
    /// The bounds and retries of a dial.
    pub dial: DialSettings,
    /// The PROXY header sent to its servers; `None`: none.
    pub send_proxy: Option<SendProxy>,
    /// Caps on connections and pending dials; the latter also caps the queue.
    pub limits: limits::Settings,
    /// How long a session may wait for room or for an endpoint to come back; zero: it is refused at once.
    pub queue_timeout: Duration,
    /// Whether the queue is fair between callers; each caller is looked up then.
    pub takes_turns: bool,
    /// When the breaker opens; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// When an endpoint is ejected; `None`: never.
    pub outlier: Option<outlier::Settings>,
    /// How many attempts may be retries; `None`: all.
    pub retry_budget: Option<budget::Settings>,
    /// When an attempt without an answer counts as slow; `None`: never.
    pub hedge: Option<hedge::Settings>,
    /// Whether a slow attempt is hedged. If not, it is only given up when its endpoint is found down, or has not
    /// greeted.
    pub hedges: bool,
    /// What to do when active checks find every endpoint down.
    pub panic: eligibility::Panic,
    /// How long an endpoint that came back takes fewer sessions; zero: it takes its full share at once.
    pub slow_start: Duration,
    /// When sessions end with their endpoint.
    pub eviction: EvictionSettings,
    /// Whether sessions with a replaced identity are ended once idle, within the same closing time.
    pub drains_on_rotation: bool,
    /// Socket options of both legs.
    pub socket: sys::Options,
    /// The timers of its sessions.
    pub session: relay::Settings,
    /// How sessions are signed in; `None`: by the client itself.
    pub login: Option<LoginSettings>,
    /// Whether the caller's unit is sent to servers, where the protocol has a field for it.
    pub announce_caller: bool,
    /// `None`: its endpoints are not probed.
    pub health_check: Option<health_check::Settings>,
}

/// The bounds of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialSettings {
    /// Limits TCP connect, per attempt.
    pub connect_timeout: Duration,
    /// Limits TLS and the upgrade without the greeting, per attempt.
    pub handshake_timeout: Duration,
    /// Limits the wait for the greeting of a server that speaks first, per attempt. Only a client's own deadline cuts
    /// it; `deadline` does not.
    pub greeting_timeout: Duration,
    /// Limits all attempts together.
    pub deadline: Duration,
    /// How many attempts, and the waits between them.
    pub retry: retry::Settings,
    /// The local address to connect from; `None` leaves it to the kernel.
    pub local_address: Option<IpAddr>,
    /// Preconnected spares; `None`: none.
    pub preconnect: Option<PreconnectSettings>,
}

/// How many connections are kept ready, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreconnectSettings {
    /// The number of connections kept ready; at least 1.
    pub count: usize,
    /// None is kept for longer: servers close connections that are idle for some time.
    pub max_age: Duration,
}

/// Which version of the header, and what every header contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendProxy {
    /// Version 1: TCP addresses only.
    V1,
    /// Version 2.
    V2 {
        /// This host's name, by which the server tells its ambassadors apart.
        host: String,
        /// Maximum size of the header, in bytes.
        most: usize,
    },
}

impl Settings {
    /// The addresses of the initial endpoints.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter()).collect()
    }

    /// What must be looked up about callers, if anything.
    #[must_use]
    pub fn wants_of_callers(&self) -> Option<Needs> {
        let tells = self.announce_caller || matches!(self.send_proxy, Some(SendProxy::V2 { .. }));
        let to_tell = tells.then_some(Needs { unit: true, groups: false });
        let to_choose = self.tls.as_ref().and_then(|tls| tls.identities().needs());
        let to_take_turns = self.takes_turns.then_some(Needs { unit: true, groups: false });
        let to_sign_in = self.login.as_ref().and_then(LoginSettings::needs);
        [to_tell, to_choose, to_take_turns, to_sign_in].into_iter().flatten().reduce(Needs::and)
    }

    /// Checks that an identity can be chosen for the caller.
    pub(crate) fn identifies(&self, caller: Option<&Caller>) -> Result<(), NoIdentity> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.identities().choose(caller).map(drop))
    }

    /// Whether its servers greet before TLS begins; the delay is theirs to choose.
    pub(crate) fn awaits_greetings(&self) -> bool {
        let upgrades = self.tls.as_ref().is_some_and(|settings| settings.start() == tls::TlsStart::Upgrade);
        upgrades && self.protocol.server_greets() && self.protocol.upgrade().is_some()
    }

    pub(super) const fn decisions(&self) -> cluster_state::Settings {
        cluster_state::Settings {
            balance: self.balance,
            limits: self.limits,
            outlier: self.outlier,
            breaker: self.breaker,
            retry_budget: self.retry_budget,
            hedge: self.hedge,
            panic: self.panic,
            slow_start: self.slow_start,
            penalty: self.dial.connect_timeout,
        }
    }

    /// One caller may fill half of the queue, unless its listener configures otherwise. Where callers are not looked
    /// up, there is no such limit.
    pub(super) const fn queue(&self) -> queue::Settings {
        let max_waiting = self.limits.max_pending as usize;
        let max_per_caller = if self.takes_turns { max_waiting.div_ceil(2) } else { max_waiting };
        queue::Settings { max_waiting, max_per_caller }
    }
}

impl SendProxy {
    /// The value in the configuration.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 { .. } => "v2",
        }
    }
}
