//! What a session of the upstream has received and therefore has to send: its pure half.
//!
//! Lacks sockets and TLS; it counts bytes, and reads only the first.
use std::io;

use crate::wire::{Ask, CHUNK};

#[derive(Default)]
pub(super) struct Talk {
    ask: Option<Ask>,
    /// Bytes received of the current message.
    heard: usize,
    owed: usize,
    heard_in_all: u64,
}

impl Talk {
    pub(super) fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (self.ask, bytes.split_first()) {
            (_, None) => Ok(()),
            (Some(_), Some(_)) => {
                self.take_in(bytes.len());
                Ok(())
            }
            (None, Some((&first, rest))) => {
                let ask = Ask::from_byte(first)?;
                self.ask = Some(ask);
                self.owed = usize::from(ask == Ask::Ping);
                self.heard_in_all += 1;
                self.take_in(rest.len());
                Ok(())
            }
        }
    }

    pub(super) fn take_in(&mut self, bytes: usize) {
        self.heard_in_all += bytes as u64;
        if let Some(Ask::Echo(message)) = self.ask {
            self.heard += bytes;
            self.owed += self.heard / message * message;
            self.heard %= message;
        }
    }

    pub(super) fn heard_in_all(&self) -> u64 {
        self.heard_in_all
    }

    /// How much to send next, at most a chunk.
    pub(super) fn owes(&self) -> usize {
        if self.is_source() { CHUNK } else { self.owed.min(CHUNK) }
    }

    pub(super) fn has_sent(&mut self, bytes: usize) {
        if !self.is_source() {
            self.owed -= bytes;
        }
    }

    /// Whether the content of received bytes does not matter.
    pub(super) fn only_counts(&self) -> bool {
        matches!(self.ask, Some(Ask::Up | Ask::Both))
    }

    pub(super) fn wants_tally(&self) -> bool {
        self.ask == Some(Ask::Tally)
    }

    fn is_source(&self) -> bool {
        matches!(self.ask, Some(Ask::Down | Ask::Both))
    }
}
