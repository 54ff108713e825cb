//! The protocols we upgrade, rewrite, probe and refuse in. PURE: bytes in, values out; no tokio, socket, clock,
//! entropy, log or metric.
//!
//! A protocol is one file that implements [`Protocol`], and one line in `PROTOCOLS`. What it brings, each a state
//! machine of its own that a driver feeds:
//! * [`Opening`]: what a client that speaks first says before we dial (driver: `downstream::read_opening`);
//! * [`Upgrade`]: the plaintext dialogue with the server before TLS (driver: `upstream::upgrade`), which may need the
//!   client in the middle: [`Introduction`] (driver: `session`);
//! * [`Dialogue`]: what is rewritten after TLS, and until when (driver: `relay`);
//! * [`Probe`]: a conversation without credentials that shows a server at work (driver: `upstream::probe`);
//! * [`Protocol::refusal`]: our refusal in the client's words.
//!
//! What binds them all (docs/protocols/README.md): the upgrade command travels alone; nothing is left over behind its
//! answer ([`NothingBuffered`]); what was learnt before TLS is forgotten; and there is no way on in plaintext.

mod amqp;
mod cassandra;
mod first_message;
mod ftp;
mod imap;
mod irc;
mod kafka;
mod ldap;
mod lines;
mod memcached;
mod mongodb;
mod mqtt;
mod mssql;
mod mysql;
mod mysqlx;
mod nats;
mod nntp;
mod pop3;
pub mod postgres;
mod redis;
mod sieve;
mod smtp;
mod tcp;
mod xmpp;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::Side;
use crate::rsa::RsaKey;

/// What a cluster speaks.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// The word in the file.
    fn label(&self) -> &'static str;

    /// The ALPN protocols that its servers know, offered unless the file says otherwise.
    fn alpn(&self) -> &'static [&'static str] {
        &[]
    }

    /// For a client that speaks first: what reads its first message. The dial waits for it.
    fn opening(&self) -> Option<Box<dyn Opening>> {
        None
    }

    /// Whether the server speaks first, where TLS does not.
    fn server_greets(&self) -> bool {
        false
    }

    /// The dialogue that leads to TLS, where the protocol has one.
    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        None
    }

    /// What is rewritten, where neither opening nor upgrade has said so.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        None
    }

    /// A refusal in the client's words, or `None` where the protocol has none and a reset must do.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>>;

    /// A conversation that shows a server at work. `upgraded`: its upgrade is behind it.
    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let _ = upgraded;
        None
    }

    /// Whether its logins have a place for the caller's unit, and whether only a login that goes over TLS has.
    fn announces(&self) -> Announces {
        Announces::Never
    }

    /// Puts the caller's unit into a login: [`Opened::bytes`] of a client that speaks first, else the [`Upgraded::first`] of
    /// its introduction. What has no place for it stays as it is.
    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        let _ = (login, unit);
    }

    /// Whether a server holds a connection that ends in the middle of its upgrade against us. If so, an upgrade that was
    /// begun is always carried through, with [`Introduction::alone`] where the client has left.
    fn parts_politely(&self) -> bool {
        false
    }

    /// How long a connection may be kept ready for a client to come, its upgrade and TLS behind it: safely less than what
    /// servers allow a client before its first word.
    ///
    /// # Errors
    /// Why none can be kept.
    fn keeps_ready(&self) -> Result<Duration, &'static str> {
        Err(if self.server_greets() {
            "its servers speak first, and what they say is for one client"
        } else {
            "nothing is known of who speaks first, and of how long a silent connection lives"
        })
    }

    /// What a user should know who does not verify the servers, behind the general warning.
    fn unverified_note(&self) -> Option<&'static str> {
        None
    }
}

/// Whether the server of a protocol can learn the caller's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announces {
    /// It has no place for it.
    Never,
    /// From a login that is read, which it is on its way to TLS only.
    OverTls,
    /// From each login.
    Always,
}

/// What protocols want to know of the configuration, and what they cannot make themselves.
#[derive(Debug, Clone)]
pub struct Options {
    /// `scram_plus`.
    pub scram_plus: postgres::ScramPlus,
    /// There is TLS, and it verifies the server.
    pub server_is_verified: bool,
    /// Decrypts passwords, for who asked for it: [`wants_rsa_key`].
    pub rsa_key: Option<&'static RsaKey>,
    /// What we call ourselves where a protocol wants a host's name.
    pub host_name: String,
}

/// Makes a protocol.
type Make = fn(&Options) -> Arc<dyn Protocol>;

/// Every protocol by its word in the file.
const PROTOCOLS: &[(&str, Make)] = &[
    ("tcp", |_| Arc::new(tcp::Tcp)),
    ("postgres", |options| Arc::new(postgres::Postgres::new(options))),
    ("mysql", |options| Arc::new(mysql::MySql::new(options))),
    ("mysqlx", |_| Arc::new(mysqlx::MySqlX)),
    ("smtp", |options| Arc::new(smtp::Smtp::submission(options))),
    ("lmtp", |options| Arc::new(smtp::Smtp::delivery(options))),
    ("imap", |_| Arc::new(imap::Imap)),
    ("pop3", |_| Arc::new(pop3::Pop3)),
    ("sieve", |_| Arc::new(sieve::Sieve)),
    ("nntp", |_| Arc::new(nntp::Nntp)),
    ("ldap", |_| Arc::new(ldap::Ldap)),
    ("nats", |_| Arc::new(nats::Nats)),
    ("ftp-control", |_| Arc::new(ftp::FtpControl)),
    ("redis", |_| Arc::new(redis::Redis)),
    ("memcached", |_| Arc::new(memcached::Memcached)),
    ("mongodb", |_| Arc::new(mongodb::MongoDb)),
    ("cassandra", |_| Arc::new(cassandra::Cassandra)),
    ("kafka", |_| Arc::new(kafka::Kafka)),
    ("amqp", |_| Arc::new(amqp::Amqp)),
    ("mqtt", |_| Arc::new(mqtt::Mqtt)),
    ("xmpp", |_| Arc::new(xmpp::Xmpp)),
    ("irc", |_| Arc::new(irc::Irc)),
    ("mssql", |_| Arc::new(mssql::MsSql)),
];

/// The words of all protocols, in the order of `PROTOCOLS`.
pub const LABELS: &[&str] = &labels();

const fn labels() -> [&'static str; PROTOCOLS.len()] {
    let mut labels = [""; PROTOCOLS.len()];
    let mut index = 0;
    while index < labels.len() {
        labels[index] = PROTOCOLS[index].0;
        index += 1;
    }
    labels
}

/// Whether a protocol has a use for [`Options::rsa_key`], which takes time to make.
#[must_use]
pub fn wants_rsa_key(label: &str) -> bool {
    label == "mysql"
}

/// The protocol of that word.
#[must_use]
pub fn named(label: &str, options: &Options) -> Option<Arc<dyn Protocol>> {
    let (_, make) = PROTOCOLS.iter().find(|(known, _)| *known == label)?;
    Some(make(options))
}

// ---------------------------------------------------------------------------------------------------
// The client's first message

/// Reads what a client that speaks first says.
pub trait Opening: fmt::Debug + Send {
    /// More bytes of the client, never none.
    ///
    /// # Errors
    /// They are not the protocol; answer as the error says and close.
    fn received(&mut self, bytes: &[u8]) -> Result<Said, OpeningError>;
}

/// What a client has said, as far as it came.
#[derive(Debug)]
pub enum Said {
    /// Not enough yet: read more.
    Incomplete,
    /// Answer this, then read more.
    Answer(Cow<'static, [u8]>),
    /// Understood: dial, and pass it on.
    Opened(Opened),
}

/// What a client that may be served wants.
#[derive(Debug, Default)]
pub struct Opened {
    /// Its first message, for the server.
    pub bytes: Vec<u8>,
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
    pub answer: Answer,
    /// How the answer has to refer to the message.
    pub reply_to: ReplyTo,
}

/// How to answer a client whose first bytes are not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// In the words of the protocol.
    InProtocol,
    /// A fatal TLS alert: the client speaks TLS to a plaintext port.
    TlsAlert,
}

impl OpeningError {
    /// Answered in the words of the protocol.
    #[must_use]
    pub const fn new(reason: &'static str) -> Self {
        Self { reason, answer: Answer::InProtocol, reply_to: ReplyTo([0; 8]) }
    }

    /// Answered by a TLS alert; the reason should name the client's setting.
    #[must_use]
    pub const fn speaks_tls(reason: &'static str) -> Self {
        Self { reason, answer: Answer::TlsAlert, reply_to: ReplyTo([0; 8]) }
    }
}

/// The first byte of a TLS record that carries a ClientHello (RFC 8446 §5.1).
pub const TLS_HANDSHAKE: u8 = 0x16;

/// Fatal handshake_failure (RFC 8446 §6), in a TLS 1.0 record that every version reads.
pub const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

// ---------------------------------------------------------------------------------------------------
// The way to TLS

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
    /// ends as [`Protocol::probe`] says.
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
        Self { proof, welcome: Vec::new(), first: Vec::new(), dialogue: None }
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

// ---------------------------------------------------------------------------------------------------
// What is rewritten

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

// ---------------------------------------------------------------------------------------------------
// Probes

/// A conversation with a server, behind its TLS, that needs no credentials, ends politely, and shows whether it would
/// serve a client.
pub trait Probe: fmt::Debug + Send {
    /// What comes first; nothing where the server speaks first.
    fn begin(&mut self) -> Vec<u8>;

    /// More bytes of the server; none at all means that it closed.
    ///
    /// # Errors
    /// The server would serve nobody; in words.
    fn received(&mut self, bytes: &[u8]) -> Result<Probed, ProbeError>;
}

/// How far a probe is.
#[derive(Debug, PartialEq, Eq)]
pub enum Probed {
    /// Not enough yet: read more.
    Incomplete,
    /// Send this, then read more.
    Send(Vec<u8>),
    /// It serves. Send this goodbye and close.
    Serves {
        /// What the protocol wants to hear at the end; often nothing.
        goodbye: Vec<u8>,
    },
}

/// A server would serve nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Cow<'static, str>);

// ---------------------------------------------------------------------------------------------------
// Refusals

/// What a client is told instead of getting an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// What kind it is; protocols have codes for some.
    pub kind: RefusalKind,
    /// Why, in a sentence for the client's user. It begins with the outcome, which scripts may look for.
    pub reason: &'a str,
    /// The session id that the log has too.
    pub session: &'a str,
    /// What it answers.
    pub reply_to: ReplyTo,
}

/// Kinds of refusal that protocols tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The client did not speak the protocol.
    BadRequest,
    /// Who connects may not.
    Denied,
    /// No room left.
    Full,
    /// No endpoint could be reached, or none in time.
    Unreachable,
    /// We are going away.
    ShuttingDown,
}

impl Refusal<'_> {
    /// The whole sentence, in one line of printable characters: it goes into protocols made of lines.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { reason, session, .. } = self;
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        format!("ambassador: {reason} [session {session}]").chars().map(plain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            scram_plus: postgres::ScramPlus::Auto,
            server_is_verified: true,
            rsa_key: None,
            host_name: "host.test".into(),
        }
    }

    #[test]
    fn each_protocol_is_found_by_its_own_word() {
        for label in LABELS {
            assert_eq!(named(label, &options()).expect("a protocol").label(), *label);
        }
        assert!(named("gopher", &options()).is_none());
    }

    #[test]
    fn no_refusal_and_no_sentence_breaks_its_line() {
        let refusal = Refusal {
            kind: RefusalKind::Unreachable,
            reason: "connect_failed: a\r\nb\0c",
            session: "0123456789abcdef",
            reply_to: ReplyTo::default(),
        };
        assert_eq!(refusal.sentence(), "ambassador: connect_failed: a  b c [session 0123456789abcdef]");
    }
}
