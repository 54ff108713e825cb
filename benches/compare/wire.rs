//! The one byte that opens every session and tells the reference upstream what to do in it.
//!
//! One byte, so that it costs a proxy next to nothing and never straddles two reads. Lacks everything else of a
//! protocol: the load and the upstream are always of one build.
use std::io;

/// The chunk that the load and the upstream pass to the kernel in bulk rows.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Sent wherever content does not matter.
pub(crate) static FILL: [u8; CHUNK] = [0x5a; CHUNK];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    /// Answer each whole message of this many bytes (a power of two) with as many.
    Echo(usize),
    /// Answer with one byte, at once.
    Ping,
    /// The server sends for ever.
    Down,
    /// The client sends for ever.
    Up,
    Both,
    /// Report the counts of each set of ports, then close.
    Tally,
}

impl Ask {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Echo(size) => {
                debug_assert!(size.is_power_of_two(), "the byte holds only the exponent");
                u8::try_from(size.trailing_zeros()).expect("an exponent is below 64")
            }
            Self::Ping => b'p',
            Self::Down => b'd',
            Self::Up => b'u',
            Self::Both => b'b',
            Self::Tally => b't',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> io::Result<Self> {
        Ok(match byte {
            0..=24 => Self::Echo(1 << byte),
            b'p' => Self::Ping,
            b'd' => Self::Down,
            b'u' => Self::Up,
            b'b' => Self::Both,
            b't' => Self::Tally,
            _ => return Err(io::Error::other(format!("no session opens with byte {byte}"))),
        })
    }
}

/// The counts of one set of the upstream's ports, which is one contestant's share.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) bytes_heard: u64,
    pub(crate) full_handshakes: u64,
    pub(crate) resumed_handshakes: u64,
}

impl Tally {
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.bytes_heard.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.full_handshakes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.resumed_handshakes.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { bytes_heard: word(0), full_handshakes: word(8), resumed_handshakes: word(16) }
    }

    /// The share of resumed handshakes since `before`, if there were any handshakes.
    pub(crate) fn resumed_since(self, before: Self) -> Option<f64> {
        let resumed = self.resumed_handshakes - before.resumed_handshakes;
        let all = resumed + self.full_handshakes - before.full_handshakes;
        (all > 0).then(|| resumed as f64 / all as f64)
    }
}
