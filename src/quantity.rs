//! Durations as text: `250ms`, `5s`, `1h30m`.

use std::time::Duration;

/// Largest first, which is also the order in which they may be combined.
const UNITS: [(&str, u64); 5] =
    [("d", 24 * 60 * 60 * 1000), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

/// Parses a duration.
///
/// # Errors
/// What is wrong, without the text itself.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const SHAPE: &str = "is no duration: write a number and a unit, such as 250ms, 5s or 1h30m";
    const LONG: &str = "is too long a duration";
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    loop {
        let (digits, after) = split(rest, |byte| byte.is_ascii_digit());
        let (unit, after) = split(after, |byte| byte.is_ascii_lowercase());
        if digits.is_empty() || unit.is_empty() {
            return Err(if unit.is_empty() && !digits.is_empty() && after.is_empty() {
                "has no unit: write ms, s, m, h or d behind the number"
            } else {
                SHAPE
            });
        }
        // Each unit once, in descending order: `5s5s` is a slip, not ten seconds.
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or(SHAPE)?;
        let part = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale)).ok_or(LONG)?;
        total = total.checked_add(part).ok_or(LONG)?;
        if after.is_empty() {
            return Ok(Duration::from_millis(total));
        }
        rest = after;
    }
}

fn split(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len());
    // `belongs` takes ASCII only, so the byte at `end` begins a character.
    text.split_at(end)
}

/// Writes a duration as it is parsed. Less than a millisecond is not shown, as no duration of a file
/// has it.
#[must_use]
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".into();
    }
    let mut shown = String::new();
    for (name, scale) in UNITS {
        if left >= scale {
            shown += &format!("{}{name}", left / scale);
            left %= scale;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5000),
            ("1h30m", 5_400_000),
            ("1s500ms", 1500),
            ("90m", 5_400_000),
            ("2d", 172_800_000),
            ("007s", 7000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_words() {
        for (text, part) in [
            ("", "a number and a unit"),
            ("5", "has no unit"),
            ("1h30", "has no unit"),
            ("s", "a number and a unit"),
            ("5 s", "a number and a unit"),
            ("-5s", "a number and a unit"),
            ("1.5s", "a number and a unit"),
            ("5sec", "a number and a unit"),
            ("5s5s", "a number and a unit"),
            ("30m1h", "a number and a unit"),
            ("5s ", "a number and a unit"),
            ("5µs", "a number and a unit"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615s", "too long"),
            ("18446744073709551615ms1ms", "a number and a unit"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_shown_is_read_back(millis in any::<u64>()) {
            let whole = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(whole)), Ok(whole));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[0-9dhms]{0,30}") {
            let _ = duration(&text);
        }
    }
}
