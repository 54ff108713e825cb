//! ManageSieve: STARTTLS towards the server, whose capabilities after TLS are the client's greeting.
//!
//! Source: RFC 5804 §1.7 (the greeting), §2.2 (STARTTLS: the server sends its capabilities again, unasked). Servers
//! that do not are not supported: the client would wait for a greeting that never comes.

mod login;

use std::borrow::Cow;

use super::line_login::LineLogin;
use super::lines::{Framing, LineDialogue, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign};
use super::{
    Login, LoginContext, Probe, Protocol, Refusal, SecretKind, Service, TurnedAway, Upgrade, UpgradeError,
};
use login::SieveLogin;

#[derive(Debug)]
pub(super) struct Sieve;

impl Protocol for Sieve {
    fn label(&self) -> &'static str {
        "sieve"
    }

    fn service(&self) -> Service {
        Service { names: &["managesieve"], ..Service::UNKNOWN }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        first.starts_with(b"\"IMPLEMENTATION\"").then_some("it greets as servers of sieve do")
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation { is_greeted: false, offers_tls: false })))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // A quoted string: its two special characters are escaped (RFC 5804 §4).
        let words = refusal.sentence().replace('\\', "\\\\").replace('"', "\\\"");
        // No known client reads a BYE in place of the greeting (§1.2): sievelib and managesieve look for capabilities,
        // and show the answer to their first command.
        Some(
            format!(
                "\"IMPLEMENTATION\" \"ambassador\"\r\n\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"\"\r\n\"VERSION\" \"1.0\"\r\n\
                 OK \"ambassador\"\r\nNO (TRYLATER) \"{words}\"\r\nBYE (TRYLATER) \"{words}\"\r\n"
            )
            .into_bytes(),
        )
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply = |line| match line {
            _ if begins_with(line, "OK") => ProbeReply::Good,
            [b'"', ..] => ProbeReply::More,
            _ => ProbeReply::Bad,
        };
        Some(Box::new(LineProbe::framed(Framing::Literals, Some(greeting), None, b"LOGOUT\r\n")))
    }

    fn goodbye(&self) -> &'static [u8] {
        b"LOGOUT\r\n"
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::BearerToken]
    }

    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        if self.login_secrets().contains(&kind) { super::sasl::names(kind) } else { &[] }
    }

    fn holds_clients(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(LineLogin::new(SieveLogin::new(context))))
    }
}

/// The text of a BYE or NO: a quoted string or a literal, after a code in brackets if there is one.
fn text(line: &[u8]) -> &[u8] {
    if !line.ends_with(b"\"")
        && let Some(end) = line.iter().position(|byte| *byte == b'\n')
    {
        return &line[end + 1..];
    }
    let quoted = line.iter().position(|byte| *byte == b'"').map(|at| &line[at + 1..]).unwrap_or_default();
    quoted.strip_suffix(b"\"").unwrap_or(quoted)
}

fn bye(line: &[u8]) -> UpgradeError {
    TurnedAway::new("ManageSieve BYE", None, text(line)).into()
}

/// Capabilities, then the answer to STARTTLS.
#[derive(Debug)]
struct Conversation {
    is_greeted: bool,
    offers_tls: bool,
}

impl LineDialogue for Conversation {
    const FRAMING: Framing = Framing::Literals;

    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        if !self.is_greeted && line.starts_with(b"\"") {
            self.offers_tls |= begins_with(&line[1..], "STARTTLS");
            return Ok(LineStep::More);
        }
        match (self.is_greeted, begins_with(line, "OK")) {
            (false, true) if self.offers_tls => {
                self.is_greeted = true;
                Ok(LineStep::Say(Cow::Borrowed(b"STARTTLS\r\n")))
            }
            (false, true) => Err(UpgradeError::NotOffered("STARTTLS")),
            (true, true) => Ok(LineStep::Tls),
            (false, false) if begins_with(line, "BYE") || begins_with(line, "NO") => Err(bye(line)),
            (true, false) if begins_with(line, "NO") => Err(UpgradeError::Declined),
            (true, false) if begins_with(line, "BYE") => Err(bye(line)),
            (_, false) => Err(foreign("ManageSieve", line)),
        }
    }

    /// Empty: the server's own greeting follows.
    fn welcome(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
