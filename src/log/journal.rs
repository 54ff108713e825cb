//! Entries of the journal, in its native protocol: named fields, so that `journalctl AMBASSADOR_LISTENER=app` finds
//! them.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: a message per datagram, `NAME=value` per line; a value with line
//! breaks follows its name and length.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// The prefix of all our fields.
const PREFIX: &str = "AMBASSADOR_";
/// journald refuses longer names.
const NAME_MAX: usize = 64;

/// An entry being built.
#[derive(Debug)]
pub struct JournalEntry(Vec<u8>);

impl JournalEntry {
    /// The message is what `journalctl` shows by default.
    #[must_use]
    pub fn new(level: Level, message: &str) -> Self {
        let mut entry = Self(Vec::with_capacity(1024));
        entry.add("MESSAGE", message);
        entry.add("PRIORITY", priority(level));
        entry.add("SYSLOG_IDENTIFIER", "ambassador");
        entry
    }

    /// Adds a field: `tls.version` becomes AMBASSADOR_TLS_VERSION.
    pub fn field(&mut self, name: &str, value: &str) {
        // A name may only have upper-case letters, digits and underscores.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = PREFIX.chars().chain(name.chars().map(plain)).take(NAME_MAX).collect();
        self.add(&name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl From<JournalEntry> for Box<[u8]> {
    fn from(entry: JournalEntry) -> Self {
        entry.0.into()
    }
}

/// The priorities of syslog(3).
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// The fields of an event.
#[derive(Debug, Default)]
pub(super) struct EventFields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl EventFields {
    /// The fields are in the message too, because `journalctl` shows nothing else by default.
    pub(super) fn entry(mut self, metadata: &Metadata<'_>) -> JournalEntry {
        for (name, value) in &self.fields {
            // Writing to a string cannot fail.
            let _ = write!(self.message, " {name}={value}");
        }
        let mut entry = JournalEntry::new(*metadata.level(), self.message.trim_start());
        entry.field("target", metadata.target());
        self.fields.iter().for_each(|(name, value)| entry.field(name, value));
        entry
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_the_protocol_says() {
        let mut entry = JournalEntry::new(Level::WARN, "two\nlines");
        entry.field("tls.version", "1.3");
        entry.field("context-é", "a=b");
        entry.field(&"x".repeat(100), "");
        let bytes: Box<[u8]> = entry.into();
        let mut expected =
            b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=4\nSYSLOG_IDENTIFIER=ambassador\n".to_vec();
        expected.extend_from_slice(b"AMBASSADOR_TLS_VERSION=1.3\nAMBASSADOR_CONTEXT__=a=b\n");
        expected.extend_from_slice(format!("AMBASSADOR_{}=\n", "X".repeat(53)).as_bytes());
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected));
    }
}
