//! A client's first message, for protocols whose clients speak first.

use std::borrow::Cow;
use std::fmt;

use super::Dialogue;

/// Reads what a client that speaks first says.
pub trait Opening: fmt::Debug + Send {
    /// More bytes of the client, never none.
    ///
    /// # Errors
    /// They are not the protocol; answer as the error says and close.
    fn received(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError>;
}

/// What a client has said, as far as it came.
#[derive(Debug)]
pub enum OpeningState {
    /// Not enough yet: read more.
    Incomplete,
    /// Answer this, then read more.
    Answer(Cow<'static, [u8]>),
    /// Understood: dial, and pass it on.
    Opened(ClientOpening),
}

/// What a client that may be served wants.
#[derive(Debug, Default)]
pub struct ClientOpening {
    /// Its first message, for the server.
    pub bytes: Vec<u8>,
    /// So many of `bytes`, from the front, are the upgrade's to say where there is one that asks for them
    /// ([`Protocol::upgrade_for`](super::Protocol::upgrade_for)).
    pub preface: usize,
    /// Whether a FIN that comes now only ends what the client says; otherwise it means that the client has left.
    pub may_half_close: bool,
    /// It wants a session of somebody else to be cancelled, and no session of its own.
    pub cancels: Option<CancelKey>,
    /// How a refusal has to refer to it.
    pub reply_to: ReplyTo,
    /// What is rewritten once there is an upstream.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

/// What a refusal needs of the client's last message to be its answer: a number, a version, a state. Each protocol
/// has its own idea of the bytes; zeros mean that the client has said nothing yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo(pub [u8; 8]);

impl ReplyTo {
    /// The client has had a greeting, and may have asked for something since.
    pub const WELCOMED: Self = Self([1, 0, 0, 0, 0, 0, 0, 0]);
}

/// What a server calls one of its sessions, so that another connection can ask it to stop what that one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The server's number for the session.
    pub process: u32,
    /// The secret that goes with it.
    pub secret: Box<[u8]>,
}

/// A client's message is none of the protocol's, or none that we can serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpeningError {
    /// In words, for the log and the client.
    pub reason: &'static str,
    /// What to answer: the protocol's own words, or a TLS alert to one who speaks TLS to a plaintext port.
    pub answer: OpeningReply,
    /// How the answer has to refer to the message.
    pub reply_to: ReplyTo,
}

/// How to answer a client whose first bytes are not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningReply {
    /// In the words of the protocol.
    InProtocol,
    /// A fatal TLS alert: the client speaks TLS to a plaintext port.
    TlsAlert,
}

impl OpeningError {
    /// Answered in the words of the protocol.
    #[must_use]
    pub const fn new(reason: &'static str) -> Self {
        Self { reason, answer: OpeningReply::InProtocol, reply_to: ReplyTo([0; 8]) }
    }

    /// Answered by a TLS alert; the reason should name the client's setting.
    #[must_use]
    pub const fn speaks_tls(reason: &'static str) -> Self {
        Self { reason, answer: OpeningReply::TlsAlert, reply_to: ReplyTo([0; 8]) }
    }
}

/// The first byte of a TLS record that carries a ClientHello (RFC 8446 §5.1).
pub const TLS_HANDSHAKE: u8 = 0x16;

/// Fatal handshake_failure (RFC 8446 §6), in a TLS 1.0 record that every version reads.
pub const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];
