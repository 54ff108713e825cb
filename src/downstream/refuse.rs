//! Tells a client what is ours to tell. Mostly no: in its protocol's words where it has some, else by a reset, which no client can
//! mistake for an orderly end.

use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::protocol::{OpeningError, OpeningReply, Protocol, Refusal, TLS_ALERT};
use crate::sys::Socket;

/// How long a client may take to read a refusal and close.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a client may still send before it has read it.
const IGNORED_MAX: usize = 64 * 1024;

/// Refuses and closes.
pub(crate) async fn refuse(client: Socket, protocol: &dyn Protocol, refusal: &Refusal<'_>) {
    match protocol.refusal(refusal) {
        Some(words) => send_and_close(client, &words).await,
        None => client.abort(),
    }
}

/// Answers a client whose first message was none, and closes.
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

/// Sends, ends our direction, and reads on until the client closes: a close while bytes of the client are
/// unread would turn into a reset, and a reset discards words that the client has not read yet
/// (RFC 1122 §4.2.2.13).
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
    // Whether the client took it or not, there is nothing more to do for it.
    let _ = alarm::timeout_at(clock::now() + PATIENCE, saying).await;
}

/// What a client hears before anything of the server. False: it does not take it.
pub(crate) async fn send_welcome(client: &Socket, words: &[u8]) -> bool {
    words.is_empty()
        || matches!(alarm::timeout_at(clock::now() + PATIENCE, client.send_all(words)).await, Ok(Ok(())))
}
