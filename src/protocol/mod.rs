//! The protocols we upgrade, rewrite and refuse in. PURE: bytes in, values out; no tokio, socket, clock,
//! entropy, log or metric.
//!
//! The contract with the drivers, per protocol:
//! * [`Protocol::opening`]: what a client that speaks first says before we dial ([`Opening`]);
//! * [`Protocol::upgrade`]: the plaintext dialogue with the server before TLS ([`Upgrade`], [`Step`]);
//! * [`Protocol::dialogue`]: what is rewritten after TLS, and until when ([`Dialogue`]);
//! * [`Protocol::refusal`]: our refusal in the client's words.
//!
//! A protocol is one file; adding one means one more arm in each function here.

pub mod postgres;

/// What a cluster speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Anything: nothing is parsed, TLS starts at once, a refusal is a reset.
    Tcp,
    /// PostgreSQL's frontend/backend protocol 3.
    Postgres(postgres::Settings),
}

/// Proof that not one byte of plaintext is left over behind the upgrade, made only by an [`Upgrade`] that
/// looked. Without it no TLS handshake begins, so plaintext injected before the handshake
/// (CVE-2021-23222, CVE-2011-0411) cannot be taken for the server's.
#[derive(Debug)]
pub struct NothingBuffered(());

impl NothingBuffered {
    /// Where TLS starts with the first byte there was no plaintext.
    #[must_use]
    pub const fn nothing_was_said() -> Self {
        Self(())
    }
}

/// What the driver of an [`Upgrade`] does next.
#[derive(Debug)]
pub enum Step {
    /// Write these bytes to the server.
    Send(&'static [u8]),
    /// Read from the server, at most this many bytes, so that no byte of TLS is swallowed.
    ReadAtMost(usize),
    /// Begin the TLS handshake.
    Upgrade(NothingBuffered),
}

/// Why the server's answer does not lead to TLS. Its own text is never quoted: nobody has authenticated it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It declined in the protocol's way.
    #[error("the server does not offer TLS (it answered the TLS request with a refusal)")]
    Declined,
    /// It answered with an error message of the protocol.
    #[error("the server answered the TLS request with an error")]
    ErrorAnswer,
    /// It answered with something that is not the protocol.
    #[error("the server's answer to the TLS request is not {protocol}: byte 0x{byte:02x}")]
    NotTheProtocol {
        /// What we speak.
        protocol: &'static str,
        /// What came.
        byte: u8,
    },
    /// It closed the connection.
    #[error("the server closed the connection instead of answering the TLS request")]
    Closed,
    /// Bytes followed its answer before our handshake began.
    #[error("the server (or somebody between) sent plaintext after agreeing to TLS")]
    PlaintextAfterUpgrade,
}

/// The plaintext dialogue with a server before TLS.
#[derive(Debug)]
pub enum Upgrade {
    /// PostgreSQL's SSLRequest.
    Postgres(postgres::SslRequest),
}

impl Upgrade {
    /// What comes first.
    pub fn begin(&mut self) -> Step {
        match self {
            Self::Postgres(dialogue) => dialogue.begin(),
        }
    }

    /// The driver has sent what it was told to.
    pub fn sent(&mut self) -> Step {
        match self {
            Self::Postgres(dialogue) => dialogue.sent(),
        }
    }

    /// These bytes were read; none at all means that the server closed.
    ///
    /// # Errors
    /// The answer does not lead to TLS; the connection is to be closed.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Step, UpgradeError> {
        match self {
            Self::Postgres(dialogue) => dialogue.received(bytes),
        }
    }
}

/// What a client that speaks first has said, as far as it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Not enough yet: read more.
    Incomplete,
    /// Answer this, then read more.
    Answer(&'static [u8]),
    /// Understood: dial, and pass these bytes on.
    Opened {
        /// The client's first message.
        bytes: Vec<u8>,
        /// What the rest of the session depends on.
        hello: Hello,
    },
}

/// What we learnt from a client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// The protocol has no opening that concerns us.
    None,
    /// A PostgreSQL client.
    Postgres(postgres::Hello),
}

/// A client's first message is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpeningError {
    /// In words, for the log.
    pub reason: &'static str,
    /// What to answer: the protocol's own words, or a TLS alert to one who speaks TLS to a plaintext port.
    pub answer: Answer,
}

/// How to answer a client whose first bytes are not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// In the words of the protocol.
    InProtocol,
    /// A fatal TLS alert: the client speaks TLS to a plaintext port.
    TlsAlert,
}

/// Fatal handshake_failure (RFC 8446 §6), in a TLS 1.0 record that every version reads.
pub const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// Reads a client's first message.
#[derive(Debug)]
pub enum Opening {
    /// PostgreSQL's untyped first packets.
    Postgres(postgres::Opening),
}

impl Opening {
    /// More bytes of the client.
    ///
    /// # Errors
    /// They are not the protocol; answer as the error says and close.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Said, OpeningError> {
        match self {
            Self::Postgres(opening) => opening.received(bytes),
        }
    }
}

/// What becomes of bytes on the way while a protocol still has something to rewrite: each leg's bytes go
/// in, and come out in [`Outbox`] for either leg.
#[derive(Debug)]
pub enum Dialogue {
    /// PostgreSQL's authentication, until AuthenticationOk.
    Postgres(postgres::Authentication),
}

/// Bytes to write, per leg. The driver bounds it by not reading while it is not empty.
#[derive(Debug, Default)]
pub struct Outbox {
    /// For the client.
    pub to_downstream: Vec<u8>,
    /// For the server.
    pub to_upstream: Vec<u8>,
}

/// The server said something that cannot be passed on. The session ends with a refusal in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialogueError(pub &'static str);

impl Dialogue {
    /// Bytes of the client.
    pub fn downstream_said(&mut self, bytes: &[u8], out: &mut Outbox) {
        match self {
            Self::Postgres(_) => out.to_upstream.extend_from_slice(bytes),
        }
    }

    /// Bytes of the server.
    ///
    /// # Errors
    /// What the server sent is not the protocol, or leaves nothing that the client could use.
    pub fn upstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        match self {
            Self::Postgres(dialogue) => dialogue.upstream_said(bytes, &mut out.to_downstream),
        }
    }

    /// Nothing is left to rewrite: whatever is in the outbox goes out, then the plain relay takes over.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        match self {
            Self::Postgres(dialogue) => dialogue.is_finished(),
        }
    }
}

impl Protocol {
    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Whether TLS starts by a dialogue of the protocol's own.
    #[must_use]
    pub const fn has_upgrade(self) -> bool {
        self.upgrade().is_some()
    }

    /// The ALPN protocols that its servers know, offered unless the file says otherwise.
    #[must_use]
    pub const fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &[],
            // Safe with every version, and what PostgreSQL 17 and newer demand of direct TLS.
            Self::Postgres(_) => &["postgresql"],
        }
    }

    /// For a client that speaks first: what reads its first message.
    #[must_use]
    pub fn opening(self) -> Option<Opening> {
        match self {
            Self::Tcp => None,
            Self::Postgres(_) => Some(Opening::Postgres(postgres::Opening::default())),
        }
    }

    /// The dialogue that leads to TLS, where the protocol has one.
    #[must_use]
    pub const fn upgrade(self) -> Option<Upgrade> {
        match self {
            Self::Tcp => None,
            Self::Postgres(_) => Some(Upgrade::Postgres(postgres::SslRequest::new())),
        }
    }

    /// What is rewritten once TLS is up, if anything.
    #[must_use]
    pub fn dialogue(self, hello: Hello, server_is_verified: bool) -> Option<Dialogue> {
        match (self, hello) {
            (Self::Postgres(settings), Hello::Postgres(hello)) => {
                let authentication = settings.authentication(hello, server_is_verified)?;
                Some(Dialogue::Postgres(authentication))
            }
            (Self::Tcp | Self::Postgres(_), _) => None,
        }
    }

    /// A refusal in the client's words, or `None` where the protocol has none and a reset must do.
    #[must_use]
    pub fn refusal(self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Tcp => None,
            Self::Postgres(_) => Some(postgres::error_response(refusal)),
        }
    }
}

/// What a client is told instead of getting an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// What kind it is; protocols have codes for some.
    pub kind: RefusalKind,
    /// Why, in a sentence for the client's user.
    pub reason: &'a str,
    /// The session id that the log has too.
    pub session: &'a str,
}

/// Kinds of refusal that protocols tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The client did not speak the protocol.
    BadRequest,
    /// No room left.
    Full,
    /// No endpoint could be reached, or none in time.
    Unreachable,
    /// We are going away.
    ShuttingDown,
}
