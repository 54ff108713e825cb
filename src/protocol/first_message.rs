//! The opening of protocols whose clients speak first and in which nothing is answered or rewritten. It reads enough of
//! the first message to recognize the protocol, so that a port scan, a TLS client or a client of another protocol costs
//! the server nothing.

use super::{ClientOpening, Opening, OpeningError, OpeningState, ReplyTo, TLS_HANDSHAKE};

/// What the first bytes of a client are.
pub(super) enum FirstMessageVerdict {
    Incomplete,
    /// The protocol, and what a refusal needs.
    Speaks(ReplyTo),
    /// Another protocol, and the reason.
    Foreign(&'static str),
}

/// Reads until the judge decides.
#[derive(Debug)]
pub(super) struct FirstMessage {
    held: Vec<u8>,
    most: usize,
    judge: fn(&[u8]) -> FirstMessageVerdict,
    speaks_tls: &'static str,
}

/// More than any judge needs.
const ENOUGH: usize = 64 * 1024;

impl FirstMessage {
    /// `speaks_tls`: the message for a client that begins with a TLS ClientHello.
    pub(super) const fn new(judge: fn(&[u8]) -> FirstMessageVerdict, speaks_tls: &'static str) -> Self {
        Self::up_to(ENOUGH, judge, speaks_tls)
    }

    /// [`FirstMessage::new`] for a judge that may need so many bytes.
    pub(super) const fn up_to(
        most: usize,
        judge: fn(&[u8]) -> FirstMessageVerdict,
        speaks_tls: &'static str,
    ) -> Self {
        Self { held: Vec::new(), most, judge, speaks_tls }
    }
}

impl Opening for FirstMessage {
    fn receive(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError> {
        self.held.extend_from_slice(bytes);
        if self.held.first() == Some(&TLS_HANDSHAKE) {
            return Err(OpeningError::speaks_tls(self.speaks_tls));
        }
        match (self.judge)(&self.held) {
            FirstMessageVerdict::Incomplete if self.held.len() > self.most => {
                Err(OpeningError::new("the client's first message has no end"))
            }
            FirstMessageVerdict::Incomplete => Ok(OpeningState::Incomplete),
            FirstMessageVerdict::Foreign(reason) => Err(OpeningError::new(reason)),
            FirstMessageVerdict::Speaks(reply_to) => Ok(OpeningState::Opened(ClientOpening {
                bytes: std::mem::take(&mut self.held),
                may_half_close: true,
                reply_to,
                ..ClientOpening::default()
            })),
        }
    }
}
