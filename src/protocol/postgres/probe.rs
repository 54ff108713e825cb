//! A conversation without credentials that shows a server at work.

use super::{HEAD, be_u32, sqlstate};
use crate::protocol::{Probe as AnyProbe, ProbeError, ProbeStep};

/// A StartupMessage for a role that need not exist, and the server's first message. What ends it is the close_notify alone: a
/// Terminate in the middle of a login is an error to the server, and an end of stream is none.
#[derive(Debug, Default)]
pub(super) struct StartupProbe {
    pub(super) held: Vec<u8>,
}

/// Protocol 3.0, which every server knows. The database is one that all have; nobody gets as far as to open it.
const PROBE: &[u8] = b"\0\0\0\x31\0\x03\0\0user\0ambassador_probe\0database\0postgres\0\0";
/// libpq takes an ErrorResponse of at most 30,000 bytes.
const ANSWER_MAX: u32 = 32 * 1024;

impl AnyProbe for StartupProbe {
    fn begin(&mut self) -> Vec<u8> {
        PROBE.to_vec()
    }

    fn received(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        self.held.extend_from_slice(bytes);
        loop {
            let length = match (self.held.first(), be_u32(&self.held, 1)) {
                // What it asks for does not matter, nor what comes behind.
                (Some(b'R'), Some(8..)) => return Ok(ProbeStep::Serves { goodbye: Vec::new() }),
                (Some(b'E' | b'N' | b'v'), Some(length @ 5..)) if length <= ANSWER_MAX => length as usize,
                (None | Some(b'R' | b'E' | b'N' | b'v'), None) => usize::MAX,
                _ => return Err(ProbeError("the server's first message is not PostgreSQL".into())),
            };
            if self.held.len() <= length {
                return match bytes {
                    [] => Err(ProbeError(
                        "the server closed the connection instead of asking for a login".into(),
                    )),
                    _ => Ok(ProbeStep::Incomplete),
                };
            }
            let message: Vec<_> = self.held.drain(..=length).collect();
            // A notice, or how it understands a version: the answer comes behind it.
            if message[0] == b'E' {
                return judge(sqlstate(&message[HEAD..]));
            }
        }
    }
}

fn judge(sqlstate: Option<&str>) -> Result<ProbeStep, ProbeError> {
    let words = match sqlstate {
        // No such role, no line for it in pg_hba.conf, no such database; PgBouncer says 08P01 for all of them. Or it is full
        // (53300): then it serves others, and its clients hear of it from itself.
        Some("28000" | "28P01" | "3D000" | "08P01" | "53300") => {
            return Ok(ProbeStep::Serves { goodbye: Vec::new() });
        }
        // Starting up, shutting down, or a standby that takes no queries.
        Some("57P03") => "the server takes no connections now",
        Some("57P01" | "57P02") => "the server is shutting down",
        Some(_) => "the server answers a login with an error",
        None => return Err(ProbeError("the server's first message is not PostgreSQL".into())),
    };
    Err(ProbeError(format!("{words} (SQLSTATE {})", sqlstate.unwrap_or_default()).into()))
}
