//! Drives a protocol's upgrade dialogue over a socket.

use std::io;

use crate::protocol::{Greeting, Step, Upgrade, UpgradeError, Upgraded};
use crate::sys::Socket;

/// Why TLS did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeFailure {
    /// The server's answer.
    #[error(transparent)]
    Answer(#[from] UpgradeError),
    /// The connection.
    #[error("the connection failed during the {protocol} upgrade to TLS: {error}")]
    Io {
        /// What was spoken.
        protocol: &'static str,
        /// What happened.
        error: io::Error,
    },
}

impl UpgradeFailure {
    /// Whether it ended what we began without a word of the protocol, as a server does that wants TLS with the first byte.
    pub(super) const fn is_an_end(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Answer(UpgradeError::Closed | UpgradeError::SpeaksTls))
    }
}

/// How far the server alone leads.
#[derive(Debug)]
pub(super) enum Led {
    /// To TLS.
    Upgraded(Upgraded),
    /// To the client.
    Meets(Greeting),
}

/// The most that is read at once.
const PORTION: usize = 512;

/// Speaks until the server is ready for a TLS hello, or the client has to be heard. No deadline here: the caller has one.
pub(super) async fn upgrade(
    socket: &Socket,
    protocol: &'static str,
    mut dialogue: Box<dyn Upgrade>,
) -> Result<Led, UpgradeFailure> {
    let io = |error| UpgradeFailure::Io { protocol, error };
    let mut step = dialogue.begin();
    loop {
        step = match step {
            Step::Send(bytes) => {
                socket.send_all(&bytes).await.map_err(io)?;
                dialogue.sent()
            }
            Step::ReadAtMost(most) => {
                let mut portion = [0; PORTION];
                let read = socket.recv(&mut portion[..most.min(PORTION)]).await.map_err(io)?;
                dialogue.received(&portion[..read])?
            }
            Step::Upgrade(upgraded) => {
                nothing_came(socket)?;
                return Ok(Led::Upgraded(upgraded));
            }
            Step::Meet(greeting) => return Ok(Led::Meets(greeting)),
        };
    }
}

/// A server waits for our hello now. Bytes that are here already were said in plaintext; those that come later are fed to
/// TLS, which they break.
pub(super) fn nothing_came(socket: &Socket) -> Result<(), UpgradeError> {
    if socket.has_unread() { Err(UpgradeError::PlaintextAfterUpgrade) } else { Ok(()) }
}
