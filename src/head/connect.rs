//! One HTTP CONNECT head in, one reply out (RFC 9112, RFC 9110 §9.3.6): the client names its cluster and its
//! conditions, and is sent what it got.
//!
//! Not an HTTP server: one request, no body, nothing after it is HTTP. Reading is strict where leniency has let
//! requests be smuggled past other parsers: lines end in CRLF, no folded lines, no space before a colon, no field that
//! frames a body, none of our fields twice.

mod fields;
mod reply;

use std::fmt;
use std::time::Duration;

use super::{HeadReader, Progress};
use fields::Fields;

pub(crate) use reply::{SessionInfo, refusal_reply, status_of, success_reply};

/// A parsed CONNECT request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectRequest {
    /// The target as it was written: `NAME` or `NAME:PORT`.
    pub target: String,
    /// `Ambassador-Attempts`: the most attempts; 0 and 1 both mean one.
    pub attempts: Option<u32>,
    /// `Ambassador-Deadline`: the most time for all attempts.
    pub deadline: Option<Duration>,
    /// `Ambassador-Affinity`: what to hash for the pick of an endpoint, 1 to 256 bytes.
    pub affinity: Option<Box<str>>,
    /// `Ambassador-Context`: the client's description of itself.
    pub context: Option<Context>,
}

/// A client's description of itself, for the log and for the server: at most 16 pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context(Box<[(Box<str>, Box<str>)]>);

impl Context {
    /// Its pairs, in the client's order; no key occurs twice.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl fmt::Display for Context {
    /// `k=v, k=v`, as the client sent it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.pairs().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the client speaks TLS where an HTTP CONNECT request is due; this hop is plaintext")]
    SpeaksTls,
    /// A byte that is not allowed in a head.
    #[error("the request has a control character")]
    Control,
    /// A CR or LF alone.
    #[error("a line of the request does not end in CRLF")]
    LineEnd,
    /// More bytes than we read.
    #[error("the request's head is longer than {HEAD_MAX} bytes")]
    TooLong,
    /// More fields than we read.
    #[error("the request has more than {FIELDS_MAX} header fields")]
    TooManyFields,
    /// The first line is not a request line.
    #[error("the first line is not `CONNECT NAME HTTP/1.1`")]
    RequestLine,
    /// Another method than CONNECT, such as GET.
    #[error("the request is not a CONNECT")]
    Method,
    /// Another version of HTTP, such as HTTP/2.
    #[error("the request is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// The target is not a cluster's name.
    #[error("the target is not the name of a cluster, with or without a port")]
    Target,
    /// A line that is not a field.
    #[error("a header line is malformed")]
    Field,
    /// RFC 9112 §3.2 requires exactly one.
    #[error("an HTTP/1.1 request has one Host field")]
    Host,
    /// A field that announces a body: Content-Length or Transfer-Encoding.
    #[error("a CONNECT request has no body, and so neither Content-Length nor Transfer-Encoding")]
    Body,
    /// A field of ours that occurs twice.
    #[error("{0} comes twice")]
    Twice(&'static str),
    /// `Ambassador-` with an unknown name.
    #[error("there is no such Ambassador- field; there are Attempts, Deadline, Affinity and Context")]
    UnknownField,
    /// A value that the field does not accept.
    #[error("{0} {1}")]
    Value(&'static str, &'static str),
}

/// Bytes of the whole head.
const HEAD_MAX: usize = 8 * 1024;
/// The most header fields that a head may have.
const FIELDS_MAX: usize = 64;
/// The first byte of a TLS record with a hello.
const TLS_HANDSHAKE: u8 = 0x16;

impl Error {
    /// The status of the reply; `None` for a client that would not understand it.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::SpeaksTls => None,
            Self::Method => Some(405),
            Self::TooLong | Self::TooManyFields => Some(431),
            Self::Version => Some(505),
            Self::Control
            | Self::LineEnd
            | Self::RequestLine
            | Self::Target
            | Self::Field
            | Self::Host
            | Self::Body
            | Self::Twice(_)
            | Self::UnknownField
            | Self::Value(..) => Some(400),
        }
    }
}

impl ConnectRequest {
    /// The index of the name that the target means: an exact match, with or without the port, else the only match
    /// without regard to case, because some clients treat the target as a host name.
    pub fn which<'a>(&self, names: &(impl Iterator<Item = &'a str> + Clone)) -> Option<usize> {
        let exactly = |said: &str| names.clone().position(|name| name == said);
        let found = exactly(&self.target).or_else(|| exactly(self.host()));
        found.or_else(|| {
            let mut alike =
                names.clone().enumerate().filter(|(_, name)| name.eq_ignore_ascii_case(self.host()));
            let (index, _) = alike.next()?;
            alike.next().is_none().then_some(index)
        })
    }

    /// The target without its port.
    fn host(&self) -> &str {
        match self.target.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && is_port(port) => host,
            _ => &self.target,
        }
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Collects bytes, up to 8 KiB, until a CONNECT head is complete.
#[derive(Debug, Default)]
pub struct RequestReader {
    held: Vec<u8>,
}

impl HeadReader for RequestReader {
    type Head = ConnectRequest;
    type Error = Error;

    fn receive(&mut self, bytes: &[u8]) -> Result<Progress<ConnectRequest>, Error> {
        for (index, byte) in bytes.iter().enumerate() {
            self.push(*byte)?;
            if self.held.ends_with(b"\r\n\r\n") {
                let head = parse(&self.held[..self.held.len() - 4])?;
                return Ok(Progress::Whole { head, taken: index + 1 });
            }
        }
        Ok(Progress::Incomplete)
    }
}

impl RequestReader {
    fn push(&mut self, byte: u8) -> Result<(), Error> {
        let follows_cr = self.held.last() == Some(&b'\r');
        match byte {
            TLS_HANDSHAKE if self.held.is_empty() => return Err(Error::SpeaksTls),
            b'\n' if !follows_cr => return Err(Error::LineEnd),
            _ if follows_cr && byte != b'\n' => return Err(Error::LineEnd),
            b'\r' | b'\n' | b'\t' => {}
            _ if byte.is_ascii_control() => return Err(Error::Control),
            _ => {}
        }
        if self.held.len() >= HEAD_MAX {
            return Err(Error::TooLong);
        }
        self.held.push(byte);
        Ok(())
    }
}

/// A head without its last two line ends.
fn parse(head: &[u8]) -> Result<ConnectRequest, Error> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (target, needs_host) = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (index, line) in lines.enumerate() {
        if index >= FIELDS_MAX {
            return Err(Error::TooManyFields);
        }
        fields.line(line)?;
    }
    fields.finish(target, needs_host)
}

/// The target, and whether the version requires a Host field.
fn request_line(line: &[u8]) -> Result<(String, bool), Error> {
    let text = std::str::from_utf8(line).map_err(|_| Error::RequestLine)?;
    let mut words = text.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Error::RequestLine);
    };
    let needs_host = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ if version.starts_with("HTTP/") => return Err(Error::Version),
        _ => return Err(Error::RequestLine),
    };
    match method {
        "CONNECT" => {}
        _ if !method.is_empty() && method.bytes().all(fields::is_token) => return Err(Error::Method),
        _ => return Err(Error::RequestLine),
    }
    // The characters of a cluster's name.
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let is_name = !target.is_empty() && target.len() <= TARGET_MAX && target.bytes().all(is_of_a_name);
    if is_name { Ok((target.to_owned(), needs_host)) } else { Err(Error::Target) }
}

/// Names have at most 128 bytes; a port has at most five, after a colon.
const TARGET_MAX: usize = 128 + 6;

#[cfg(test)]
mod tests;
