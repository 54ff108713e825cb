//! The header fields of a CONNECT request: ours are read, those that frame a body refused, all others passed over.

use std::time::Duration;

use super::{ConnectRequest, Context, Error};
use crate::quantity;

/// What the fields read so far contain.
#[derive(Debug, Default)]
pub(super) struct Fields {
    hosts: u32,
    attempts: Option<u32>,
    deadline: Option<Duration>,
    affinity: Option<Box<str>>,
    context: Option<Context>,
}

const ATTEMPTS: &str = "Ambassador-Attempts";
const DEADLINE: &str = "Ambassador-Deadline";
const AFFINITY: &str = "Ambassador-Affinity";
const CONTEXT: &str = "Ambassador-Context";
const OURS: &str = "ambassador-";

const AFFINITY_MAX: usize = 256;
const PAIRS_MAX: usize = 16;
const KEY_MAX: usize = 64;
const VALUE_MAX: usize = 256;
/// Bytes of all pairs, as they are passed on.
const CONTEXT_MAX: usize = 1024;

impl Fields {
    /// Reads one line. A line that begins with a space continues the one before in old HTTP; here it is an error.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Error::Field)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Error::Field);
        }
        // Tokens are ASCII.
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        match name.as_str() {
            "host" => self.hosts += 1,
            "content-length" | "transfer-encoding" => return Err(Error::Body),
            "ambassador-attempts" => once(&mut self.attempts, ATTEMPTS, attempts(text(ATTEMPTS, value)?)?)?,
            "ambassador-deadline" => once(&mut self.deadline, DEADLINE, deadline(text(DEADLINE, value)?)?)?,
            "ambassador-affinity" => once(&mut self.affinity, AFFINITY, affinity(text(AFFINITY, value)?)?)?,
            "ambassador-context" => once(&mut self.context, CONTEXT, context(text(CONTEXT, value)?)?)?,
            _ if name.starts_with(OURS) => return Err(Error::UnknownField),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self, target: String, needs_host: bool) -> Result<ConnectRequest, Error> {
        let Self { hosts, attempts, deadline, affinity, context } = self;
        if hosts > 1 || (needs_host && hosts == 0) {
            return Err(Error::Host);
        }
        Ok(ConnectRequest { target, attempts, deadline, affinity, context })
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn once<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), Error> {
    if place.replace(value).is_some() { Err(Error::Twice(name)) } else { Ok(()) }
}

/// Printable ASCII, as it goes into the log and into other protocols.
fn text<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, Error> {
    let text = std::str::from_utf8(value).ok();
    let is_plain = |text: &&str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    text.filter(is_plain).ok_or(Error::Value(name, "has a character that is not printable ASCII"))
}

fn attempts(text: &str) -> Result<u32, Error> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or(Error::Value(ATTEMPTS, "takes a whole number, such as 1"))
}

fn deadline(text: &str) -> Result<Duration, Error> {
    // Long enough for any client, and short enough to be added to an `Instant`.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let duration = quantity::duration(text).map_err(|reason| Error::Value(DEADLINE, reason))?;
    if duration.is_zero() {
        return Err(Error::Value(DEADLINE, "leaves no time at all"));
    }
    Ok(duration.min(LONGEST))
}

fn affinity(text: &str) -> Result<Box<str>, Error> {
    match text.len() {
        1..=AFFINITY_MAX => Ok(text.into()),
        _ => Err(Error::Value(AFFINITY, "takes 1 to 256 characters")),
    }
}

fn context(text: &str) -> Result<Context, Error> {
    let wrong = |what| Err(Error::Value(CONTEXT, what));
    if text.len() > CONTEXT_MAX {
        return wrong("is longer than 1024 bytes");
    }
    let mut pairs: Vec<(Box<str>, Box<str>)> = Vec::new();
    for pair in text.split(',') {
        let Some((key, value)) = pair.split_once('=') else { return wrong("takes `key=value, key=value`") };
        let (key, value) = (key.trim_ascii(), value.trim_ascii());
        if !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(is_token) {
            return wrong("has a key that is not 1 to 64 letters, digits and such");
        }
        if value.len() > VALUE_MAX {
            return wrong("has a value of more than 256 bytes");
        }
        if pairs.iter().any(|(known, _)| **known == *key) {
            return wrong("has a key twice");
        }
        if pairs.len() == PAIRS_MAX {
            return wrong("has more than 16 pairs");
        }
        pairs.push((key.into(), value.into()));
    }
    Ok(Context(pairs.into()))
}
