//! The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): the addresses of the original connection,
//! as sent by the proxy before us, or by us to the server.
//!
//! Reading is strict: one space is one space, a length is exact, a checksum is verified, and a contradiction is an
//! error. Unknown families are refused, unknown extensions skipped.

mod read;
mod write;

// Addresses are values; `core` has them without the sockets.
use core::net::SocketAddr;
use std::fmt;

pub use read::{Error, HeaderReader};
pub use write::{AddressPair, Extensions, V2_LEAST, write_v1, write_v2};

/// A parsed PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whether the connection was made for a client, and its addresses.
    pub command: ProxyCommand,
    /// The name the client asked the other proxy for (`PP2_TYPE_AUTHORITY`, mostly TLS' server name).
    pub authority: Option<String>,
    /// The other proxy's id of the connection (`PP2_TYPE_UNIQUE_ID`), at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
}

/// Whether a connection is the other proxy's own or a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyCommand {
    /// The other proxy's own, such as a health check.
    Local,
    /// On behalf of a client.
    Proxied(ProxyAddresses),
}

/// The addresses of the client's connection to the other proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyAddresses {
    /// The other proxy sent none.
    Unknown,
    /// Over TCP, both of one family.
    Tcp {
        /// The address that the client connected from.
        source: SocketAddr,
        /// The address that it connected to.
        destination: SocketAddr,
    },
    /// Over a unix socket: paths without trailing zeros, empty for one that has no name; at most 108 bytes each.
    Unix {
        /// The client's path; mostly empty.
        source: Vec<u8>,
        /// The path that it connected to.
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

/// The first bytes of a header of version 2.
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
