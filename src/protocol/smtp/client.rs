//! The client's side of a session that we have signed in: EHLO goes to the server, whose reply then offers our own AUTH,
//! which is answered here.
//!
//! Sources: RFC 4954 (AUTH: replies §4 and §6; lines of 12288 octets §4), draft-murchison-sasl-login (its two questions).
//! Over with the first command behind which none of this can come: then the relay is plain.

use super::{LINE_MAX, is_keyword};
use crate::protocol::client_dialogue::{
    ClientDialogue, ClientProgress, ReplyProgress, first_line, skipped, wrong,
};
use crate::protocol::client_sasl::{ClientCheck, SaslRequest, SaslVerdict};
use crate::protocol::lines::reply;

/// Offers AUTH in the server's place, and answers it.
#[derive(Debug, Default)]
pub(super) struct SmtpClient {
    check: ClientCheck,
    asked: Option<SaslRequest>,
    is_authenticated: bool,
    /// The reply of the server that is under way is one to EHLO or LHLO.
    is_hello: bool,
    /// Its first line, the server's name, has come.
    is_named: bool,
}

/// A line of AUTH, with its end (RFC 4954 §4).
const AUTH_LINE_MAX: usize = 12288;

const OFFER: &[u8] = b"250 AUTH PLAIN LOGIN\r\n";

/// Which commands may come before the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// EHLO and LHLO, whose reply has capabilities.
    Ehlo,
    Helo,
    /// NOOP and RSET.
    Idle,
    Auth,
    /// Any other.
    Begins,
}

impl Command {
    fn of(verb: &[u8]) -> Self {
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" | b"LHLO" => Self::Ehlo,
            b"HELO" => Self::Helo,
            b"NOOP" | b"RSET" => Self::Idle,
            b"AUTH" => Self::Auth,
            _ => Self::Begins,
        }
    }
}

const TOO_LONG: &str = "a line of its AUTH is longer than 12288 bytes";

impl SmtpClient {
    pub(super) fn new(check: ClientCheck) -> Self {
        Self { check, ..Self::default() }
    }

    /// Whether nothing but a login may reach the server.
    const fn must_log_in(&self) -> bool {
        self.check.is_strict() && !self.is_authenticated
    }

    fn auth(&mut self, arguments: &[u8], taken: usize) -> ClientProgress {
        let mut words = arguments.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (mechanism, initial) = (words.next(), words.next());
        let words = match (mechanism, mechanism.and_then(SaslRequest::first)) {
            _ if self.is_authenticated => "503 5.5.1 Already authenticated\r\n",
            (None, _) => "501 5.5.4 Syntax: AUTH mechanism\r\n",
            (Some(_), None) => "504 5.5.4 Only PLAIN and LOGIN are offered\r\n",
            (Some(_), Some(request)) => {
                return match initial {
                    Some(initial) => self.answered(request, initial, taken),
                    None => self.ask(request, taken),
                };
            }
        };
        ClientProgress::Answer { taken, words: words.into() }
    }

    fn ask(&mut self, request: SaslRequest, taken: usize) -> ClientProgress {
        self.asked = Some(request);
        ClientProgress::Answer { taken, words: format!("334 {}\r\n", request.challenge()).into() }
    }

    /// A message of the client within AUTH.
    fn answered(&mut self, request: SaslRequest, message: &[u8], taken: usize) -> ClientProgress {
        let words = match self.check.answer(request, message) {
            SaslVerdict::Ask(next) => return self.ask(next, taken),
            SaslVerdict::Rejected => {
                return wrong(taken, b"535 5.7.8 Authentication credentials invalid\r\n");
            }
            SaslVerdict::Accepted => {
                self.is_authenticated = true;
                let words = b"235 2.7.0 Authentication successful\r\n".to_vec();
                return ClientProgress::LoggedIn { taken, words };
            }
            SaslVerdict::Cancelled => "501 5.7.0 Authentication cancelled\r\n",
            SaslVerdict::Malformed => "501 5.5.2 That is not base64\r\n",
        };
        ClientProgress::Answer { taken, words: words.into() }
    }

    /// For the server, whose reply is awaited.
    fn for_server(&mut self, command: Command, line: &[u8]) -> ClientProgress {
        let taken = line.len();
        let text = line.trim_ascii_end();
        if self.must_log_in() && text.iter().any(u8::is_ascii_control) {
            // What one server takes for the end of a line is not that for another.
            return skipped(Some(taken), b"501 5.5.2 That has control characters\r\n");
        }
        (self.is_hello, self.is_named) = (command == Command::Ehlo, false);
        ClientProgress::Ask { taken, command: line.to_vec() }
    }
}

impl ClientDialogue for SmtpClient {
    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str> {
        let end = held.iter().position(|byte| *byte == b'\n');
        let line = &held[..end.map_or(held.len(), |end| end + 1)];
        let verb = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (verb, arguments) = line.split_at(verb);
        let command = Command::of(verb);
        let is_auth = self.asked.is_some() || command == Command::Auth;
        if is_auth && line.len() > AUTH_LINE_MAX {
            return Err(TOO_LONG);
        }
        if end.is_none() {
            // Too long for a command that we know.
            let is_other = !is_auth && line.len() > LINE_MAX;
            return Ok(if is_other { ClientProgress::PassOn } else { ClientProgress::More });
        }
        if let Some(request) = self.asked.take() {
            return Ok(self.answered(request, line.trim_ascii(), line.len()));
        }
        Ok(match command {
            Command::Auth => self.auth(arguments, line.len()),
            Command::Idle if self.must_log_in() => {
                ClientProgress::Answer { taken: line.len(), words: b"250 2.0.0 Ok\r\n".to_vec() }
            }
            Command::Ehlo | Command::Helo | Command::Idle => self.for_server(command, line),
            Command::Begins => ClientProgress::PassOn,
        })
    }

    fn before_login(&mut self, held: &[u8]) -> Result<Option<ClientProgress>, &'static str> {
        if !self.check.is_strict() {
            return Ok(None);
        }
        let Some((line, taken)) = first_line(held) else { return Ok(Some(ClientProgress::More)) };
        let verb = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if verb.eq_ignore_ascii_case(b"BDAT") {
            // A mail follows, without being asked for (RFC 3030 §2): it must not be read as commands.
            return Err("the client sends a mail before its login");
        }
        if line.eq_ignore_ascii_case(b"QUIT") {
            return Ok(Some(self.for_server(Command::Idle, &held[..taken])));
        }
        Ok(Some(skipped(Some(taken), b"530 5.7.0 Authentication required\r\n")))
    }

    /// Changes a line where it lists capabilities.
    fn reply(&mut self, line: &[u8]) -> Result<ReplyProgress, &'static str> {
        let text = line.trim_ascii_end();
        let Some((code, is_last)) = reply(text) else {
            return match self.must_log_in() {
                true => Err("the server's reply to the client's first command is not SMTP"),
                false => Ok(ReplyProgress::PassOn),
            };
        };
        let mut words = Vec::new();
        if !self.is_hello || code != 250 {
            words.extend_from_slice(line);
        } else {
            let capability = text.get(4..).unwrap_or_default();
            let is_ours = ["STARTTLS", "REQUIRETLS", "AUTH"].iter().any(|word| is_keyword(capability, word));
            if !self.is_named || !is_ours {
                words.extend_from_slice(&[b"250-", capability, b"\r\n"].concat());
            }
            self.is_named = true;
            if is_last {
                words.extend_from_slice(OFFER);
            }
        }
        Ok(if is_last { ReplyProgress::Over(words) } else { ReplyProgress::More(words) })
    }

    fn ends_with_login(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
