//! What a TLS failure within a session means: a late rejection by the server, or an error on the way.

use std::io;
use std::time::Duration;

use crate::outcome::Outcome;
use crate::relay::Ended;
use crate::tls;

/// What is known of a session whose TLS failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandshakeContext {
    /// Bytes from the server.
    pub(super) received: u64,
    /// Since our side finished the handshake.
    pub(super) age: Duration,
    /// How long a server may take for a handshake.
    pub(super) patience: Duration,
    /// TLS 1.3: the server may judge our certificate after our side has finished the handshake.
    pub(super) is_judged_late: bool,
}

/// A failure of TLS in a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TlsFailure {
    /// The server rejects us; with TLS 1.2 it would have done so during the handshake.
    pub(super) is_rejection: bool,
    pub(super) words: String,
}

/// `None`: the error is not one of TLS.
pub(super) fn judge(error: &io::Error, seen: HandshakeContext) -> Option<TlsFailure> {
    let in_session = tls::failed_in_session(error)?;
    let is_rejection =
        seen.is_judged_late && seen.received == 0 && seen.age <= seen.patience && tls::is_alert(error);
    let words = tls::late_rejection(error).filter(|_| is_rejection).unwrap_or(in_session);
    Some(TlsFailure { is_rejection, words })
}

/// A rejection by a server that got no certificate and reset the connection instead of closing it.
pub(super) fn uncertified(ended: &Ended, seen: HandshakeContext) -> Option<TlsFailure> {
    let is_one = ended.outcome == Outcome::UpstreamReset
        && ended.is_uncertified
        && seen.received == 0
        && seen.age <= seen.patience;
    is_one.then(|| TlsFailure { is_rejection: true, words: tls::UNCERTIFIED.into() })
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription as Alert;
    use rustls::Error;

    use super::*;

    const YOUNG: HandshakeContext = HandshakeContext {
        received: 0,
        age: Duration::from_millis(3),
        patience: Duration::from_secs(5),
        is_judged_late: true,
    };

    fn judged(error: Error, seen: HandshakeContext) -> TlsFailure {
        judge(&io::Error::new(io::ErrorKind::InvalidData, error), seen).unwrap()
    }

    /// Any TLS error before the server's first byte was reported as a rejection of our certificate: after an upload of
    /// hours, with TLS 1.2, which judges within the handshake, and for bytes damaged on the way.
    #[test]
    fn a_rejection_is_an_alert_that_comes_soon_and_with_tls_1_3() {
        let rejected = judged(Error::AlertReceived(Alert::CertificateRequired), YOUNG);
        assert!(rejected.is_rejection);
        assert!(rejected.words.starts_with("the server demands a client certificate"), "{}", rejected.words);
        let others = [
            (
                Error::AlertReceived(Alert::CertificateRequired),
                HandshakeContext { age: Duration::from_secs(3600), ..YOUNG },
            ),
            (
                Error::AlertReceived(Alert::BadCertificate),
                HandshakeContext { is_judged_late: false, ..YOUNG },
            ),
            (Error::AlertReceived(Alert::BadCertificate), HandshakeContext { received: 1, ..YOUNG }),
            (Error::DecryptError, YOUNG),
        ];
        for (error, seen) in others {
            let failure = judged(error, seen);
            assert!(!failure.is_rejection, "{failure:?}");
            assert!(failure.words.contains("in the middle of the session"), "{failure:?}");
        }
    }

    /// A server with TLS 1.2 that asks for a renegotiation gets no_renegotiation, and ends with handshake_failure: the
    /// log said of that failure in the middle of a session that the server "shares no version or cipher with us".
    #[test]
    fn a_renegotiation_is_told_as_one() {
        let failure = judged(
            Error::AlertReceived(Alert::HandshakeFailure),
            HandshakeContext { is_judged_late: false, ..YOUNG },
        );
        assert!(failure.words.contains("renegotiation"), "{failure:?}");
        assert!(!failure.words.contains("shares no"), "{failure:?}");
    }

    #[test]
    fn a_failure_of_the_connection_is_none_of_tls() {
        assert_eq!(judge(&io::ErrorKind::ConnectionReset.into(), YOUNG), None);
    }
}
