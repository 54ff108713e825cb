//! Why a probe failed.

use std::time::Duration;

use crate::cluster::DialError;
use crate::cluster::health_check::{BAD_ANSWER, TIMEOUT};

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthCheckError {
    /// The dial failed, as a session's would have.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server's answer, or its end of the connection, was not that of a server at work.
    #[error("{0}")]
    Answer(String),
    /// The probe's timeout elapsed.
    #[error("the probe was waiting for the {waited_for} when health_check.timeout ({timeout:?}) was over")]
    Timeout {
        /// What the probe was waiting for.
        waited_for: &'static str,
        timeout: Duration,
    },
}

impl HealthCheckError {
    /// The label `result` in metrics.
    pub(super) fn label(result: &Result<(), Self>) -> &'static str {
        match result {
            Ok(()) => DialError::OK,
            Err(Self::Dial(error)) => error.label(),
            Err(Self::Answer(_)) => BAD_ANSWER,
            Err(Self::Timeout { .. }) => TIMEOUT,
        }
    }

    /// Whether this host, and not the endpoint, caused the failure.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Dial(error) if error.is_local())
    }
}
