//! Reads a client's first message, so that a client that speaks first costs the upstream nothing before
//! it has said something that can be understood: a port scan never reaches the server.

use std::io;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::protocol::{Hello, Opening, OpeningError, Protocol, Said};
use crate::sys::Socket;

/// A client that may be served.
#[derive(Debug)]
pub struct Opened {
    /// Its first message, for the upstream; where the protocol needs none read, what had arrived already.
    pub bytes: Vec<u8>,
    /// What we learnt from it.
    pub hello: Hello,
}

impl Opened {
    /// Whether a FIN that comes now only ends what the client says. PostgreSQL clients have no use for that: theirs
    /// means that they have left.
    #[must_use]
    pub fn may_half_close(&self) -> bool {
        match self.hello {
            Hello::None => !self.bytes.is_empty(),
            Hello::Postgres(_) => false,
        }
    }
}

/// Why there is nobody to serve.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// It left.
    #[error("the client closed the connection before it had said what it wants")]
    Gone,
    /// Its connection broke.
    #[error("the client's connection failed before it had said what it wants: {0}")]
    Broken(io::Error),
    /// It kept silent, or stopped in the middle.
    #[error("the client did not say what it wants within {0:?}")]
    Silent(Duration),
    /// It speaks something else.
    #[error("{0}")]
    Misspoken(OpeningError),
}

/// The most that is read at once; first messages are some hundred bytes.
const PORTION: usize = 1024;

/// Reads until the client's first message is understood. Where the protocol does not look at it, only what has
/// arrived already is taken: a client is usually faster than we, and bytes in hand make the dial cheaper.
///
/// # Errors
/// See [`NotOpened`].
pub async fn read_opening(
    client: &Socket,
    protocol: Protocol,
    within: Duration,
) -> Result<Opened, NotOpened> {
    let Some(opening) = protocol.opening() else {
        return Ok(Opened { bytes: arrived(client)?, hello: Hello::None });
    };
    // Boxed, so that the session's own state stays small for the hours that follow.
    let read = Box::pin(read(client, opening));
    alarm::before(clock::now() + within, read).await.unwrap_or(Err(NotOpened::Silent(within)))
}

fn arrived(client: &Socket) -> Result<Vec<u8>, NotOpened> {
    let mut portion = [0; PORTION];
    match client.recv_arrived(&mut portion) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(received @ 1..)) => Ok(portion[..received].to_vec()),
        Ok(Some(0)) | Err(_) => Err(NotOpened::Gone),
    }
}

async fn read(client: &Socket, mut opening: Opening) -> Result<Opened, NotOpened> {
    let mut portion = [0; PORTION];
    loop {
        let read = client.recv(&mut portion).await.map_err(NotOpened::Broken)?;
        if read == 0 {
            return Err(NotOpened::Gone);
        }
        match opening.received(&portion[..read]).map_err(NotOpened::Misspoken)? {
            Said::Incomplete => {}
            Said::Answer(answer) => client.send_all(answer).await.map_err(NotOpened::Broken)?,
            Said::Opened { bytes, hello } => return Ok(Opened { bytes, hello }),
        }
    }
}
