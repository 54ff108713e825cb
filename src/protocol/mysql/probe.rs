//! A login of nobody, for a probe and in place of a client that has left.

use std::borrow::Cow;

use super::{
    CLIENT_LONG_PASSWORD, CLIENT_PLUGIN_AUTH, CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, ERR, FIXED, OK,
    Packets, Probe, ProbeError, Probed, TooLong, error_number, hello, packet,
};

/// Who logs in where a client has left: nobody's name, so that the server's log tells what it was.
pub(super) const NOBODY: &[u8] = b"ambassador-probe";

pub(super) fn login_of_nobody(plugin: &[u8]) -> Vec<u8> {
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

/// A login of nobody, seen through to its refusal: the only visit that no server holds against a host.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) packets: Packets,
    pub(super) is_greeted: bool,
    pub(super) rounds: u32,
}

/// More exchanges than any plugin needs for an empty password.
const ROUNDS_MAX: u32 = 8;
/// COM_QUIT.
pub(super) const QUIT: &[u8] = &[1, 0, 0, 0, 1];

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
