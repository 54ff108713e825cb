//! Writes a PROXY header of either version.

use core::net::{IpAddr, SocketAddr};

use super::{
    Addresses, Command, SIGNATURE, TCP4, TCP6, UNIX_PATH, UNIX_STREAM, UNSPECIFIED, V2_FIXED, V2_LOCAL,
    V2_PROXY, crc32c, tlv,
};

/// What a header of version 2 says beside the addresses. Each is cut at `VALUE_MAX` bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extensions<'a> {
    /// The name of the server that is dialled, as TLS has it.
    pub authority: Option<&'a str>,
    /// The session's id, as the log has it.
    pub unique_id: Option<&'a str>,
    /// This host's name.
    pub host: Option<&'a str>,
    /// The caller's systemd unit.
    pub unit: Option<&'a str>,
    /// The caller's user, by number.
    pub uid: Option<u32>,
    /// What the client says of itself: `k=v, k=v`.
    pub context: Option<&'a str>,
}

/// So that all of them fit into what readers take: HAProxy and nginx 1.25 some KiB.
const VALUE_MAX: usize = 1024;

/// Version 1: addresses of TCP, and nothing else.
#[must_use]
pub fn write_v1(command: &Command) -> Vec<u8> {
    match command {
        Command::Proxied(Addresses::Tcp { source, destination }) if is_one_family(source, destination) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        Command::Local | Command::Proxied(_) => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

/// Version 2, with a checksum.
#[must_use]
pub fn write_v2(command: &Command, extensions: &Extensions<'_>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(if *command == Command::Local { V2_LOCAL } else { V2_PROXY });
    header.extend([UNSPECIFIED, 0, 0]);
    match command {
        Command::Proxied(Addresses::Tcp { source, destination }) if is_one_family(source, destination) => {
            header[13] = if source.is_ipv4() { TCP4 } else { TCP6 };
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => header.extend(ip.octets()),
                    IpAddr::V6(ip) => header.extend(ip.octets()),
                }
            }
            header.extend([source.port(), destination.port()].map(u16::to_be_bytes).concat());
        }
        Command::Proxied(Addresses::Unix { source, destination }) => {
            header[13] = UNIX_STREAM;
            for path in [source, destination] {
                let mut padded = [0; UNIX_PATH];
                let fits = path.len().min(UNIX_PATH);
                padded[..fits].copy_from_slice(&path[..fits]);
                header.extend(padded);
            }
        }
        Command::Local | Command::Proxied(_) => {}
    }
    append_all(&mut header, extensions);
    append(&mut header, tlv::CRC32C, &[0; 4]);
    // A few values of at most VALUE_MAX bytes each.
    let body = u16::try_from(header.len() - V2_FIXED).expect("a header is some KiB");
    header[14..16].copy_from_slice(&body.to_be_bytes());
    let sum = crc32c(header.iter().copied());
    let end = header.len();
    header[end - 4..].copy_from_slice(&sum.to_be_bytes());
    header
}

fn append_all(header: &mut Vec<u8>, extensions: &Extensions<'_>) {
    let Extensions { authority, unique_id, host, unit, uid, context } = extensions;
    let uid = uid.map(|uid| uid.to_string());
    for (kind, value) in [
        (tlv::AUTHORITY, *authority),
        (tlv::UNIQUE_ID, *unique_id),
        (tlv::HOST, *host),
        (tlv::UNIT, *unit),
        (tlv::UID, uid.as_deref()),
        (tlv::CONTEXT, *context),
    ] {
        if let Some(value) = value {
            append(header, kind, value.as_bytes());
        }
    }
}

fn append(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = &value[..value.len().min(VALUE_MAX)];
    header.push(kind);
    header.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(value);
}

const fn is_one_family(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
