//! Redis and other servers of RESP (Valkey, KeyDB): TLS with the first byte, nothing rewritten unless we sign in.
//!
//! Sources: redis.io, "Redis serialization protocol specification"; networking.c (readQueryFromClient: inline
//! commands). Sentinel and Cluster name other addresses to their clients: docs/protocols/direct.md.

mod login;
mod resp;

use std::time::Duration;

use super::first_message::{FirstMessage, FirstMessageVerdict};
use super::{
    Login, LoginContext, Opening, Probe, ProbeError, ProbeStep, Protocol, Refusal, RefusalKind, ReplyTo,
    SecretKind, Service,
};

/// RESP; the client speaks first.
#[derive(Debug)]
pub(super) struct Redis;

impl Protocol for Redis {
    fn label(&self) -> &'static str {
        "redis"
    }

    fn service(&self) -> Service {
        Service { names: &["valkey"], tls_names: &["rediss"], ..Service::UNKNOWN }
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        first.starts_with(b"-ERR ").then_some("it answers as servers of redis do")
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; use redis:// instead of rediss:// (redis-cli without --tls)";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// `timeout` is off by default; load balancers in between rarely have a shorter one.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    /// `timeout` is off by default.
    fn silence_timeout(&self) -> Option<Duration> {
        None
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(errors(refusal))
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Ping::default()))
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::PasswordToken]
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::AuthLogin::new(context)))
    }
}

/// An error for each command received: a client counts answers, and does not report one error for three commands
/// (ioredis begins with HELLO and two CLIENT SETINFO). LOADING is sent by servers that do not serve yet: clients take
/// it for a connection failure and retry. For ERR, phpredis returns `false` as if the command had been executed.
fn errors(refusal: &Refusal<'_>) -> Vec<u8> {
    let word = match refusal.kind {
        RefusalKind::BadRequest => "ERR",
        RefusalKind::Denied | RefusalKind::LoginFailed => "NOPERM",
        RefusalKind::Full | RefusalKind::Unreachable | RefusalKind::ShuttingDown => "LOADING",
    };
    let ReplyTo([_, high, low, ..]) = refusal.reply_to;
    let commands = usize::from(u16::from_be_bytes([high, low])).max(1);
    format!("-{word} {}\r\n", refusal.sentence()).repeat(commands).into_bytes()
}

/// The number of commands in these bytes; the last may be incomplete.
fn commands(mut bytes: &[u8]) -> u16 {
    let mut count = 0_u16;
    while !bytes.is_empty() {
        let (line, rest) = split_line(bytes);
        bytes = rest;
        if line.is_empty() {
            continue;
        }
        count = count.saturating_add(1);
        for _ in 0..length(line, b'*').unwrap_or_default() {
            let (head, rest) = split_line(bytes);
            let Some(size) = length(head, b'$') else { return count };
            bytes = rest.get(size.saturating_add(2)..).unwrap_or_default();
        }
    }
    count
}

/// A line without its end, and the bytes after it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    let (line, rest) = bytes.split_at(end);
    (line.trim_ascii_end(), rest)
}

/// The number after that mark.
fn length(line: &[u8], mark: u8) -> Option<usize> {
    std::str::from_utf8(line.strip_prefix(&[mark])?).ok()?.parse().ok()
}

/// An array, or an inline command that begins with a letter.
fn judge(bytes: &[u8]) -> FirstMessageVerdict {
    let speaks = || {
        let [high, low] = commands(bytes).to_be_bytes();
        FirstMessageVerdict::Speaks(ReplyTo([1, high, low, 0, 0, 0, 0, 0]))
    };
    match bytes.first() {
        None => FirstMessageVerdict::Incomplete,
        Some(b'*' | b'\r' | b'\n') => speaks(),
        Some(first) if first.is_ascii_alphabetic() => speaks(),
        Some(_) => FirstMessageVerdict::Foreign(
            "the client's first bytes are not Redis (neither an array nor an inline command)",
        ),
    }
}

/// `PING`, and the answer of a server that has not received a password.
#[derive(Debug, Default)]
struct Ping {
    held: Vec<u8>,
}

/// Longer than any answer to PING.
const ANSWER_MAX: usize = 1024;

impl Probe for Ping {
    fn begin(&mut self) -> Vec<u8> {
        b"*1\r\n$4\r\nPING\r\n".to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        self.held.extend_from_slice(bytes);
        let Some(end) = self.held.iter().position(|byte| *byte == b'\n') else {
            return match bytes {
                [] => Err(ProbeError("the server closed the connection instead of answering PING".into())),
                _ if self.held.len() > ANSWER_MAX => Err(ProbeError("the answer to PING has no end".into())),
                _ => Ok(ProbeStep::Incomplete),
            };
        };
        let line = &self.held[..end];
        let word = line.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
        match word {
            b"+PONG" | b"-NOAUTH" | b"-NOPERM" => Ok(ProbeStep::Serves { goodbye: Vec::new() }),
            b"-LOADING" => Err(ProbeError("the server is loading its data (LOADING)".into())),
            b"-MASTERDOWN" => Err(ProbeError("the replica has lost its master (MASTERDOWN)".into())),
            b"-BUSY" => Err(ProbeError("the server is busy with a script (BUSY)".into())),
            _ => Err(ProbeError("the answer to PING is not Redis'".into())),
        }
    }
}

#[cfg(test)]
mod tests;
