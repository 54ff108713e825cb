//! Drives a protocol's upgrade dialogue over a socket.

use std::io;

use crate::protocol::{Greeting, Protocol, Step, Upgrade, UpgradeError, Upgraded};
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
    protocol: &dyn Protocol,
    mut dialogue: Box<dyn Upgrade>,
) -> Result<Led, UpgradeFailure> {
    let io = |error| UpgradeFailure::Io { protocol: protocol.label(), error };
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
                nothing_came(socket, protocol)?;
                return Ok(Led::Upgraded(upgraded));
            }
            Step::Meet(greeting) => return Ok(Led::Meets(greeting)),
        };
    }
}

/// A server waits for our hello now. Bytes that are here already were said in plaintext: why it will not, or nothing that may
/// be trusted. Those that come later are fed to TLS, which they break.
pub(super) fn nothing_came(socket: &Socket, protocol: &dyn Protocol) -> Result<(), UpgradeError> {
    if !socket.has_unread() {
        return Ok(());
    }
    let mut portion = [0; PORTION];
    let heard = socket.recv_arrived(&mut portion).ok().flatten().unwrap_or(0);
    Err(protocol.refused_in_plaintext(&portion[..heard]).unwrap_or(UpgradeError::PlaintextAfterUpgrade))
}
