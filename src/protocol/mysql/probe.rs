//! A login as a user that does not exist, for a probe and in place of a client that has left; and the rest of a
//! client's login if it has left in the middle.
//!
//! Servers count a connection without a login as an error of this host, and so is an answer of the wrong form: MariaDB
//! takes an empty answer to `client_ed25519` for a broken handshake (CR_AUTH_HANDSHAKE), and for an unknown name it
//! picks a user's plugin by hash. So each plugin is answered as a client with a wrong password would answer.

use std::borrow::Cow;

use super::{
    AUTH_SWITCH, CLIENT_CONNECT_WITH_DB, CLIENT_LONG_PASSWORD, CLIENT_PLUGIN_AUTH, CLIENT_PROTOCOL_41,
    CLIENT_SECURE_CONNECTION, ERR, FIXED, OK, Packets, Probe, ProbeError, ProbeStep, TooLong, error_number,
    hello, nul, packet,
};

/// The user name in place of a client's: it does not exist, and explains the entry in the server's log.
pub(super) const NOBODY: &[u8] = b"ambassador-probe";
/// A plugin that does not exist: the server switches to its own.
pub(super) const NO_PLUGIN: &[u8] = b"none";

/// A HandshakeResponse41 without a proof. `names_database`: with an empty name in the place of a database's.
pub(super) fn login_of_nobody(names_database: bool) -> Vec<u8> {
    let mut capabilities =
        CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
    if names_database {
        capabilities |= CLIENT_CONNECT_WITH_DB;
    }
    let mut response = capabilities.to_le_bytes().to_vec();
    response.extend((1_u32 << 24).to_le_bytes());
    // utf8mb3_general_ci, which all servers have.
    response.push(33);
    response.resize(FIXED, 0);
    response.extend_from_slice(NOBODY);
    response.extend_from_slice(if names_database { &[0, 0, 0] } else { &[0, 0] });
    response.extend_from_slice(NO_PLUGIN);
    response.push(0);
    response
}

/// A login, carried through to its refusal: the only way not to be counted as an error.
#[derive(Debug)]
pub(super) struct Login {
    packets: Packets,
    is_greeted: bool,
    /// The plugin that the server asks for.
    plugin: Vec<u8>,
    due: Vec<u8>,
    rounds: u32,
}

/// More exchanges than any plugin needs.
const ROUNDS_MAX: u32 = 8;
/// A packet with COM_QUIT, the last of a connection.
pub(super) const QUIT: &[u8] = &[1, 0, 0, 0, 1];

impl Login {
    /// As a user that does not exist; with `is_greeted` the first packet is sent by the upgrade.
    pub(super) fn of_nobody(is_greeted: bool) -> Self {
        Self { packets: Packets::default(), is_greeted, plugin: Vec::new(), due: Vec::new(), rounds: 0 }
    }

    /// The rest of a client's login. `packets`: what was received of the server's next packet; `asked`: the number and
    /// the payload of its last packet, if the server waits for an answer.
    pub(super) fn rest(packets: Packets, plugin: Vec<u8>, asked: Option<(u8, &[u8])>) -> Self {
        let mut login = Self { packets, is_greeted: true, plugin, due: Vec::new(), rounds: 0 };
        if let Some((sequence, payload)) = asked {
            login.due = packet(sequence.wrapping_add(1), &login.proof(payload));
        }
        login
    }

    fn answer(&mut self, sequence: u8, payload: &[u8]) -> Result<ProbeStep, ProbeError> {
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
                // Mostly 1045, access denied: the server works and checks users.
                _ => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            },
            Some(&OK) if self.is_greeted => Ok(ProbeStep::Serves { goodbye: QUIT.to_vec() }),
            Some(10) if !self.is_greeted => {
                hello(payload).ok_or_else(|| ProbeError("the server's greeting is too short for MySQL's".into()))?;
                self.is_greeted = true;
                Ok(ProbeStep::Send(packet(sequence.wrapping_add(1), &login_of_nobody(false))))
            }
            // The fast login of caching_sha2_password; OK follows.
            Some(1) if self.is_greeted && payload == [1, 3] => Ok(ProbeStep::Incomplete),
            Some(_) if self.is_greeted && self.rounds < ROUNDS_MAX => {
                self.rounds += 1;
                if let Some(request) = payload.strip_prefix(&[AUTH_SWITCH]) {
                    self.plugin = request[..nul(request).unwrap_or(request.len())].to_vec();
                }
                Ok(ProbeStep::Send(packet(sequence.wrapping_add(1), &self.proof(payload))))
            }
            _ => Err(ProbeError("the server's answer is not MySQL's".into())),
        }
    }

    /// An answer of the right form, but wrong.
    fn proof(&self, payload: &[u8]) -> Vec<u8> {
        match (&*self.plugin, payload) {
            (b"mysql_native_password", _) => vec![0; 20],
            // An Ed25519 signature.
            (b"client_ed25519", _) => vec![0; 64],
            // To the packet after the salt, which an empty answer requests: a nonce of 32 bytes and a signature.
            (b"parsec", [1, b'P', ..] | [b'P', ..]) => vec![0; 96],
            (b"caching_sha2_password", [AUTH_SWITCH, ..]) => vec![0; 32],
            // A password in clear with its NUL.
            (b"caching_sha2_password" | b"sha256_password" | b"mysql_clear_password" | b"dialog", _)
            | (_, [1, 4]) => vec![0],
            _ => Vec::new(),
        }
    }
}

impl Probe for Login {
    /// The login itself is sent by the upgrade, or in answer to the greeting.
    fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.due)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection in the middle of the login".into()));
        }
        self.packets.held.extend_from_slice(bytes);
        loop {
            match self.packets.next() {
                Ok(Some((sequence, payload))) => {
                    let probed = self.answer(sequence, &payload)?;
                    if probed != ProbeStep::Incomplete {
                        return Ok(probed);
                    }
                }
                Ok(None) => return Ok(ProbeStep::Incomplete),
                Err(TooLong) => {
                    return Err(ProbeError("the server's answer has an impossible length".into()));
                }
            }
        }
    }
}
