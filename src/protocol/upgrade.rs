//! The way to TLS: the plaintext dialogue with a server, and the proof that nothing of it is left over.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;

use super::{Dialogue, OpeningError, ReplyTo, Wrapping};
use crate::escape::is_control;

/// Proof that not one byte of plaintext is left over behind the upgrade, made only by those who looked. Without it no
/// TLS handshake begins, so plaintext injected before the handshake (CVE-2021-23222, CVE-2011-0411) cannot be taken
/// for the server's.
#[derive(Debug, Clone)]
pub struct NothingBuffered(());

impl NothingBuffered {
    /// Where TLS starts with the first byte there was no plaintext.
    #[must_use]
    pub const fn nothing_was_said() -> Self {
        Self(())
    }

    /// `rest` is what is left of all that was read.
    ///
    /// # Errors
    /// Something is.
    pub const fn behind(rest: &[u8]) -> Result<Self, UpgradeError> {
        if rest.is_empty() { Ok(Self(())) } else { Err(UpgradeError::PlaintextAfterUpgrade) }
    }
}

/// The plaintext dialogue with a server before TLS. It is asked what to do when the connection is there, when it has
/// sent what it was told to, and when something was read; it lives for one attempt.
pub trait Upgrade: fmt::Debug + Send {
    /// The address that the connection is made from, before anything else; protocols that name it override this.
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// What comes first.
    fn begin(&mut self) -> UpgradeStep;

    /// The driver has sent what it was told to.
    fn sent(&mut self) -> UpgradeStep;

    /// These bytes were read; none at all means that the server closed.
    ///
    /// # Errors
    /// The answer does not lead to TLS; the connection is to be closed.
    fn received(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError>;
}

/// What the driver of an [`Upgrade`] does next.
#[derive(Debug)]
pub enum UpgradeStep {
    /// Write these bytes to the server.
    Send(Cow<'static, [u8]>),
    /// Read from the server, at most this many bytes.
    ReadAtMost(usize),
    /// The rest depends on the client. No other endpoint can be tried from here, for it hears of this one.
    Greet(Greeting),
    /// Begin the TLS handshake.
    Upgrade(Upgraded),
}

/// A server's words to the client, and what makes of the client's answer the rest of the upgrade.
#[derive(Debug)]
pub struct Greeting {
    /// For the client.
    pub words: Vec<u8>,
    /// What reads its answer.
    pub client_reply: Box<dyn ClientReply>,
}

/// The client's part in an upgrade.
pub trait ClientReply: fmt::Debug + Send {
    /// Bytes of the client, never none. `None`: read more.
    ///
    /// # Errors
    /// They are not the protocol; answer as the error says.
    fn received(&mut self, bytes: &[u8]) -> Result<Option<UpgradeRequest>, OpeningError>;

    /// There is no client, or it has left: what to say in its place, so that the server sees a whole conversation. It
    /// ends as [`probe`](super::Protocol::probe) says.
    fn conclude_without_client(&mut self) -> UpgradeRequest;
}

/// A client has introduced itself.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// Asks the server for TLS; the handshake follows at once.
    pub request: Vec<u8>,
    /// What comes then.
    pub upgraded: Upgraded,
    /// How a refusal has to refer to what the client said.
    pub reply_to: ReplyTo,
}

/// What follows an upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// Nothing is left over.
    pub proof: NothingBuffered,
    /// How the handshake travels, where not by itself.
    pub wrapping: Option<Wrapping>,
    /// What the server said to the client's preface ([`ClientOpening::preface`](super::ClientOpening::preface)) in plaintext, as far as it
    /// may go on; the opening's dialogue reads it as if it came behind TLS. `None`: the upgrade says no preface.
    pub answer: Option<Vec<u8>>,
    /// For the client, once TLS is up.
    pub welcome: Vec<u8>,
    /// For the server, once TLS is up, before anything of the client.
    pub first: Vec<u8>,
    /// What is rewritten from then on.
    pub dialogue: Option<Box<dyn Dialogue>>,
}

impl Upgraded {
    /// TLS, and nothing else.
    #[must_use]
    pub const fn new(proof: NothingBuffered) -> Self {
        Self { proof, wrapping: None, answer: None, welcome: Vec::new(), first: Vec::new(), dialogue: None }
    }
}

/// A server's own no in place of its service: it is full, going down, or wants nobody from here. It lives and answers, so nothing is
/// held against it; its client hears what it said.
///
/// Before TLS nobody has authenticated these words. They go on as one short line of printable characters, and a client hears them as the
/// server's only as far as its protocol lets them pass ([`super::Refusal::filtered`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// What kind of answer it is, as the protocol's people call it: `SMTP`, `MySQL error`, `IMAP BYE`.
    pub kind: &'static str,
    /// The protocol's number for why, where it has one.
    pub code: Option<u16>,
    /// The rest of what it said.
    pub words: String,
    /// Whether it came through TLS: then nobody on the way can have said it.
    pub is_through_tls: bool,
}

/// Of a server's own words so many characters go on: any line of any protocol takes them, with what we add.
const WORDS_MAX: usize = 300;

impl TurnedAway {
    /// That answer; `words` is what comes behind its code.
    #[must_use]
    pub fn new(kind: &'static str, code: Option<u16>, words: &[u8]) -> Self {
        let words: String =
            String::from_utf8_lossy(words).chars().filter(|c| !is_control(*c)).take(WORDS_MAX).collect();
        Self { kind, code, words: words.trim().to_owned(), is_through_tls: false }
    }

    /// The same, said through TLS.
    #[must_use]
    pub fn said_through_tls(self) -> Self {
        Self { is_through_tls: true, ..self }
    }

    /// Whether its words have no code in brackets in front, or one of these.
    pub(super) fn is_marked_only(&self, codes: &[&str]) -> bool {
        let words = self.words.to_ascii_uppercase();
        !words.starts_with('[') || codes.iter().any(|code| words.starts_with(code))
    }

    /// A reply that begins with three digits, and a space or a dash, as SMTP, NNTP and FTP have it.
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

/// Why the server's answer does not lead to TLS. Nobody has authenticated its own text, which is quoted only where nothing
/// else says what is wrong, and without what could steer a terminal or end a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It declined in the protocol's way.
    #[error("the server does not offer TLS (it answered the TLS request with a refusal)")]
    Declined,
    /// It lists what it can do, and TLS is not in the list.
    #[error("the server does not offer TLS (what it announces has no {0})")]
    NotOffered(&'static str),
    /// It answered with an error message of the protocol.
    #[error("the server answered the TLS request with an error")]
    ErrorAnswer,
    /// It wants no connection now, and says why.
    #[error("the server turned the connection away ({0})")]
    TurnedAway(TurnedAway),
    /// It refused what comes before the request for TLS, in its own words: the protocol's code alone would not tell why.
    #[error("the server answered {to} with \"{said}\"")]
    Answered {
        /// What we had said.
        to: String,
        /// Its answer, harmless to show.
        said: String,
    },
    /// It answered with something that is not the protocol.
    #[error("the server's answer to the TLS request is not {protocol}: byte 0x{byte:02x}")]
    NotTheProtocol {
        /// What we speak.
        protocol: &'static str,
        /// What came.
        byte: u8,
    },
    /// It answered with a TLS alert.
    #[error(
        "the server answered in TLS: it takes no plaintext on this port; TLS with the first byte is `start: direct`"
    )]
    SpeaksTls,
    /// It is of the protocol, and leads nowhere.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// It goes on and on.
    #[error("the server's answer before TLS is longer than {0} bytes")]
    Endless(usize),
    /// It closed the connection.
    #[error("the server closed the connection instead of answering the TLS request")]
    Closed,
    /// Bytes followed its answer before our handshake began.
    #[error("the server (or somebody between) sent plaintext after agreeing to TLS")]
    PlaintextAfterUpgrade,
}
