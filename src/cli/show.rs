//! Formats tables and numbers.

use std::fmt::Write as _;
use std::time::Duration;

use crate::admin::UNTOLD;
use crate::admin::status::CallerStatus;
use crate::escape::escaped;

/// Columns as wide as their widest cell; the last is not padded. An empty cell is an unreported value.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let told = |cell: &String| if cell.is_empty() { UNTOLD.to_owned() } else { escaped(cell).into_owned() };
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(told).collect()).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let head = head.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `512 B`, `1.5 KiB`, `120 MiB`.
pub(super) fn bytes(count: f64) -> String {
    let mut count = count.max(0.0);
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        // From here on it would be shown as 1024 of the smaller unit.
        if count < 1023.5 {
            break;
        }
        (count, unit) = (count / 1024.0, larger);
    }
    if unit == "B" || count >= 99.95 { format!("{count:.0} {unit}") } else { format!("{count:.1} {unit}") }
}

/// `12s`, `3m05s`, `2h10m`, `4d03h`.
pub(super) fn span(lasted: Duration) -> String {
    let seconds = lasted.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        86_400.. => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub(super) fn caller(caller: Option<&CallerStatus>) -> String {
    let Some(caller) = caller else { return "-".into() };
    let user = caller.user.clone().unwrap_or_else(|| format!("uid {}", caller.uid));
    match &caller.unit {
        Some(unit) => format!("{user}, {unit}"),
        None => user,
    }
}

/// The daemon's version, and ours if it differs.
pub(super) fn version(of_daemon: &str) -> String {
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), if of_daemon.is_empty() { UNTOLD } else { of_daemon });
    if theirs == ours { ours.to_owned() } else { format!("{theirs} (asked by {ours})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "long cell".into()], vec!["bb".into(), "c".into()]];
        assert_eq!(table(&["X", "Y"], &rows), "X   Y\na   long cell\nbb  c\n");
        assert_eq!(table(&["X", "Y"], &[vec!["".into(), "1".into()]]), "X  Y\n–  1\n");
    }

    /// An escape sequence in the names of a server's certificate controlled the terminal on which the status was shown.
    #[test]
    fn a_cell_steers_no_terminal_and_has_one_line() {
        let rows = vec![vec!["a\u{1b}]0;x\u{7}\nb\u{202e}c".into(), "d".into()]];
        assert_eq!(
            table(&["X", "Y"], &rows).lines().nth(1).unwrap(),
            "a\\u001b]0;x\\u0007\\u000ab\\u202ec  d"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (count, expected) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (125.0 * 1_048_576.0, "125 MiB"),
            (1e18, "909495 TiB"),
            (-1.0, "0 B"),
        ] {
            assert_eq!(bytes(count), expected, "{count}");
        }
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (7800, "2h10m"), (356_400, "4d03h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }
}
