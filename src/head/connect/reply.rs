//! The replies to a CONNECT request: success, with what the client got, and refusal, with the reason.

use std::time::Duration;

use crate::escape::is_control;
use crate::outcome::Outcome;

/// The session that a client got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionInfo<'a> {
    /// Its id, as in the log.
    pub session: &'a str,
    /// Its endpoint's name, as in the file.
    pub endpoint: &'a str,
    /// The attempts of its dial.
    pub attempts: u32,
    /// How long the dial took, from the request to the answer.
    pub took: Duration,
}

/// The reply of success, after which the session's bytes follow.
#[must_use]
pub(crate) fn success_reply(served: &SessionInfo<'_>) -> Vec<u8> {
    let SessionInfo { session, endpoint, attempts, took } = served;
    let (endpoint, milliseconds) = (plain(endpoint), took.as_secs_f64() * 1e3);
    format!(
        "HTTP/1.1 200 Connection established\r\nAmbassador-Session: {session}\r\n\
         Ambassador-Endpoint: {endpoint}\r\nAmbassador-Attempts: {attempts}\r\n\
         Ambassador-Connect-Ms: {milliseconds:.3}\r\n\r\n"
    )
    .into_bytes()
}

/// The reply of a refusal, after which the connection is closed. `sentence` is the reason, for people.
#[must_use]
pub(crate) fn refusal_reply(status: u16, outcome: Outcome, session: &str, sentence: &str) -> Vec<u8> {
    let (outcome, sentence, reason) = (outcome.label(), plain(sentence), reason(status));
    let allow = if status == 405 { "Allow: CONNECT\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {reason}\r\n{allow}Ambassador-Outcome: {outcome}\r\nAmbassador-Session: {session}\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{sentence}\n",
        sentence.len() + 1
    )
    .into_bytes()
}

/// The status of a refusal with that outcome, unless the cause has a more exact one.
#[must_use]
pub(crate) const fn status_of(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::BadContext | Outcome::BadOpening => 400,
        Outcome::Denied => 403,
        Outcome::CallerFull => 429,
        Outcome::ListenerFull
        | Outcome::UpstreamRefused
        | Outcome::LoginFailed
        | Outcome::ClusterFull
        | Outcome::BreakerOpen
        | Outcome::Drained
        | Outcome::ClosedByOperator => 503,
        Outcome::DeadlineExceeded => 504,
        Outcome::NoEndpoint
        | Outcome::ConnectFailed
        | Outcome::UpgradeFailed
        | Outcome::TlsFailed
        | Outcome::UpstreamReset
        | Outcome::EndpointDown
        | Outcome::EndpointRemoved
        | Outcome::Rotated
        | Outcome::KeyLimit => 502,
        Outcome::Completed
        | Outcome::DownstreamReset
        | Outcome::IdleTimeout
        | Outcome::HalfCloseTimeout
        | Outcome::MaxLifetime
        | Outcome::DownstreamGone => 500,
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

/// Replaces control characters by spaces: the text goes into a header, or is one line of the body.
fn plain(text: &str) -> String {
    text.chars().map(|c| if is_control(c) { ' ' } else { c }).collect()
}
