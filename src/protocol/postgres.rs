//! PostgreSQL, protocol 3: the client's first packets, the SSLRequest to the server, the SASL offer, and
//! the ErrorResponse of a refusal.
//!
//! Sources: PostgreSQL documentation, "Message Flow" and "Message Formats"; ProcessStartupPacket in
//! src/backend/tcop/backend_startup.c (limits); pg_SASL_init in src/interfaces/libpq/fe-auth.c (why PLUS
//! must go). What is deliberately absent: any other message; after AuthenticationOk nothing is parsed.

use super::{
    Answer, DialogueError, Hello as AnyHello, NothingBuffered, OpeningError, Refusal, RefusalKind, Said,
    Step, UpgradeError,
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

/// Settings of the protocol in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of SCRAM-SHA-256-PLUS in the server's offer.
    pub scram_plus: ScramPlus,
}

/// What the StartupMessage told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// A CancelRequest: there is no session, nothing will be answered.
    pub is_cancel: bool,
    /// The first two parameters are exactly `user, client_encoding`, as Npgsql 5 to 10 sends them. It
    /// needs PLUS in the list to send the gs2 flag `n` (with `Channel Binding=Disable`); libpq and pgjdbc
    /// continue with `database`.
    pub looks_like_npgsql: bool,
}

impl Settings {
    /// What rewrites the server's offer, or `None` when there is nothing to rewrite.
    ///
    /// Binding the login to the TLS channel is what protects a client from a server in the middle. We take
    /// it away only where our own verification of the server replaces it.
    #[must_use]
    pub(super) fn authentication(self, hello: Hello, server_is_verified: bool) -> Option<Authentication> {
        let strips = match self.scram_plus {
            ScramPlus::Auto => !hello.looks_like_npgsql,
            ScramPlus::Strip => true,
            ScramPlus::Keep => false,
        };
        (strips && server_is_verified && !hello.is_cancel).then(Authentication::default)
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
#[derive(Debug, Default)]
pub struct Opening {
    held: Vec<u8>,
    ssl_answered: bool,
    gss_answered: bool,
}

impl Opening {
    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<Said, OpeningError> {
        self.held.extend_from_slice(bytes);
        // 0x16 opens a TLS record. As a length it would announce a packet of 370 MB.
        if self.held.first() == Some(&0x16) {
            return Err(OpeningError {
                reason: "the client speaks TLS to a plaintext port; set sslmode=disable (or prefer, without \
                         sslnegotiation=direct) in the client",
                answer: Answer::TlsAlert,
            });
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

    /// `N`: this hop is not encrypted. The client goes on with the next packet on the same connection, and
    /// must not have sent it already: it would be taken for encrypted by one side and for plain by the other.
    fn decline(&mut self, length: usize) -> Result<Said, OpeningError> {
        if self.held.len() > length || length != 8 {
            return Err(malformed("the client sent data behind its request for encryption"));
        }
        self.held.clear();
        Ok(Said::Answer(b"N"))
    }

    fn cancel(&mut self, length: usize) -> Result<Said, OpeningError> {
        if !(13..=CANCEL_MAX).contains(&length) {
            return Err(malformed("the client's CancelRequest has an impossible length"));
        }
        let hello = Hello { is_cancel: true, looks_like_npgsql: false };
        Ok(Said::Opened { bytes: std::mem::take(&mut self.held), hello: AnyHello::Postgres(hello) })
    }

    fn startup(&mut self, length: usize) -> Result<Said, OpeningError> {
        let looks_like_npgsql = parameter_names(&self.held[8..length]).take(2).eq(NPGSQL_BEGINS_WITH);
        let hello = Hello { is_cancel: false, looks_like_npgsql };
        // Whatever follows the packet travels with it; the server judges it.
        Ok(Said::Opened { bytes: std::mem::take(&mut self.held), hello: AnyHello::Postgres(hello) })
    }
}

const NPGSQL_BEGINS_WITH: [&[u8]; 2] = [b"user", b"client_encoding"];

/// Names of the `name\0value\0 … \0` parameters of a StartupMessage.
fn parameter_names(parameters: &[u8]) -> impl Iterator<Item = &[u8]> {
    parameters.split(|byte| *byte == 0).step_by(2)
}

const fn malformed(reason: &'static str) -> OpeningError {
    OpeningError { reason, answer: Answer::InProtocol }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().expect("a slice of four is four long")))
}

// ---------------------------------------------------------------------------------------------------
// SSLRequest to the server

/// SSLRequest, then exactly one byte.
#[derive(Debug)]
pub struct SslRequest(());

impl SslRequest {
    pub(super) const fn new() -> Self {
        Self(())
    }

    #[expect(clippy::unused_self, reason = "the shape every upgrade has")]
    pub(super) const fn begin(&mut self) -> Step {
        Step::Send(&SSL_REQUEST)
    }

    #[expect(clippy::unused_self, reason = "the shape every upgrade has")]
    pub(super) const fn sent(&mut self) -> Step {
        Step::ReadAtMost(1)
    }

    #[expect(clippy::unused_self, reason = "the shape every upgrade has")]
    pub(super) const fn received(&mut self, bytes: &[u8]) -> Result<Step, UpgradeError> {
        match bytes {
            [] => Err(UpgradeError::Closed),
            [b'S'] => Ok(Step::Upgrade(NothingBuffered(()))),
            [b'S', ..] => Err(UpgradeError::PlaintextAfterUpgrade),
            [b'N', ..] => Err(UpgradeError::Declined),
            [b'E', ..] => Err(UpgradeError::ErrorAnswer),
            [byte, ..] => Err(UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: *byte }),
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// The server's SASL offer

/// Follows the server's messages until AuthenticationOk and takes SCRAM-SHA-256-PLUS out of its offer.
///
/// libpq refuses the whole offer on a connection without TLS as soon as it reads that name, whatever
/// `channel_binding` says, and the client's hop to us is one.
#[derive(Debug, Default)]
pub struct Authentication {
    state: AuthenticationState,
}

#[derive(Debug, Default)]
enum AuthenticationState {
    /// Collecting type and length. Exits: `Passing`, `Collecting`.
    #[default]
    ExpectMessage,
    /// The head of a message, up to four bytes of it.
    Head(Vec<u8>),
    /// The rest of a message that goes through as it is. Exit: `ExpectMessage` at 0.
    Passing(usize),
    /// An Authentication message, held until it is whole. Exits: `ExpectMessage`, `Finished`.
    Collecting { message: Vec<u8>, length: usize },
    /// Nothing is left to rewrite.
    Finished,
}

/// Type and length.
const HEAD: usize = 5;

impl Authentication {
    pub(super) const fn is_finished(&self) -> bool {
        matches!(self.state, AuthenticationState::Finished)
    }

    pub(super) fn upstream_said(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DialogueError> {
        while !bytes.is_empty() {
            self.state = match std::mem::take(&mut self.state) {
                AuthenticationState::ExpectMessage => AuthenticationState::Head(Vec::with_capacity(HEAD)),
                AuthenticationState::Head(mut head) => {
                    bytes = take(bytes, HEAD - head.len(), &mut head);
                    if head.len() == HEAD {
                        message_begins(head, out)?
                    } else {
                        AuthenticationState::Head(head)
                    }
                }
                AuthenticationState::Passing(left) => {
                    let before = out.len();
                    bytes = take(bytes, left, out);
                    passing(left - (out.len() - before))
                }
                AuthenticationState::Collecting { mut message, length } => {
                    bytes = take(bytes, length - message.len(), &mut message);
                    if message.len() == length {
                        authentication(&message, out)?
                    } else {
                        AuthenticationState::Collecting { message, length }
                    }
                }
                AuthenticationState::Finished => {
                    out.extend_from_slice(bytes);
                    return self.finished();
                }
            };
        }
        Ok(())
    }

    fn finished(&mut self) -> Result<(), DialogueError> {
        self.state = AuthenticationState::Finished;
        Ok(())
    }
}

/// Moves at most `most` bytes; what is left is the answer.
fn take<'a>(bytes: &'a [u8], most: usize, to: &mut Vec<u8>) -> &'a [u8] {
    let (taken, left) = bytes.split_at(most.min(bytes.len()));
    to.extend_from_slice(taken);
    left
}

const fn passing(left: usize) -> AuthenticationState {
    if left == 0 { AuthenticationState::ExpectMessage } else { AuthenticationState::Passing(left) }
}

fn message_begins(head: Vec<u8>, out: &mut Vec<u8>) -> Result<AuthenticationState, DialogueError> {
    let length = be_u32(&head, 1).unwrap_or_default() as usize;
    if length < 4 {
        return Err(DialogueError("the server sent a message with an impossible length"));
    }
    if head[0] != b'R' {
        out.extend_from_slice(&head);
        return Ok(passing(length - 4));
    }
    if !(8..=OFFER_MAX).contains(&length) {
        return Err(DialogueError("the server sent an authentication request with an impossible length"));
    }
    Ok(AuthenticationState::Collecting { message: head, length: length + 1 })
}

const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_SASL: u32 = 10;

fn authentication(message: &[u8], out: &mut Vec<u8>) -> Result<AuthenticationState, DialogueError> {
    match be_u32(message, HEAD).unwrap_or_default() {
        AUTHENTICATION_SASL => {
            out.extend_from_slice(&without_plus(message)?);
            Ok(AuthenticationState::ExpectMessage)
        }
        AUTHENTICATION_OK => {
            out.extend_from_slice(message);
            Ok(AuthenticationState::Finished)
        }
        _ => {
            out.extend_from_slice(message);
            Ok(AuthenticationState::ExpectMessage)
        }
    }
}

/// The offer without the mechanisms that bind to a TLS channel which the client does not have.
fn without_plus(message: &[u8]) -> Result<Vec<u8>, DialogueError> {
    const MALFORMED: DialogueError = DialogueError("the server's list of logins (SASL) is malformed");
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
        return Err(DialogueError(
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
// Refusals

/// A FATAL ErrorResponse. The SQLSTATE tells drivers what they may do: 08006 and 53300 are worth a retry,
/// 57P03 makes a libpq with several hosts try the next one, 08P01 is a bug at the client's side.
pub(super) fn error_response(refusal: &Refusal<'_>) -> Vec<u8> {
    let sqlstate = match refusal.kind {
        RefusalKind::BadRequest => "08P01",
        RefusalKind::Full => "53300",
        RefusalKind::Unreachable => "08006",
        RefusalKind::ShuttingDown => "57P03",
    };
    let text = format!("ambassador: {} [session {}]", refusal.reason, refusal.session);
    let mut body = Vec::with_capacity(text.len() + 32);
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', &text)] {
        body.push(field);
        // A NUL would end the field early, and the rest would be read as other fields.
        body.extend(value.bytes().filter(|byte| *byte != 0));
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
