//! What is rewritten after TLS, and until when.

use std::fmt;

use super::{CancelKey, Probe, ReplyTo, TurnedAway};
use crate::outcome::Side;

/// Rewrites the bytes of a session while a protocol requires it: bytes of each leg go in, and bytes for both legs come
/// out in [`Outbox`].
pub trait Dialogue: fmt::Debug + Send {
    /// Bytes of the client.
    ///
    /// # Errors
    /// They cannot be passed on.
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError>;

    /// Bytes of the server.
    ///
    /// # Errors
    /// They are not the protocol, or leave nothing that the client could use.
    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError>;

    /// Whether nothing is left to rewrite and nothing is buffered: the outbox is written, then the plain relay takes
    /// over.
    fn is_finished(&self) -> bool;

    /// The key by which others may cancel the session, returned once after the server has sent it. The driver asks
    /// after each read from the server, before it writes to the client.
    fn cancel_key(&mut self) -> Option<CancelKey> {
        None
    }

    /// How the server has refused the session within the dialogue, for its outcome: the client got it unchanged, and another
    /// endpoint cannot be tried any more.
    fn refused(&self) -> Option<&TurnedAway> {
        None
    }

    /// Why we have not let the client in, for the outcome of a session that ends now: it has not given the login that it is
    /// held to, and has been told so.
    fn denied(&self) -> Option<&'static str> {
        None
    }

    /// The session ends in the middle, but not by the server. Returns what completes the login in the
    /// client's place, if servers count an end in the middle as an error. The dialogue is not used any more then.
    fn rest(&mut self) -> Option<Box<dyn Probe>> {
        None
    }
}

/// Bytes to write, per leg. The driver bounds it: it does not read while the outbox is not empty.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Bytes for the client.
    pub to_downstream: Vec<u8>,
    /// Bytes for the server.
    pub to_upstream: Vec<u8>,
}

/// A side sent bytes that cannot be passed on. The session ends with a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DialogueError {
    /// The reason, for the log and the client.
    pub reason: &'static str,
    /// The side at fault.
    pub side: Side,
    /// What the refusal needs of the client's messages.
    pub reply_to: ReplyTo,
}

impl DialogueError {
    /// An error that the client's bytes caused.
    #[must_use]
    pub const fn of_client(reason: &'static str, reply_to: ReplyTo) -> Self {
        Self { reason, side: Side::Downstream, reply_to }
    }

    /// An error that the server's bytes caused.
    #[must_use]
    pub const fn of_server(reason: &'static str, reply_to: ReplyTo) -> Self {
        Self { reason, side: Side::Upstream, reply_to }
    }
}
