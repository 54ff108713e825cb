//! The way to TLS: the plaintext dialogue with a server, and the proof that nothing of it is left over.

use std::borrow::Cow;
use std::fmt;

use super::{Dialogue, OpeningError, ReplyTo, Wrapping};

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
    /// What comes first.
    fn begin(&mut self) -> Step;

    /// The driver has sent what it was told to.
    fn sent(&mut self) -> Step;

    /// These bytes were read; none at all means that the server closed.
    ///
    /// # Errors
    /// The answer does not lead to TLS; the connection is to be closed.
    fn received(&mut self, bytes: &[u8]) -> Result<Step, UpgradeError>;
}

/// What the driver of an [`Upgrade`] does next.
#[derive(Debug)]
pub enum Step {
    /// Write these bytes to the server.
    Send(Cow<'static, [u8]>),
    /// Read from the server, at most this many bytes.
    ReadAtMost(usize),
    /// The rest depends on the client. No other endpoint can be tried from here, for it hears of this one.
    Meet(Greeting),
    /// Begin the TLS handshake.
    Upgrade(Upgraded),
}

/// A server's words to the client, and what makes of the client's answer the rest of the upgrade.
#[derive(Debug)]
pub struct Greeting {
    /// For the client.
    pub words: Vec<u8>,
    /// What reads its answer.
    pub introduction: Box<dyn Introduction>,
}

/// The client's part in an upgrade.
pub trait Introduction: fmt::Debug + Send {
    /// Bytes of the client, never none. `None`: read more.
    ///
    /// # Errors
    /// They are not the protocol; answer as the error says.
    fn heard(&mut self, bytes: &[u8]) -> Result<Option<Introduced>, OpeningError>;

    /// There is no client, or it has left: what to say in its place, so that the server sees a whole conversation. It
    /// ends as [`probe`](super::Protocol::probe) says.
    fn alone(&mut self) -> Introduced;
}

/// A client has introduced itself.
#[derive(Debug)]
pub struct Introduced {
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
    /// What the server said to the client's preface ([`Opened::preface`](super::Opened::preface)) in plaintext, as far as it
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

/// Why the server's answer does not lead to TLS. Its own text is never quoted: nobody has authenticated it.
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
    /// It wants no connection now; the protocol's code for why, which is not text of the server's.
    #[error("the server turned the connection away ({0})")]
    TurnedAway(String),
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
