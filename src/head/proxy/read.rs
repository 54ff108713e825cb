//! Reads a PROXY header of either version.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    ProxyAddresses, ProxyCommand, ProxyHeader, SIGNATURE, TCP4, TCP6, UNIX_PATH, UNIX_STREAM, UNSPECIFIED,
    V2_FIXED, V2_LOCAL, V2_PROXY, crc32c, tlv,
};
use crate::head::{HeadReader, Progress};

/// Why there is no valid PROXY header. No message quotes the client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It begins like neither version.
    #[error("the connection does not begin with a PROXY header")]
    NotAHeader,
    /// Version 1 without its end within the specification's 107 bytes.
    #[error("the PROXY header (version 1) has no end within {LINE_MAX} bytes")]
    LineTooLong,
    /// Version 1 that violates the specification.
    #[error("the PROXY header (version 1) is malformed: {0}")]
    Line(&'static str),
    /// Version 2 that is longer than we read.
    #[error("the PROXY header (version 2) announces more than {V2_BODY_MAX} bytes")]
    BodyTooLong,
    /// Version 2 that violates the specification.
    #[error("the PROXY header (version 2) is malformed: {0}")]
    Body(&'static str),
    /// Version 2 whose checksum is wrong.
    #[error("the PROXY header (version 2) has a wrong checksum")]
    Checksum,
}

/// Bytes of version 1, with its CRLF (doc/proxy-protocol.txt, 2.1).
const LINE_MAX: usize = 107;
/// Bytes after the fixed part of version 2. Addresses take at most 216, a client's certificate in an extension some
/// thousand.
const V2_BODY_MAX: usize = 4096;
const UNIQUE_ID_MAX: usize = 128;
const AUTHORITY_MAX: usize = 255;

/// Collects the bytes of one PROXY header, of version 1 or 2.
#[derive(Debug, Default)]
pub struct HeaderReader {
    held: Vec<u8>,
}

impl HeadReader for HeaderReader {
    type Head = ProxyHeader;
    type Error = Error;

    fn receive(&mut self, bytes: &[u8]) -> Result<Progress<ProxyHeader>, Error> {
        let before = self.held.len();
        self.held.extend_from_slice(&bytes[..bytes.len().min(V2_FIXED + V2_BODY_MAX - before)]);
        let Some(length) = length(&self.held)? else { return Ok(Progress::Incomplete) };
        if self.held.len() < length {
            return Ok(Progress::Incomplete);
        }
        let whole = &self.held[..length];
        let head = if whole[0] == SIGNATURE[0] { binary(whole)? } else { line(&whole[..length - 2])? };
        Ok(Progress::Whole { head, taken: length - before })
    }
}

/// The header's length; `None` while it is not known.
fn length(held: &[u8]) -> Result<Option<usize>, Error> {
    const WORD: &[u8] = b"PROXY ";
    let begins = |with: &[u8]| held.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(&SIGNATURE) {
        let Some([versioned, _, high, low]) = held.get(SIGNATURE.len()..V2_FIXED) else { return Ok(None) };
        if !matches!(*versioned, V2_LOCAL | V2_PROXY) {
            return Err(Error::Body("its version or its command is unknown"));
        }
        let body = usize::from(u16::from_be_bytes([*high, *low]));
        return if body > V2_BODY_MAX { Err(Error::BodyTooLong) } else { Ok(Some(V2_FIXED + body)) };
    }
    if !begins(WORD) {
        return Err(Error::NotAHeader);
    }
    match held.iter().take(LINE_MAX).position(|byte| *byte == b'\n') {
        Some(at) if held[at - 1] == b'\r' => Ok(Some(at + 1)),
        Some(_) => Err(Error::Line("the line does not end in CRLF")),
        None if held.len() >= LINE_MAX => Err(Error::LineTooLong),
        None => Ok(None),
    }
}

/// Version 1, without its CRLF.
fn line(line: &[u8]) -> Result<ProxyHeader, Error> {
    let text = std::str::from_utf8(line).ok().filter(|text| text.is_ascii() && !text.contains('\r'));
    let text = text.ok_or(Error::Line("it is no line of ASCII"))?;
    let mut words = text.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    let addresses = match family {
        // What follows is to be ignored (2.1).
        "UNKNOWN" => ProxyAddresses::Unknown,
        "TCP4" | "TCP6" => {
            let mut ip = || {
                let ip: IpAddr = words.next()?.parse().ok()?;
                (ip.is_ipv4() == (family == "TCP4")).then_some(ip)
            };
            let ips = ip().zip(ip()).ok_or(Error::Line("an address is none of its family"))?;
            let ports = port(words.next()).zip(port(words.next()));
            let ports = ports.ok_or(Error::Line("a port is none"))?;
            if words.next().is_some() {
                return Err(Error::Line("something follows the ports"));
            }
            ProxyAddresses::Tcp {
                source: SocketAddr::new(ips.0, ports.0),
                destination: SocketAddr::new(ips.1, ports.1),
            }
        }
        _ => return Err(Error::Line("it is for neither TCP4, TCP6 nor UNKNOWN")),
    };
    Ok(ProxyHeader { command: ProxyCommand::Proxied(addresses), authority: None, unique_id: None })
}

/// In decimal, without a sign and without leading zeros.
fn port(word: Option<&str>) -> Option<u16> {
    let word = word?;
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

/// Parses a whole header of version 2.
fn binary(header: &[u8]) -> Result<ProxyHeader, Error> {
    let body = &header[V2_FIXED..];
    if header[12] == V2_LOCAL {
        // The receiver discards the rest, the family included (2.2).
        return Ok(ProxyHeader { command: ProxyCommand::Local, authority: None, unique_id: None });
    }
    let (addresses, rest) = addresses(header[13], body)?;
    let mut head =
        ProxyHeader { command: ProxyCommand::Proxied(addresses), authority: None, unique_id: None };
    extensions(header, rest, &mut head)?;
    Ok(head)
}

fn addresses(family: u8, body: &[u8]) -> Result<(ProxyAddresses, &[u8]), Error> {
    const SHORT: Error = Error::Body("its addresses are cut short");
    match family {
        UNSPECIFIED => Ok((ProxyAddresses::Unknown, body)),
        TCP4 => {
            let (raw, rest) = body.split_first_chunk::<12>().ok_or(SHORT)?;
            let ip = |at: usize| IpAddr::from(Ipv4Addr::new(raw[at], raw[at + 1], raw[at + 2], raw[at + 3]));
            Ok((tcp(ip(0), ip(4), &raw[8..]), rest))
        }
        TCP6 => {
            let (raw, rest) = body.split_first_chunk::<36>().ok_or(SHORT)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&raw[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            Ok((tcp(ip(0), ip(16), &raw[32..]), rest))
        }
        UNIX_STREAM => {
            let (raw, rest) = body.split_first_chunk::<{ 2 * UNIX_PATH }>().ok_or(SHORT)?;
            let (source, destination) = raw.split_at(UNIX_PATH);
            Ok((ProxyAddresses::Unix { source: path(source), destination: path(destination) }, rest))
        }
        0x12 | 0x22 | 0x32 => Err(Error::Body("it is for datagrams, and this is a stream")),
        _ => Err(Error::Body("its family is unknown")),
    }
}

fn tcp(source: IpAddr, destination: IpAddr, ports: &[u8]) -> ProxyAddresses {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    ProxyAddresses::Tcp {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
    }
}

fn path(padded: &[u8]) -> Vec<u8> {
    let end = padded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    padded[..end].to_vec()
}

/// The extensions have to fill the header exactly. Those that we do not use are skipped.
fn extensions(header: &[u8], mut rest: &[u8], head: &mut ProxyHeader) -> Result<(), Error> {
    const TWICE: Error = Error::Body("an extension comes twice");
    let mut checked = false;
    while !rest.is_empty() {
        let cut = Error::Body("an extension is cut short");
        let (&[kind, high, low], after) = rest.split_first_chunk().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = after.split_at_checked(length).ok_or(cut)?;
        match kind {
            tlv::CRC32C => {
                let told = value.try_into().map_err(|_| Error::Body("a checksum of other than 4 bytes"))?;
                if std::mem::replace(&mut checked, true) {
                    return Err(TWICE);
                }
                // Over the whole header, with zeros for the checksum itself.
                let at = header.len() - after.len() - length..header.len() - after.len();
                let zeroed =
                    header.iter().enumerate().map(|(i, byte)| if at.contains(&i) { 0 } else { *byte });
                if crc32c(zeroed) != u32::from_be_bytes(told) {
                    return Err(Error::Checksum);
                }
            }
            tlv::AUTHORITY if head.authority.is_some() => return Err(TWICE),
            tlv::AUTHORITY => {
                let name = std::str::from_utf8(value).ok();
                let name =
                    name.filter(|name| name.len() <= AUTHORITY_MAX && !name.contains(char::is_control));
                head.authority = Some(name.ok_or(Error::Body("its authority is no name"))?.to_owned());
            }
            tlv::UNIQUE_ID if length > UNIQUE_ID_MAX => {
                return Err(Error::Body("its unique id has more than 128 bytes"));
            }
            tlv::UNIQUE_ID if head.unique_id.is_some() => return Err(TWICE),
            tlv::UNIQUE_ID => head.unique_id = Some(value.to_vec()),
            _ => {}
        }
        rest = after;
    }
    Ok(())
}
