//! NNTP: STARTTLS towards the server, a greeting of our own with the server's code towards the client.
//!
//! Sources: RFC 3977 §5.1 (200 and 201: posting allowed or not; 400, 502), RFC 4642 (STARTTLS: 382; 580).

use std::borrow::Cow;

use super::lines::{LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, foreign, reply};
use super::{Probe, Protocol, Refusal, Service, TurnedAway, Upgrade, UpgradeError};

/// NNTP for newsreaders, with STARTTLS (RFC 4642).
#[derive(Debug)]
pub(super) struct Nntp;

impl Protocol for Nntp {
    fn label(&self) -> &'static str {
        "nntp"
    }

    fn service(&self) -> Service {
        Service { tls_names: &["nntps"], ports: &[119], tls_ports: &[563], ..Service::UNKNOWN }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        (first.starts_with(b"200 ") || first.starts_with(b"201 "))
            .then_some("it greets as servers of nntp do")
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation { greeted: None })))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // "Not now" (RFC 3977 §3.2.1); other codes are permanent.
        let refusal = &refusal.filtered(|by| by.code == Some(400));
        let code = refusal.server_code().unwrap_or(400);
        Some(format!("{code} {}\r\n", refusal.sentence()).into_bytes())
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply = |line| match reply(line) {
            Some((200 | 201, _)) => ProbeReply::Good,
            _ => ProbeReply::Bad,
        };
        // Any answer but "going away" shows that the server works; DATE needs no group and, with most servers, no
        // login.
        let date = LineExchange {
            say: Cow::Borrowed(b"DATE\r\n"),
            judge: |line| match reply(line) {
                None | Some((400, _)) => ProbeReply::Bad,
                Some(_) => ProbeReply::Good,
            },
        };
        Some(LineProbe::boxed((!upgraded).then_some(greeting), Some(date), b"QUIT\r\n"))
    }
}

/// Greeting, then the answer to STARTTLS.
#[derive(Debug)]
struct Conversation {
    greeted: Option<u16>,
}

impl LineDialogue for Conversation {
    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        let (code, _) = reply(line).ok_or_else(|| foreign("NNTP", line))?;
        match (self.greeted, code) {
            (None, 200 | 201) => {
                self.greeted = Some(code);
                Ok(LineStep::Say(Cow::Borrowed(b"STARTTLS\r\n")))
            }
            (None, 400..600) => Err(TurnedAway::reply("NNTP", code, line).into()),
            (None, _) => Err(foreign("NNTP", line)),
            (Some(_), 382) => Ok(LineStep::Tls),
            (Some(_), _) => Err(UpgradeError::Declined),
        }
    }

    fn welcome(&self) -> Vec<u8> {
        format!("{} ambassador ready\r\n", self.greeted.unwrap_or(201)).into_bytes()
    }
}

#[cfg(test)]
mod tests;
