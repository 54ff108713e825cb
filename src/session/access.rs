//! The access log: one line per session at its end, to the same place as every other line.
//!
//! Written by hand rather than through `tracing`, because its record has objects inside and its fields are
//! a contract; the frame (timestamp, level, target) is the same as that of the other lines.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::record::Record;
use crate::caller;
use crate::head::connect::Context;
use crate::sys::Peer;
use crate::tls::Agreed;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, for people.
    Text,
    /// An object a line.
    Json,
}

/// Writes the records, or does not.
#[derive(Debug)]
pub struct AccessLog(Option<(Format, NonBlocking)>);

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    session: String,
    listener: &'a str,
    cluster: Option<&'a str>,
    peer: String,
    transport_peer: Option<String>,
    proxy_authority: Option<&'a str>,
    proxy_unique_id: Option<String>,
    #[serde(serialize_with = "pairs")]
    context: Option<&'a Context>,
    caller: Option<Caller<'a>>,
    endpoint: Option<&'a str>,
    attempts: u32,
    resolve_ms: Option<f64>,
    connect_ms: Option<f64>,
    handshake_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    duration_ms: f64,
    sent_bytes: u64,
    received_bytes: u64,
    tls: Option<Tls<'a>>,
    outcome: &'static str,
    closed_by: &'static str,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Caller<'a> {
    uid: u32,
    user: Option<&'a str>,
    unit: Option<&'a str>,
    pid: Option<u32>,
}

#[derive(Serialize)]
struct Tls<'a> {
    version: &'static str,
    cipher: &'static str,
    resumed: bool,
    identity: Option<&'a str>,
}

impl AccessLog {
    /// Writes nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// In that format, through a queue that drops (and counts) what its reader is too slow for: a log must not
    /// stop the traffic.
    #[must_use]
    pub const fn new(format: Format, writer: NonBlocking) -> Self {
        Self(Some((format, writer)))
    }

    /// Whether anybody will read the records.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes the record of a session that ended then.
    pub fn write(&self, record: &Record, ended: Instant) {
        let Some((format, writer)) = &self.0 else { return };
        let mut line = match format {
            Format::Json => json(record, ended),
            Format::Text => text(record, ended),
        };
        line.push('\n');
        // Enqueues; what does not fit is counted by the queue.
        let _ = writer.clone().write_all(line.as_bytes());
    }
}

fn json(record: &Record, ended: Instant) -> String {
    let line = Line {
        timestamp: timestamp(),
        level: "INFO",
        target: "access",
        message: "session ended",
        fields: Fields::of(record, ended),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

fn text(record: &Record, ended: Instant) -> String {
    let mut line = format!("{}  INFO access:", timestamp());
    let fields = serde_json::to_value(Fields::of(record, ended)).unwrap_or_default();
    append(&mut line, "", &fields);
    line
}

/// ` key=value` for each field that has one; objects as `tls.version=…`.
fn append(line: &mut String, prefix: &str, fields: &serde_json::Value) {
    for (key, value) in fields.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::Object(_) => append(line, &format!("{prefix}{key}."), value),
            serde_json::Value::String(word) if is_plain(word) => drop(write!(line, " {prefix}{key}={word}")),
            serde_json::Value::String(_)
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_) => drop(write!(line, " {prefix}{key}={value}")),
        }
    }
}

fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

impl<'a> Fields<'a> {
    fn of(record: &'a Record, ended: Instant) -> Self {
        let dial = &record.dial;
        let transport_peer = match record.peer {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix => "unix".into(),
        };
        let (peer, transport_peer) = match record.proxied() {
            Some(proxied) => (proxied.to_string(), Some(transport_peer)),
            None => (transport_peer, None),
        };
        let header = record.told.as_deref().and_then(|told| told.header.as_ref());
        Self {
            session: record.session().to_string(),
            listener: record.route().listener().as_str(),
            cluster: record.cluster().map(|cluster| cluster.settings().name.as_str()),
            peer,
            transport_peer,
            proxy_authority: header.and_then(|header| header.authority.as_deref()),
            proxy_unique_id: header
                .and_then(|header| header.unique_id.as_deref())
                .map(|id| id.escape_ascii().to_string()),
            context: record.context(),
            caller: record.caller().map(|caller| Caller::of(caller)),
            endpoint: dial.endpoint.as_ref().map(|name| name.as_str()),
            attempts: dial.attempts,
            resolve_ms: dial.resolve.map(ms),
            connect_ms: dial.connect.map(ms),
            handshake_ms: dial.handshake.map(ms),
            first_byte_ms: record.first_byte.map(|at| ms(at - record.accepted())),
            duration_ms: ms(ended - record.accepted()),
            sent_bytes: record.sent(),
            received_bytes: record.received(),
            tls: dial.agreed.as_deref().map(Tls::of),
            outcome: record.outcome.label(),
            closed_by: record.closed_by.label(),
            error: record.error.as_deref(),
        }
    }
}

/// `{"k": "v", …}`, in the client's order.
fn pairs<S: Serializer>(context: &Option<&Context>, serializer: S) -> Result<S::Ok, S::Error> {
    match context {
        Some(context) => serializer.collect_map(context.pairs()),
        None => serializer.serialize_none(),
    }
}

impl<'a> Caller<'a> {
    fn of(caller: &'a caller::Caller) -> Self {
        let unit = caller.unit().map(caller::Unit::as_str);
        Self { uid: caller.uid, user: caller.user.as_deref(), unit, pid: caller.pid }
    }
}

impl<'a> Tls<'a> {
    fn of(agreed: &'a Agreed) -> Self {
        Self {
            version: agreed.version(),
            cipher: agreed.cipher,
            resumed: agreed.resumed,
            identity: agreed.identity.as_ref().map(|name| name.as_str()),
        }
    }
}

/// Milliseconds with microseconds behind the point.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
