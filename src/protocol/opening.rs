//! A client's first message, for protocols whose clients speak first.

use std::borrow::Cow;
use std::fmt;

use super::Dialogue;

/// Reads the opening of a client that speaks first.
pub trait Opening: fmt::Debug + Send {
    /// More bytes of the client, never none.
    ///
    /// # Errors
    /// They are not the protocol: answer as the error says and close.
    fn receive(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError>;
}

/// The state of an opening.
#[derive(Debug)]
pub enum OpeningState {
    /// The opening is incomplete: read more.
    Incomplete,
    /// Answer this, then read more.
    Answer(Cow<'static, [u8]>),
    /// Complete: dial, and pass it on.
    Opened(ClientOpening),
}

/// The opening of a client that may be served.
#[derive(Debug, Default)]
pub struct ClientOpening {
    /// The client's first message, to be sent to the server.
    pub bytes: Vec<u8>,
    /// This many of the first `bytes` are sent by the upgrade instead, if the protocol has one that takes them
    /// ([`Protocol::upgrade_for`](super::Protocol::upgrade_for)).
    pub preface: usize,
    /// Whether a FIN now is a half-close; otherwise it means that the client has left.
    pub may_half_close: bool,
    /// It is a request to cancel another session; the client wants none of its own.
    pub cancels: Option<CancelKey>,
    /// What a refusal needs of it.
    pub reply_to: ReplyTo,
    /// What is rewritten once there is an upstream.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

/// What a refusal needs of the client's last message to be its answer: a number, a version, a state. Each protocol
/// defines the bytes; zeros mean that the client has sent nothing yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo(pub [u8; 8]);

impl ReplyTo {
    /// The client has received a greeting, and may have sent a request since.
    pub const WELCOMED: Self = Self([1, 0, 0, 0, 0, 0, 0, 0]);
}

/// The server's identification of a session, by which another connection can ask to cancel what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The server's number for the session.
    pub process: u32,
    /// The secret that proves the request.
    pub secret: Box<[u8]>,
}

/// The client's message is not of the protocol, or cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpeningError {
    /// The reason, for the log and the client.
    pub reason: &'static str,
    /// The kind of answer: in the protocol, or a TLS alert for a client that speaks TLS to a plaintext port.
    pub answer: OpeningReply,
    /// What the answer needs of the message.
    pub reply_to: ReplyTo,
}

/// How to answer a client whose first bytes are not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningReply {
    /// With an error message of the protocol.
    InProtocol,
    /// A fatal TLS alert: the client speaks TLS to a plaintext port.
    TlsAlert,
}

impl OpeningError {
    /// Answered in the protocol.
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
