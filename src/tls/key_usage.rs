//! How many records a connection's keys have protected, and when the connection should end because of that.
//!
//! AES-GCM may protect a limited number of records with one key (RFC 9325 §4.4). TLS 1.3 updates its keys on the way,
//! which rustls does by itself (RFC 8446 §4.6.3); TLS 1.2 cannot, and rustls refuses the record after the last. A
//! connection near the limit reports it early, so that its session can end while idle and not in the middle of a
//! message. Only records of application data are counted here; the limit is enforced by rustls.

use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::{CipherSuiteCommon, SupportedCipherSuite};

/// The plaintext of a full record.
const RECORD: usize = 16 * 1024;
/// How long a session must be silent to count as idle, and not as pausing between two requests.
const REST: Duration = Duration::from_secs(1);

/// The keys of this TLS 1.2 connection have protected as many records as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this TLS 1.2 connection has sent about as many records as its keys may protect (RFC 9325 section 4.4), so it was ended; \
     with TLS 1.3, or ChaCha20-Poly1305 preferred by the server, keys do not run out"
)]
pub(crate) struct KeyLimit;

/// When a connection should end because of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLimitDue {
    /// As soon as every request was answered, and nothing moved for that long.
    AtRest(Duration),
    Now,
}

#[derive(Debug)]
pub(super) struct KeyUsage {
    limit: u64,
    left: u64,
}

impl KeyUsage {
    /// For keys that have only protected the end of the handshake.
    pub(super) fn of(connection: &UnbufferedClientConnection) -> Self {
        let limit = match connection.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                let CipherSuiteCommon { confidentiality_limit, .. } = suite.common;
                confidentiality_limit
            }
            Some(SupportedCipherSuite::Tls13(_)) | None => u64::MAX,
        };
        Self { limit, left: limit }
    }

    /// Counts plaintext that was encrypted in one call.
    pub(super) fn record_sealed(&mut self, plaintext: usize) {
        self.left = self.left.saturating_sub(plaintext.div_ceil(RECORD) as u64);
    }

    /// The last eighth is for sessions that become idle, the last 64th for those that pause; the last 1024th is more
    /// than a session sends in one turn.
    pub(super) const fn due(&self) -> Option<KeyLimitDue> {
        if self.left > self.limit / 8 {
            None
        } else if self.left > self.limit / 64 {
            Some(KeyLimitDue::AtRest(REST))
        } else if self.left > self.limit / 1024 {
            Some(KeyLimitDue::AtRest(Duration::ZERO))
        } else {
            Some(KeyLimitDue::Now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_due_the_earlier_the_more_of_them_is_used() {
        let mut key_usage = KeyUsage { limit: 1 << 24, left: 1 << 24 };
        let mut sent = 0_u64;
        let mut until = |due, records: u64| {
            while key_usage.due() != due {
                key_usage.record_sealed(64 * RECORD);
                sent += 64;
            }
            assert_eq!(sent, records, "{due:?}");
        };
        until(None, 0);
        until(Some(KeyLimitDue::AtRest(REST)), (1 << 24) / 8 * 7);
        until(Some(KeyLimitDue::AtRest(Duration::ZERO)), (1 << 24) / 64 * 63);
        until(Some(KeyLimitDue::Now), (1 << 24) / 1024 * 1023);
    }

    #[test]
    fn a_record_is_one_however_small_and_keys_without_a_limit_are_never_due() {
        let mut key_usage = KeyUsage { limit: 1 << 24, left: 1 << 24 };
        key_usage.record_sealed(1);
        key_usage.record_sealed(RECORD);
        key_usage.record_sealed(RECORD + 1);
        assert_eq!(key_usage.left, (1 << 24) - 4);
        let mut endless = KeyUsage { limit: u64::MAX, left: u64::MAX };
        endless.record_sealed(usize::MAX);
        assert_eq!(endless.due(), None);
    }
}
