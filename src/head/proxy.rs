//! The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): who is really at the other end, said by the
//! proxy before us, or by us to the server behind.
//!
//! Reading is strict: one space is one space, a length is exact, a checksum is checked, and what contradicts itself is
//! refused. A family or an extension that the specification leaves to the future is not guessed at.

mod read;
mod write;

// Addresses are values; `core` has them without the sockets.
use core::net::SocketAddr;
use std::fmt;

pub use read::{Error, HeaderReader};
pub use write::{AddressPair, Extensions, V2_LEAST, write_v1, write_v2};

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whose connection it is.
    pub command: ProxyCommand,
    /// The name the client asked the other proxy for (`PP2_TYPE_AUTHORITY`, mostly TLS' server name).
    pub authority: Option<String>,
    /// What the other proxy calls the connection (`PP2_TYPE_UNIQUE_ID`), at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
}

/// Whose connection it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyCommand {
    /// The other proxy's own, for a health check say.
    Local,
    /// Somebody's on whose behalf it connects.
    Proxied(ProxyAddresses),
}

/// From where to where that somebody connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyAddresses {
    /// The other proxy does not say.
    Unknown,
    /// Over TCP, both of one family.
    Tcp {
        /// Whose connection it is.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// Over a unix socket: paths without trailing zeros, empty for one that has no name; at most 108 bytes each.
    Unix {
        /// Whose connection it is; mostly empty.
        source: Vec<u8>,
        /// What it connected to.
        destination: Vec<u8>,
    },
}

impl fmt::Display for ProxyAddresses {
    /// The source, as the log shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Tcp { source, .. } => source.fmt(f),
            Self::Unix { source, .. } if source.is_empty() => f.write_str("unix"),
            Self::Unix { source, .. } => write!(f, "unix:{}", source.escape_ascii()),
        }
    }
}

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
/// Each path of a unix address.
const UNIX_PATH: usize = 108;

const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

/// Extensions of version 2 (TLVs) that we read or write. Those from 0xE0 to 0xEF are for applications; ours are listed
/// for readers in docs/CONTEXT.md.
mod tlv {
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    pub(super) const HOST: u8 = 0xe0;
    pub(super) const UNIT: u8 = 0xe1;
    pub(super) const UID: u8 = 0xe2;
    pub(super) const CONTEXT: u8 = 0xe3;
}

/// CRC32C (RFC 3720 appendix B.4), of a header of a few hundred bytes: no table.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ REVERSED_POLYNOMIAL } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests;
