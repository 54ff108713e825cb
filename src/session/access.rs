//! The access log: one line per session at its end, in the output's format.
//!
//! Written by hand rather than through `tracing`, because its record has objects inside and its fields are
//! a contract; the frame (timestamp, level, target) is the same as that of the other lines.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Instant;

use serde_json::Value;
use tracing::Level;

use super::access_fields::Fields;
use super::record::Record;
use crate::caller::CallerKey;
use crate::clock;
use crate::escape::escaped;
use crate::log::{JournalEntry, Log, OutputFormat, Writer, timestamp};
use crate::policy::refusal_records::{RefusalRecordLimiter, SuppressedRecords};
use crate::policy::sampling::{Ending, RecordVerdict};
use crate::sync::{Mutex, MutexGuard};

/// Writes the records of the listeners that have them enabled.
#[derive(Debug)]
pub(crate) struct AccessLog {
    log: Log,
    flood: Mutex<RefusalRecordLimiter>,
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
        let fields = Fields::of(record, caller.as_deref(), ended, sample);
        match writer.form {
            OutputFormat::Json => put_json(&writer, fields),
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

/// The queue gets an allocation of the line's size.
fn put_json(writer: &Writer, fields: Fields<'_>) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        fields.append_line(line);
        writer.put(line.as_slice());
    });
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
