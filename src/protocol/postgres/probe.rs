//! A conversation without credentials that shows that a server works.

use super::{HEAD, be_u32, sqlstate};
use crate::protocol::{Probe as AnyProbe, ProbeError, ProbeStep};

/// A StartupMessage for a role that need not exist, and the server's first message. Only the close_notify ends it: the
/// server logs a Terminate in the middle of a login as an error, but not an end of stream.
#[derive(Debug, Default)]
pub(super) struct StartupProbe {
    pub(super) held: Vec<u8>,
}

/// Protocol 3.0, which every server knows. Every server has this database, and it is never opened.
const PROBE: &[u8] = b"\0\0\0\x31\0\x03\0\0user\0ambassador_probe\0database\0postgres\0\0";
/// The longest answer; libpq accepts an ErrorResponse of at most 30,000 bytes.
const ANSWER_MAX: u32 = 32 * 1024;

impl AnyProbe for StartupProbe {
    fn begin(&mut self) -> Vec<u8> {
        PROBE.to_vec()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        self.held.extend_from_slice(bytes);
        loop {
            let length = match (self.held.first(), be_u32(&self.held, 1)) {
                // Which authentication it requests does not matter, nor what follows.
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
            // A notice, or a negotiated version: the answer follows.
            if message[0] == b'E' {
                return judge(sqlstate(&message[HEAD..]));
            }
        }
    }
}

fn judge(sqlstate: Option<&str>) -> Result<ProbeStep, ProbeError> {
    let words = match sqlstate {
        // No such role, no line for it in pg_hba.conf, no such database; PgBouncer sends 08P01 for all of them. Or the
        // server is full (53300): it works, and its clients get that error from itself.
        Some("28000" | "28P01" | "3D000" | "08P01" | "53300") => {
            return Ok(ProbeStep::Serves { goodbye: Vec::new() });
        }
        // Starting up, shutting down, or a standby that accepts no queries.
        Some("57P03") => "the server takes no connections now",
        Some("57P01" | "57P02") => "the server is shutting down",
        Some(_) => "the server answers a login with an error",
        None => return Err(ProbeError("the server's first message is not PostgreSQL".into())),
    };
    Err(ProbeError(format!("{words} (SQLSTATE {})", sqlstate.unwrap_or_default()).into()))
}
