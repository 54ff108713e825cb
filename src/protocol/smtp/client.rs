//! The client's side of a session that we have signed in: it may begin with its mail, or insist on AUTH first, and is
//! taken at its word.
//!
//! Sources: RFC 4954 (AUTH: replies §4 and §6; lines of 12288 octets §4), draft-murchison-sasl-login (its two questions).
//! Over with the first command behind which none of this can come: then the relay is plain.

use std::fmt;

use super::{LINE_MAX, is_keyword};
use crate::protocol::lines::reply;
use crate::protocol::sasl::from_base64;
use crate::protocol::{Dialogue, DialogueError, Outbox, ReplyTo};

/// Offers AUTH in the server's place, and answers it.
#[derive(Default)]
pub(super) struct SmtpClient {
    /// Bytes of the client that have not been handled.
    held: Vec<u8>,
    /// So many of them are known to hold no end of a line.
    searched: usize,
    talk: Talk,
    is_authenticated: bool,
    /// Replies of ours so far.
    answers: usize,
    /// The client's bytes are passed on as they are.
    has_begun: bool,
    /// The reply that the server owes. Replies have the order of their commands, so commands wait for it.
    owed: Option<Owed>,
    /// The server's line so far.
    line: Vec<u8>,
}

/// What the client's next line is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Talk {
    #[default]
    Command,
    /// The message of PLAIN, or the second one of LOGIN.
    Secret,
    /// The first message of LOGIN.
    User,
}

/// A reply of the server that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// To EHLO or LHLO; whether its first line, the server's name, has come.
    Capabilities {
        is_named: bool,
    },
    Other,
}

/// A line of AUTH, with its end (RFC 4954 §4).
const AUTH_LINE_MAX: usize = 12288;
/// The most that waits for a reply of the server.
const HELD_MAX: usize = 64 * 1024;
/// Replies of ours to one client: a login takes three, and no client needs many logins.
const ANSWERS_MAX: usize = 100;

const ASK_USER: &str = "334 VXNlcm5hbWU6\r\n";
const ASK_PASSWORD: &str = "334 UGFzc3dvcmQ6\r\n";
const ASK_ANYTHING: &str = "334 \r\n";
const OFFER: &[u8] = b"250 AUTH PLAIN LOGIN\r\n";

/// Which commands may come before the mail.
enum Command<'a> {
    Hello(Owed),
    Auth(&'a [u8]),
    /// Any other.
    Begins,
}

impl<'a> Command<'a> {
    fn of(line: &'a [u8]) -> Self {
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (verb, arguments) = line.split_at(end);
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" | b"LHLO" => Self::Hello(Owed::Capabilities { is_named: false }),
            b"HELO" | b"NOOP" | b"RSET" => Self::Hello(Owed::Other),
            b"AUTH" => Self::Auth(arguments),
            _ => Self::Begins,
        }
    }
}

const fn fault(reason: &'static str) -> DialogueError {
    DialogueError::of_client(reason, ReplyTo::WELCOMED)
}

impl SmtpClient {
    /// Handles the client's lines up to one that has to wait.
    fn advance(&mut self, out: &mut Outbox) -> Result<(), DialogueError> {
        while !self.has_begun {
            let end = self.held[self.searched..].iter().position(|byte| *byte == b'\n');
            let length = end.map_or(self.held.len(), |end| self.searched + end + 1);
            let line = &self.held[..length];
            let is_command = self.talk == Talk::Command;
            let command = Command::of(line);
            let is_auth = !is_command || matches!(command, Command::Auth(_));
            if is_auth && length > AUTH_LINE_MAX {
                return Err(fault("a line of its AUTH is longer than 12288 bytes"));
            }
            if end.is_none() {
                self.searched = length;
                // Too long for a command that we know.
                if !is_auth && length > LINE_MAX {
                    self.begin(out);
                }
                return Ok(());
            }
            let answer = match command {
                _ if !is_command => {
                    let message = line.to_vec();
                    self.message(&message)
                }
                Command::Begins => {
                    self.begin(out);
                    return Ok(());
                }
                _ if self.owed.is_some() => {
                    self.searched = 0;
                    return Ok(());
                }
                Command::Hello(owed) => {
                    out.to_upstream.extend_from_slice(line);
                    self.owed = Some(owed);
                    ""
                }
                Command::Auth(arguments) => {
                    let arguments = arguments.to_vec();
                    self.auth(&arguments)
                }
            };
            out.to_downstream.extend_from_slice(answer.as_bytes());
            self.answers += usize::from(!answer.is_empty());
            if self.answers > ANSWERS_MAX {
                return Err(fault("it sends AUTH again and again"));
            }
            self.held.drain(..length);
            self.searched = 0;
        }
        Ok(())
    }

    /// From here on the client's bytes are for the server.
    fn begin(&mut self, out: &mut Outbox) {
        self.has_begun = true;
        out.to_upstream.append(&mut self.held);
    }

    fn auth(&mut self, arguments: &[u8]) -> &'static str {
        if self.is_authenticated {
            return "503 5.5.1 Already authenticated\r\n";
        }
        let mut words = arguments.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(mechanism) = words.next() else { return "501 5.5.4 Syntax: AUTH mechanism\r\n" };
        let initial = words.next().map(|initial| if initial == b"=" { b"" } else { initial });
        self.talk = match mechanism.to_ascii_uppercase().as_slice() {
            b"PLAIN" => Talk::Secret,
            b"LOGIN" => Talk::User,
            _ => return "504 5.5.4 Only PLAIN and LOGIN are offered\r\n",
        };
        match (initial, self.talk) {
            (Some(initial), _) => self.message(initial),
            (None, Talk::User) => ASK_USER,
            (None, _) => ASK_ANYTHING,
        }
    }

    /// A message of the client within AUTH.
    fn message(&mut self, message: &[u8]) -> &'static str {
        let talk = std::mem::take(&mut self.talk);
        match (message.trim_ascii(), talk) {
            (b"*", _) => "501 5.7.0 Authentication cancelled\r\n",
            (message, _) if from_base64(message).is_none() => "501 5.5.2 That is not base64\r\n",
            (_, Talk::User) => {
                self.talk = Talk::Secret;
                ASK_PASSWORD
            }
            (_, Talk::Secret | Talk::Command) => {
                self.is_authenticated = true;
                "235 2.7.0 Authentication successful\r\n"
            }
        }
    }

    /// Passes on a line of the server's reply, changed where it lists capabilities.
    fn end_line(&mut self, owed: Owed, out: &mut Outbox) {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii_end();
        let Some((code, is_last)) = reply(text).filter(|_| line.ends_with(b"\n")) else {
            // Not a reply, or too long for one: nothing is changed any more.
            self.owed = None;
            self.begin(out);
            return out.to_downstream.extend_from_slice(&line);
        };
        self.owed = (!is_last).then_some(match owed {
            Owed::Capabilities { .. } => Owed::Capabilities { is_named: true },
            Owed::Other => Owed::Other,
        });
        let Owed::Capabilities { is_named } = owed else {
            return out.to_downstream.extend_from_slice(&line);
        };
        if code != 250 {
            return out.to_downstream.extend_from_slice(&line);
        }
        let capability = text.get(4..).unwrap_or_default();
        let is_ours = ["STARTTLS", "REQUIRETLS", "AUTH"].iter().any(|word| is_keyword(capability, word));
        if !is_named || !is_ours {
            out.to_downstream.extend_from_slice(&[b"250-", capability, b"\r\n"].concat());
        }
        if is_last {
            out.to_downstream.extend_from_slice(OFFER);
        }
    }
}

impl Dialogue for SmtpClient {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.held.extend_from_slice(bytes);
        if self.has_begun {
            out.to_upstream.append(&mut self.held);
            return Ok(());
        }
        self.advance(out)?;
        if self.held.len() > HELD_MAX {
            return Err(fault("it sends commands without waiting for their replies"));
        }
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let mut rest = bytes;
        while let Some(owed) = self.owed {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
            let (part, behind) = rest.split_at(end);
            self.line.extend_from_slice(part);
            rest = behind;
            if self.line.ends_with(b"\n") || self.line.len() > LINE_MAX {
                self.end_line(owed, out);
            } else {
                return Ok(());
            }
            if self.owed.is_none() {
                self.advance(out)?;
            }
        }
        out.to_downstream.extend_from_slice(rest);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.has_begun && self.owed.is_none()
    }
}

impl fmt::Debug for SmtpClient {
    /// Without what the client sent: its password may be a real one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpClient").field("talk", &self.talk).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
