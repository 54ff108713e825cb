//! Signs in to an MQTT broker for the client: its CONNECT with our user name and password, up to CONNACK. All else of the
//! CONNECT (client id, will, properties) is the client's.
//!
//! Sources: MQTT 3.1.1 §3.1 (CONNECT), §3.2.2.3 (return codes); MQTT 5.0 §3.1, §3.2.2.2 (reason codes), §4.12 (enhanced
//! authentication, which is not done for a client).

use zeroize::Zeroizing;

use super::{BRIDGE, CONNACK, CONNECT, judge, remaining_length, variable_integer};
use crate::protocol::TurnedAway;
use crate::protocol::first_message::FirstMessageVerdict;
use crate::protocol::login::{
    AllowedMechanisms, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SignedIn, secret_message,
};
use crate::protocol::verdict::REPEATS;

/// The longest CONNECT: its fields have 64 KiB each.
pub(super) const CONNECT_MAX: usize = 512 * 1024;
/// The longest CONNACK.
const CONNACK_MAX: usize = 64 * 1024;
const AUTH: u8 = 0xf0;

const HAS_USER: u8 = 0x80;
const HAS_PASSWORD: u8 = 0x40;
const HAS_WILL: u8 = 0x04;

/// [`judge`], for the whole packet.
pub(super) fn judge_whole(bytes: &[u8]) -> FirstMessageVerdict {
    match (judge(bytes), packet_end(bytes)) {
        (FirstMessageVerdict::Speaks(_), Some(end)) if end > CONNECT_MAX => {
            FirstMessageVerdict::Foreign("the client's CONNECT is longer than 512 KiB")
        }
        (FirstMessageVerdict::Speaks(_), Some(end)) if end > bytes.len() => FirstMessageVerdict::Incomplete,
        (verdict, _) => verdict,
    }
}

/// Where the first packet ends, which may not have been received yet. `None`: its length is not known, or none.
fn packet_end(bytes: &[u8]) -> Option<usize> {
    let (length, octets) = remaining_length(bytes.get(1..)?)?.ok()?;
    Some(1 + octets + length)
}

/// One login.
#[derive(Debug)]
pub(super) struct ConnectLogin {
    credentials: LoginCredentials,
    opening: Vec<u8>,
    /// The client speaks version 5.
    is_5: bool,
    held: Vec<u8>,
    behind: Vec<u8>,
}

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "MQTT", reason }
}

/// A cursor over the fields of a CONNECT.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Passes over a string or binary data, with its two bytes of length.
    fn skip_field(&mut self) -> Option<()> {
        let length = u16::from_be_bytes(*self.take(2)?.first_chunk()?);
        self.take(length.into()).map(|_| ())
    }

    /// Passes over properties, with their length.
    fn skip_properties(&mut self) -> Option<()> {
        let (length, octets) = remaining_length(self.0)?.ok()?;
        self.take(octets + length).map(|_| ())
    }
}

/// The parts of a CONNECT: what stands before its flags, the flags, and what stands from there to the user name.
fn parts(body: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut fields = Fields(body);
    fields.skip_field()?;
    let level = fields.take(1)?[0];
    let before = &body[..body.len() - fields.0.len()];
    let flags = fields.take(1)?[0];
    let behind_flags = fields.0;
    let has_properties = level & !BRIDGE >= 5;
    fields.take(2)?;
    if has_properties {
        fields.skip_properties()?;
    }
    fields.skip_field()?;
    if flags & HAS_WILL != 0 {
        if has_properties {
            fields.skip_properties()?;
        }
        fields.skip_field()?;
        fields.skip_field()?;
    }
    let kept = &behind_flags[..behind_flags.len() - fields.0.len()];
    if flags & HAS_USER != 0 {
        fields.skip_field()?;
    }
    if flags & HAS_PASSWORD != 0 {
        fields.skip_field()?;
    }
    fields.0.is_empty().then_some((before, flags, kept))
}

/// A clean session of 3.1.1 with an empty client id: for a login without a client.
const OWN_CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0";

impl ConnectLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, opening, .. } = context;
        let opening = if opening.is_empty() { OWN_CONNECT } else { opening }.to_vec();
        Self { credentials, opening, is_5: false, held: Vec::new(), behind: Vec::new() }
    }

    fn connect(&self, packet: &[u8]) -> Result<Zeroizing<Vec<u8>>, LoginError> {
        const MALFORMED: LoginError = LoginError::Client("its first packet (CONNECT) is malformed");
        let (_, octets) = packet.get(1..).and_then(remaining_length).and_then(Result::ok).ok_or(MALFORMED)?;
        let (before, flags, kept) = parts(&packet[1 + octets..]).ok_or(MALFORMED)?;
        let LoginCredentials { user, secret } = &self.credentials;
        let (user, password) = (user.as_bytes(), secret.expose().as_bytes());
        let length = |field: &[u8]| u16::try_from(field.len()).map(u16::to_be_bytes).ok();
        let (Some(user_length), Some(password_length)) = (length(user), length(password)) else {
            let offered = "names and passwords of at most 65,535 bytes";
            return Err(self.credentials.no_mechanism(&AllowedMechanisms::default(), &[offered]));
        };
        let flags = [flags | HAS_USER | HAS_PASSWORD];
        let body = [before, &flags, kept, &user_length, user, &password_length, password];
        let length = variable_integer(body.iter().map(|part| part.len()).sum());
        Ok(secret_message(&[&[&[CONNECT], &length[..]], &body[..]].concat()))
    }

    /// The code of a CONNACK that refuses.
    fn refused(&self, code: u8) -> Option<LoginError> {
        let words: &[u8] = match code {
            4 | 0x86 => b"bad user name or password",
            5 | 0x87 => b"not authorized",
            3 | 0x88 => b"server unavailable",
            0x89 => b"server busy",
            0x9f => b"connection rate exceeded",
            _ => return None,
        };
        if self.is_5 != (code >= 0x80) {
            return None;
        }
        let by = TurnedAway::new("MQTT CONNACK", Some(code.into()), words).through_tls();
        Some(match code {
            4 | 5 | 0x86 | 0x87 => {
                LoginError::Rejected { user: self.credentials.user.clone(), by, is_of_secret: true }
            }
            _ => LoginError::TurnedAway(by),
        })
    }
}

impl Login for ConnectLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let opening = std::mem::take(&mut self.opening);
        let FirstMessageVerdict::Speaks(of) = judge_whole(&opening) else {
            return Err(LoginError::Client("its first packet (CONNECT) is not whole"));
        };
        self.is_5 = of.0[0] & !BRIDGE >= 5;
        let end = packet_end(&opening).expect("a CONNECT has a length");
        let (packet, behind) = opening.split_at(end);
        self.behind = behind.to_vec();
        self.connect(packet).map(LoginStep::Send)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.held.extend_from_slice(bytes);
        match self.held[0] {
            CONNACK => {}
            AUTH if self.is_5 => {
                return Err(LoginError::Client("it asks for an authentication method of its own (MQTT 5)"));
            }
            _ => return Err(malformed("its first packet is not CONNACK")),
        }
        let (length, octets) = match remaining_length(&self.held[1..]) {
            None => return Ok(LoginStep::Read),
            Some(Ok((length, octets))) if (2..=CONNACK_MAX).contains(&length) => (length, octets),
            Some(_) => return Err(malformed("a CONNACK of impossible length")),
        };
        if self.held.len() < 1 + octets + length {
            return Ok(LoginStep::Read);
        }
        let code = self.held[2 + octets];
        match self.refused(code) {
            Some(error) => Err(error),
            // Its reason, which only version 5 has, would be the client's to read.
            None if code != 0 && self.credentials.is_repeated_in(&self.held) => {
                let by = TurnedAway::new("MQTT CONNACK", Some(code.into()), REPEATS.as_bytes());
                Err(LoginError::TurnedAway(by.through_tls()))
            }
            None => Ok(LoginStep::SignedIn(SignedIn {
                is_refused: code != 0,
                to_client: std::mem::take(&mut self.held),
                to_server: std::mem::take(&mut self.behind),
                dialogue: None,
            })),
        }
    }
}

#[cfg(test)]
mod tests;
