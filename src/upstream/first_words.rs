//! A server's first words behind TLS: where they turn the session away, another endpoint can be tried, as where that is said
//! before TLS.
//!
//! What is heard stays unread: the relay meets it as if nobody had looked. An end, an error and a silence say nothing
//! here; the relay judges those. Not looked at without TLS, where the client hears its server directly, nor where the client's
//! opening is not known yet (CONNECT).

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use crate::alarm;
use crate::clock;
use crate::protocol::FirstWords;
use crate::relay::UpstreamStream;

use super::Settings as ClusterSettings;
use super::dial::Ready;
use super::endpoint::Endpoint;
use super::failure::DialError;

/// What the client has said, to make the server speak. `None`: nobody knows yet what it will say.
pub(super) type Opening<'a> = Option<&'a [u8]>;

/// So long a session waits for its server's first words: one that is full says so at once, and whoever takes longer is busy
/// serving.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the opening to a server that waits for it, and looks at what the server says.
///
/// # Errors
/// [`DialError::Refused`]; no other.
pub(super) async fn heard(
    ready: &mut Ready,
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    opening: Opening<'_>,
    until: Instant,
) -> Result<(), DialError> {
    let protocol = &*settings.protocol;
    let opening = match protocol.first_words() {
        FirstWords::Greeting if !ready.is_upgraded => &[],
        FirstWords::Answer => opening.unwrap_or_default(),
        FirstWords::Greeting | FirstWords::Nothing => return Ok(()),
    };
    let is_mute = opening.is_empty() && protocol.first_words() == FirstWords::Answer;
    if is_mute || matches!(ready.stream, UpstreamStream::Socket(_)) {
        return Ok(());
    }
    // Boxed: most protocols have no use for it, and every dial would have room for it.
    let look = Box::pin(async {
        let Ready { stream: end, said, .. } = ready;
        let sent = send(end, opening, said).await;
        // Where it cannot be sent, the server may have said why before it went.
        let by = poll_fn(|cx| end.poll_peek(cx, |first| protocol.parse_refusal_behind_tls(first))).await;
        if let Err(error) = sent {
            // The kernel reports it once, and the relay has to meet it behind what the server sent.
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

/// `said` is right whenever this is dropped.
async fn send(end: &mut UpstreamStream, opening: &[u8], said: &mut usize) -> io::Result<()> {
    while *said < opening.len() {
        *said += poll_fn(|cx| end.poll_send(cx, &opening[*said..])).await?;
    }
    poll_fn(|cx| end.poll_flush(cx)).await
}
