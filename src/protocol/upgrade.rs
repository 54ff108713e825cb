//! The upgrade to TLS: the plaintext dialogue with a server, and the proof that no plaintext is left.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;

use super::{Dialogue, OpeningError, ReplyTo, Wrapping};
use crate::escape::is_control;

/// Proof that no plaintext is left behind the upgrade; only code that has checked can make one. No TLS handshake begins
/// without it, so plaintext injected before the handshake (CVE-2021-23222, CVE-2011-0411) cannot be taken for the
/// server's.
#[derive(Debug, Clone)]
pub struct NothingBuffered(());

impl NothingBuffered {
    /// TLS starts with the first byte, so there was no plaintext.
    #[must_use]
    pub const fn tls_from_first_byte() -> Self {
        Self(())
    }

    /// `rest` is what remains of all bytes read.
    ///
    /// # Errors
    /// If bytes remain.
    pub const fn behind(rest: &[u8]) -> Result<Self, UpgradeError> {
        if rest.is_empty() { Ok(Self(())) } else { Err(UpgradeError::PlaintextAfterUpgrade) }
    }
}

/// The plaintext dialogue with a server before TLS, for one attempt. The driver calls it when the connection is there,
/// when bytes have been sent, and when bytes were read.
pub trait Upgrade: fmt::Debug + Send {
    /// The local address of the connection, before anything else; protocols that name it override this.
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// The step that opens the upgrade.
    fn begin(&mut self) -> UpgradeStep;

    /// The driver has sent the bytes of [`UpgradeStep::Send`].
    fn note_sent(&mut self) -> UpgradeStep;

    /// These bytes were read; none at all means that the server closed.
    ///
    /// # Errors
    /// The answer does not lead to TLS; the connection must be closed.
    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError>;
}

/// What the driver of an [`Upgrade`] does next.
#[derive(Debug)]
pub enum UpgradeStep {
    /// Write these bytes to the server.
    Send(Cow<'static, [u8]>),
    /// Read at most this many bytes from the server.
    ReadAtMost(usize),
    /// Continue with the client's reply. No other endpoint can be tried afterwards, because the client sees this one's
    /// greeting.
    AwaitClientReply(Greeting),
    /// Begin the TLS handshake.
    Upgrade(Upgraded),
}

/// A server's greeting for the client, and what continues the upgrade with the client's reply.
#[derive(Debug)]
pub struct Greeting {
    /// The bytes for the client.
    pub words: Vec<u8>,
    /// Reads the client's reply.
    pub client_reply: Box<dyn ClientReply>,
}

/// Reads the client's reply to a greeting.
pub trait ClientReply: fmt::Debug + Send {
    /// Bytes of the client, never none. `None`: read more.
    ///
    /// # Errors
    /// They are not the protocol: answer as the error says.
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<UpgradeRequest>, OpeningError>;

    /// There is no client, or it has left: continues in its place, so that the server sees a complete conversation. It
    /// is ended by [`probe`](super::Protocol::probe).
    fn conclude_without_client(&mut self) -> UpgradeRequest;
}

/// The request for TLS, made of the client's reply.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// Sent to the server; the handshake follows at once.
    pub request: Vec<u8>,
    /// What follows the upgrade.
    pub upgraded: Upgraded,
    /// What a refusal needs of the client's reply.
    pub reply_to: ReplyTo,
}

/// What follows an upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// No plaintext is left.
    pub proof: NothingBuffered,
    /// How the handshake is wrapped, if it is.
    pub wrapping: Option<Wrapping>,
    /// The server's plaintext answer to the client's preface
    /// ([`ClientOpening::preface`](super::ClientOpening::preface)), as far as it may be passed on; the opening's
    /// dialogue reads it as if it came through TLS. `None`: the upgrade sends no preface.
    pub answer: Option<Vec<u8>>,
    /// Sent to the client once TLS is up.
    pub welcome: Vec<u8>,
    /// Sent to the server once TLS is up, before anything of the client.
    pub first: Vec<u8>,
    /// What is rewritten after the upgrade.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

impl Upgraded {
    /// TLS, and nothing else.
    #[must_use]
    pub const fn new(proof: NothingBuffered) -> Self {
        Self { proof, wrapping: None, answer: None, welcome: Vec::new(), first: Vec::new(), dialogue: None }
    }
}

/// A server's own refusal in place of its service: it is full, shutting down, or accepts no connection from here. The
/// server works, so this is no fault of the endpoint; the client receives the server's words.
///
/// Before TLS these words are not authenticated. They are cut to one short line of printable characters, and the client
/// gets them as the server's own only if its protocol permits them ([`super::Refusal::filtered`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// The kind of answer in the protocol's terms: `SMTP`, `MySQL error`, `IMAP BYE`.
    pub kind: &'static str,
    /// The protocol's error number, if it has one.
    pub code: Option<u16>,
    /// The rest of the answer.
    pub words: String,
    /// Whether it came through TLS, so that only the server can have sent it.
    pub is_through_tls: bool,
}

/// Characters of a server's words that are passed on: with our addition they fit a line of any protocol.
const WORDS_MAX: usize = 300;

impl TurnedAway {
    /// A refusal; `words` is the text after its code.
    #[must_use]
    pub fn new(kind: &'static str, code: Option<u16>, words: &[u8]) -> Self {
        let words: String =
            String::from_utf8_lossy(words).chars().filter(|c| !is_control(*c)).take(WORDS_MAX).collect();
        Self { kind, code, words: words.trim().to_owned(), is_through_tls: false }
    }

    /// The same, received through TLS.
    #[must_use]
    pub fn through_tls(self) -> Self {
        Self { is_through_tls: true, ..self }
    }

    /// Whether its words begin with no code in brackets, or with one of these.
    pub(super) fn is_marked_only(&self, codes: &[&str]) -> bool {
        let words = self.words.to_ascii_uppercase();
        !words.starts_with('[') || codes.iter().any(|code| words.starts_with(code))
    }

    /// A reply that begins with three digits and a space or a dash, as in SMTP, NNTP and FTP.
    #[must_use]
    pub fn reply(kind: &'static str, code: u16, line: &[u8]) -> Self {
        Self::new(kind, Some(code), line.get(4..).unwrap_or_default())
    }
}

impl fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if let Some(code) = self.code {
            write!(f, " {code}")?;
        }
        if self.words.is_empty() { Ok(()) } else { write!(f, ": {}", self.words) }
    }
}

impl From<TurnedAway> for UpgradeError {
    fn from(by: TurnedAway) -> Self {
        Self::TurnedAway(by)
    }
}

/// Why the server's answer does not lead to TLS. Its own text is not authenticated: it is quoted only if nothing else
/// explains the error, and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It declined by the protocol's own message.
    #[error("the server does not offer TLS (it answered the TLS request with a refusal)")]
    Declined,
    /// Its list of capabilities does not include TLS.
    #[error("the server does not offer TLS (what it announces has no {0})")]
    NotOffered(&'static str),
    /// It answered with an error message of the protocol.
    #[error("the server answered the TLS request with an error")]
    ErrorAnswer,
    /// It accepts no connection now, for the given reason.
    #[error("the server turned the connection away ({0})")]
    TurnedAway(TurnedAway),
    /// It refused what precedes the request for TLS. Its own words are included, because the protocol's code does not
    /// explain it.
    #[error("the server answered {to} with \"{said}\"")]
    Answered {
        /// What we had sent.
        to: String,
        /// Its answer, cut and without control characters.
        said: String,
    },
    /// Its answer is not of the protocol.
    #[error("the server's answer to the TLS request is not {protocol}: byte 0x{byte:02x}")]
    NotTheProtocol {
        /// The protocol that the cluster is configured for.
        protocol: &'static str,
        /// The first byte of the server's answer.
        byte: u8,
    },
    /// It answered with a TLS alert.
    #[error(
        "the server answered in TLS: it takes no plaintext on this port; TLS with the first byte is `start: direct`"
    )]
    SpeaksTls,
    /// It is of the protocol, but TLS cannot follow.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// It exceeds the limit, in bytes.
    #[error("the server's answer before TLS is longer than {0} bytes")]
    Endless(usize),
    /// It closed the connection.
    #[error("the server closed the connection instead of answering the TLS request")]
    Closed,
    /// Bytes followed its answer before our handshake began.
    #[error("the server (or somebody between) sent plaintext after agreeing to TLS")]
    PlaintextAfterUpgrade,
}
