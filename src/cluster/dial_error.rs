//! Why an attempt failed: its label in metrics, its outcome, its message, and whether the endpoint is at fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;

use crate::name::EndpointName;
use crate::outcome::Outcome;
use crate::policy::outlier::Fault;
use crate::protocol::{LoginError, TurnedAway};
use crate::tls::HandshakeError;

/// One step of an attempt, in their order, as `check --connect` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AttemptStep {
    Connect,
    Upgrade,
    Handshake,
    Login,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// TCP was refused or failed.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// The kernel's error.
        error: io::Error,
    },
    /// The protocol's upgrade did not lead to TLS.
    #[error("{endpoint}: {reason}")]
    Upgrade {
        endpoint: EndpointName,
        reason: String,
        /// The server closed the connection, or answered in TLS.
        is_an_end: bool,
    },
    /// The server is alive but turned us away, with this reply.
    #[error("{endpoint} turned the connection away ({by})")]
    Refused { endpoint: EndpointName, by: Box<TurnedAway> },
    /// The TLS handshake failed.
    #[error("{endpoint}: {error}")]
    Tls { endpoint: EndpointName, error: HandshakeError },
    /// We could not sign in for the client.
    #[error("{endpoint}: {error}")]
    Login { endpoint: EndpointName, error: Box<LoginError> },
    /// A hedge was ready first.
    #[error("{endpoint} did not finish the {} in {after:.1?}, and another endpoint did meanwhile (connect.hedge_after)", step.label())]
    Outpaced {
        endpoint: EndpointName,
        /// The unfinished step.
        step: AttemptStep,
        /// How long the attempt had taken.
        after: Duration,
    },
    /// The server ended the connection right after the handshake.
    #[error("{endpoint} ended the connection within {within:?}, without a word")]
    EndedEarly {
        endpoint: EndpointName,
        /// The time limit for "early".
        within: Duration,
    },
    /// The endpoint was found down or disabled during the attempt.
    #[error("{endpoint} was found down or taken out in the middle of the {}", step.label())]
    GivenUp {
        endpoint: EndpointName,
        /// The unfinished step.
        step: AttemptStep,
    },
    /// The server accepted, and did not greet as its protocol requires.
    #[error("{endpoint} accepted the connection and {} {}: {}", silence(*.has_begun), bound.within(*.timeout), greets(protocol))]
    Silent {
        endpoint: EndpointName,
        /// The configured protocol.
        protocol: &'static str,
        /// Whether a part of the greeting arrived.
        has_begun: bool,
        /// The bound that was exceeded.
        bound: AttemptBound,
        /// The length of the bound.
        timeout: Duration,
    },
    /// A step took too long.
    #[error("{endpoint} did not finish the {} {}", step.label(), bound.within(*.timeout))]
    Timeout {
        endpoint: EndpointName,
        /// The unfinished step.
        step: AttemptStep,
        /// The bound that was exceeded.
        bound: AttemptBound,
        /// The length of the bound.
        timeout: Duration,
        /// Whether the endpoint had enough time, so that it is to blame.
        is_fair: bool,
    },
}

/// The bounds of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptBound {
    /// `connect.timeout`: TCP.
    Connect,
    /// `connect.handshake_timeout`: upgrade and TLS.
    Handshake,
    /// `connect.greeting_timeout`: the greeting of a server that speaks first.
    Greeting,
    /// The shorter greeting timeout of probes and trials.
    Probe,
    /// `connect.deadline`, over all attempts.
    Deadline,
}

impl AttemptBound {
    /// `within`, the configuration key, and the bound's length.
    fn within(self, timeout: Duration) -> String {
        let key = match self {
            Self::Connect => "connect.timeout",
            Self::Handshake => "connect.handshake_timeout",
            Self::Greeting => "connect.greeting_timeout",
            Self::Probe => return format!("within {timeout:?}, as long as a probe waits for that"),
            Self::Deadline => "connect.deadline",
        };
        format!("within {key} ({timeout:?})")
    }
}

const fn silence(has_begun: bool) -> &'static str {
    if has_begun { "did not finish its greeting" } else { "did not greet" }
}

fn greets(protocol: &str) -> String {
    format!(
        "servers of {protocol} speak first, and one that waits for its client speaks another protocol, or TLS with the first \
         byte (tls.start: direct)"
    )
}

impl DialError {
    pub(crate) const OK: &'static str = "ok";
    pub(super) const CANCELLED: &'static str = "cancelled";
    const OUTPACED: &'static str = "outpaced";
    const GIVEN_UP: &'static str = "given_up";
    /// Only of trials, which `trials_total` counts.
    const ENDED_EARLY: &'static str = "ended_early";

    /// The label in metrics.
    #[must_use]
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connect_refused"
            }
            Self::Connect { .. } => "connect_failed",
            Self::Upgrade { .. } => "upgrade_failed",
            Self::Refused { .. } => "upstream_refused",
            Self::Tls { .. } => "tls_failed",
            Self::Login { .. } => "login_failed",
            Self::Outpaced { .. } => Self::OUTPACED,
            Self::GivenUp { .. } => Self::GIVEN_UP,
            Self::EndedEarly { .. } => Self::ENDED_EARLY,
            Self::Timeout { bound: AttemptBound::Deadline, .. }
            | Self::Silent { bound: AttemptBound::Deadline, .. } => "deadline",
            Self::Silent { .. } => "greeting_timeout",
            Self::Timeout { bound: AttemptBound::Connect, .. } => "connect_timeout",
            Self::Timeout { bound: AttemptBound::Handshake, .. } => "handshake_timeout",
            Self::Timeout { bound: AttemptBound::Greeting | AttemptBound::Probe, .. } => "greeting_timeout",
        }
    }

    /// Whether the deadline of the whole dial passed, so that no other attempt can follow.
    pub(crate) const fn is_deadline(&self) -> bool {
        matches!(
            self,
            Self::Timeout { bound: AttemptBound::Deadline, .. }
                | Self::Silent { bound: AttemptBound::Deadline, .. }
        )
    }

    /// Whether the deadline of the whole dial cut it off when earlier attempts had used most of the time: what those met explains more.
    pub(crate) const fn is_cut_short(&self) -> bool {
        matches!(self, Self::Timeout { bound: AttemptBound::Deadline, is_fair: false, .. })
    }

    /// The step it failed in.
    #[must_use]
    pub(crate) const fn step(&self) -> AttemptStep {
        match self {
            Self::Connect { .. } => AttemptStep::Connect,
            Self::Upgrade { .. } | Self::Silent { .. } | Self::Refused { .. } => AttemptStep::Upgrade,
            Self::Tls { .. } | Self::EndedEarly { .. } => AttemptStep::Handshake,
            Self::Login { .. } => AttemptStep::Login,
            Self::Outpaced { step, .. } | Self::GivenUp { step, .. } | Self::Timeout { step, .. } => *step,
        }
    }

    /// The endpoint's fault; `None` when it is not to blame: this host lacks a resource, the server refused our
    /// identity or is full, or little time was left.
    #[must_use]
    pub(crate) fn fault(&self) -> Option<Fault> {
        let is_the_endpoints = match self {
            Self::EndedEarly { .. } => return Some(Fault::EarlyClose),
            Self::Upgrade { .. } | Self::Outpaced { .. } => true,
            Self::GivenUp { .. } | Self::Refused { .. } => false,
            // It accepts connections; a client's deadline shorter than the greeting timeout proves no fault.
            Self::Silent { bound, .. } => !matches!(bound, AttemptBound::Deadline),
            Self::Connect { error, .. } => !is_local(error),
            // The next handshake offers no resumption.
            Self::Tls { error: HandshakeError::ResumptionRefused { .. }, .. } => false,
            Self::Tls { error, .. } => !error.is_about_us(),
            Self::Login { error, .. } => error.is_of_endpoint(),
            Self::Timeout { is_fair, .. } => *is_fair,
        };
        is_the_endpoints.then(|| match self.step() {
            AttemptStep::Connect => Fault::Connect,
            AttemptStep::Upgrade => Fault::Upgrade,
            AttemptStep::Handshake | AttemptStep::Login => Fault::Handshake,
        })
    }

    /// Whether the failure looks like that of a server that begins TLS in the other way.
    pub(crate) const fn may_be_the_other_way(&self) -> bool {
        match self {
            Self::Upgrade { is_an_end, .. } => *is_an_end,
            Self::Tls { error, .. } => {
                matches!(error, HandshakeError::Closed | HandshakeError::ClosedDirect | HandshakeError::Io(_))
            }
            Self::Connect { .. }
            | Self::Refused { .. }
            | Self::Silent { .. }
            | Self::Login { .. }
            | Self::Outpaced { .. }
            | Self::GivenUp { .. }
            | Self::EndedEarly { .. }
            | Self::Timeout { .. } => false,
        }
    }

    /// Whether the attempt cost the server next to nothing: no connection was made, or the server refused it.
    pub(crate) const fn is_free(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Refused { .. })
    }

    /// Whether the server is alive but turned us away; an immediate retry would add to its load.
    pub(crate) const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether every endpoint would fail in the same way: the credentials or the client are at fault.
    pub(crate) fn is_the_same_everywhere(&self) -> bool {
        matches!(self, Self::Login { error, .. } if !error.is_of_endpoint())
    }

    /// The label of a failed login in metrics.
    pub(crate) fn login_result(&self) -> &'static str {
        let is_rejected =
            matches!(self, Self::Login { error, .. } if matches!(**error, LoginError::Rejected { .. }));
        if is_rejected { "rejected" } else { "failed" }
    }

    /// What the server said of the secret that it rejected.
    pub(crate) fn login_rejection(&self) -> Option<String> {
        if let Self::Login { error, .. } = self { error.rejection() } else { None }
    }

    /// Whether this host, and not the endpoint, caused the failure.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Connect { error, .. } if is_local(error))
    }

    /// The outcome of a session whose dial ended so.
    pub(crate) const fn outcome(&self) -> Outcome {
        match self.step() {
            _ if self.is_refused() => Outcome::UpstreamRefused,
            AttemptStep::Connect => Outcome::ConnectFailed,
            AttemptStep::Upgrade => Outcome::UpgradeFailed,
            AttemptStep::Handshake => Outcome::TlsFailed,
            AttemptStep::Login => Outcome::LoginFailed,
        }
    }
}

/// Whether this host, and not the endpoint, caused a failed connect.
fn is_local(error: &io::Error) -> bool {
    let short_of = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::ACCESS,
        Errno::PERM,
    ];
    short_of.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl AttemptStep {
    /// The step's name in messages and in `check --connect`.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
            Self::Handshake => "handshake",
            Self::Login => "login",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_documented() {
        let endpoint = EndpointName::from("db:1");
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let timeout = Duration::from_secs(1);
        let silent = |bound| DialError::Silent {
            endpoint: endpoint.clone(),
            protocol: "smtp",
            has_begun: false,
            bound,
            timeout,
        };
        for error in [
            DialError::Connect { address, error: io::ErrorKind::ConnectionRefused.into() },
            DialError::Connect { address, error: io::ErrorKind::HostUnreachable.into() },
            DialError::Timeout {
                endpoint: endpoint.clone(),
                step: AttemptStep::Connect,
                bound: AttemptBound::Connect,
                timeout,
                is_fair: true,
            },
            DialError::Timeout {
                endpoint: endpoint.clone(),
                step: AttemptStep::Connect,
                bound: AttemptBound::Deadline,
                timeout,
                is_fair: false,
            },
            DialError::Upgrade { endpoint: endpoint.clone(), reason: String::new(), is_an_end: true },
            DialError::Refused {
                endpoint: endpoint.clone(),
                by: Box::new(TurnedAway::new("SMTP", Some(421), b"full")),
            },
            DialError::Outpaced { endpoint: endpoint.clone(), step: AttemptStep::Connect, after: timeout },
            DialError::GivenUp { endpoint: endpoint.clone(), step: AttemptStep::Connect },
            silent(AttemptBound::Greeting),
            silent(AttemptBound::Deadline),
            DialError::EndedEarly { endpoint: endpoint.clone(), within: timeout },
            DialError::Tls { endpoint: endpoint.clone(), error: HandshakeError::Closed },
            DialError::Login { endpoint: endpoint.clone(), error: Box::new(LoginError::Closed) },
            DialError::Timeout {
                endpoint,
                step: AttemptStep::Handshake,
                bound: AttemptBound::Handshake,
                timeout,
                is_fair: true,
            },
        ] {
            let label = error.label();
            // The last is of trials, which have labels of their own.
            let is_documented = include_str!("../../docs/OPERATING.md").contains(&format!("`{label}`"));
            assert!(is_documented || label == DialError::ENDED_EARLY, "{error}: {label}");
        }
    }
}
