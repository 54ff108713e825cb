//! Microsoft SQL Server, by TDS 7 and TDS 8.0. In TDS 7, PRELOGIN is sent first, in plaintext and with a demand for
//! encryption, and the TLS handshake travels in packets of its own ([`Wrapping`]). In TDS 8.0 ("strict"), TLS begins
//! with the first byte, with ALPN `tds/8.0`, and PRELOGIN follows inside. Either way the client is told that encryption
//! is not supported.
//!
//! Sources: MS-TDS §2.2.3.1 (packet header), §2.2.6.5 (PRELOGIN), §2.2.7.10 (ERROR), §2.2.7.6 (DONE), §3.2.5.1 (TDS
//! 8.0). Deliberately absent: the login and everything after it; routing names other hosts there
//! (docs/protocols/mssql.md). It has not been tested with a SQL Server.

mod packets;
mod upgrade;
mod wrapping;

use super::{
    ClientOpening, Dialogue, DialogueError, Opening, OpeningError, OpeningState, Outbox, Probe, ProbeError,
    ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo, Service, TLS_HANDSHAKE, Upgrade,
};
pub use packets::Packets;
use upgrade::AskEncryption;
pub use wrapping::{Wrapping, WrappingError};

/// TDS 7 and 8.0.
#[derive(Debug)]
pub(super) struct MsSql;

impl Protocol for MsSql {
    fn label(&self) -> &'static str {
        "mssql"
    }

    fn service(&self) -> Service {
        Service { names: &["sqlserver", "tds"], ..Service::UNKNOWN }
    }

    fn alpn(&self) -> &'static [&'static str] {
        &["tds/8.0"]
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        Some(Box::new(ReadPrelogin::default()))
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        self.upgrade_for(&[])
    }

    fn upgrade_for(&self, preface: &[u8]) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(AskEncryption::of(preface)))
    }

    /// A server that forces strict encryption resets connections that begin with PRELOGIN (dotnet/SqlClient#2243); one
    /// that knows only TDS 7 resets those that begin with a TLS ClientHello.
    fn starts_either_way(&self) -> bool {
        true
    }

    fn packets(&self) -> Option<Packets> {
        Some(Packets::default())
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(error(refusal))
    }

    /// After the upgrade PRELOGIN has been answered, and only a login could follow.
    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        if upgraded { None } else { Some(Box::new(AskPrelogin::default())) }
    }
}

// ---------------------------------------------------------------------------------------------------
// Packets and PRELOGIN

const PRELOGIN: u8 = 0x12;
const RESPONSE: u8 = 0x04;
const LOGIN7: u8 = 0x10;
/// Type, status, length (two bytes, this header included), and four bytes that we do not use.
const HEAD: usize = 8;
/// The longest packet before a size is agreed on.
const PACKET_MAX: usize = 4096;
/// In the status: the message ends with this packet.
const IS_LAST: u8 = 1;

fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(HEAD + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind, IS_LAST, high, low, 0, 0, 1, 0], payload].concat()
}

/// What the first bytes are.
enum First {
    Incomplete,
    /// A message of one packet, with its length.
    Whole(usize),
    Foreign,
}

fn first(kind: u8, bytes: &[u8]) -> First {
    match *bytes {
        [first, ..] if first != kind => First::Foreign,
        [_, status, ..] if status & IS_LAST == 0 => First::Foreign,
        [_, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            length if !(HEAD + 1..=PACKET_MAX).contains(&length) => First::Foreign,
            length if bytes.len() < length => First::Incomplete,
            length => First::Whole(length),
        },
        _ => First::Incomplete,
    }
}

const ENCRYPTION: u8 = 1;
const END: u8 = 0xff;
/// Encryption of the login only.
const LOGIN_ONLY: u8 = 0;
/// Encryption of the whole connection.
const ON: u8 = 1;
/// Encryption is not supported.
const NOT_SUPPORTED: u8 = 2;
/// Encryption of everything is demanded.
const REQUIRED: u8 = 3;

/// An option of PRELOGIN: its token, and the position of its value.
struct Choice {
    token: u8,
    value: std::ops::Range<usize>,
}

/// The options of a PRELOGIN: a table of token, offset and length. `None`: it is malformed.
fn choices(payload: &[u8]) -> Option<Vec<Choice>> {
    let mut choices = Vec::new();
    for option in payload.chunks(5) {
        match *option {
            // A value inside the table could not be changed without changing the table.
            [END, ..] => {
                let table = 5 * choices.len() + 1;
                let is_behind = |choice: &Choice| choice.value.is_empty() || choice.value.start >= table;
                return choices.iter().all(is_behind).then_some(choices);
            }
            [token, a, b, c, d] => {
                let [from, length] = [[a, b], [c, d]].map(|pair| usize::from(u16::from_be_bytes(pair)));
                payload.get(from..from + length)?;
                choices.push(Choice { token, value: from..from + length });
            }
            _ => return None,
        }
    }
    None
}

/// The position of PRELOGIN's ENCRYPTION value. `None`: the option is missing, or the PRELOGIN is malformed.
fn encryption_at(payload: &[u8]) -> Option<usize> {
    let choices = choices(payload)?;
    choices
        .into_iter()
        .find(|choice| choice.token == ENCRYPTION && choice.value.len() == 1)
        .map(|it| it.value.start)
}

/// A PRELOGIN with these options.
fn prelogin_of(kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let (mut table, mut values) = (Vec::new(), Vec::new());
    let wide = |length: usize| u16::try_from(length).expect("a PRELOGIN is one packet").to_be_bytes();
    for (token, value) in options {
        table.push(*token);
        table.extend(wide(5 * options.len() + 1 + values.len()));
        table.extend(wide(value.len()));
        values.extend_from_slice(value);
    }
    table.push(END);
    packet(kind, &[table, values].concat())
}

/// A PRELOGIN with version 16.0 and without encryption.
fn prelogin(kind: u8) -> Vec<u8> {
    prelogin_of(kind, &[(0, &[16, 0, 0, 0, 0, 0]), (ENCRYPTION, &[NOT_SUPPORTED])])
}

// ---------------------------------------------------------------------------------------------------
// The client's PRELOGIN, and the server's answer

#[derive(Debug, Default)]
struct ReadPrelogin {
    held: Vec<u8>,
}

/// The client has sent PRELOGIN: it reads nothing else before the answer.
const ASKED: ReplyTo = ReplyTo([2, 0, 0, 0, 0, 0, 0, 0]);

/// A client of TDS 7.0 begins with its login. We send a PRELOGIN before it, and the client does not get the answer.
fn logs_in_at_once(login: Vec<u8>) -> ClientOpening {
    let preface = prelogin(PRELOGIN);
    let dialogue: Box<dyn Dialogue> = Box::new(Answer { is_ours: true, ..Answer::default() });
    ClientOpening {
        preface: preface.len(),
        bytes: [preface, login].concat(),
        dialogue: Some(dialogue),
        ..ClientOpening::default()
    }
}

impl Opening for ReadPrelogin {
    fn receive(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError> {
        self.held.extend_from_slice(bytes);
        if self.held.first() == Some(&TLS_HANDSHAKE) {
            return Err(OpeningError::speaks_tls(
                "the client speaks TLS to a plaintext port; set Encrypt=Optional (or no) instead of Strict in the client",
            ));
        }
        let foreign =
            OpeningError::new("the client's first packet is neither a PRELOGIN nor a login of TDS 7");
        if let [LOGIN7, _, high, low, ..] = self.held[..] {
            return match usize::from(u16::from_be_bytes([high, low])) {
                length if length > HEAD => {
                    Ok(OpeningState::Opened(logs_in_at_once(std::mem::take(&mut self.held))))
                }
                _ => Err(foreign),
            };
        }
        let kind = if self.held.first() == Some(&LOGIN7) { LOGIN7 } else { PRELOGIN };
        let length = match first(kind, &self.held) {
            First::Incomplete => return Ok(OpeningState::Incomplete),
            First::Foreign => return Err(foreign),
            First::Whole(length) => length,
        };
        let Some(at) = encryption_at(&self.held[HEAD..length]) else { return Err(foreign) };
        let mut bytes = std::mem::take(&mut self.held);
        bytes[HEAD + at] = NOT_SUPPORTED;
        let dialogue: Box<dyn Dialogue> = Box::new(Answer::default());
        Ok(OpeningState::Opened(ClientOpening {
            bytes,
            preface: length,
            reply_to: ASKED,
            dialogue: Some(dialogue),
            ..ClientOpening::default()
        }))
    }
}

/// Rewrites the server's answer: by any value but "not supported" a client would begin TLS or demand it.
#[derive(Debug, Default)]
struct Answer {
    held: Vec<u8>,
    is_over: bool,
    /// The PRELOGIN was ours: the client gets no answer.
    is_ours: bool,
}

impl Dialogue for Answer {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_upstream.extend_from_slice(bytes);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.held.extend_from_slice(bytes);
        if !self.is_over {
            let length = match first(RESPONSE, &self.held) {
                First::Incomplete => return Ok(()),
                First::Foreign => {
                    return Err(DialogueError::of_server(
                        "the server's answer to PRELOGIN is not TDS",
                        ASKED,
                    ));
                }
                First::Whole(length) => length,
            };
            if self.is_ours {
                self.held.drain(..length);
            } else if let Some(at) = encryption_at(&self.held[HEAD..length]) {
                self.held[HEAD + at] = NOT_SUPPORTED;
            }
            self.is_over = true;
        }
        out.to_downstream.append(&mut self.held);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }
}

// ---------------------------------------------------------------------------------------------------
// Probe and refusal

/// A probe by PRELOGIN alone, so that no login fails.
#[derive(Debug, Default)]
struct AskPrelogin {
    held: Vec<u8>,
}

impl Probe for AskPrelogin {
    fn begin(&mut self) -> Vec<u8> {
        prelogin(PRELOGIN)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection instead of answering PRELOGIN".into()));
        }
        self.held.extend_from_slice(bytes);
        match first(RESPONSE, &self.held) {
            First::Incomplete => Ok(ProbeStep::Incomplete),
            First::Whole(_) => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            First::Foreign => Err(ProbeError("the server's answer to PRELOGIN is not TDS".into())),
        }
    }
}

/// An answer to PRELOGIN, if the client waits for one, and an ERROR with DONE, which it reads as the answer to its
/// login.
fn error(refusal: &Refusal<'_>) -> Vec<u8> {
    /// The first number that is not used by the server's own messages.
    const OURS: u32 = 50_000;
    /// Fatal: the connection ends.
    const CLASS: u8 = 20;
    let state = match refusal.kind {
        RefusalKind::BadRequest => 1,
        RefusalKind::Full => 2,
        RefusalKind::Unreachable => 3,
        RefusalKind::ShuttingDown => 4,
        RefusalKind::Denied | RefusalKind::LoginFailed => 5,
    };
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let words: Vec<u8> = wide(&refusal.sentence()).into_iter().take(2 * 1000).collect();
    let server = wide("ambassador");
    let half = |bytes: &[u8]| u16::try_from(bytes.len() / 2).unwrap_or(u16::MAX);
    let mut body = OURS.to_le_bytes().to_vec();
    body.extend([state, CLASS]);
    body.extend(half(&words).to_le_bytes());
    body.extend(words);
    body.push(u8::try_from(half(&server)).unwrap_or_default());
    body.extend(server);
    // No procedure, no line.
    body.extend([0; 5]);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes();
    const DONE_WITH_ERROR: [u8; 13] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = [&[0xaa][..], &length, &body, &DONE_WITH_ERROR].concat();
    let begin = if refusal.reply_to == ASKED { prelogin(RESPONSE) } else { Vec::new() };
    [begin, packet(RESPONSE, &answer)].concat()
}

#[cfg(test)]
mod tests;
