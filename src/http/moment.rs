//! Moments as web services write them: ISO 8601 in UTC, and the dates of HTTP (RFC 9110 §5.6.7). Pure.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// The months of HTTP.
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `2026-11-30T12:00:00Z`, fractions of a second left out.
pub(crate) fn of_iso(text: &str) -> Option<SystemTime> {
    let date = (number(text, 0..4)?, number(text, 5..7)?, number(text, 8..10)?);
    let time = (number(text, 11..13)?, number(text, 14..16)?, number(text, 17..19)?);
    text.ends_with('Z').then(|| moment(date, time)).flatten()
}

/// `Mon, 30 Nov 2026 12:00:00 GMT`; its two older forms are left out.
pub(crate) fn of_http(text: &str) -> Option<SystemTime> {
    let month = MONTHS.iter().position(|month| text.get(8..11) == Some(month))?;
    let date = (number(text, 12..16)?, u64::try_from(month).ok()? + 1, number(text, 5..7)?);
    let time = (number(text, 17..19)?, number(text, 20..22)?, number(text, 23..25)?);
    text.ends_with(" GMT").then(|| moment(date, time)).flatten()
}

fn number(text: &str, range: Range<usize>) -> Option<u64> {
    text.get(range)?.parse().ok()
}

fn moment(
    (year, month, day): (u64, u64, u64),
    (hour, minute, second): (u64, u64, u64),
) -> Option<SystemTime> {
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March, so that a leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_nonsense_is_not() {
        let iso: &[(&str, Option<u64>)] = &[
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2026-11-30T12:00:00Z", Some(1_796_040_000)),
            ("2026-11-30T12:00:00.5Z", Some(1_796_040_000)),
            ("2026-11-30T12:00:00+01:00", None),
            ("2026-13-30T12:00:00Z", None),
            ("", None),
            ("tomorrow", None),
        ];
        let http: &[(&str, Option<u64>)] = &[
            ("Mon, 30 Nov 2026 12:00:00 GMT", Some(1_796_040_000)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Mon, 30 Now 2026 12:00:00 GMT", None),
            ("Mon, 30 Nov 2026 12:00:00 CET", None),
            ("Monday, 30-Nov-26 12:00:00 GMT", None),
            ("120", None),
        ];
        for (read, table) in [(of_iso as fn(&str) -> _, iso), (of_http, http)] {
            for (text, seconds) in table {
                let expected = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
                assert_eq!(read(text), expected, "{text}");
            }
        }
    }
}
