//! What a dial did, for the access log.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::cluster::Lease;
use crate::name::EndpointName;
use crate::tls::HandshakeInfo;

/// What a dial did, for the access log: the last attempt's endpoint and times. It stays small, as a session keeps it for
/// hours.
#[derive(Debug, Default, Clone)]
pub(crate) struct DialRecord {
    /// Attempts begun.
    pub attempts: u32,
    /// The endpoint of the last attempt.
    pub endpoint: Option<EndpointName>,
    /// How long it waited for the first discovery result; `None`: there was one already.
    pub resolve: StepTime,
    /// How long TCP took.
    pub connect: StepTime,
    /// How long the server took to greet, where it greets before TLS.
    pub greeting: StepTime,
    /// How long upgrade and TLS took.
    pub handshake: StepTime,
    /// What TLS agreed on.
    pub agreed: Option<Box<HandshakeInfo>>,
    /// Who the session was signed in as, and how long that took.
    pub login: Option<Box<(Box<str>, Duration)>>,
}

/// How long a step took, if it was made: in whole microseconds, up to 71 minutes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StepTime(Option<NonZeroU32>);

impl From<Duration> for StepTime {
    fn from(took: Duration) -> Self {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        // One more than there are, so that a step without a delay is a step.
        Self(NonZeroU32::new(micros.saturating_add(1)))
    }
}

impl StepTime {
    #[must_use]
    pub(crate) fn get(self) -> Option<Duration> {
        self.0.map(|micros| Duration::from_micros(u64::from(micros.get() - 1)))
    }
}

impl DialRecord {
    /// Time of the last attempt: connect, greeting and handshake.
    pub(super) fn took(&self) -> Duration {
        [self.connect, self.greeting, self.handshake].into_iter().filter_map(StepTime::get).sum()
    }

    pub(super) fn begin(&mut self, lease: &Lease, attempts: u32) {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *self = Self { attempts, endpoint, resolve: self.resolve, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_any_length_is_a_step() {
        assert_eq!(StepTime::default().get(), None);
        for micros in [0, 1, 999, 4_294_967_293] {
            let took = Duration::from_micros(micros);
            assert_eq!(StepTime::from(took).get(), Some(took));
        }
        assert!(StepTime::from(Duration::MAX).get() >= Some(Duration::from_secs(71 * 60)));
    }
}
