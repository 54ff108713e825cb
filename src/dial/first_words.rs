//! A server's first words behind TLS: if they turn the session away, another endpoint can be tried, as for a refusal
//! before TLS.
//!
//! The words are only peeked at, so the relay still reads them. A close, an error and silence are left for the relay to
//! judge. Not done without TLS, nor for a protocol whose server answers while the client's opening is unknown
//! (CONNECT).

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use crate::alarm;
use crate::clock;
use crate::cluster::{DialError, Endpoint, Ready, Settings as ClusterSettings};
use crate::protocol::FirstWords;
use crate::relay::UpstreamStream;

/// The client's first bytes, which the server answers. `None`: not known yet.
pub(super) type Opening<'a> = Option<&'a [u8]>;

/// How long a session waits for its server's first words: a full server refuses at once; a slower one is busy serving.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the opening if the server waits for it, and looks at the server's first words.
///
/// # Errors
/// [`DialError::Refused`]; no other.
pub(super) async fn check(
    ready: &mut Ready,
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    opening: Opening<'_>,
    until: Instant,
) -> Result<(), DialError> {
    let protocol = &*settings.protocol;
    let opening = match protocol.first_words() {
        FirstWords::Greeting if !ready.is_upgraded => &[],
        FirstWords::Answer => match opening {
            Some(opening) if !opening.is_empty() => opening,
            Some(_) | None => return Ok(()),
        },
        FirstWords::Greeting | FirstWords::Nothing => return Ok(()),
    };
    if matches!(ready.stream, UpstreamStream::Socket(_)) {
        return Ok(());
    }
    // Boxed: most protocols do not need it, and it would enlarge every dial.
    let look = Box::pin(async {
        let Ready { stream: end, said, .. } = ready;
        let sent = send(end, opening, said).await;
        // If sending fails, the server may have sent the reason before it closed.
        let by = poll_fn(|cx| end.poll_peek(cx, |first| protocol.parse_refusal_behind_tls(first))).await;
        if let Err(error) = sent {
            // The kernel reports the error only once; the relay must see it after the server's bytes.
            end.remember(&error);
        }
        by
    });
    match alarm::timeout_at(until.min(clock::now() + PATIENCE), look).await {
        Ok(Some(by)) => Err(DialError::Refused {
            endpoint: endpoint.settings().name.clone(),
            by: Box::new(by.through_tls()),
        }),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Cancel-safe: `said` is correct whenever this is dropped.
async fn send(end: &mut UpstreamStream, opening: &[u8], said: &mut usize) -> io::Result<()> {
    while *said < opening.len() {
        *said += poll_fn(|cx| end.poll_send(cx, &opening[*said..])).await?;
    }
    poll_fn(|cx| end.poll_flush(cx)).await
}
