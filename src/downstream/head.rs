//! Reads the head in front of a session's bytes. What follows it stays in the kernel, so the session begins as if
//! there had been no head.

use std::io;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::head::{HeadReader, Progress};
use crate::sys::Socket;

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError<E> {
    #[error("the client closed the connection in the middle of its {0}")]
    Gone(&'static str),
    #[error("the client's connection failed in the middle of its {0}: {1}")]
    Broken(&'static str, io::Error),
    /// It was silent, or stopped in the middle.
    #[error("the client did not send a whole {0} within {1:?}")]
    Slow(&'static str, Duration),
    /// It sent something else.
    #[error("{0}")]
    Malformed(E),
}

/// The most that is read at once; heads have some hundred bytes.
const PORTION: usize = 1024;

/// Reads until the head is complete. `what` is its name in errors.
///
/// # Errors
/// See [`HeadError`]. Bytes that are not part of a head stay unread.
pub(crate) async fn read_head<R: HeadReader>(
    client: &Socket,
    reader: R,
    what: &'static str,
    within: Duration,
) -> Result<R::Head, HeadError<R::Error>> {
    // Boxed, so that it takes no space in a session that lives for hours.
    let read = Box::pin(read(client, reader, what));
    alarm::timeout_at(clock::now() + within, read).await.unwrap_or(Err(HeadError::Slow(what, within)))
}

async fn read<R: HeadReader>(
    client: &Socket,
    mut reader: R,
    what: &'static str,
) -> Result<R::Head, HeadError<R::Error>> {
    let broken = |error| HeadError::Broken(what, error);
    let mut portion = [0; PORTION];
    loop {
        let seen = client.look(&mut portion).await.map_err(broken)?;
        if seen == 0 {
            return Err(HeadError::Gone(what));
        }
        let progress = reader.receive(&portion[..seen]).map_err(HeadError::Malformed)?;
        let taken = match &progress {
            Progress::Incomplete => seen,
            Progress::Whole { taken, .. } => *taken,
        };
        client.recv_arrived(&mut portion[..taken]).map_err(broken)?;
        if let Progress::Whole { head, .. } = progress {
            return Ok(head);
        }
    }
}
