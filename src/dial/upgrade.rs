//! Drives a protocol's upgrade dialogue over a socket, in two parts with bounds of their own: up to the greeting of a
//! server that speaks first, and from there to TLS.

use std::io;

use crate::protocol::{Greeting, Protocol, Upgrade, UpgradeError, UpgradeStep, Upgraded, recognize};
use crate::sys::Socket;

/// Why TLS did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeFailure {
    /// The server's answer.
    #[error(transparent)]
    Answer(#[from] UpgradeError),
    /// The server's answer is of another, recognised protocol.
    #[error("{error}; {seen}")]
    Foreign {
        /// What is wrong with it.
        error: UpgradeError,
        /// The protocol it looks like.
        seen: &'static str,
    },
    #[error("the connection failed during the {protocol} upgrade to TLS: {error}")]
    Io { protocol: &'static str, error: io::Error },
}

impl UpgradeFailure {
    /// Whether the server closed, or answered in TLS, without a word of the protocol, as one that wants TLS with the
    /// first byte does.
    pub(super) const fn is_an_end(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Answer(error) | Self::Foreign { error, .. } => {
                matches!(error, UpgradeError::Closed | UpgradeError::SpeaksTls)
            }
        }
    }
}

/// How far the upgrade gets without the client.
#[derive(Debug)]
pub(super) enum UpgradeProgress {
    /// The server is ready for TLS.
    Upgraded(Upgraded),
    /// The server has greeted, and waits for the client's reply.
    AwaitsClientReply(Greeting),
}

/// Maximum number of bytes per read.
const PORTION: usize = 512;
/// How many of the first bytes are kept: enough to recognise another protocol.
const HEARD_MAX: usize = 32;

/// A running upgrade. No deadlines here: the caller has them.
#[derive(Debug)]
pub(super) struct Upgrading<'a> {
    protocol: &'a dyn Protocol,
    dialogue: Box<dyn Upgrade>,
    step: UpgradeStep,
    /// The first bytes of the server.
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

    /// Whether the server has sent anything.
    pub(super) const fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Reads until the greeting is complete. Cancel-safe: may be dropped and called again.
    pub(super) async fn wait_greeting(&mut self, socket: &Socket) -> Result<(), UpgradeFailure> {
        while let UpgradeStep::ReadAtMost(most) = self.step {
            self.read(socket, most).await?;
        }
        Ok(())
    }

    /// Runs the dialogue until the server is ready for a TLS hello, or waits for the client's reply.
    pub(super) async fn run(mut self, socket: &Socket) -> Result<UpgradeProgress, UpgradeFailure> {
        loop {
            match self.step {
                UpgradeStep::Send(bytes) => {
                    let sent = socket.send_all(&bytes).await;
                    sent.map_err(|error| UpgradeFailure::Io { protocol: self.protocol.label(), error })?;
                    self.step = self.dialogue.note_sent();
                }
                UpgradeStep::ReadAtMost(most) => self.read(socket, most).await?,
                UpgradeStep::Upgrade(upgraded) => {
                    check_nothing_buffered(socket, self.protocol)?;
                    return Ok(UpgradeProgress::Upgraded(upgraded));
                }
                UpgradeStep::AwaitClientReply(greeting) => {
                    return Ok(UpgradeProgress::AwaitsClientReply(greeting));
                }
            }
        }
    }

    async fn read(&mut self, socket: &Socket, most: usize) -> Result<(), UpgradeFailure> {
        let mut portion = [0; PORTION];
        let read = socket.recv(&mut portion[..most.min(PORTION)]).await;
        let read = read.map_err(|error| UpgradeFailure::Io { protocol: self.protocol.label(), error })?;
        let room = HEARD_MAX.saturating_sub(self.heard.len());
        self.heard.extend_from_slice(&portion[..read.min(room)]);
        self.step = self.dialogue.receive(&portion[..read]).map_err(|error| self.explained(socket, error))?;
        Ok(())
    }

    /// Adds which protocol the server seems to speak, if its answer is not of ours. Unread bytes that have arrived
    /// count too.
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

/// Checks that no bytes are unread when the server should wait for our hello: they were sent in plaintext. Later ones
/// are fed to TLS, and break it. A refusal among the bytes is reported as such.
pub(super) fn check_nothing_buffered(socket: &Socket, protocol: &dyn Protocol) -> Result<(), UpgradeError> {
    if !socket.has_unread() {
        return Ok(());
    }
    let mut portion = [0; PORTION];
    let read = socket.recv_arrived(&mut portion).ok().flatten().unwrap_or_default();
    let by = protocol.parse_refusal(&portion[..read]);
    Err(by.map_or(UpgradeError::PlaintextAfterUpgrade, UpgradeError::from))
}
