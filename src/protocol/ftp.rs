//! FTP's control connection: AUTH TLS towards the server, and an error for commands that need a data connection.
//!
//! A data connection goes to an address that the server names in the stream, needs TLS of its own (PROT P), and with
//! many servers a resumption of this TLS session: an application-level gateway could do that, a relay cannot. Sources:
//! RFC 959, RFC 2228 (AUTH, PBSZ, PROT, CCC), RFC 2428 (EPRT, EPSV), RFC 4217.

use std::borrow::Cow;

use super::lines::{
    Framing, LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
    greets_220, reply,
};
use super::{
    Dialogue, DialogueError, Outbox, Probe, Protocol, Refusal, ReplyTo, Service, TurnedAway, Upgrade,
    UpgradeError,
};

#[derive(Debug)]
pub(super) struct FtpControl;

impl Protocol for FtpControl {
    fn label(&self) -> &'static str {
        "ftp-control"
    }

    fn service(&self) -> Service {
        Service { names: &["ftp"], tls_names: &["ftps"], ports: &[21], tls_ports: &[990] }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        greets_220(first)
    }

    fn server_greets(&self) -> bool {
        true
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation { is_greeted: false })))
    }

    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Commands::default()))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // "Not now" (RFC 959 §4.2.1).
        let refusal = &refusal.filtered(|by| by.code.is_some_and(|code| (400..500).contains(&code)));
        let code = refusal.server_code().unwrap_or(421);
        Some(format!("{code} {}\r\n", refusal.sentence()).into_bytes())
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply = |line| match reply(line) {
            Some((220, _)) => ProbeReply::Good,
            Some((120, _)) => ProbeReply::More,
            _ => ProbeReply::Bad,
        };
        // 530 (log in first) is the answer of a server that works.
        let noop = LineExchange {
            say: Cow::Borrowed(b"NOOP\r\n"),
            judge: |line| match reply(line) {
                None | Some((421, _)) => ProbeReply::Bad,
                Some(_) => ProbeReply::Good,
            },
        };
        let greeting = (!upgraded).then_some(greeting);
        Some(Box::new(LineProbe::framed(Framing::Replies, greeting, Some(noop), b"QUIT\r\n")))
    }
}

/// Greeting, then the answer to AUTH.
#[derive(Debug)]
struct Conversation {
    is_greeted: bool,
}

impl LineDialogue for Conversation {
    const FRAMING: Framing = Framing::Replies;

    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        let (code, _) = reply(line).ok_or_else(|| foreign("FTP", line))?;
        match (self.is_greeted, code) {
            (false, 120) => Ok(LineStep::More),
            (false, 220) => {
                self.is_greeted = true;
                Ok(LineStep::Say(Cow::Borrowed(b"AUTH TLS\r\n")))
            }
            (false, 400..600) => Err(TurnedAway::reply("FTP", code, line).into()),
            (false, _) => Err(foreign("FTP", line)),
            (true, 234) => Ok(LineStep::Tls),
            (true, _) => Err(UpgradeError::Declined),
        }
    }

    fn welcome(&self) -> Vec<u8> {
        b"220 ambassador (control connection only)\r\n".to_vec()
    }

    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Commands::default()))
    }
}

/// Examines the client's commands throughout the session.
#[derive(Debug, Default)]
struct Commands {
    line: Vec<u8>,
}

/// The longest command; it may contain a long path.
const COMMAND_MAX: usize = 8 * 1024;

/// Commands that open a data connection or change TLS or the login, and our answers.
const REFUSED: [(&str, &str); 12] = [
    ("PASV", DATA),
    ("EPSV", DATA),
    ("LPSV", DATA),
    ("PORT", DATA),
    ("EPRT", DATA),
    ("LPRT", DATA),
    ("AUTH", "534 ambassador: TLS towards the server is there already\r\n"),
    ("CCC", "533 ambassador: the control connection stays protected\r\n"),
    ("PBSZ", "503 ambassador: there is no TLS on this hop\r\n"),
    ("PROT", "503 ambassador: there is no TLS on this hop\r\n"),
    ("ADAT", "503 ambassador: there is no TLS on this hop\r\n"),
    ("REIN", "502 ambassador: log in on a new connection instead\r\n"),
];
const DATA: &str =
    "502 ambassador: only the control connection is served here; a data connection would leave it\r\n";

impl Dialogue for Commands {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        for portion in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(portion);
            if self.line.len() > COMMAND_MAX {
                let reason = "the client's command is longer than 8 KiB";
                return Err(DialogueError::of_client(reason, ReplyTo::default()));
            }
            if portion.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                match REFUSED.iter().find(|(command, _)| begins_with(&line, command)) {
                    Some((_, answer)) => out.to_downstream.extend_from_slice(answer.as_bytes()),
                    None => out.to_upstream.extend_from_slice(&line),
                }
            }
        }
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_downstream.extend_from_slice(bytes);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
