//! POP3: STLS towards the server, a greeting of our own towards the client, with the server's APOP timestamp.
//!
//! Sources: RFC 1939 (§7: APOP), RFC 2595 §4 (STLS), RFC 3206 (SYS/TEMP), RFC 2449 (CAPA).

mod login;

use std::borrow::Cow;

use super::line_login::LineLogin;
use super::lines::{
    LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
};
use super::{
    Login, LoginContext, Probe, Protocol, Refusal, SecretKind, Service, TurnedAway, Upgrade, UpgradeError,
};
use login::Pop3Login;

#[derive(Debug)]
pub(super) struct Pop3;

impl Protocol for Pop3 {
    fn label(&self) -> &'static str {
        "pop3"
    }

    fn service(&self) -> Service {
        Service { tls_names: &["pop3s"], ports: &[110], tls_ports: &[995], ..Service::UNKNOWN }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        first.starts_with(b"+OK").then_some("it greets as servers of pop3 do")
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation { is_greeted: false, timestamp: None })))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // A server may add the kind of its refusal (RFC 2449, RFC 3206); after [AUTH] clients ask for another password.
        let refusal = &refusal.filtered(|by| by.is_marked_only(&["[SYS/TEMP]", "[IN-USE]", "[LOGIN-DELAY]"]));
        let code = if refusal.server.is_some() { "" } else { "[SYS/TEMP] " };
        Some(format!("-ERR {code}{}\r\n", refusal.sentence()).into_bytes())
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply =
            |line| if begins_with(line, "+OK") { ProbeReply::Good } else { ProbeReply::Bad };
        // A server without CAPA answers, too.
        let capabilities = LineExchange {
            say: Cow::Borrowed(b"CAPA\r\n"),
            judge: |line| match line {
                b"." => ProbeReply::Good,
                _ if begins_with(line, "-ERR") => ProbeReply::Good,
                _ => ProbeReply::More,
            },
        };
        Some(LineProbe::boxed((!upgraded).then_some(greeting), Some(capabilities), b"QUIT\r\n"))
    }

    fn goodbye(&self) -> &'static [u8] {
        b"QUIT\r\n"
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
        Some(Box::new(LineLogin::new(Pop3Login::new(context))))
    }
}

/// Greeting, then the answer to STLS.
#[derive(Debug)]
struct Conversation {
    is_greeted: bool,
    timestamp: Option<Vec<u8>>,
}

impl LineDialogue for Conversation {
    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        let is_ok = begins_with(line, "+OK");
        if !is_ok && !begins_with(line, "-ERR") {
            return Err(foreign("POP3", line));
        }
        match (self.is_greeted, is_ok) {
            (false, true) => {
                self.is_greeted = true;
                self.timestamp = timestamp(line).map(<[u8]>::to_vec);
                Ok(LineStep::Say(Cow::Borrowed(b"STLS\r\n")))
            }
            (false, false) => {
                Err(TurnedAway::new("POP3 -ERR", None, line.get("-ERR".len()..).unwrap_or_default()).into())
            }
            (true, true) => Ok(LineStep::Tls),
            (true, false) => Err(UpgradeError::Declined),
        }
    }

    /// The timestamp is part of an APOP login, and servers do not repeat it after TLS. An attacker could forge it to
    /// get a password's digest with a text of its own, but the digest goes to the server that TLS has verified.
    fn welcome(&self) -> Vec<u8> {
        greeting(self.timestamp.as_deref())
    }
}

fn greeting(timestamp: Option<&[u8]>) -> Vec<u8> {
    let mut words = b"+OK ambassador ready".to_vec();
    if let Some(timestamp) = timestamp {
        words.push(b' ');
        words.extend_from_slice(timestamp);
    }
    words.extend_from_slice(b"\r\n");
    words
}

/// Longer than any message id in use.
const TIMESTAMP_MAX: usize = 255;

/// `<local@domain>` of printable characters, as RFC 1939 §7 takes it from RFC 822.
fn timestamp(line: &[u8]) -> Option<&[u8]> {
    let begin = line.iter().position(|byte| *byte == b'<')?;
    let end = begin + line[begin..].iter().position(|byte| *byte == b'>')?;
    let whole = &line[begin..=end];
    let inner = &whole[1..whole.len() - 1];
    let is_plain = inner.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'<');
    let at = inner.iter().position(|byte| *byte == b'@')?;
    (is_plain && at > 0 && at + 1 < inner.len() && whole.len() <= TIMESTAMP_MAX).then_some(whole)
}

#[cfg(test)]
mod tests;
