//! Signs in to a mail server for the client: EHLO (LHLO), AUTH, and its challenges.
//!
//! Sources: RFC 4954 (AUTH: the initial response and its length §4, codes §6), RFC 5321 (replies §4.2, lines §4.5.3.1),
//! RFC 2033 (LMTP). `AUTH=` instead of `AUTH ` is what servers announced before RFC 2554, and some still announce both.
//! What the client is told is decided in `client`.

use core::net::IpAddr;

use zeroize::Zeroizing;

use super::client::SmtpClient;
use super::ehlo_name::EhloName;
use super::{Dialect, TurnedAway, is_keyword};
use crate::protocol::client_sasl::ClientCheck;
use crate::protocol::line_login::{kept, signed_in};
use crate::protocol::lines::{Lines, SAID_MAX, reply};
use crate::protocol::login::{Login, LoginContext, LoginError, LoginStep, secret_message};
use crate::protocol::sasl::{Exchange, base64, from_base64};

/// One login.
#[derive(Debug)]
pub(super) struct MailLogin {
    dialect: Dialect,
    name: EhloName,
    context: LoginContext<'static>,
    lines: Lines,
    expects: Expects,
    /// The server's greeting for the client, if it is not known yet.
    greeting: Vec<u8>,
    /// The mechanisms that the server announces.
    offered: Vec<String>,
    /// The text of the reply so far.
    said: Vec<u8>,
}

/// Which reply of the server comes next.
#[derive(Debug)]
enum Expects {
    Greeting,
    Capabilities,
    /// A challenge, or the verdict.
    Verdict {
        exchange: Exchange,
        /// The initial response is too long for the AUTH command, and answers the first challenge.
        is_initial_due: bool,
    },
}

/// A command with its end (RFC 5321 §4.5.3.1.4); AUTH with its initial response is no exception (RFC 4954 §4).
const COMMAND_MAX: usize = 512;

/// Mechanisms that are noted; servers have a dozen.
const OFFERED_MAX: usize = 64;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "SMTP", reason }
}

impl MailLogin {
    pub(super) fn new(dialect: Dialect, name: EhloName, context: LoginContext<'_>) -> Self {
        let context = kept(context);
        let expects = if context.is_greeted { Expects::Capabilities } else { Expects::Greeting };
        Self {
            dialect,
            name,
            context,
            lines: Lines::default(),
            expects,
            greeting: Vec::new(),
            offered: Vec::new(),
            said: Vec::new(),
        }
    }

    fn hello(&self) -> LoginStep {
        LoginStep::Send(Zeroizing::new(self.dialect.hello(&self.name)))
    }

    /// Reads one line. `Some`: what to send, or the end.
    fn line(&mut self, line: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        let (code, is_last) = reply(line).ok_or(malformed("a line without a code"))?;
        let text = line.get(4..).unwrap_or_default();
        match (&self.expects, code) {
            (Expects::Greeting, _) => self.greeting.extend_from_slice(&[line, b"\r\n"].concat()),
            (Expects::Capabilities, 250) => self.note_offered(text),
            _ => {}
        }
        if !self.said.is_empty() {
            self.said.push(b' ');
        }
        self.said.extend_from_slice(text);
        if !is_last {
            return Ok(None);
        }
        let said = std::mem::take(&mut self.said);
        let by = self.context.credentials.verdict(TurnedAway::new("SMTP", Some(code), &said), &said);
        self.reply(code, text, by).map(Some)
    }

    /// Handles a whole reply; `text` is that of its last line.
    fn reply(&mut self, code: u16, text: &[u8], by: TurnedAway) -> Result<LoginStep, LoginError> {
        match (&mut self.expects, code) {
            (Expects::Greeting, 220) => {
                self.expects = Expects::Capabilities;
                Ok(self.hello())
            }
            // As for a greeting before TLS: whoever asks is turned away.
            (Expects::Greeting, 400..600) | (_, 400..500) => Err(LoginError::TurnedAway(by)),
            (Expects::Capabilities, 250) => self.authenticate(),
            (Expects::Verdict { exchange, is_initial_due }, 334) => {
                let initial = exchange.initial().filter(|_| std::mem::take(is_initial_due));
                let answer = match initial {
                    Some(initial) => initial,
                    // Questions and errors are not read, so they may be anything; SCRAM checks its own messages.
                    None => exchange.challenged(&from_base64(text).unwrap_or_else(|| text.to_vec()))?,
                };
                Ok(LoginStep::Send(secret_message(&[&base64(&answer), b"\r\n"])))
            }
            (Expects::Verdict { exchange, .. }, 235) => {
                exchange.succeeded(None)?;
                Ok(self.signed_in())
            }
            (Expects::Capabilities | Expects::Verdict { .. }, 500..600) => {
                let is_of_secret = match &self.expects {
                    Expects::Verdict { exchange, is_initial_due } => {
                        !is_initial_due && exchange.has_shown_secret()
                    }
                    Expects::Greeting | Expects::Capabilities => false,
                };
                let user = self.context.credentials.user.clone();
                Err(LoginError::Rejected { user, by, is_of_secret })
            }
            _ => Err(malformed("a reply that belongs to no login")),
        }
    }

    /// Notes the mechanisms of an AUTH line.
    fn note_offered(&mut self, text: &[u8]) {
        if self.offered.len() < OFFERED_MAX && is_keyword(text, "AUTH") {
            let names = String::from_utf8_lossy(&text["AUTH".len()..]);
            for name in names.split([' ', '=', '\t']).filter(|name| !name.is_empty()) {
                if !self.offered.iter().any(|known| known == name) {
                    self.offered.push(name.to_owned());
                }
            }
        }
    }

    /// The AUTH command, with the initial response if both fit one line.
    fn authenticate(&mut self) -> Result<LoginStep, LoginError> {
        let offered: Vec<_> = self.offered.iter().map(String::as_str).collect();
        let exchange = Exchange::new(&offered, &self.context)?;
        let mechanism = exchange.mechanism().name().as_bytes();
        // None of ours is empty, which would be written as `=`.
        let initial = exchange.initial().map(|initial| base64(&initial));
        let whole = initial
            .as_ref()
            .map(|initial| secret_message(&[b"AUTH ", mechanism, b" ", initial, b"\r\n"]))
            .filter(|whole| whole.len() <= COMMAND_MAX);
        let is_initial_due = initial.is_some() && whole.is_none();
        let command = whole.unwrap_or_else(|| secret_message(&[b"AUTH ", mechanism, b"\r\n"]));
        self.expects = Expects::Verdict { exchange, is_initial_due };
        Ok(LoginStep::Send(command))
    }

    fn signed_in(&mut self) -> LoginStep {
        let to_client = std::mem::take(&mut self.greeting);
        let client = SmtpClient::new(ClientCheck::new(self.context.client.clone()));
        signed_in(to_client, self.lines.rest(), Box::new(client))
    }
}

impl Login for MailLogin {
    fn comes_from(&mut self, local: IpAddr) {
        self.name.comes_from(local);
    }

    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        Ok(if self.context.is_greeted { self.hello() } else { LoginStep::Read })
    }

    fn has_proved(&self) -> bool {
        matches!(self.expects, Expects::Verdict { .. })
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        if !self.lines.push(bytes) {
            return Err(LoginError::Endless(SAID_MAX));
        }
        while let Some(line) = self.lines.next() {
            if let Some(step) = self.line(&line)? {
                return Ok(step);
            }
        }
        Ok(LoginStep::Read)
    }
}

#[cfg(test)]
mod tests;
