//! PostgreSQL, protocol 3: the client's first packets, the SSLRequest to the server, the SASL offer, the cancel key,
//! and the ErrorResponse of a refusal.
//!
//! Sources: PostgreSQL documentation, "Message Flow" and "Message Formats"; ProcessStartupPacket in
//! src/backend/tcop/backend_startup.c (limits); pg_SASL_init in src/interfaces/libpq/fe-auth.c (why PLUS must be
//! removed). Deliberately absent: any other message; after the first ReadyForQuery nothing is parsed.

mod announce;
mod login;
mod opening;
mod probe;
mod startup;

use std::borrow::Cow;
use std::time::Duration;

use super::{
    CallerAnnouncement, FirstWords, Login, LoginContext, NothingBuffered, Opening as AnyOpening, Options,
    Probe as AnyProbe, Protocol, Refusal, RefusalKind, ReplyTo, SecretKind, Service, TurnedAway, Upgrade,
    UpgradeError, UpgradeStep, Upgraded,
};
use opening::StartupOpening;
use probe::StartupProbe;

/// What becomes of SCRAM-SHA-256-PLUS in a server's list (the key `scram_plus`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum ScramPlus {
    /// Removed, except for clients that are known to need it (Npgsql).
    #[default]
    Auto,
    /// Removed for every client.
    Strip,
    /// Removed for no client.
    Keep,
}

/// PostgreSQL, with the settings of one cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postgres {
    scram_plus: ScramPlus,
    server_is_verified: bool,
}

impl Postgres {
    pub(super) const fn new(options: &Options) -> Self {
        Self { scram_plus: options.scram_plus, server_is_verified: options.server_is_verified }
    }

    /// Channel binding protects a client from a server in the middle. It is removed only if our own verification of the
    /// server replaces it.
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

    fn service(&self) -> Service {
        Service { names: &["postgresql", "pgsql", "pg", "pgbouncer", "cockroachdb"], ..Service::UNKNOWN }
    }

    /// Accepted by every version, and required by PostgreSQL 17 and newer for direct TLS.
    fn alpn(&self) -> &'static [&'static str] {
        &["postgresql"]
    }

    fn opening(&self) -> Option<Box<dyn AnyOpening>> {
        Some(Box::new(StartupOpening::new(*self)))
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(SslRequest))
    }

    /// `authentication_timeout` is 60 s; a connection that waits in it does not yet count in `max_connections`.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(45))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error_response(refusal))
    }

    fn first_words(&self) -> FirstWords {
        FirstWords::Answer
    }

    /// An error in answer to the login: nothing was done for the client. Before it, in one flight, may come a notice, a
    /// version, or AuthenticationOk if a certificate sufficed: the server does not flush it before it has checked for
    /// room.
    fn parse_refusal_behind_tls(&self, mut first: &[u8]) -> Option<TurnedAway> {
        const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
        let fields = loop {
            let end = 1 + usize::try_from(be_u32(first, 1)?).ok()?;
            let message = first.get(..end).filter(|message| message.len() >= HEAD)?;
            match message[0] {
                b'E' => break &message[HEAD..],
                b'N' | b'v' => first = &first[end..],
                _ if message == AUTHENTICATION_OK => first = &first[end..],
                _ => return None,
            }
        };
        not_now(fields)
    }

    fn probe(&self, _: bool) -> Option<Box<dyn AnyProbe>> {
        Some(Box::new(StartupProbe::default()))
    }

    fn announces(&self) -> CallerAnnouncement {
        CallerAnnouncement::Always
    }

    fn goodbye(&self) -> &'static [u8] {
        b"X\0\0\0\x04"
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::PasswordToken, SecretKind::BearerToken, SecretKind::Certificate]
    }

    /// Those of libpq's `require_auth`, and one for required channel binding.
    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        match kind {
            SecretKind::Password => &["scram-sha-256-plus", "scram-sha-256", "md5", "password", "none"],
            SecretKind::PasswordToken => &["password", "none"],
            SecretKind::BearerToken => &["oauth", "none"],
            SecretKind::Certificate => &["none"],
            SecretKind::LoneToken | SecretKind::Nkey => &[],
        }
    }

    fn names_database_in_login(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::StartupLogin::new(context)))
    }

    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        announce::announce(login, unit);
    }

    fn unverified_note(&self) -> Option<&'static str> {
        Some("SCRAM-SHA-256-PLUS stays in the servers' offer, and libpq refuses it on a plaintext hop")
    }
}

/// `int32 length, int32 80877103`.
pub(super) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const SSL_REQUEST_CODE: u32 = 80_877_103;
const GSSENC_REQUEST_CODE: u32 = 80_877_104;
const CANCEL_REQUEST_CODE: u32 = 80_877_102;

/// `too_many_connections`: the server has no room, only room for superusers, or no more for a role or database.
const FULL: &str = "53300";
/// `cannot_connect_now`: the server is starting, stopping, or recovering.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// The longest startup packet, its length field included: the server's MAX_STARTUP_PACKET_LENGTH is 10,000 without it.
const OPENING_MAX: usize = 10_004;
/// Type and length of a message.
const HEAD: usize = 5;

/// A CancelRequest: its client understands no answer but the end of the connection.
const CANCELS: ReplyTo = ReplyTo([1, 0, 0, 0, 0, 0, 0, 0]);

/// What the fields of an ErrorResponse say, if the server only has no room or takes no connections now.
fn not_now(fields: &[u8]) -> Option<TurnedAway> {
    let (kind, code) = match sqlstate(fields)? {
        FULL => ("PostgreSQL error", Some(53_300)),
        CANNOT_CONNECT_NOW => ("PostgreSQL error 57P03", None),
        _ => return None,
    };
    Some(TurnedAway::new(kind, code, field(fields, b'M').unwrap_or_default()))
}

/// The value of that field of an ErrorResponse.
fn field(fields: &[u8], name: u8) -> Option<&[u8]> {
    fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[name]))
}

/// The SQLSTATE: five digits and capital letters.
fn sqlstate(fields: &[u8]) -> Option<&str> {
    let code = field(fields, b'C')?;
    let is_code =
        code.len() == 5 && code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    std::str::from_utf8(code).ok().filter(|_| is_code)
}

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
    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::Send(Cow::Borrowed(&SSL_REQUEST))
    }

    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(1)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        match bytes {
            [] => Err(UpgradeError::Closed),
            [b'S', rest @ ..] => Ok(UpgradeStep::Upgrade(Upgraded::new(NothingBuffered::behind(rest)?))),
            [b'N', ..] => Err(UpgradeError::Declined),
            [b'E', ..] => Err(UpgradeError::ErrorAnswer),
            [byte, ..] => Err(UpgradeError::NotTheProtocol { protocol: "PostgreSQL", byte: *byte }),
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Refusals

/// A FATAL ErrorResponse. The SQLSTATE tells clients what they may do: by 57P03 (cannot connect now) libpq 15 and
/// asyncpg go on to their next host, and pg_isready reports the server down; 53300 is worth a retry, and 08P01 is a
/// client's bug.
fn error_response(refusal: &Refusal<'_>) -> Vec<u8> {
    if refusal.reply_to == CANCELS {
        return Vec::new();
    }
    let sqlstate = match (refusal.server, refusal.kind) {
        // Of the two codes only 53300 is a number.
        (Some(server), _) if server.code.is_none() => CANNOT_CONNECT_NOW,
        (Some(_), _) | (None, RefusalKind::Full) => FULL,
        (None, RefusalKind::BadRequest) => "08P01",
        (None, RefusalKind::Denied) => "28000",
        (None, RefusalKind::LoginFailed) => "28P01",
        (None, RefusalKind::Unreachable | RefusalKind::ShuttingDown) => CANNOT_CONNECT_NOW,
    };
    error_message(sqlstate, &refusal.sentence())
}

/// A FATAL ErrorResponse with that code and text.
fn error_message(sqlstate: &str, text: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + 32);
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', text)] {
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
