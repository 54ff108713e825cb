//! Escapes text of others for people: it must not control a terminal or forge a line of a log, nor appear otherwise
//! than it is.
//!
//! The escapes are those of JSON, so that text inside a JSON document keeps its meaning.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character has another effect than to be visible: controls (C0, DEL, C1), characters that change the
/// direction of text or break lines (UAX #9, UAX #14), and tags, which are invisible.
#[must_use]
pub(crate) const fn is_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Escapes text to one line.
#[must_use]
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    without(text, is_control)
}

/// Escapes text that may have several lines, and tabs.
#[must_use]
pub(crate) fn escaped_lines(text: &str) -> Cow<'_, str> {
    without(text, |character| is_control(character) && !matches!(character, '\n' | '\t'))
}

fn without(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_seen_instead() {
        for (text, expected) in [
            ("plain, é, 漢, 🦀", "plain, é, 漢, 🦀"),
            ("a\u{1b}[2Jb", "a\\u001b[2Jb"),
            ("\u{9b}2J\u{7f}", "\\u009b2J\\u007f"),
            ("a\u{202e}b\u{2066}c", "a\\u202eb\\u2066c"),
            ("a\nb\tc", "a\\u000ab\\u0009c"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ] {
            assert_eq!(escaped(text), expected);
            assert!(!escaped(text).chars().any(is_control));
        }
        assert_eq!(escaped_lines("a\nb\tc\r"), "a\nb\tc\\u000d");
    }

    #[test]
    fn a_json_document_still_means_the_same() {
        let said = serde_json::json!({ "a": "x\u{1b}\u{9b}\u{202e}\u{e0041}" });
        let text = serde_json::to_string_pretty(&said).unwrap();
        let shown = escaped_lines(&text);
        assert_ne!(shown, text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), said);
    }
}
