//! Drives a protocol's upgrade dialogue over a socket, in two parts that have bounds of their own: until a server that
//! speaks first has greeted, and from there to TLS.

use std::io;

use crate::protocol::{Greeting, Protocol, Upgrade, UpgradeError, UpgradeStep, Upgraded, recognize};
use crate::sys::Socket;

/// Why TLS did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeFailure {
    /// The server's answer.
    #[error(transparent)]
    Answer(#[from] UpgradeError),
    /// The server's answer, where it is known whose it would have been.
    #[error("{error}; {seen}")]
    Foreign {
        /// What is wrong with it.
        error: UpgradeError,
        /// What speaks like that.
        seen: &'static str,
    },
    #[error("the connection failed during the {protocol} upgrade to TLS: {error}")]
    Io { protocol: &'static str, error: io::Error },
}

impl UpgradeFailure {
    /// Whether it ended what we began without a word of the protocol, as a server does that wants TLS with the first byte.
    pub(super) const fn is_an_end(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Answer(error) | Self::Foreign { error, .. } => {
                matches!(error, UpgradeError::Closed | UpgradeError::SpeaksTls)
            }
        }
    }
}

/// How far the server alone leads.
#[derive(Debug)]
pub(super) enum UpgradeProgress {
    /// To TLS.
    Upgraded(Upgraded),
    /// To the client.
    Meets(Greeting),
}

/// The most that is read at once.
const PORTION: usize = 512;
/// Of the first bytes so many are kept: enough to tell who greets.
const HEARD_MAX: usize = 32;

/// An upgrade under way. No deadlines here: the caller has them.
#[derive(Debug)]
pub(super) struct Upgrading<'a> {
    protocol: &'a dyn Protocol,
    dialogue: Box<dyn Upgrade>,
    step: UpgradeStep,
    /// The first bytes of all.
    heard: Vec<u8>,
}

impl<'a> Upgrading<'a> {
    pub(super) fn begin(socket: &Socket, protocol: &'a dyn Protocol, mut dialogue: Box<dyn Upgrade>) -> Self {
        if let Some(local) = socket.local() {
            dialogue.comes_from(local.ip());
        }
        let step = dialogue.begin();
        Self { protocol, dialogue, step, heard: Vec::new() }
    }

    /// Whether the server has said anything.
    pub(super) const fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Reads until the server has said all that it says unasked. May be dropped and called again.
    pub(super) async fn wait_greeting(&mut self, socket: &Socket) -> Result<(), UpgradeFailure> {
        while let UpgradeStep::ReadAtMost(most) = self.step {
            self.read(socket, most).await?;
        }
        Ok(())
    }

    /// Speaks until the server is ready for a TLS hello, or the client has to be heard.
    pub(super) async fn run(mut self, socket: &Socket) -> Result<UpgradeProgress, UpgradeFailure> {
        loop {
            match self.step {
                UpgradeStep::Send(bytes) => {
                    let sent = socket.send_all(&bytes).await;
                    sent.map_err(|error| UpgradeFailure::Io { protocol: self.protocol.label(), error })?;
                    self.step = self.dialogue.sent();
                }
                UpgradeStep::ReadAtMost(most) => self.read(socket, most).await?,
                UpgradeStep::Upgrade(upgraded) => {
                    check_nothing_buffered(socket, self.protocol)?;
                    return Ok(UpgradeProgress::Upgraded(upgraded));
                }
                UpgradeStep::AwaitClientReply(greeting) => return Ok(UpgradeProgress::Meets(greeting)),
            }
        }
    }

    async fn read(&mut self, socket: &Socket, most: usize) -> Result<(), UpgradeFailure> {
        let mut portion = [0; PORTION];
        let read = socket.recv(&mut portion[..most.min(PORTION)]).await;
        let read = read.map_err(|error| UpgradeFailure::Io { protocol: self.protocol.label(), error })?;
        let room = HEARD_MAX.saturating_sub(self.heard.len());
        self.heard.extend_from_slice(&portion[..read.min(room)]);
        self.step =
            self.dialogue.received(&portion[..read]).map_err(|error| self.explained(socket, error))?;
        Ok(())
    }

    /// With what a server seems to speak whose answer is none of the protocol. More of it may be here, unread.
    fn explained(&self, socket: &Socket, error: UpgradeError) -> UpgradeFailure {
        if matches!(error, UpgradeError::TurnedAway(_) | UpgradeError::SpeaksTls) {
            return error.into();
        }
        let mut more = [0; HEARD_MAX];
        let arrived = socket.recv_arrived(&mut more).ok().flatten().unwrap_or_default();
        let first = [&self.heard, &more[..arrived]].concat();
        match recognize(&first, self.protocol.label()) {
            Some(seen) => UpgradeFailure::Foreign { error, seen },
            None => error.into(),
        }
    }
}

/// A server waits for our hello now. Bytes that are here already were said in plaintext; those that come later are fed to
/// TLS, which they break. A server that says no there is heard.
pub(super) fn check_nothing_buffered(socket: &Socket, protocol: &dyn Protocol) -> Result<(), UpgradeError> {
    if !socket.has_unread() {
        return Ok(());
    }
    let mut portion = [0; PORTION];
    let read = socket.recv_arrived(&mut portion).ok().flatten().unwrap_or_default();
    let by = protocol.parse_refusal(&portion[..read]);
    Err(by.map_or(UpgradeError::PlaintextAfterUpgrade, UpgradeError::from))
}
