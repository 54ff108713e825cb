//! The time of a line.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::clock;

/// The current time in the format of all lines.
#[must_use]
pub(crate) fn timestamp() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// `2026-11-30T19:14:04.`, the same for all lines of a second.
const SECOND: usize = 20;
/// With six digits of microseconds and a `Z`.
const WHOLE: usize = SECOND + 7;

/// Appends the current time, as [`timestamp`] has it.
pub(crate) fn append_timestamp(line: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: Cell<(u64, [u8; SECOND])> = const { Cell::new((u64::MAX, [0; SECOND])) };
    }
    let now = since_1970();
    let (second, text) = WRITTEN.get();
    if second == now.as_secs() {
        line.extend_from_slice(&text);
        let mut rest = now.subsec_micros();
        let mut digits = *b"000000Z";
        for digit in digits[..6].iter_mut().rev() {
            *digit = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
        }
        line.extend_from_slice(&digits);
        return;
    }
    let text = timestamp();
    // The same second before and after is that of the text; 0 may be any time before 1970.
    if now.as_secs() > 0
        && text.len() == WHOLE
        && since_1970().as_secs() == now.as_secs()
        && let Some(begin) = text.as_bytes().first_chunk()
    {
        WRITTEN.set((now.as_secs(), *begin));
    }
    line.extend_from_slice(text.as_bytes());
}

fn since_1970() -> Duration {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_second_reads_like_a_formatted_one() {
        let begun = clock::now();
        let mut before = timestamp();
        // More than a second, so that one ends meanwhile.
        while clock::now() - begun < Duration::from_millis(1100) {
            let mut line = Vec::new();
            append_timestamp(&mut line);
            let (line, after) = (String::from_utf8(line).unwrap(), timestamp());
            assert!(line.len() == WHOLE && before <= line && line <= after, "{before} {line} {after}");
            before = after;
        }
    }
}
