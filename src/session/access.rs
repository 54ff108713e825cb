//! The access log: one line per session at its end, in the output's format.
//!
//! Written by hand rather than through `tracing`, because its record has objects inside and its fields are
//! a contract; the frame (timestamp, level, target) is the same as that of the other lines.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::Level;

use super::record::Record;
use crate::caller::{self, CallerKey};
use crate::clock;
use crate::escape::escaped;
use crate::head::connect::Context;
use crate::log::{JournalEntry, Log, OutputFormat, timestamp};
use crate::policy::refusal_records::{RefusalRecordLimiter, SuppressedRecords};
use crate::policy::sampling::{Ending, RecordVerdict};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::Peer;
use crate::tls::HandshakeInfo;

/// Enough for most lines, so that their buffer need not grow.
const LINE: usize = 1024;

/// Writes the records of the listeners that have them enabled.
#[derive(Debug)]
pub(crate) struct AccessLog {
    log: Log,
    flood: Mutex<RefusalRecordLimiter>,
}

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
    caller: Option<CallerFields<'a>>,
    endpoint: Option<&'a str>,
    attempts: u32,
    resolve_ms: Option<f64>,
    connect_ms: Option<f64>,
    greeting_ms: Option<f64>,
    handshake_ms: Option<f64>,
    login_as: Option<&'a str>,
    login_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    duration_ms: f64,
    sent_bytes: u64,
    received_bytes: u64,
    tls: Option<TlsFields<'a>>,
    outcome: &'static str,
    closed_by: &'static str,
    error: Option<&'a str>,
    /// The share of ordinary sessions that are recorded, where this is one.
    sample: Option<f64>,
}

#[derive(Serialize)]
struct CallerFields<'a> {
    uid: u32,
    user: Option<&'a str>,
    unit: Option<&'a str>,
    pid: Option<u32>,
}

#[derive(Serialize)]
struct TlsFields<'a> {
    version: &'static str,
    cipher: &'static str,
    resumed: bool,
    identity: Option<&'a str>,
    /// The server ended TLS without close_notify.
    unclean_end: bool,
}

impl AccessLog {
    #[must_use]
    pub(crate) fn new(log: Log) -> Self {
        Self { log, flood: Mutex::default() }
    }

    /// Logs how many records were left out. To be called every few seconds.
    pub(crate) fn upkeep(&self) {
        let now = clock::now();
        let suppressed = self.flood().over(now);
        suppressed.iter().for_each(|left_out| log_suppressed(left_out, now));
    }

    /// Whether this is one of too many records of sessions that were not served.
    fn is_one_too_many(&self, record: &Record, ended: Instant) -> bool {
        if !RefusalRecordLimiter::minds(record.outcome) {
            return false;
        }
        let caller = record.caller();
        let host = if caller.is_none() { record.peer.other_host() } else { None };
        let caller = CallerKey::of(caller.as_deref(), host);
        let (is_written, suppressed) = self.flood().judge(caller, record.outcome, ended);
        if let Some(left_out) = suppressed {
            log_suppressed(&left_out, ended);
        }
        !is_written
    }

    fn flood(&self) -> MutexGuard<'_, RefusalRecordLimiter> {
        self.flood.lock()
    }

    /// Writes the record of a session that ended then.
    pub(crate) fn write(&self, record: &Record, ended: Instant) {
        let Some(sampling) = record.route().settings().records else { return };
        let ending = Ending {
            outcome: record.outcome,
            attempts: record.dial.attempts,
            waited: record.first_byte.unwrap_or(ended) - record.accepted(),
        };
        let sample = match sampling.judge(ending, record.session().number()) {
            RecordVerdict::Kept => None,
            RecordVerdict::Sampled(share) => Some(share),
            RecordVerdict::LeftOut => return,
        };
        if self.is_one_too_many(record, ended) {
            return;
        }
        let writer = self.log.access_writer();
        let caller = record.caller();
        let fields =
            Fields { caller: caller.as_deref().map(CallerFields::of), ..Fields::of(record, ended, sample) };
        match writer.form {
            OutputFormat::Json => writer.put(json(fields)),
            OutputFormat::Text => writer.put(text(&fields)),
            OutputFormat::Journal => writer.put(entry(&fields)),
        }
    }
}

fn log_suppressed(SuppressedRecords { caller, outcome, count, since }: &SuppressedRecords, now: Instant) {
    let seconds = now.saturating_duration_since(*since).as_secs();
    tracing::warn!(
        %caller, outcome = outcome.label(), left_out = count,
        "left out {count} more records of connections that were not served, in the last {seconds} s"
    );
}

fn json(fields: Fields<'_>) -> Vec<u8> {
    let line =
        Line { timestamp: timestamp(), level: "INFO", target: "access", message: "session ended", fields };
    let mut bytes = Vec::with_capacity(LINE);
    // Writing to memory does not fail, and every field can be serialised.
    let _ = serde_json::to_writer(&mut bytes, &line);
    bytes.push(b'\n');
    bytes
}

fn text(fields: &Fields<'_>) -> Vec<u8> {
    let mut line = format!("{}  INFO access:", timestamp());
    each_field(fields, &mut |name, value| append(&mut line, name, value));
    line.push('\n');
    line.into_bytes()
}

/// The message has the fields too, as `journalctl` shows only the message by default.
fn entry(fields: &Fields<'_>) -> JournalEntry {
    let mut message = "session ended:".to_owned();
    each_field(fields, &mut |name, value| append(&mut message, name, value));
    let mut entry = JournalEntry::new(Level::INFO, &message);
    entry.field("target", "access");
    each_field(fields, &mut |name, value| match value {
        Value::String(text) => entry.field(name, text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Null | Value::Object(_) => {
            entry.field(name, &value.to_string());
        }
    });
    entry
}

/// Calls `then` for each field that has a value; fields of an object are named like `tls.version`.
fn each_field(fields: &Fields<'_>, then: &mut dyn FnMut(&str, &Value)) {
    fn each(prefix: &str, value: &Value, then: &mut dyn FnMut(&str, &Value)) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match value {
                Value::Null => {}
                Value::Object(_) => each(&format!("{prefix}{key}."), value, then),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    then(&format!("{prefix}{key}"), value);
                }
            }
        }
    }
    each("", &serde_json::to_value(fields).unwrap_or_default(), then);
}

/// ` name=value`, in quotes unless the value is plain.
fn append(line: &mut String, name: &str, value: &Value) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::String(word) if is_plain(word) => write!(line, " {name}={word}"),
        Value::String(_)
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Null
        | Value::Object(_) => write!(line, " {name}={}", escaped(&value.to_string())),
    };
}

fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

impl<'a> Fields<'a> {
    /// All fields but `caller`.
    fn of(record: &'a Record, ended: Instant, sample: Option<f64>) -> Self {
        let dial = &record.dial;
        let transport_peer = match record.peer {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix => "unix".into(),
        };
        let (peer, transport_peer) = match record.proxied() {
            Some(proxied) => (proxied.to_string(), Some(transport_peer)),
            None => (transport_peer, None),
        };
        let header = record.metadata.as_deref().and_then(|metadata| metadata.header.as_ref());
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
            caller: None,
            endpoint: dial.endpoint.as_ref().map(|name| name.as_str()),
            attempts: dial.attempts,
            resolve_ms: dial.resolve.get().map(ms),
            connect_ms: dial.connect.get().map(ms),
            greeting_ms: dial.greeting.get().map(ms),
            handshake_ms: dial.handshake.get().map(ms),
            login_as: dial.login.as_ref().map(|login| &*login.0),
            login_ms: dial.login.as_ref().map(|login| ms(login.1)),
            first_byte_ms: record.first_byte.map(|at| ms(at - record.accepted())),
            duration_ms: ms(ended - record.accepted()),
            sent_bytes: record.sent(),
            received_bytes: record.received(),
            tls: dial.agreed.as_deref().map(|agreed| TlsFields::of(agreed, record.unclean_tls_end)),
            outcome: record.outcome.label(),
            closed_by: record.closed_by.label(),
            error: record.error.as_deref(),
            sample,
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

impl<'a> CallerFields<'a> {
    fn of(caller: &'a caller::Caller) -> Self {
        let unit = caller.unit().map(caller::Unit::as_str);
        Self { uid: caller.uid, user: caller.user.as_deref(), unit, pid: caller.pid }
    }
}

impl<'a> TlsFields<'a> {
    fn of(agreed: &'a HandshakeInfo, unclean_end: bool) -> Self {
        Self {
            version: agreed.version(),
            cipher: agreed.cipher,
            resumed: agreed.resumed,
            identity: agreed.identity.as_ref().map(|name| name.as_str()),
            unclean_end,
        }
    }
}

/// Milliseconds, rounded to microseconds.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
