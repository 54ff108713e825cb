//! PostgreSQL, protocol 3: the client's first packets, the SSLRequest to the server, the SASL offer and the cancel key,
//! and the ErrorResponse of a refusal.
//!
//! Sources: PostgreSQL documentation, "Message Flow" and "Message Formats"; ProcessStartupPacket in
//! src/backend/tcop/backend_startup.c (limits); pg_SASL_init in src/interfaces/libpq/fe-auth.c (why PLUS
//! must go). What is deliberately absent: any other message; after the first ReadyForQuery nothing is parsed.

mod announce;

use std::borrow::Cow;
use std::time::Duration;

use super::{
    Announces, CancelKey, Dialogue, DialogueError, NothingBuffered, Opened, Opening as AnyOpening,
    OpeningError, Options, Outbox, Probe as AnyProbe, ProbeError, Probed, Protocol, Refusal, RefusalKind,
    ReplyTo, Said, Step, TLS_HANDSHAKE, Upgrade, UpgradeError, Upgraded,
};

/// What `scram_plus` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramPlus {
    /// Taken out, except for clients that are known to need it (Npgsql).
    Auto,
    /// Always taken out.
    Strip,
    /// Never taken out.
    Keep,
}

/// PostgreSQL as one cluster has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postgres {
    scram_plus: ScramPlus,
    server_is_verified: bool,
}

impl Postgres {
    pub(super) const fn new(options: &Options) -> Self {
        Self { scram_plus: options.scram_plus, server_is_verified: options.server_is_verified }
    }

    /// Binding the login to the TLS channel is what protects a client from a server in the middle. We take it away only
    /// where our own verification of the server replaces it.
    const fn strips_plus(self, client_is_npgsql: bool) -> bool {
        let strips = match self.scram_plus {
            ScramPlus::Auto => !client_is_npgsql,
            ScramPlus::Strip => true,
            ScramPlus::Keep => false,
        };
        strips && self.server_is_verified
    }
}

impl Protocol for Postgres {
    fn label(&self) -> &'static str {
        "postgres"
    }

    /// Safe with every version, and what PostgreSQL 17 and newer demand of direct TLS.
    fn alpn(&self) -> &'static [&'static str] {
        &["postgresql"]
    }

    fn opening(&self) -> Option<Box<dyn AnyOpening>> {
        Some(Box::new(Opening::new(*self)))
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(SslRequest))
    }

    /// `authentication_timeout` is 60 s; whoever waits in it has no place among `max_connections` yet.
    fn keeps_ready(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(45))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error_response(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn AnyProbe>> {
        Some(Box::new(Probe::default()))
    }

    fn announces(&self) -> Announces {
        Announces::Always
    }

    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        announce::announce(login, unit);
    }

    fn unverified_note(&self) -> Option<&'static str> {
        Some("SCRAM-SHA-256-PLUS stays in the servers' offer, and libpq refuses it on a plaintext hop")
    }
}

/// `int32 length, int32 80877103`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const SSL_REQUEST_CODE: u32 = 80_877_103;
const GSSENC_REQUEST_CODE: u32 = 80_877_104;
const CANCEL_REQUEST_CODE: u32 = 80_877_102;

/// A startup packet, its length included: the server's MAX_STARTUP_PACKET_LENGTH is 10,000 without it.
const OPENING_MAX: usize = 10_004;
/// A CancelRequest: length, code, process id, and a key of 1 to 256 bytes.
const CANCEL_MAX: usize = 12 + 256;
/// A SASL offer we are ready to hold; libpq refuses one over 2,000 bytes.
const OFFER_MAX: usize = 64 * 1024;

// ---------------------------------------------------------------------------------------------------
// The client's first packets

/// Reads the client's untyped first packets, one at a time.
#[derive(Debug)]
struct Opening {
    protocol: Postgres,
    held: Vec<u8>,
    ssl_answered: bool,
    gss_answered: bool,
}

impl AnyOpening for Opening {
    fn received(&mut self, bytes: &[u8]) -> Result<Said, OpeningError> {
        self.held.extend_from_slice(bytes);
        // 0x16 opens a TLS record. As a length it would announce a packet of 370 MB.
        if self.held.first() == Some(&TLS_HANDSHAKE) {
            return Err(OpeningError::speaks_tls(
                "the client speaks TLS to a plaintext port; set sslmode=disable (or prefer, without \
                 sslnegotiation=direct) in the client",
            ));
        }
        let Some(length) = be_u32(&self.held, 0) else { return Ok(Said::Incomplete) };
        let length = length as usize;
        if !(8..=OPENING_MAX).contains(&length) {
            return Err(malformed("the client's first packet is not PostgreSQL: impossible length"));
        }
        if self.held.len() < length {
            return Ok(Said::Incomplete);
        }
        match be_u32(&self.held, 4).unwrap_or_default() {
            SSL_REQUEST_CODE if !self.ssl_answered => {
                self.ssl_answered = true;
                self.decline(length)
            }
            GSSENC_REQUEST_CODE if !self.gss_answered => {
                self.gss_answered = true;
                self.decline(length)
            }
            SSL_REQUEST_CODE | GSSENC_REQUEST_CODE => {
                Err(malformed("the client asked for encryption again after it was declined"))
            }
            CANCEL_REQUEST_CODE => self.cancel(length),
            // Every minor of version 3 passes: the server negotiates it with NegotiateProtocolVersion.
            version if version >> 16 == 3 => self.startup(length),
            _ => Err(malformed("the client's first packet is not PostgreSQL protocol 3")),
        }
    }
}

impl Opening {
    const fn new(protocol: Postgres) -> Self {
        Self { protocol, held: Vec::new(), ssl_answered: false, gss_answered: false }
    }

    /// `N`: this hop is not encrypted. The client goes on with the next packet on the same connection, and
    /// must not have sent it already: it would be taken for encrypted by one side and for plain by the other.
    fn decline(&mut self, length: usize) -> Result<Said, OpeningError> {
        if self.held.len() > length || length != 8 {
            return Err(malformed("the client sent data behind its request for encryption"));
        }
        self.held.clear();
        Ok(Said::Answer(Cow::Borrowed(b"N")))
    }

    fn cancel(&mut self, length: usize) -> Result<Said, OpeningError> {
        if !(13..=CANCEL_MAX).contains(&length) {
            return Err(malformed("the client's CancelRequest has an impossible length"));
        }
        let bytes = std::mem::take(&mut self.held);
        let process = be_u32(&bytes, 8).unwrap_or_default();
        let cancels = Some(CancelKey { process, secret: bytes[12..length].into() });
        Ok(Said::Opened(Opened { bytes, cancels, reply_to: CANCELS, ..Opened::default() }))
    }

    fn startup(&mut self, length: usize) -> Result<Said, OpeningError> {
        let is_npgsql = parameter_names(&self.held[8..length]).take(2).eq(NPGSQL_BEGINS_WITH);
        let strips_plus = self.protocol.strips_plus(is_npgsql);
        // Whatever follows the packet travels with it; the server judges it.
        let bytes = std::mem::take(&mut self.held);
        let dialogue: Box<dyn Dialogue> = Box::new(Startup::new(strips_plus));
        Ok(Said::Opened(Opened { bytes, dialogue: Some(dialogue), ..Opened::default() }))
    }
}

/// The first two parameters of Npgsql 5 to 10. It needs PLUS in the list to send the gs2 flag `n` (with `Channel
/// Binding=Disable`); libpq and pgjdbc continue with `database`.
const NPGSQL_BEGINS_WITH: [&[u8]; 2] = [b"user", b"client_encoding"];

/// Names of the `name\0value\0 … \0` parameters of a StartupMessage.
fn parameter_names(parameters: &[u8]) -> impl Iterator<Item = &[u8]> {
    parameters.split(|byte| *byte == 0).step_by(2)
}

const fn malformed(reason: &'static str) -> OpeningError {
    OpeningError::new(reason)
}

/// The client wants no session, only another one cancelled: it understands no answer but the end.
const CANCELS: ReplyTo = ReplyTo([1, 0, 0, 0, 0, 0, 0, 0]);

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().expect("a slice of four is four long")))
}

// ---------------------------------------------------------------------------------------------------
// SSLRequest to the server

/// SSLRequest, then exactly one byte.
#[derive(Debug)]
struct SslRequest;

impl Upgrade for SslRequest {
    fn begin(&mut self) -> Step {
        Step::Send(Cow::Borrowed(&SSL_REQUEST))
    }

    fn sent(&mut self) -> Step {
        Step::ReadAtMost(1)
    }

    fn received(&mut self, bytes: &[u8]) -> Result<Step, UpgradeError> {
        match bytes {
            [] => Err(UpgradeError::Closed),
            [b'S', rest @ ..] => Ok(Step::Upgrade(Upgraded::new(NothingBuffered::behind(rest)?))),
            [b'N', ..] => Err(UpgradeError::Declined),
            [b'E', ..] => Err(UpgradeError::ErrorAnswer),
            [byte, ..] => Err(UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: *byte }),
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// From the first message of the server to its first ReadyForQuery

/// Follows the server's messages until it is ready for queries. It takes SCRAM-SHA-256-PLUS out of its offer, and learns
/// how the session is cancelled.
///
/// libpq refuses the whole offer on a connection without TLS as soon as it reads that name, whatever `channel_binding`
/// says, and the client's hop to us is one.
#[derive(Debug)]
struct Startup {
    strips_plus: bool,
    server: Server,
    client: Client,
    cancel_key: Option<CancelKey>,
}

/// Where we are in the server's stream of messages.
#[derive(Debug)]
enum Server {
    /// The head of a message, as far as it came.
    Head(Vec<u8>),
    /// The rest of a message that goes through as it is.
    Passing { left: usize, is_last: bool },
    /// A message that is held until it is whole, with its length in all.
    Collecting { message: Vec<u8>, length: usize },
    /// Nothing is left to rewrite.
    Finished,
}

/// What the client's login may tell.
#[derive(Debug)]
enum Client {
    /// Nothing of interest, or not any more.
    Passing,
    /// PLUS was taken out of the offer: its answer, held until it shows the gs2 flag.
    Answering(Vec<u8>),
}

/// Type and length.
const HEAD: usize = 5;
/// A BackendKeyData that we remember: process id and a key of 4 to 256 bytes.
const KEY_MAX: usize = 4 + 4 + 256;

impl Startup {
    const fn new(strips_plus: bool) -> Self {
        Self { strips_plus, server: Server::Head(Vec::new()), client: Client::Passing, cancel_key: None }
    }

    /// A whole head: what becomes of the message.
    fn message_begins(&self, head: Vec<u8>, out: &mut Vec<u8>) -> Result<Server, DialogueError> {
        let length = be_u32(&head, 1).unwrap_or_default() as usize;
        if length < 4 {
            return Err(of_server("the server sent a message with an impossible length"));
        }
        let is_collected = match head[0] {
            b'R' if !(8..=OFFER_MAX).contains(&length) => {
                return Err(of_server("the server sent an authentication request with an impossible length"));
            }
            b'R' => true,
            b'K' => (12..=KEY_MAX).contains(&length),
            _ => false,
        };
        if is_collected {
            return Ok(Server::Collecting { message: head, length: length + 1 });
        }
        out.extend_from_slice(&head);
        Ok(Server::Passing { left: length - 4, is_last: head[0] == b'Z' })
    }

    fn collected(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), DialogueError> {
        let first = be_u32(message, HEAD).unwrap_or_default();
        if message[0] == b'K' {
            self.cancel_key = Some(CancelKey { process: first, secret: message[HEAD + 4..].into() });
        } else if first == AUTHENTICATION_SASL && self.strips_plus {
            let rewritten = without_plus(message)?;
            if rewritten.len() < message.len() {
                self.client = Client::Answering(Vec::new());
            }
            out.extend_from_slice(&rewritten);
            return Ok(());
        }
        out.extend_from_slice(message);
        Ok(())
    }
}

impl Dialogue for Startup {
    /// A gs2 flag `y` says that the client could bind the channel and believes that the server cannot. The server can, sees a
    /// downgrade attack (RFC 5802 §6), and would refuse without saying what to do about it. The flag is part of the
    /// client's proof, so nobody in the middle can mend it.
    fn downstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let Client::Answering(held) = &mut self.client else {
            out.to_upstream.extend_from_slice(bytes);
            return Ok(());
        };
        held.extend_from_slice(bytes);
        match gs2_flag(held) {
            Gs2::Incomplete => return Ok(()),
            Gs2::CouldBind => {
                return Err(DialogueError::of_client(
                    "the client's login says that it could bind to a TLS channel (gs2 flag `y`), which the server takes \
                     for an attack; set `Channel Binding=Disable` in the client (Npgsql) and `scram_plus: keep` in \
                     the cluster, or leave `enableChannelBinding` off (node-postgres)",
                    ReplyTo::default(),
                ));
            }
            Gs2::Other => out.to_upstream.append(held),
        }
        self.client = Client::Passing;
        Ok(())
    }

    fn upstream_said(&mut self, mut bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let out = &mut out.to_downstream;
        while !bytes.is_empty() {
            self.server = match std::mem::replace(&mut self.server, Server::Finished) {
                Server::Head(mut head) => {
                    bytes = take(bytes, HEAD - head.len(), &mut head);
                    if head.len() == HEAD { self.message_begins(head, out)? } else { Server::Head(head) }
                }
                Server::Passing { left, is_last } => {
                    let before = out.len();
                    bytes = take(bytes, left, out);
                    match left - (out.len() - before) {
                        0 if is_last => Server::Finished,
                        0 => Server::Head(Vec::new()),
                        left => Server::Passing { left, is_last },
                    }
                }
                Server::Collecting { mut message, length } => {
                    bytes = take(bytes, length - message.len(), &mut message);
                    if message.len() == length {
                        self.collected(&message, out)?;
                        Server::Head(Vec::new())
                    } else {
                        Server::Collecting { message, length }
                    }
                }
                Server::Finished => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
            };
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        matches!((&self.server, &self.client), (Server::Finished, Client::Passing))
    }

    fn cancel_key(&mut self) -> Option<CancelKey> {
        self.cancel_key.take()
    }
}

/// What a client's SASLInitialResponse says of channel binding.
enum Gs2 {
    Incomplete,
    CouldBind,
    Other,
}

/// `p`, length, mechanism and NUL, length of the answer, then the gs2 header. Anything else is not looked at, and a message
/// that ends before it shows the flag is passed on as it is.
fn gs2_flag(bytes: &[u8]) -> Gs2 {
    const MECHANISM_MAX: usize = 64;
    if bytes.first().is_some_and(|kind| *kind != b'p') {
        return Gs2::Other;
    }
    let Some(length) = be_u32(bytes, 1) else { return Gs2::Incomplete };
    let came = &bytes[HEAD..];
    let body = &came[..came.len().min((length as usize).saturating_sub(4))];
    let is_whole = bytes.len() > length as usize;
    let not_yet = if is_whole { Gs2::Other } else { Gs2::Incomplete };
    let Some(end) = body.iter().take(MECHANISM_MAX).position(|byte| *byte == 0) else {
        return if body.len() < MECHANISM_MAX { not_yet } else { Gs2::Other };
    };
    match (body[..end].starts_with(b"SCRAM-"), body.get(end + 5)) {
        (true, None) => not_yet,
        (true, Some(b'y')) => Gs2::CouldBind,
        _ => Gs2::Other,
    }
}

const fn of_server(reason: &'static str) -> DialogueError {
    DialogueError::of_server(reason, ReplyTo([0; 8]))
}

/// Moves at most `most` bytes; what is left is the answer.
fn take<'a>(bytes: &'a [u8], most: usize, to: &mut Vec<u8>) -> &'a [u8] {
    let (taken, left) = bytes.split_at(most.min(bytes.len()));
    to.extend_from_slice(taken);
    left
}

const AUTHENTICATION_SASL: u32 = 10;

/// The offer without the mechanisms that bind to a TLS channel which the client does not have.
fn without_plus(message: &[u8]) -> Result<Vec<u8>, DialogueError> {
    const MALFORMED: DialogueError = of_server("the server's list of logins (SASL) is malformed");
    let names = message[HEAD + 4..].strip_suffix(&[0]).ok_or(MALFORMED)?;
    let mut rewritten = message[..HEAD + 4].to_vec();
    for name in names.split_inclusive(|byte| *byte == 0) {
        match name.strip_suffix(&[0]) {
            None | Some([]) => return Err(MALFORMED),
            Some(mechanism) if mechanism.ends_with(b"-PLUS") => {}
            Some(_) => rewritten.extend_from_slice(name),
        }
    }
    if rewritten.len() == HEAD + 4 {
        return Err(of_server(
            "the server offers only logins that are bound to the TLS channel (SCRAM-SHA-256-PLUS), which a \
             client on a plaintext hop cannot make",
        ));
    }
    rewritten.push(0);
    let length = u32::try_from(rewritten.len() - 1).expect("an offer is bounded by OFFER_MAX");
    rewritten[1..HEAD].copy_from_slice(&length.to_be_bytes());
    Ok(rewritten)
}

// ---------------------------------------------------------------------------------------------------
// Probes

/// A StartupMessage for a role that need not exist, and the server's first message. What ends it is the close_notify alone: a
/// Terminate in the middle of a login is an error to the server, and an end of stream is none.
#[derive(Debug, Default)]
struct Probe {
    held: Vec<u8>,
}

/// Protocol 3.0, which every server knows. The database is one that all have; nobody gets as far as to open it.
const PROBE: &[u8] = b"\0\0\0\x31\0\x03\0\0user\0ambassador_probe\0database\0postgres\0\0";
/// libpq takes an ErrorResponse of at most 30,000 bytes.
const ANSWER_MAX: u32 = 32 * 1024;

impl AnyProbe for Probe {
    fn begin(&mut self) -> Vec<u8> {
        PROBE.to_vec()
    }

    fn received(&mut self, bytes: &[u8]) -> Result<Probed, ProbeError> {
        self.held.extend_from_slice(bytes);
        loop {
            let length = match (self.held.first(), be_u32(&self.held, 1)) {
                // What it asks for does not matter, nor what comes behind.
                (Some(b'R'), Some(8..)) => return Ok(Probed::Serves { goodbye: Vec::new() }),
                (Some(b'E' | b'N' | b'v'), Some(length @ 5..)) if length <= ANSWER_MAX => length as usize,
                (None | Some(b'R' | b'E' | b'N' | b'v'), None) => usize::MAX,
                _ => return Err(ProbeError("the server's first message is not PostgreSQL".into())),
            };
            if self.held.len() <= length {
                return match bytes {
                    [] => Err(ProbeError(
                        "the server closed the connection instead of asking for a login".into(),
                    )),
                    _ => Ok(Probed::Incomplete),
                };
            }
            let message: Vec<_> = self.held.drain(..=length).collect();
            // A notice, or how it understands a version: the answer comes behind it.
            if message[0] == b'E' {
                return judge(sqlstate(&message[HEAD..]));
            }
        }
    }
}

fn judge(sqlstate: Option<&str>) -> Result<Probed, ProbeError> {
    let words = match sqlstate {
        // No such role, no line for it in pg_hba.conf, no such database; PgBouncer says 08P01 for all of them. Or it is full
        // (53300): then it serves others, and its clients hear of it from itself.
        Some("28000" | "28P01" | "3D000" | "08P01" | "53300") => {
            return Ok(Probed::Serves { goodbye: Vec::new() });
        }
        // Starting up, shutting down, or a standby that takes no queries.
        Some("57P03") => "the server takes no connections now",
        Some("57P01" | "57P02") => "the server is shutting down",
        Some(_) => "the server answers a login with an error",
        None => return Err(ProbeError("the server's first message is not PostgreSQL".into())),
    };
    Err(ProbeError(format!("{words} (SQLSTATE {})", sqlstate.unwrap_or_default()).into()))
}

/// The code of an ErrorResponse: five digits and capital letters.
fn sqlstate(fields: &[u8]) -> Option<&str> {
    let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
    let is_code =
        code.len() == 5 && code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    std::str::from_utf8(code).ok().filter(|_| is_code)
}

// ---------------------------------------------------------------------------------------------------
// Refusals

/// A FATAL ErrorResponse. The SQLSTATE tells drivers what they may do: 08006 and 53300 are worth a retry,
/// 57P03 makes a libpq with several hosts try the next one, 08P01 is a bug at the client's side.
fn error_response(refusal: &Refusal<'_>) -> Vec<u8> {
    if refusal.reply_to == CANCELS {
        return Vec::new();
    }
    let sqlstate = match refusal.kind {
        RefusalKind::BadRequest => "08P01",
        RefusalKind::Denied => "28000",
        RefusalKind::Full => "53300",
        RefusalKind::Unreachable => "08006",
        RefusalKind::ShuttingDown => "57P03",
    };
    let text = refusal.sentence();
    let mut body = Vec::with_capacity(text.len() + 32);
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', &text)] {
        body.push(field);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![b'E'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests;
