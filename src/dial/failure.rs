//! Why a dial as a whole failed: its outcome, and its message.

use std::time::Duration;

use crate::cluster::{DialError, NoRoom};
use crate::credentials::NoLogin;
use crate::outcome::Outcome;
use crate::policy::cluster_state::Unavailable;
use crate::policy::queue;
use crate::protocol::TurnedAway;
use crate::tls::NoIdentity;

/// Why a dial as a whole failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFailure {
    /// A cap is reached or no endpoint is available; nothing was dialled.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// As `Unavailable`, and waiting did not help.
    #[error("{0}, and {1}")]
    Waited(Unavailable, NoRoom),
    /// No endpoint is known, because discovery has failed.
    #[error("the cluster has no endpoint: {reason}")]
    Unknown {
        /// The error of the resolver or of the endpoints file.
        reason: String,
    },
    /// There is no identity for the caller; nothing was dialled.
    #[error(transparent)]
    Unidentified(#[from] NoIdentity),
    /// There is nothing to sign in with; nothing was dialled.
    #[error(transparent)]
    NoLogin(#[from] NoLogin),
    /// Every attempt failed; this is the last one's error.
    #[error("{last}{}{}", counted(*.attempts), no_more(.stopped))]
    Failed {
        last: DialError,
        /// How many attempts were made.
        attempts: u32,
        /// Why no further attempt was made, if attempts were left.
        stopped: Option<NoMoreAttempts>,
    },
    /// The deadline over all attempts passed.
    #[error("no endpoint answered within connect.deadline ({deadline:?}) in {attempts} attempt(s){}", after(.last))]
    Deadline {
        deadline: Duration,
        /// How many attempts had begun.
        attempts: u32,
        /// The error of the last attempt if its server was silent, else of the attempt before it.
        last: Option<DialError>,
    },
}

/// Why there are no more attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoMoreAttempts {
    /// No endpoint is available.
    #[error("no further attempt: {0}")]
    Unavailable(Unavailable),
    /// As `Unavailable`, and waiting did not help.
    #[error("no further attempt: {0}, and {1}")]
    Waited(Unavailable, NoRoom),
    /// No time is left for another attempt.
    #[error("connect.deadline ({0:?}) is over")]
    Deadline(Duration),
}

fn counted(attempts: u32) -> String {
    if attempts > 1 { format!(" (the last of {attempts} attempts)") } else { String::new() }
}

fn no_more(why: &Option<NoMoreAttempts>) -> String {
    why.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
}

fn after(last: &Option<DialError>) -> String {
    last.as_ref().map(|error| format!("; {error}")).unwrap_or_default()
}

impl DialFailure {
    /// The server's own refusal, if that was the reason.
    #[must_use]
    pub(crate) fn by_server(&self) -> Option<&TurnedAway> {
        if let Self::Failed { last: DialError::Refused { by, .. }, .. } = self { Some(by) } else { None }
    }

    /// The session's outcome.
    #[must_use]
    pub(crate) const fn outcome(&self) -> Outcome {
        match self {
            Self::Waited(_, NoRoom::Crowd(queue::QueueFull::Own(_) | queue::QueueFull::Share(_))) => {
                Outcome::CallerFull
            }
            Self::Unavailable(why)
            | Self::Waited(why, NoRoom::Late(_) | NoRoom::Crowd(queue::QueueFull::All(_))) => {
                match why {
                    Unavailable::Full(_) => Outcome::ClusterFull,
                    Unavailable::Breaker(_) => Outcome::BreakerOpen,
                    // Unreachable for a first attempt: the budget limits only retries.
                    Unavailable::Budget => Outcome::ConnectFailed,
                    Unavailable::NoEndpoint(_) => Outcome::NoEndpoint,
                }
            }
            Self::Unknown { .. } => Outcome::NoEndpoint,
            Self::Unidentified(NoIdentity::Denied(_)) => Outcome::Denied,
            Self::Unidentified(NoIdentity::Absent(_)) => Outcome::TlsFailed,
            Self::NoLogin(NoLogin::Denied(_)) => Outcome::Denied,
            Self::NoLogin(NoLogin::Missing(_) | NoLogin::Paused { .. } | NoLogin::Busy) => {
                Outcome::LoginFailed
            }
            Self::Failed { last, .. } => last.outcome(),
            Self::Deadline { .. } => Outcome::DeadlineExceeded,
        }
    }
}
