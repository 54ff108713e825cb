//! Redis, and whoever speaks RESP (Valkey, KeyDB): TLS with the first byte, nothing rewritten.
//!
//! Sources: redis.io, "Redis serialization protocol specification"; networking.c (readQueryFromClient: inline commands).
//! Sentinel and Cluster name other addresses to their clients: docs/protocols/direct.md.

use std::time::Duration;

use super::first_message::{FirstMessage, Verdict};
use super::{Opening, Probe, ProbeError, Probed, Protocol, Refusal, ReplyTo};

/// RESP with the first byte of the client.
#[derive(Debug)]
pub(super) struct Redis;

impl Protocol for Redis {
    fn label(&self) -> &'static str {
        "redis"
    }

    fn opening(&self) -> Option<Box<dyn Opening>> {
        let hint = "the client speaks TLS to a plaintext port; use redis:// instead of rediss:// (redis-cli without --tls)";
        Some(Box::new(FirstMessage::new(judge, hint)))
    }

    /// `timeout` is off by default; load balancers in between seldom wait less than this.
    fn keeps_ready(&self) -> Result<Duration, &'static str> {
        Ok(Duration::from_secs(60))
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        Some(format!("-ERR {}\r\n", refusal.sentence()).into_bytes())
    }

    fn probe(&self, _: bool) -> Option<Box<dyn Probe>> {
        Some(Box::new(Ping::default()))
    }
}

/// An array, or a command in a line of its own that begins with a letter.
fn judge(bytes: &[u8]) -> Verdict {
    match bytes.first() {
        None => Verdict::Incomplete,
        Some(b'*' | b'\r' | b'\n') => Verdict::Speaks(ReplyTo::default()),
        Some(first) if first.is_ascii_alphabetic() => Verdict::Speaks(ReplyTo::default()),
        Some(_) => Verdict::Foreign(
            "the client's first bytes are not Redis (neither an array nor an inline command)",
        ),
    }
}

/// `PING`, and what a server answers that has not seen a password.
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

    fn received(&mut self, bytes: &[u8]) -> Result<Probed, ProbeError> {
        self.held.extend_from_slice(bytes);
        let Some(end) = self.held.iter().position(|byte| *byte == b'\n') else {
            return match bytes {
                [] => Err(ProbeError("the server closed the connection instead of answering PING".into())),
                _ if self.held.len() > ANSWER_MAX => Err(ProbeError("the answer to PING has no end".into())),
                _ => Ok(Probed::Incomplete),
            };
        };
        let line = &self.held[..end];
        let word = line.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
        match word {
            b"+PONG" | b"-NOAUTH" | b"-NOPERM" => Ok(Probed::Serves { goodbye: Vec::new() }),
            b"-LOADING" => Err(ProbeError("the server is loading its data (LOADING)".into())),
            b"-MASTERDOWN" => Err(ProbeError("the replica has lost its master (MASTERDOWN)".into())),
            b"-BUSY" => Err(ProbeError("the server is busy with a script (BUSY)".into())),
            _ => Err(ProbeError("the answer to PING is not Redis'".into())),
        }
    }
}

#[cfg(test)]
mod tests;
