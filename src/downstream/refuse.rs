//! Sends a client our own messages: the welcome of an upgrade, and refusals. A refusal is a message of the client's
//! protocol if that has one, else a reset, which no client takes for an orderly end.

use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::protocol::{OpeningError, OpeningReply, Protocol, Refusal, TLS_ALERT};
use crate::sys::Socket;

/// How long a client may take to read a refusal and close.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that a client may still send before it has read the refusal.
const IGNORED_MAX: usize = 64 * 1024;

pub(crate) async fn refuse(client: Socket, protocol: &dyn Protocol, refusal: &Refusal<'_>) {
    match protocol.refusal(refusal) {
        Some(words) => send_and_close(client, &words).await,
        None => client.abort(),
    }
}

/// Answers a client whose first message was not valid, and closes.
pub(crate) async fn answer_opening(
    client: Socket,
    protocol: &dyn Protocol,
    error: &OpeningError,
    refusal: &Refusal<'_>,
) {
    match error.answer {
        OpeningReply::InProtocol => refuse(client, protocol, refusal).await,
        OpeningReply::TlsAlert => send_and_close(client, TLS_ALERT).await,
    }
}

/// Sends, ends our direction, and reads on until the client closes: a close while bytes of the client are unread would
/// become a reset, which discards what the client has not read yet (RFC 1122 §4.2.2.13).
pub(crate) async fn send_and_close(client: Socket, words: &[u8]) {
    let saying = Box::pin(async {
        client.send_all(words).await?;
        client.finish();
        let (mut ignored, mut portion) = (0, [0; 1024]);
        while ignored < IGNORED_MAX {
            match client.recv(&mut portion).await? {
                0 => break,
                read => ignored += read,
            }
        }
        std::io::Result::Ok(())
    });
    // There is nothing more to do, whether the client took it or not.
    let _ = alarm::timeout_at(clock::now() + PATIENCE, saying).await;
}

/// Sends what comes before the server's first bytes. False if the client does not take it.
pub(crate) async fn send_welcome(client: &Socket, words: &[u8]) -> bool {
    words.is_empty()
        || matches!(alarm::timeout_at(clock::now() + PATIENCE, client.send_all(words)).await, Ok(Ok(())))
}
