//! What is rewritten after TLS, and until when.

use std::fmt;

use super::{CancelKey, Probe, ReplyTo};
use crate::outcome::Side;

/// What becomes of bytes on the way while a protocol still has something to rewrite: each leg's bytes go in, and come
/// out in [`Outbox`] for either leg.
pub trait Dialogue: fmt::Debug + Send {
    /// Bytes of the client.
    ///
    /// # Errors
    /// What the client sent cannot be passed on.
    fn downstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError>;

    /// Bytes of the server.
    ///
    /// # Errors
    /// What the server sent is not the protocol, or leaves nothing that the client could use.
    fn upstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError>;

    /// Nothing is left to rewrite, and nothing held back: whatever is in the outbox goes out, then the plain relay
    /// takes over.
    fn is_finished(&self) -> bool;

    /// How others may have the session cancelled, once the server has said so; told once. It is asked whenever the
    /// server has said something, and before the client hears of that.
    fn cancel_key(&mut self) -> Option<CancelKey> {
        None
    }

    /// The session ends in the middle, though not by the server. What says the rest to it in the client's place, where a
    /// server holds an end in the middle against us; nothing is rewritten any more then.
    fn rest(&mut self) -> Option<Box<dyn Probe>> {
        None
    }
}

/// Bytes to write, per leg. The driver bounds it by not reading while it is not empty.
#[derive(Debug, Default)]
pub struct Outbox {
    /// For the client.
    pub to_downstream: Vec<u8>,
    /// For the server.
    pub to_upstream: Vec<u8>,
}

/// A side said something that cannot be passed on. The session ends with a refusal in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DialogueError {
    /// In words, for the log and the client.
    pub reason: &'static str,
    /// Whose fault it is.
    pub side: Side,
    /// How the refusal has to refer to what the client said.
    pub reply_to: ReplyTo,
}

impl DialogueError {
    /// The client's fault.
    #[must_use]
    pub const fn of_client(reason: &'static str, reply_to: ReplyTo) -> Self {
        Self { reason, side: Side::Downstream, reply_to }
    }

    /// The server's fault.
    #[must_use]
    pub const fn of_server(reason: &'static str, reply_to: ReplyTo) -> Self {
        Self { reason, side: Side::Upstream, reply_to }
    }
}
