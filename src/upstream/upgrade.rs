//! Drives a protocol's upgrade dialogue over a socket. It reads no byte more than the dialogue asks for,
//! so that what belongs to TLS stays in the kernel.

use std::io;

use crate::protocol::{NothingBuffered, Step, Upgrade, UpgradeError};
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

/// The most a dialogue reads at once.
const PORTION: usize = 512;

/// Speaks until the server is ready for a TLS hello. No deadline here: the caller has one.
pub(super) async fn upgrade(
    socket: &Socket,
    protocol: &'static str,
    mut dialogue: Upgrade,
) -> Result<NothingBuffered, UpgradeFailure> {
    let io = |error| UpgradeFailure::Io { protocol, error };
    let mut step = dialogue.begin();
    loop {
        step = match step {
            Step::Send(bytes) => {
                socket.send_all(bytes).await.map_err(io)?;
                dialogue.sent()
            }
            Step::ReadAtMost(most) => {
                let mut portion = [0; PORTION];
                let read = socket.recv(&mut portion[..most.min(PORTION)]).await.map_err(io)?;
                dialogue.received(&portion[..read])?
            }
            // A server waits for our hello now. Bytes that are here already were said in plaintext; those that
            // come later are fed to TLS, which they break.
            Step::Upgrade(_) if socket.has_unread() => return Err(UpgradeError::PlaintextAfterUpgrade.into()),
            Step::Upgrade(proof) => return Ok(proof),
        };
    }
}
