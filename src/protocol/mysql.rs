//! MySQL and MariaDB, the classic protocol: the server greets, the client introduces itself, and only then is TLS asked for,
//! with the client's own capabilities. Packets are numbered per leg until the login is over, and a client that would
//! encrypt its password for a hop without TLS encrypts it for us.
//!
//! Sources: MySQL Internals, "Connection Phase"; send_server_handshake_packet and parse_client_handshake_packet in MariaDB's
//! sql/sql_acl.cc (the server takes capabilities from the SSLRequest and ignores those of the full response);
//! sql/auth/sha2_password.cc (what `01 04` asks for). What is deliberately absent: everything behind the first OK or ERR;
//! COM_CHANGE_USER logs in again there, and is not helped (docs/protocols/mysql.md).

use std::borrow::Cow;

use super::{
    Dialogue, DialogueError, Greeting, Introduced, Introduction, NothingBuffered, OpeningError, Options,
    Outbox, Probe, ProbeError, Probed, Protocol, Refusal, RefusalKind, ReplyTo, Step, TLS_HANDSHAKE, Upgrade,
    UpgradeError, Upgraded,
};
use crate::rsa::RsaKey;

/// MySQL as one cluster has it.
#[derive(Debug)]
pub(super) struct MySql {
    /// `None` where there is no upgrade, and so nothing to decrypt.
    key: Option<&'static RsaKey>,
}

impl MySql {
    pub(super) const fn new(options: &Options) -> Self {
        Self { key: options.rsa_key }
    }
}

impl Protocol for MySql {
    fn label(&self) -> &'static str {
        "mysql"
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(ReadGreeting { packets: Packets::default(), key: self.key }))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error_packet(refusal))
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Login { packets: Packets::default(), is_greeted: upgraded, rounds: 0 }))
    }

    /// A connection that ends between greeting and login counts towards `max_connect_errors`, and then the server refuses
    /// this host altogether (inc_host_errors in sql/hostname.cc).
    fn parts_politely(&self) -> bool {
        true
    }
}

// ---------------------------------------------------------------------------------------------------
// Packets

const HEAD: usize = 4;
/// A packet of the login: attributes have at most 64 KiB, and the rest is small.
const PACKET_MAX: usize = 80 * 1024;

/// Length (3 bytes, little-endian), sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a packet of the login is bounded");
    let [low, middle, high, _] = length.to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}

/// Bytes on their way to be packets.
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
}

// ---------------------------------------------------------------------------------------------------
// The server's greeting

const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_CONNECT_WITH_DB: u32 = 1 << 3;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
const CLIENT_PLUGIN_AUTH_LENENC: u32 = 1 << 21;

/// CLIENT_SSL in the second byte of the capabilities.
const SSL_BIT: u8 = 0x08;
const SCRAMBLE: usize = 20;

const ERR: u8 = 0xff;
const OK: u8 = 0x00;
const AUTH_SWITCH: u8 = 0xfe;

/// What a greeting tells.
#[derive(Debug, Clone)]
struct Hello {
    scramble: Vec<u8>,
    /// The server's default plugin.
    plugin: Vec<u8>,
    /// Where the capabilities' second byte lies.
    ssl_at: usize,
    offers_tls: bool,
}

/// HandshakeV10, by the offsets behind the version's NUL.
fn hello(payload: &[u8]) -> Option<Hello> {
    let version = payload.get(1..)?;
    let at = 2 + version.iter().position(|byte| *byte == 0)?;
    let rest = payload.get(at..)?;
    let ssl_at = at + 14;
    let offers_tls = payload.get(ssl_at)? & SSL_BIT != 0;
    let mut scramble = rest.get(4..12)?.to_vec();
    scramble.extend_from_slice(rest.get(31..43)?);
    let plugin = rest.get(44..).unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    Some(Hello { scramble, plugin, ssl_at, offers_tls })
}

/// The number in an ERR packet.
fn error_number(payload: &[u8]) -> u16 {
    payload.get(1..3).map_or(0, |number| u16::from_le_bytes([number[0], number[1]]))
}

/// Reads the greeting, which the client has to see before the rest can go on.
#[derive(Debug)]
struct ReadGreeting {
    packets: Packets,
    key: Option<&'static RsaKey>,
}

/// What is read at once; a greeting has some 100 bytes.
const PORTION: usize = 512;

impl Upgrade for ReadGreeting {
    fn begin(&mut self) -> Step {
        Step::ReadAtMost(PORTION)
    }

    fn sent(&mut self) -> Step {
        Step::ReadAtMost(PORTION)
    }

    fn received(&mut self, bytes: &[u8]) -> Result<Step, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        self.packets.held.extend_from_slice(bytes);
        let first = self.packets.next().map_err(|TooLong| UpgradeError::Endless(PACKET_MAX))?;
        let Some((sequence, mut payload)) = first else { return Ok(Step::ReadAtMost(PORTION)) };
        match payload.first() {
            Some(10) => {}
            Some(&ERR) => {
                return Err(UpgradeError::TurnedAway(format!("MySQL error {}", error_number(&payload))));
            }
            first => {
                return Err(UpgradeError::NotTheProtocol {
                    protocol: "MySQL",
                    byte: first.copied().unwrap_or_default(),
                });
            }
        }
        let Some(hello) = hello(&payload) else {
            return Err(UpgradeError::Unsuitable("the server's greeting is too short for MySQL's"));
        };
        if !hello.offers_tls {
            return Err(UpgradeError::NotOffered("CLIENT_SSL"));
        }
        let proof = NothingBuffered::behind(&self.packets.held)?;
        payload[hello.ssl_at] &= !SSL_BIT;
        let words = packet(sequence, &payload);
        let introduction = Introduce { hello, key: self.key, proof, held: Packets::default() };
        Ok(Step::Meet(Greeting { words, introduction: Box::new(introduction) }))
    }
}

// ---------------------------------------------------------------------------------------------------
// The client's answer to it

/// Reads the client's HandshakeResponse41.
#[derive(Debug)]
struct Introduce {
    hello: Hello,
    key: Option<&'static RsaKey>,
    proof: NothingBuffered,
    held: Packets,
}

/// Capabilities, the largest packet, the character set and 23 bytes: what an SSLRequest has too.
const FIXED: usize = 32;
/// Who logs in where a client has left: nobody's name, so that the server's log tells what it was.
const NOBODY: &[u8] = b"ambassador-probe";

impl Introduction for Introduce {
    fn heard(&mut self, bytes: &[u8]) -> Result<Option<Introduced>, OpeningError> {
        self.held.held.extend_from_slice(bytes);
        // The head of a TLS record, which as a packet's would announce more than 64 KiB.
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
        Ok(Some(self.introduced(sequence, response)))
    }

    fn alone(&mut self) -> Introduced {
        let response = login_of_nobody(&self.hello.plugin);
        self.introduced(1, response)
    }
}

impl Introduce {
    fn introduced(&self, sequence: u8, mut response: Vec<u8>) -> Introduced {
        response[1] |= SSL_BIT;
        let request = packet(1, &response[..FIXED]);
        let plugin = hide_request_for_key(&mut response).unwrap_or_else(|| self.hello.plugin.clone());
        let dialogue = Authentication {
            key: self.key,
            scramble: self.hello.scramble.clone(),
            plugin,
            exchange: Exchange::Relayed,
            next_to_client: sequence.wrapping_add(1),
            next_to_server: 3,
            client: Packets::default(),
            server: Packets::default(),
            is_over: false,
        };
        Introduced {
            request,
            upgraded: Upgraded {
                first: packet(2, &response),
                dialogue: Some(Box::new(dialogue)),
                ..Upgraded::new(self.proof.clone())
            },
            reply_to: reply_to(sequence.wrapping_add(1)),
        }
    }
}

fn login_of_nobody(plugin: &[u8]) -> Vec<u8> {
    let capabilities =
        CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
    let mut response = capabilities.to_le_bytes().to_vec();
    response.extend((1_u32 << 24).to_le_bytes());
    // utf8mb3_general_ci, which all servers have.
    response.push(33);
    response.resize(FIXED, 0);
    response.extend_from_slice(NOBODY);
    response.extend_from_slice(&[0, 0]);
    response.extend_from_slice(plugin);
    response.push(0);
    response
}

/// A client of `sha256_password` asks for our key in its very login (one byte `01` where a proof would be). A server with TLS
/// would take that for a password. It gets an empty proof of a plugin that nobody has instead, and so asks again, by an
/// AuthSwitchRequest. Returns the plugin then.
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
    response.splice(at..end, *b"none");
    response.splice(user..user + 2, [0]);
    Some(b"none".to_vec())
}

fn nul(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

fn le_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|four| u32::from_le_bytes(*four))
}

/// The number that our answer to the client has.
const fn reply_to(sequence: u8) -> ReplyTo {
    ReplyTo([1, sequence, 0, 0, 0, 0, 0, 0])
}

const fn refused(sequence: u8, reason: &'static str) -> OpeningError {
    OpeningError { reply_to: reply_to(sequence.wrapping_add(1)), ..OpeningError::new(reason) }
}

// ---------------------------------------------------------------------------------------------------
// The login, until OK or ERR

/// Numbers the packets of each leg on their own: the upgrade took a number on the server's, and whatever we answer
/// ourselves takes numbers on the client's.
#[derive(Debug)]
struct Authentication {
    key: Option<&'static RsaKey>,
    scramble: Vec<u8>,
    plugin: Vec<u8>,
    exchange: Exchange,
    next_to_client: u8,
    next_to_server: u8,
    client: Packets,
    server: Packets,
    is_over: bool,
}

/// What the client's next packet may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// The server.
    Relayed,
    /// The server waits for the password in clear, as TLS allows it (`01 04`); the client may want to encrypt it.
    Password,
    /// The client has our key: its packet is the password, encrypted.
    Encrypted,
}

impl Authentication {
    fn client_packet(&mut self, sequence: u8, payload: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.next_to_client = sequence.wrapping_add(1);
        let asks_for_key = match self.exchange {
            Exchange::Relayed => self.plugin == b"sha256_password" && payload == [1],
            Exchange::Password => payload == [2],
            Exchange::Encrypted => false,
        };
        match (self.key, self.exchange) {
            (Some(key), _) if asks_for_key => {
                let answer = [&[1], key.public_pem().as_bytes()].concat();
                out.to_downstream.extend(packet(self.next_to_client, &answer));
                self.next_to_client = self.next_to_client.wrapping_add(1);
                self.exchange = Exchange::Encrypted;
                return Ok(());
            }
            (Some(key), Exchange::Password | Exchange::Encrypted) if RsaKey::may_have_encrypted(payload) => {
                let Some(password) = key.decrypt(payload).map(|plain| self.password(plain)) else {
                    return Err(self.of_client(
                        "the client encrypted its password with a public key that is not ours; remove its \
                         server-public-key-path (or serverRSAPublicKeyFile), so that it asks for the key",
                    ));
                };
                self.pass_on(&password, out);
            }
            (_, _) => self.pass_on(payload, out),
        }
        self.exchange = Exchange::Relayed;
        Ok(())
    }

    /// The client has XORed the password and its NUL with the scramble.
    fn password(&self, mut plain: Vec<u8>) -> Vec<u8> {
        for (byte, mask) in plain.iter_mut().zip(self.scramble.iter().cycle()) {
            *byte ^= mask;
        }
        if let Some(end) = nul(&plain) {
            plain.truncate(end);
        }
        plain.push(0);
        plain
    }

    fn pass_on(&mut self, payload: &[u8], out: &mut Outbox) {
        out.to_upstream.extend(packet(self.next_to_server, payload));
        self.next_to_server = self.next_to_server.wrapping_add(1);
    }

    fn server_packet(&mut self, sequence: u8, payload: &[u8], out: &mut Outbox) {
        self.next_to_server = sequence.wrapping_add(1);
        match payload {
            // Both sides count from 0 again with the next command.
            [OK | ERR, ..] => self.is_over = true,
            [AUTH_SWITCH, request @ ..] => {
                let mut parts = request.splitn(2, |byte| *byte == 0);
                self.plugin = parts.next().unwrap_or_default().to_vec();
                let data = parts.next().unwrap_or_default();
                if let Some(scramble) = data.get(..SCRAMBLE) {
                    self.scramble = scramble.to_vec();
                }
                self.exchange = Exchange::Relayed;
            }
            [1, 4] => self.exchange = Exchange::Password,
            _ => {}
        }
        out.to_downstream.extend(packet(self.next_to_client, payload));
        self.next_to_client = self.next_to_client.wrapping_add(1);
    }

    const fn of_client(&self, reason: &'static str) -> DialogueError {
        DialogueError::of_client(reason, reply_to(self.next_to_client))
    }
}

impl Dialogue for Authentication {
    fn downstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.client.held.extend_from_slice(bytes);
        while !self.is_over {
            let next = self.client.next();
            match next
                .map_err(|TooLong| self.of_client("the client's login has a packet of impossible length"))?
            {
                Some((sequence, payload)) => self.client_packet(sequence, &payload, out)?,
                None => return Ok(()),
            }
        }
        out.to_upstream.append(&mut self.client.held);
        Ok(())
    }

    fn upstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.server.held.extend_from_slice(bytes);
        while !self.is_over {
            let next = self.server.next().map_err(|TooLong| {
                let reason = "the server's part in the login has a packet of impossible length";
                DialogueError::of_server(reason, reply_to(self.next_to_client))
            })?;
            match next {
                Some((sequence, payload)) => self.server_packet(sequence, &payload, out),
                None => return Ok(()),
            }
        }
        out.to_downstream.append(&mut self.server.held);
        out.to_upstream.append(&mut self.client.held);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }
}

// ---------------------------------------------------------------------------------------------------
// Probe and refusal

/// A login of nobody, seen through to its refusal: the only visit that no server holds against a host.
#[derive(Debug)]
struct Login {
    packets: Packets,
    is_greeted: bool,
    rounds: u32,
}

/// More exchanges than any plugin needs for an empty password.
const ROUNDS_MAX: u32 = 8;
/// COM_QUIT.
const QUIT: &[u8] = &[1, 0, 0, 0, 1];

impl Login {
    fn answer(&mut self, sequence: u8, payload: &[u8]) -> Result<Probed, ProbeError> {
        let answer = |payload: &[u8]| Ok(Probed::Send(packet(sequence.wrapping_add(1), payload)));
        match payload.first() {
            Some(&ERR) => match error_number(payload) {
                1040 => Err(ProbeError("the server has too many connections (1040)".into())),
                1053 => Err(ProbeError("the server is shutting down (1053)".into())),
                1129 => Err(ProbeError(
                    "the server blocks this host after too many connection errors (1129); FLUSH HOSTS lets it in again"
                        .into(),
                )),
                number if !self.is_greeted => {
                    Err(ProbeError(Cow::Owned(format!("the server turned the connection away ({number})"))))
                }
                // Mostly 1045, access denied: there is somebody at work who knows who may come in.
                _ => Ok(Probed::Serves { goodbye: Vec::new() }),
            },
            Some(&OK) if self.is_greeted => Ok(Probed::Serves { goodbye: QUIT.to_vec() }),
            Some(10) if !self.is_greeted => {
                let hello = hello(payload).ok_or_else(|| ProbeError("the server's greeting is too short for MySQL's".into()))?;
                self.is_greeted = true;
                answer(&login_of_nobody(&hello.plugin))
            }
            Some(_) if self.is_greeted && self.rounds < ROUNDS_MAX => {
                self.rounds += 1;
                // The server asks for more: an empty password.
                if matches!(payload, [1, 4]) { answer(&[0]) } else { answer(&[]) }
            }
            _ => Err(ProbeError("the server's answer is not MySQL's".into())),
        }
    }
}

impl Probe for Login {
    /// The login travels with the upgrade, or answers the greeting.
    fn begin(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn received(&mut self, bytes: &[u8]) -> Result<Probed, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection in the middle of the login".into()));
        }
        self.packets.held.extend_from_slice(bytes);
        match self.packets.next() {
            Ok(Some((sequence, payload))) => self.answer(sequence, &payload),
            Ok(None) => Ok(Probed::Incomplete),
            Err(TooLong) => Err(ProbeError("the server's answer has an impossible length".into())),
        }
    }
}

/// An ERR packet. Before the greeting a client takes it for one, with no SQLSTATE, for nothing has been agreed on yet. Class
/// 08 tells drivers that the connection is at fault, and not the statement.
fn error_packet(refusal: &Refusal<'_>) -> Vec<u8> {
    let (number, state): (u16, _) = match refusal.kind {
        RefusalKind::BadRequest => (1043, "#08S01"),
        RefusalKind::Denied => (1045, "#28000"),
        RefusalKind::Full => (1040, "#08004"),
        RefusalKind::Unreachable => (1105, "#08S01"),
        RefusalKind::ShuttingDown => (1053, "#08S01"),
    };
    let (sequence, state) = match refusal.reply_to {
        ReplyTo([0, ..]) => (0, ""),
        ReplyTo([_, sequence, ..]) => (sequence, state),
    };
    let mut payload = vec![ERR];
    payload.extend(number.to_le_bytes());
    payload.extend_from_slice(state.as_bytes());
    payload.extend_from_slice(refusal.sentence().as_bytes());
    // MYSQL_ERRMSG_SIZE: clients copy no more than 512 bytes.
    payload.truncate(512);
    packet(sequence, &payload)
}

#[cfg(test)]
mod tests;
