//! MySQL and MariaDB, the classic protocol: the server sends a greeting, the client replies, and only then is TLS
//! requested, with the client's own capabilities. Packets are numbered separately on each leg until the login is over.
//! A client that encrypts its password on a hop without TLS encrypts it for us.
//!
//! Sources: MySQL Internals, "Connection Phase"; send_server_handshake_packet and parse_client_handshake_packet in
//! MariaDB's sql/sql_acl.cc (the server takes capabilities from the SSLRequest and ignores those of the full response);
//! sql/auth/sha2_password.cc (what `01 04` asks for). Deliberately absent: everything after the first OK or ERR.
//! COM_CHANGE_USER logs in again there, without our help (docs/protocols/mysql.md).

use std::time::Duration;

use super::{
    CallerAnnouncement, ClientReply, Dialogue, DialogueError, Greeting, LoginContext, NothingBuffered,
    OpeningError, Options, Outbox, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo,
    SecretKind, Service, TLS_HANDSHAKE, TurnedAway, Upgrade, UpgradeError, UpgradeRequest, UpgradeStep,
    Upgraded,
};
use crate::rsa::RsaKey;

mod announce;
mod login;
mod probe;
mod sign_in;

use login::{Authentication, Exchange};
use probe::{Login, NO_PLUGIN, login_of_nobody};

/// MySQL, with the settings of one cluster.
#[derive(Debug)]
pub(super) struct MySql {
    /// `None` without an upgrade: then there is nothing to decrypt.
    key: Option<&'static RsaKey>,
    /// We sign in; the client's own login is not passed on.
    signs_in: bool,
}

impl MySql {
    pub(super) fn new(options: &Options) -> Self {
        Self { key: options.rsa_key.map(|make| make()), signs_in: options.signs_in }
    }
}

impl Protocol for MySql {
    fn label(&self) -> &'static str {
        "mysql"
    }

    fn service(&self) -> Service {
        Service { names: &["mariadb", "percona"], ..Service::UNKNOWN }
    }

    /// A packet's length and number, then version 10, or an error, then text.
    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        matches!(first, [_, _, 0, 0, 10, b'0'..=b'9', ..] | [_, _, 0, 0, 0xff, ..])
            .then_some("it greets as servers of mysql do")
    }

    /// MariaDB takes 256.
    fn proxy_header_max(&self) -> usize {
        256
    }

    fn server_greets(&self) -> bool {
        true
    }

    /// The server looks up the caller's name first: with resolv.conf's defaults, two queries to each of three servers.
    fn greeting_timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(ReadGreeting { packets: Packets::default(), key: self.key, signs_in: self.signs_in }))
    }

    /// In answer to the request for TLS; only then does MariaDB check a PROXY header.
    fn parse_refusal(&self, plaintext: &[u8]) -> Option<TurnedAway> {
        Packets { held: plaintext.to_vec() }.refusal()
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error_packet(refusal))
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Login::of_nobody(upgraded)))
    }

    fn goodbye(&self) -> &'static [u8] {
        &[1, 0, 0, 0, 1]
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::PasswordToken]
    }

    /// The client's plugins. A token is of use in the clear alone.
    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        match kind {
            SecretKind::Password => sign_in::PLUGINS,
            SecretKind::PasswordToken => &["mysql_clear_password"],
            SecretKind::BearerToken | SecretKind::Certificate | SecretKind::LoneToken | SecretKind::Nkey => {
                &[]
            }
        }
    }

    fn names_database_in_login(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn super::Login>> {
        Some(Box::new(sign_in::SignIn::new(context, self.key)))
    }

    fn announces(&self) -> CallerAnnouncement {
        CallerAnnouncement::OverTls
    }

    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        announce::announce(login, unit);
    }

    /// A connection that ends between greeting and login counts towards `max_connect_errors`, at which the server
    /// refuses this host altogether (inc_host_errors in sql/hostname.cc).
    fn must_finish_upgrade(&self) -> bool {
        true
    }
}

// ---------------------------------------------------------------------------------------------------
// Packets

const HEAD: usize = 4;
/// The longest packet of a login: attributes have at most 64 KiB, and the rest is small.
const PACKET_MAX: usize = 80 * 1024;

/// Length (3 bytes, little-endian), sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a packet of the login is bounded");
    let [low, middle, high, _] = length.to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}

/// Cuts bytes into packets.
#[derive(Debug, Default)]
struct Packets {
    held: Vec<u8>,
}

/// A packet is longer than any of a login.
#[derive(Debug)]
struct TooLong;

impl Packets {
    /// The next whole packet: its number and payload.
    fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>, TooLong> {
        let Some(&[low, middle, high, sequence]) = self.held.first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length > PACKET_MAX {
            return Err(TooLong);
        }
        if self.held.len() < HEAD + length {
            return Ok(None);
        }
        let payload = self.held.drain(..HEAD + length).skip(HEAD).collect();
        Ok(Some((sequence, payload)))
    }

    /// The server's refusal, if the next packet is an ERR.
    fn refusal(&mut self) -> Option<TurnedAway> {
        let (_, payload) = self.next().ok()??;
        (payload.first() == Some(&ERR)).then(|| parse_refusal(&payload))
    }
}

// ---------------------------------------------------------------------------------------------------
// The server's greeting

const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_CONNECT_WITH_DB: u32 = 1 << 3;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
const CLIENT_CONNECT_ATTRS: u32 = 1 << 20;
const CLIENT_PLUGIN_AUTH_LENENC: u32 = 1 << 21;

/// CLIENT_SSL in the second byte of the capabilities.
const SSL_BIT: u8 = 0x08;
const SCRAMBLE: usize = 20;

const ERR: u8 = 0xff;
const OK: u8 = 0x00;
const AUTH_SWITCH: u8 = 0xfe;

/// The contents of a greeting.
#[derive(Debug, Clone)]
struct Hello {
    version: Vec<u8>,
    connection: [u8; 4],
    capabilities: u32,
    charset: u8,
    status: [u8; 2],
    /// MariaDB's own capabilities; it has them if MySQL's first bit is not set.
    extended: u32,
    scramble: Vec<u8>,
    /// The server's default plugin.
    plugin: Vec<u8>,
}

/// Of MariaDB's own capabilities: progress reports, COM_MULTI, bulk operations, metadata (include/mysql_com.h).
const EXTENDED_KNOWN: u32 = 0x3f;
/// Longer than any version, and than any plugin's name (NAME_CHAR_LEN).
const VERSION_MAX: usize = 255;
const PLUGIN_MAX: usize = 64;

/// Parses HandshakeV10, by offsets after the version's NUL. `None`: it is too short, or a field is malformed.
fn hello(payload: &[u8]) -> Option<Hello> {
    let version = payload.get(1..)?;
    let version = &version[..nul(version)?];
    let rest = payload.get(2 + version.len()..)?;
    let pair = |at: usize| rest.get(at..at + 2).map(|two| [two[0], two[1]]);
    let ([low, second], [third, high]) = (pair(13)?, pair(18)?);
    let capabilities = u32::from_le_bytes([low, second, third, high]);
    let is_mariadb = capabilities & CLIENT_LONG_PASSWORD == 0;
    let mut scramble = rest.get(4..12)?.to_vec();
    scramble.extend_from_slice(rest.get(31..43)?);
    let plugin = rest.get(44..).unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_name = plugin.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let is_shown = version.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_name || !is_shown || plugin.len() > PLUGIN_MAX || version.len() > VERSION_MAX {
        return None;
    }
    Some(Hello {
        version: version.to_vec(),
        connection: *rest.first_chunk()?,
        capabilities,
        charset: *rest.get(15)?,
        status: pair(16)?,
        extended: if is_mariadb { le_u32(rest.get(27..)?)? & EXTENDED_KNOWN } else { 0 },
        scramble,
        plugin: plugin.to_vec(),
    })
}

impl Hello {
    /// The greeting for the client, made anew without TLS: the server's is not authenticated, so only what we know is
    /// passed on, and nothing between or after the known fields.
    fn for_client(&self) -> Vec<u8> {
        let [low, second, third, high] = (self.capabilities & !CLIENT_SSL).to_le_bytes();
        let names_plugin = self.capabilities & CLIENT_PLUGIN_AUTH != 0;
        let scramble_size = if names_plugin { SCRAMBLE as u8 + 1 } else { 0 };
        let mut payload = vec![10];
        payload.extend_from_slice(&self.version);
        payload.push(0);
        payload.extend(self.connection);
        payload.extend_from_slice(&self.scramble[..8]);
        payload.extend([0, low, second, self.charset]);
        payload.extend(self.status);
        payload.extend([third, high, scramble_size, 0, 0, 0, 0, 0, 0]);
        payload.extend(self.extended.to_le_bytes());
        payload.extend_from_slice(&self.scramble[8..]);
        payload.push(0);
        if names_plugin {
            payload.extend_from_slice(&self.plugin);
            payload.push(0);
        }
        payload
    }
}

/// The number of an ERR packet.
fn error_number(payload: &[u8]) -> u16 {
    payload.get(1..3).map_or(0, |number| u16::from_le_bytes([number[0], number[1]]))
}

/// An ERR packet in place of the greeting: 1040 (too many connections), 1129 and 1130 (not from this host), 1053, 1203.
/// Some servers include the SQLSTATE, although no capabilities have been agreed on yet.
fn parse_refusal(payload: &[u8]) -> TurnedAway {
    let text = payload.get(3..).unwrap_or_default();
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or_default() } else { text };
    TurnedAway::new("MySQL error", Some(error_number(payload)), text)
}

/// Reads the greeting; the client has to reply to it before the upgrade can continue.
#[derive(Debug)]
struct ReadGreeting {
    packets: Packets,
    key: Option<&'static RsaKey>,
    signs_in: bool,
}

/// The most that is read at once; a greeting has some 100 bytes.
const PORTION: usize = 512;

impl Upgrade for ReadGreeting {
    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        self.packets.held.extend_from_slice(bytes);
        let first = self.packets.next().map_err(|TooLong| UpgradeError::Endless(PACKET_MAX))?;
        let Some((sequence, payload)) = first else { return Ok(UpgradeStep::ReadAtMost(PORTION)) };
        match payload.first() {
            Some(10) => {}
            Some(&ERR) => {
                return Err(parse_refusal(&payload).into());
            }
            first => {
                return Err(UpgradeError::NotTheProtocol {
                    protocol: "MySQL",
                    byte: first.copied().unwrap_or_default(),
                });
            }
        }
        let Some(hello) = hello(&payload) else {
            return Err(UpgradeError::Unsuitable(
                "the server's greeting is too short for MySQL's, or malformed",
            ));
        };
        if hello.capabilities & CLIENT_SSL == 0 {
            return Err(UpgradeError::NotOffered("CLIENT_SSL"));
        }
        let proof = NothingBuffered::behind(&self.packets.held)
            .map_err(|injected| self.packets.refusal().map_or(injected, UpgradeError::from))?;
        let words = packet(sequence, &hello.for_client());
        let introduction = ReadHandshakeResponse {
            hello,
            key: self.key,
            signs_in: self.signs_in,
            proof,
            held: Packets::default(),
        };
        Ok(UpgradeStep::AwaitClientReply(Greeting { words, client_reply: Box::new(introduction) }))
    }
}

// ---------------------------------------------------------------------------------------------------
// The client's answer to it

/// Reads the client's HandshakeResponse41.
#[derive(Debug)]
struct ReadHandshakeResponse {
    hello: Hello,
    key: Option<&'static RsaKey>,
    signs_in: bool,
    proof: NothingBuffered,
    held: Packets,
}

/// Capabilities, maximum packet size, character set and 23 bytes: the length of an SSLRequest.
const FIXED: usize = 32;

impl ClientReply for ReadHandshakeResponse {
    fn receive(&mut self, bytes: &[u8]) -> Result<Option<UpgradeRequest>, OpeningError> {
        self.held.held.extend_from_slice(bytes);
        // The head of a TLS record; as a packet's head it would announce more than 64 KiB.
        if matches!(self.held.held[..], [TLS_HANDSHAKE, 3, 1..=4, ..]) {
            return Err(OpeningError::speaks_tls(
                "the client speaks TLS to a plaintext port; turn TLS off in the client",
            ));
        }
        let first = self
            .held
            .next()
            .map_err(|TooLong| refused(0, "the client's first packet is not MySQL: impossible length"))?;
        let Some((sequence, response)) = first else { return Ok(None) };
        let capabilities = le_u32(&response).unwrap_or_default();
        if response.len() == FIXED && capabilities & CLIENT_SSL != 0 {
            return Err(refused(
                sequence,
                "the client asks for TLS, which this hop does not have; set --ssl-mode=DISABLED (MySQL), --skip-ssl \
                 (MariaDB) or sslMode=DISABLED (Java)",
            ));
        }
        if response.len() <= FIXED || capabilities & CLIENT_PROTOCOL_41 == 0 {
            return Err(refused(sequence, "the client's first packet is not a login of MySQL 4.1 or later"));
        }
        if !self.held.held.is_empty() {
            return Err(refused(sequence, "the client sent data behind its login"));
        }
        Ok(Some(match self.signs_in {
            true => self.introduced_by_us(sequence, &response),
            false => self.introduced(sequence, response),
        }))
    }

    fn conclude_without_client(&mut self) -> UpgradeRequest {
        let response = login_of_nobody(self.signs_in);
        self.introduced(1, response)
    }
}

impl ReadHandshakeResponse {
    fn introduced(&self, sequence: u8, mut response: Vec<u8>) -> UpgradeRequest {
        response[1] |= SSL_BIT;
        let request = packet(1, &response[..FIXED]);
        let plugin = hide_request_for_key(&mut response).unwrap_or_else(|| self.hello.plugin.clone());
        let dialogue = Authentication {
            key: self.key,
            scramble: self.hello.scramble.clone(),
            plugin,
            exchange: Exchange::Relayed,
            asked: None,
            next_to_client: sequence.wrapping_add(1),
            next_to_server: 3,
            client: Packets::default(),
            server: Packets::default(),
            is_over: false,
        };
        UpgradeRequest {
            request,
            upgraded: Upgraded {
                first: packet(2, &response),
                dialogue: Some(Box::new(dialogue)),
                ..Upgraded::new(self.proof.clone())
            },
            reply_to: reply_to(sequence.wrapping_add(1)),
        }
    }

    /// What follows TLS is for [`sign_in::SignIn`]: the client's packet as it is, and the greeting that it answers.
    fn introduced_by_us(&self, sequence: u8, response: &[u8]) -> UpgradeRequest {
        let capabilities = sign_in::capabilities(le_u32(response).unwrap_or_default(), &self.hello);
        let request = [&capabilities.to_le_bytes(), &response[4..FIXED]].concat();
        let first = [packet(sequence, response), packet(0, &self.hello.for_client())].concat();
        UpgradeRequest {
            request: packet(1, &request),
            upgraded: Upgraded { first, ..Upgraded::new(self.proof.clone()) },
            reply_to: reply_to(sequence.wrapping_add(1)),
        }
    }
}

/// A client of `sha256_password` asks for our key in its login (one byte `01` in place of a proof). A server with TLS
/// would take that for a password. The server gets an empty proof of a plugin that does not exist instead, so that it
/// asks again by an AuthSwitchRequest. Returns that plugin's name if so.
fn hide_request_for_key(response: &mut Vec<u8>) -> Option<Vec<u8>> {
    const SHA256: &[u8] = b"sha256_password";
    let capabilities = le_u32(response)?;
    if capabilities & CLIENT_PLUGIN_AUTH == 0 {
        return None;
    }
    let user = FIXED + nul(response.get(FIXED..)?)? + 1;
    let is_counted = capabilities & (CLIENT_PLUGIN_AUTH_LENENC | CLIENT_SECURE_CONNECTION) != 0;
    if !is_counted || response.get(user..user + 2)? != [1, 1] {
        return None;
    }
    let mut at = user + 2;
    if capabilities & CLIENT_CONNECT_WITH_DB != 0 {
        at += nul(response.get(at..)?)? + 1;
    }
    let end = at + nul(response.get(at..)?)?;
    if response.get(at..end)? != SHA256 {
        return None;
    }
    response.splice(at..end, NO_PLUGIN.iter().copied());
    response.splice(user..user + 2, [0]);
    Some(NO_PLUGIN.to_vec())
}

fn nul(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

fn le_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|four| u32::from_le_bytes(*four))
}

/// The packet number of our answer to the client.
const fn reply_to(sequence: u8) -> ReplyTo {
    ReplyTo([1, sequence, 0, 0, 0, 0, 0, 0])
}

const fn refused(sequence: u8, reason: &'static str) -> OpeningError {
    OpeningError { reply_to: reply_to(sequence.wrapping_add(1)), ..OpeningError::new(reason) }
}

// ---------------------------------------------------------------------------------------------------
// Refusal

/// Errors in place of service that are not about the user: the server is full (1040, 1203, 1226), shutting down (1053),
/// accepts no connection from here (1129, 1130), or another error (1105).
const NOT_NOW: [u16; 7] = [1040, 1053, 1105, 1129, 1130, 1203, 1226];

/// An ERR packet. In place of the greeting it has no SQLSTATE, because no capabilities have been agreed on yet. Class
/// 08 tells drivers that the connection failed, and not the statement.
fn error_packet(refusal: &Refusal<'_>) -> Vec<u8> {
    let (number, state): (u16, _) = match refusal.kind {
        RefusalKind::BadRequest => (1043, "#08S01"),
        RefusalKind::Denied | RefusalKind::LoginFailed => (1045, "#28000"),
        RefusalKind::Full => (1040, "#08004"),
        RefusalKind::Unreachable => (1105, "#08S01"),
        RefusalKind::ShuttingDown => (1053, "#08S01"),
    };
    let refusal = &refusal.filtered(|by| by.code.is_some_and(|code| NOT_NOW.contains(&code)));
    let number = refusal.server_code().unwrap_or(number);
    let (sequence, state) = match refusal.reply_to {
        ReplyTo([0, ..]) => (0, ""),
        ReplyTo([_, sequence, ..]) => (sequence, state),
    };
    let mut payload = vec![ERR];
    payload.extend(number.to_le_bytes());
    payload.extend_from_slice(state.as_bytes());
    payload.extend_from_slice(refusal.sentence().as_bytes());
    // MYSQL_ERRMSG_SIZE: clients copy at most 512 bytes.
    payload.truncate(512);
    packet(sequence, &payload)
}

#[cfg(test)]
mod tests;
