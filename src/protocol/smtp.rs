//! SMTP, submission and LMTP: STARTTLS towards the server, a greeting of our own towards the client.
//!
//! Sources: RFC 5321 (replies: §4.2), RFC 3207 (STARTTLS; §4.2: discard what was learnt before TLS), RFC 2033 (LMTP),
//! RFC 3463 and RFC 5248 (enhanced codes). Implicit TLS (RFC 8314) is `start: direct`, and nothing is rewritten there.

mod client;
mod ehlo_name;
mod login;

use core::net::IpAddr;
use std::borrow::Cow;
use std::time::Duration;

use super::lines::{
    Framing, LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
    greets_220, printable, reply,
};
use super::{
    Dialogue, DialogueError, Login, LoginContext, Options, Outbox, Probe, ProbeError, ProbeStep, Protocol,
    Refusal, RefusalKind, ReplyTo, SecretKind, Service, TurnedAway, Upgrade, UpgradeError,
};
use ehlo_name::EhloName;
pub use ehlo_name::helo_name;

/// Submission or delivery of mail.
#[derive(Debug)]
pub(super) struct Smtp {
    dialect: Dialect,
    name: EhloName,
}

/// The dialects differ in the greeting command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Smtp,
    Lmtp,
}

impl Dialect {
    const fn label(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Smtp => "EHLO",
            Self::Lmtp => "LHLO",
        }
    }

    fn hello(self, name: &EhloName) -> Vec<u8> {
        format!("{} {name}\r\n", self.verb()).into_bytes()
    }
}

impl Smtp {
    pub(super) fn submission(options: &Options) -> Self {
        Self { dialect: Dialect::Smtp, name: EhloName::of(options) }
    }

    pub(super) fn delivery(options: &Options) -> Self {
        Self { dialect: Dialect::Lmtp, name: EhloName::of(options) }
    }
}

impl Protocol for Smtp {
    fn label(&self) -> &'static str {
        self.dialect.label()
    }

    fn service(&self) -> Service {
        match self.dialect {
            Dialect::Smtp => Service {
                names: &["submission", "mail"],
                tls_names: &["smtps", "submissions"],
                ports: &[25, 587],
                tls_ports: &[465],
            },
            Dialect::Lmtp => Service::UNKNOWN,
        }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        greets_220(first)
    }

    /// Postfix takes 536; of LMTP, Dovecot takes 1500.
    fn proxy_header_max(&self) -> usize {
        match self.dialect {
            Dialect::Smtp => 512,
            Dialect::Lmtp => 1500,
        }
    }

    fn server_greets(&self) -> bool {
        true
    }

    /// Five minutes, as RFC 5321 §4.5.3.2.1 asks of clients.
    fn greeting_timeout(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Conversation {
            dialect: self.dialect,
            name: self.name.clone(),
            expects: Expects::Greeting,
            offers_tls: false,
        })))
    }

    fn goodbye(&self) -> &'static [u8] {
        b"QUIT\r\n"
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
        Some(Box::new(login::MailLogin::new(self.dialect, self.name.clone(), context)))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // The reply and the enhanced code must mean "not now" (RFC 5321 §4.2.1, RFC 3463 §2): a 5 returns the mail to
        // its sender.
        let refusal = &refusal.filtered(|by| {
            by.code.is_some_and(|code| (400..500).contains(&code)) && !by.words.starts_with(['2', '5'])
        });
        if let Some(code) = refusal.server_code() {
            return Some(format!("{code} {}\r\n", refusal.sentence()).into_bytes());
        }
        // 421 is the one reply that may come at any time; it means that the channel closes (RFC 5321 §3.8).
        let code = match refusal.kind {
            RefusalKind::BadRequest => "5.5.1",
            RefusalKind::Denied => "5.7.1",
            RefusalKind::LoginFailed => "4.7.0",
            RefusalKind::Full => "4.4.5",
            RefusalKind::Unreachable => "4.4.1",
            RefusalKind::ShuttingDown => "4.3.2",
        };
        let reply = format!("421 {code} {}\r\n", refusal.sentence());
        // A client that was greeted has sent EHLO, answers a 421 by HELO (msmtp, Exim), and shows the reply to that.
        Some(reply.repeat(if refusal.reply_to == ReplyTo::WELCOMED { 2 } else { 1 }).into_bytes())
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Hello { dialect: self.dialect, name: self.name.clone(), upgraded, begun: None }))
    }
}

/// Whether a line of the reply to EHLO, without its code, is that keyword, with or without parameters (`AUTH=` is an old
/// form).
fn is_keyword(capability: &[u8], word: &str) -> bool {
    let end = capability.iter().position(|byte| matches!(byte, b' ' | b'=' | b'\t' | b'\r'));
    capability[..end.unwrap_or(capability.len())].eq_ignore_ascii_case(word.as_bytes())
}

/// Reads the greeting and the answer to EHLO.
#[derive(Debug)]
struct Hello {
    dialect: Dialect,
    name: EhloName,
    upgraded: bool,
    begun: Option<LineProbe>,
}

impl Hello {
    fn lines(&mut self) -> &mut LineProbe {
        self.begun.get_or_insert_with(|| {
            let greeting: fn(&[u8]) -> ProbeReply = |line| judge_reply(line, 220);
            let say = Cow::Owned(self.dialect.hello(&self.name));
            let hello = LineExchange { say, judge: |line| judge_reply(line, 250) };
            let greeting = (!self.upgraded).then_some(greeting);
            LineProbe::framed(Framing::Lines, greeting, Some(hello), b"QUIT\r\n")
        })
    }
}

impl Probe for Hello {
    fn comes_from(&mut self, local: IpAddr) {
        self.name.comes_from(local);
    }

    fn begin(&mut self) -> Vec<u8> {
        self.lines().begin()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        self.lines().receive(bytes)
    }
}

fn judge_reply(line: &[u8], hoped: u16) -> ProbeReply {
    match reply(line) {
        Some((code, true)) if code == hoped => ProbeReply::Good,
        Some((code, false)) if code == hoped => ProbeReply::More,
        _ => ProbeReply::Bad,
    }
}

/// The way to TLS: greeting, EHLO, STARTTLS.
#[derive(Debug)]
struct Conversation {
    dialect: Dialect,
    name: EhloName,
    expects: Expects,
    offers_tls: bool,
}

/// Which reply of the server comes next, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Greeting,
    Capabilities,
    Go,
}

impl LineDialogue for Conversation {
    fn comes_from(&mut self, local: IpAddr) {
        self.name.comes_from(local);
    }

    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        let (code, is_last) = reply(line).ok_or_else(|| foreign("SMTP", line))?;
        if self.expects == Expects::Capabilities
            && code == 250
            && begins_with(&line[4.min(line.len())..], "STARTTLS")
        {
            self.offers_tls = true;
        }
        if !is_last {
            // postscreen sends a greeting of several lines to find clients that speak before its end.
            return Ok(LineStep::More);
        }
        match (self.expects, code) {
            (Expects::Greeting, 220) => {
                self.expects = Expects::Capabilities;
                Ok(LineStep::Say(Cow::Owned(self.dialect.hello(&self.name))))
            }
            (Expects::Greeting, 400..600) => Err(TurnedAway::reply("SMTP", code, line).into()),
            (Expects::Greeting, _) => Err(foreign("SMTP", line)),
            (Expects::Capabilities, 250) if self.offers_tls => {
                self.expects = Expects::Go;
                Ok(LineStep::Say(Cow::Borrowed(b"STARTTLS\r\n")))
            }
            (Expects::Capabilities, 250) => Err(UpgradeError::NotOffered("STARTTLS")),
            (Expects::Capabilities, 400..500) => Err(TurnedAway::reply("SMTP", code, line).into()),
            (Expects::Capabilities, _) => {
                let to = format!("{} {}", self.dialect.verb(), self.name);
                Err(UpgradeError::Answered { to, said: printable(line) })
            }
            (Expects::Go, 220) => Ok(LineStep::Tls),
            (Expects::Go, _) => Err(UpgradeError::Declined),
        }
    }

    fn welcome(&self) -> Vec<u8> {
        let kind = match self.dialect {
            Dialect::Smtp => "ESMTP",
            Dialect::Lmtp => "LMTP",
        };
        format!("220 {} {kind} ambassador\r\n", self.name).into_bytes()
    }

    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(FirstReply::default()))
    }
}

/// Removes STARTTLS and REQUIRETLS from the server's first reply after TLS, the answer to EHLO. No server should list
/// the first there (RFC 3207 §4.2). Servers may list the second (Postfix 3.11), but it promises TLS on every hop (RFC
/// 8689), and the client's hop to us has none.
#[derive(Debug, Default)]
struct FirstReply {
    line: Vec<u8>,
    /// The last complete line, until it is known whether another follows.
    held: Vec<u8>,
    is_over: bool,
}

/// Longer than any line of a reply (512 by RFC 5321 §4.5.3.1.5); longer ones are passed on unchanged.
const LINE_MAX: usize = 4096;

impl FirstReply {
    fn end_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let Some((code, is_last)) = reply(line.trim_ascii_end()) else { return self.give_up(&line, out) };
        let keyword = line.get(4..).unwrap_or_default().trim_ascii_end();
        let is_dropped =
            code == 250 && ["STARTTLS", "REQUIRETLS"].iter().any(|word| begins_with(keyword, word));
        if !is_dropped {
            out.append(&mut self.held);
            self.held = line;
        }
        if is_last {
            if let Some(mark) = self.held.get_mut(3).filter(|mark| **mark == b'-') {
                *mark = b' ';
            }
            self.give_up(b"", out);
        }
    }

    /// Passes on what is buffered, and examines nothing more.
    fn give_up(&mut self, line: &[u8], out: &mut Vec<u8>) {
        out.append(&mut self.held);
        out.extend_from_slice(line);
        out.append(&mut self.line);
        self.is_over = true;
    }
}

impl Dialogue for FirstReply {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_upstream.extend_from_slice(bytes);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let out = &mut out.to_downstream;
        let mut bytes = bytes.iter();
        while !self.is_over {
            let Some(byte) = bytes.next() else { return Ok(()) };
            self.line.push(*byte);
            if *byte == b'\n' {
                self.end_line(out);
            } else if self.line.len() > LINE_MAX {
                self.give_up(b"", out);
            }
        }
        out.extend_from_slice(bytes.as_slice());
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests;
