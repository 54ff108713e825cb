//! No text makes the compiler panic, and none is refused without a reason.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::config::Config;

const SHIPPED: &str = include_str!("../../../listeners.yaml");

/// Compiles and prints; the file's folder does not exist, so no file is read.
fn compile(text: &str) {
    let environment = |name: &str| name.len().is_multiple_of(2).then(|| name.to_owned());
    match Config::parse(text, Path::new("/nonexistent/listeners.yaml"), &environment) {
        Ok(config) => assert!(!config.listeners.is_empty() && !config.clusters.is_empty()),
        Err(mistakes) => {
            assert!(mistakes.iter().count() > 0);
            let shown = mistakes.to_string();
            assert!(!shown.contains("mistake of ambassador itself"), "{shown}\nin\n{text}");
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{shown:?}");
        }
    }
}

/// Words that the compiler knows, and what is difficult in YAML.
fn word() -> impl Strategy<Value = &'static str> {
    let words: Vec<_> = SHIPPED
        .split(|c: char| !c.is_ascii_alphanumeric() && !"_.:/-".contains(c))
        .filter(|word| !word.is_empty())
        .chain([
            "\n",
            "\n  ",
            "\n    ",
            ": ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "\"",
            "'",
            "&a ",
            "*a",
            "<<: *a",
            "|",
            ">",
            "!!int ",
            "${A}",
            "${",
            "$$",
            "~",
            "0660",
            "1e999",
            ".nan",
            "-1",
            "\t",
            "\u{0}",
            "\u{feff}",
            "é",
            "---\n",
            "# ",
            "? ",
            "[::1]:1",
            "none",
            "systemd:x",
            "unix:",
            "99999999999999999999",
            "\r",
            "\u{85}",
        ])
        .collect();
    proptest::sample::select(words)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_is_refused_or_accepted(text in any::<String>()) {
        compile(&text);
    }

    #[test]
    fn random_words_are_refused_or_accepted(words in prop::collection::vec(word(), 0..60)) {
        compile(&words.concat());
    }

    #[test]
    fn a_broken_example_is_refused_or_accepted(
        edits in prop::collection::vec((any::<Index>(), 0..12_usize, word()), 1..6)
    ) {
        let mut text: Vec<char> = SHIPPED.chars().collect();
        for (at, removed, inserted) in edits {
            let start = at.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        compile(&text.into_iter().collect::<String>());
    }

    #[test]
    fn an_example_with_one_value_replaced_is_refused_or_accepted(line in any::<Index>(), value in word()) {
        let lines: Vec<_> = SHIPPED.lines().filter(|line| line.contains(": ")).collect();
        let line = lines[line.index(lines.len())];
        let key = line.split_once(": ").map_or(line, |(key, _)| key);
        compile(&SHIPPED.replacen(line, &format!("{key}: {value}"), 1));
    }
}
