//! What servers say, for people: escaped, and with an end. Pure.

use crate::escape::escaped;

/// Of a server's text so many characters are shown: a refusal by Kubernetes' RBAC has some 200.
const SHOWN: usize = 300;

/// The beginning of the text, on one line.
pub(super) fn shown(text: &str) -> String {
    escaped(&text.trim().chars().take(SHOWN).collect::<String>()).into_owned()
}

/// A server's text behind a colon; empty if it says nothing.
pub(super) fn and_says(text: &str) -> String {
    match shown(text) {
        text if text.is_empty() => text,
        text => format!(": {text}"),
    }
}

/// The first of them, and how many more there are; `None`: there is none.
pub(super) fn first_and_count(complaints: &[String]) -> Option<String> {
    match complaints {
        [] => None,
        [only] => Some(only.clone()),
        [first, more @ ..] => Some(format!("{first}; and {} more", more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_an_end_and_one_line() {
        assert_eq!(and_says(" no\nleader "), ": no\\u000aleader");
        assert_eq!(and_says(" \n"), "");
        assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN);
    }

    #[test]
    fn the_first_complaint_stands_for_all() {
        let all = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(first_and_count(&all).as_deref(), Some("a; and 2 more"));
        assert_eq!(first_and_count(&all[..1]).as_deref(), Some("a"));
        assert_eq!(first_and_count(&[]), None);
    }
}
