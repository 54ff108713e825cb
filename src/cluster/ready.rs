//! A usable upstream: upgrade and handshake are done.

use std::io;

use crate::protocol::{Dialogue, SignedIn};
use crate::relay::UpstreamStream;

/// The stream to a server, and what is to be sent first.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The stream.
    pub stream: UpstreamStream,
    /// Bytes for the client, sent before anything of the server.
    pub welcome: Vec<u8>,
    /// Bytes for the server, sent before anything of the client.
    pub first: Vec<u8>,
    /// Rewrites messages after the upgrade, where the protocol needs it.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// TLS began by the protocol's own upgrade.
    pub is_upgraded: bool,
    /// The server's answer to the client's preface; `None`: the preface is still to be sent.
    pub answer: Option<Vec<u8>>,
    /// How many bytes of the client's opening have been sent.
    pub said: usize,
    /// The session was signed in: how it goes on. Then the client's opening is not to be sent.
    pub signed_in: Option<Box<SignedIn>>,
}

impl Ready {
    /// Whether the login ended in an error about what the client asks for.
    pub(crate) fn is_refused(&self) -> bool {
        self.signed_in.as_ref().is_some_and(|signed_in| signed_in.is_refused)
    }

    /// Moves the stream to the current worker.
    pub(crate) fn register_here(self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.register_here()?, ..self })
    }

    pub(crate) const fn new(end: UpstreamStream) -> Self {
        Self {
            stream: end,
            welcome: Vec::new(),
            first: Vec::new(),
            dialogue: None,
            is_upgraded: false,
            answer: None,
            said: 0,
            signed_in: None,
        }
    }
}
