//! Writes a PROXY header of either version, always for TCP: IPv4 and IPv6 addresses are all that every receiver
//! accepts (docs/CONTEXT.md says which one refuses what). `LOCAL`, `UNKNOWN` and unix addresses are read, but never
//! written.

use core::net::{IpAddr, SocketAddr};

use super::{SIGNATURE, TCP4, TCP6, V2_FIXED, V2_PROXY, crc32c, tlv};

/// From where to where a connection goes, both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPair {
    /// The address that the client connected from.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
}

impl AddressPair {
    /// IPv4 if possible: IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2) are written as IPv4, unless the other
    /// one is IPv6.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let wide = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
        };
        let (source, destination) = (plain(source), plain(destination));
        if source.is_ipv4() == destination.is_ipv4() {
            Self { source, destination }
        } else {
            Self { source: wide(source), destination: wide(destination) }
        }
    }
}

/// What a header of version 2 contains beside the addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extensions<'a> {
    /// The name of the server that is dialled, as TLS has it.
    pub authority: Option<&'a str>,
    /// The session's id, as in the log.
    pub unique_id: Option<&'a str>,
    /// The name of the host that this process runs on.
    pub host: Option<&'a str>,
    /// The caller's systemd unit.
    pub unit: Option<&'a str>,
    /// The caller's user, by number.
    pub uid: Option<u32>,
    /// The client's description of itself: `k=v, k=v`.
    pub context: Option<&'a str>,
}

/// Bytes of one value, at most.
const VALUE_MAX: usize = 1024;
/// Type and length in front of a value.
const TLV_HEAD: usize = 3;
const CHECKSUM: usize = TLV_HEAD + 4;
/// The lowest allowed limit for a header of version 2: room for IPv6 addresses and a checksum.
pub const V2_LEAST: usize = V2_FIXED + 36 + CHECKSUM;

/// Version 1: only TCP addresses.
#[must_use]
pub fn write_v1(pair: AddressPair) -> Vec<u8> {
    let AddressPair { source, destination } = pair;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// Version 2, with a checksum. `most`: its bytes, at least [`V2_LEAST`]. An extension that does not fit is left out as
/// a whole: half a name would be a wrong name.
#[must_use]
pub fn write_v2(pair: AddressPair, extensions: &Extensions<'_>, most: usize) -> Vec<u8> {
    let AddressPair { source, destination } = pair;
    let mut header = SIGNATURE.to_vec();
    header.extend([V2_PROXY, if source.is_ipv4() { TCP4 } else { TCP6 }, 0, 0]);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend([source.port(), destination.port()].map(u16::to_be_bytes).concat());
    append_what_fits(&mut header, extensions, most.saturating_sub(CHECKSUM));
    append(&mut header, tlv::CRC32C, &[0; 4]);
    // A few values of at most VALUE_MAX bytes each.
    let body = u16::try_from(header.len() - V2_FIXED).expect("a header is some KiB");
    header[14..16].copy_from_slice(&body.to_be_bytes());
    let sum = crc32c(header.iter().copied());
    let end = header.len();
    header[end - 4..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Appends in the order of priority if there is no room for all (docs/CONTEXT.md): first what identifies the session,
/// last what a client may make as long as it likes.
fn append_what_fits(header: &mut Vec<u8>, extensions: &Extensions<'_>, most: usize) {
    let Extensions { authority, unique_id, host, unit, uid, context } = extensions;
    let uid = uid.map(|uid| uid.to_string());
    for (kind, value) in [
        (tlv::UNIQUE_ID, *unique_id),
        (tlv::AUTHORITY, *authority),
        (tlv::UID, uid.as_deref()),
        (tlv::UNIT, *unit),
        (tlv::HOST, *host),
        (tlv::CONTEXT, *context),
    ] {
        let fits = |value: &&str| value.len() <= VALUE_MAX && header.len() + TLV_HEAD + value.len() <= most;
        if let Some(value) = value.filter(fits) {
            append(header, kind, value.as_bytes());
        }
    }
}

fn append(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    header.push(kind);
    header.extend(u16::try_from(value.len()).expect("at most VALUE_MAX").to_be_bytes());
    header.extend_from_slice(value);
}
