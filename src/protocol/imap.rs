//! IMAP: STARTTLS towards the server, a greeting of our own towards the client.
//!
//! Sources: RFC 9051 §6.2.1 (STARTTLS; discard what was learnt before it), §7.1.4 (PREAUTH), RFC 5530 (UNAVAILABLE).

mod login;

use std::borrow::Cow;

use super::line_login::LineLogin;
use super::lines::{
    Framing, LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
};
use super::{
    Login, LoginContext, Probe, Protocol, Refusal, SecretKind, Service, TurnedAway, Upgrade, UpgradeError,
};
use login::ImapLogin;

/// IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051).
#[derive(Debug)]
pub(super) struct Imap;

impl Protocol for Imap {
    fn label(&self) -> &'static str {
        "imap"
    }

    fn service(&self) -> Service {
        Service { tls_names: &["imaps"], ports: &[143], tls_ports: &[993], ..Service::UNKNOWN }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        let begins = [&b"* OK"[..], b"* PREAUTH", b"* BYE"];
        begins.iter().any(|begin| first.starts_with(begin)).then_some("it greets as servers of imap do")
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation::Greeting)))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // A server may add the kind of its refusal (RFC 5530). Clients display an [ALERT], and act on other codes.
        let refusal = &refusal.filtered(|by| by.is_marked_only(&["[UNAVAILABLE]", "[LIMIT]", "[INUSE]"]));
        let code = if refusal.server.is_some() { "" } else { "[UNAVAILABLE] " };
        Some(format!("* BYE {code}{}\r\n", refusal.sentence()).into_bytes())
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply = |line| match status(line) {
            Some("OK" | "PREAUTH") => ProbeReply::Good,
            _ => ProbeReply::Bad,
        };
        let noop = LineExchange {
            say: Cow::Borrowed(b"amb1 NOOP\r\n"),
            judge: |line| match line {
                _ if begins_with(line, "amb1 OK") => ProbeReply::Good,
                [b'*', ..] if status(line) != Some("BYE") => ProbeReply::More,
                _ => ProbeReply::Bad,
            },
        };
        let greeting = (!upgraded).then_some(greeting);
        Some(Box::new(LineProbe::framed(Framing::Literals, greeting, Some(noop), b"amb2 LOGOUT\r\n")))
    }

    fn goodbye(&self) -> &'static [u8] {
        b"amb9 LOGOUT\r\n"
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::BearerToken, SecretKind::Certificate]
    }

    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        if self.login_secrets().contains(&kind) { super::sasl::names(kind) } else { &[] }
    }

    fn holds_clients(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(LineLogin::new(ImapLogin::new(context))))
    }
}

/// Without capabilities: the plaintext ones contain STARTTLS and LOGINDISABLED. A client that finds none asks, and
/// gets those after TLS, or after our login.
const GREETING: &[u8] = b"* OK IMAP4rev1 ambassador\r\n";

/// The condition of an untagged status line.
fn status(line: &[u8]) -> Option<&'static str> {
    let rest = line.strip_prefix(b"* ")?;
    ["OK", "PREAUTH", "BYE", "NO", "BAD"].into_iter().find(|word| begins_with(rest, word))
}

fn bye(line: &[u8]) -> TurnedAway {
    TurnedAway::new("IMAP BYE", None, line.get("* BYE".len()..).unwrap_or_default())
}

/// Which line of the server comes next, in this order.
#[derive(Debug)]
enum Conversation {
    Greeting,
    Answer,
}

impl LineDialogue for Conversation {
    const FRAMING: Framing = Framing::Literals;

    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        match self {
            Self::Greeting => match status(line) {
                Some("OK") => {
                    *self = Self::Answer;
                    Ok(LineStep::Say(Cow::Borrowed(b"amb1 STARTTLS\r\n")))
                }
                // Already authenticated, so STARTTLS is not allowed: a way to keep a client in plaintext.
                Some("PREAUTH") => Err(UpgradeError::Unsuitable(
                    "the server says PREAUTH before TLS, after which there is no STARTTLS",
                )),
                Some("BYE") => Err(bye(line).into()),
                _ => Err(foreign("IMAP", line)),
            },
            Self::Answer if begins_with(line, "amb1 OK") => Ok(LineStep::Tls),
            Self::Answer if begins_with(line, "amb1 NO") || begins_with(line, "amb1 BAD") => {
                Err(UpgradeError::Declined)
            }
            Self::Answer => match status(line) {
                Some("BYE") => Err(bye(line).into()),
                // Untagged data may come at any time. It is not authenticated, so it is dropped.
                _ if line.starts_with(b"* ") => Ok(LineStep::More),
                _ => Err(foreign("IMAP", line)),
            },
        }
    }

    fn welcome(&self) -> Vec<u8> {
        GREETING.to_vec()
    }
}

#[cfg(test)]
mod tests;
