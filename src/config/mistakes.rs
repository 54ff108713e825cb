//! Mistakes and warnings with their places in the file, formatted for people, all in one go.
//!
//! While the file is compiled, [`Findings`] collects them; at the end they are put beside their lines. What is a
//! mistake is decided elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::admin::{MistakeView, format_list};
use crate::escape::is_control;

/// Line and column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A place in the text, and in the tree of keys.
#[derive(Debug, Clone)]
pub(super) struct SourceLocation {
    pub(super) position: Position,
    pub(super) path: String,
}

/// What was found so far, in any order.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) mistakes: Vec<(SourceLocation, String)>,
    pub(super) warnings: Vec<(SourceLocation, String)>,
    /// Texts that come from the environment, and what messages show instead.
    hidden: Vec<(String, String)>,
}

/// All mistakes of a file, in the file's order. Never empty.
#[derive(Debug)]
pub struct Mistakes {
    file: PathBuf,
    list: Vec<Mistake>,
    /// The file's warnings, which are shown as well.
    warnings: Vec<String>,
}

/// One mistake of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the text; `None` when there is no text.
    pub position: Option<Position>,
    /// The keys that lead there, such as `clusters.orders.tls.cert`; empty when the text is not YAML.
    pub path: String,
    /// What is wrong, and if possible what to do.
    pub message: String,
    /// The line, cut to a terminal's width, and below it the marked part.
    shown: Option<String>,
}

impl Findings {
    pub(super) fn mistake(&mut self, at: &SourceLocation, message: impl Into<String>) {
        self.mistakes.push((at.clone(), self.without_values(message.into())));
    }

    pub(super) fn warning(&mut self, at: &SourceLocation, message: impl Into<String>) {
        self.warnings.push((at.clone(), self.without_values(message.into())));
    }

    /// In the file's order, one line each; the same warning at several places is one line.
    pub(super) fn warning_lines(&mut self, file: &Path) -> Vec<String> {
        self.warnings.sort_by_key(|(at, _)| at.position);
        let mut grouped: Vec<(&SourceLocation, &str, Vec<&str>)> = Vec::new();
        for (at, message) in &self.warnings {
            match grouped.iter_mut().find(|(_, said, _)| said == message) {
                Some((_, _, others)) => others.push(&at.path),
                None => grouped.push((at, message, Vec::new())),
            }
        }
        let each = grouped.into_iter().map(|(at, message, others)| {
            let named: Vec<_> = others.iter().take(NAMED_MAX).copied().collect();
            let more = match (others.len(), others.len().saturating_sub(NAMED_MAX)) {
                (0, _) => String::new(),
                (_, 0) => format!(" (and so for {})", named.join(", ")),
                (_, more) => format!(" (and so for {} and {more} more)", named.join(", ")),
            };
            headline(file, Some(at.position), &at.path, &format!("{message}{more}"))
        });
        each.collect()
    }

    /// From here on, messages do not show the values of these environment variables, by which `text` of the file has
    /// become `value`: messages are read by more people than may know them.
    pub(super) fn redact(&mut self, text: &str, value: &str, names: &[(String, String)]) {
        self.hidden.push((quoted(value), quoted(text)));
        for (name, value) in names.iter().filter(|(_, value)| value.chars().count() >= HIDDEN_MIN) {
            for said in [value.clone(), value.escape_default().to_string(), words(value).0] {
                self.hidden.push((said, format!("${{{name}}}")));
            }
        }
        // Longer texts first, because they may contain others.
        self.hidden.sort_by_key(|(said, _)| std::cmp::Reverse(said.len()));
        self.hidden.dedup();
    }

    fn without_values(&self, mut message: String) -> String {
        for (said, instead) in &self.hidden {
            let mut from = 0;
            while let Some(at) = message[from..].find(said.as_str()).map(|at| from + at) {
                let end = at + said.len();
                let touches = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
                let is_word =
                    !touches(message[..at].chars().next_back()) && !touches(message[end..].chars().next());
                if is_word || said.starts_with('`') {
                    message.replace_range(at..end, instead);
                    from = at + instead.len();
                } else {
                    from = end;
                }
            }
        }
        message
    }
}

/// How many further places a warning names.
const NAMED_MAX: usize = 8;
/// Shorter values are no secrets, and would be found in ordinary words.
const HIDDEN_MIN: usize = 4;

/// How many characters of a key are shown; a key that is not checked yet may be anything.
const STEP_MAX: usize = 128;

impl SourceLocation {
    /// The place of a key, or of an index such as `[1]`, below this one.
    pub(super) fn below(&self, step: &str, position: Position) -> Self {
        let mut path = String::with_capacity(self.path.len() + 1 + step.len());
        path.push_str(&self.path);
        if !path.is_empty() && !step.starts_with('[') {
            path.push('.');
        }
        // Nearly every step; a file has tens of thousands.
        if step.len() <= STEP_MAX && step.bytes().all(|byte| byte.is_ascii_graphic()) {
            path.push_str(step);
        } else {
            path.extend(step.chars().take(STEP_MAX).map(printable));
            if step.chars().nth(STEP_MAX).is_some() {
                path.push('…');
            }
        }
        Self { position, path }
    }
}

impl Mistakes {
    /// A file whose text could not be read.
    pub(super) fn unreadable(file: &Path, message: String) -> Self {
        let mistake = Mistake { position: None, path: String::new(), message, shown: None };
        Self { file: file.to_owned(), list: vec![mistake], warnings: Vec::new() }
    }

    /// The findings in `text`.
    pub(super) fn new(file: &Path, text: &str, mut found: Vec<(SourceLocation, String)>) -> Self {
        // Stable: of two mistakes at one place, the one found first is nearer to the cause.
        found.sort_by_key(|(at, _)| at.position);
        let wanted = found.iter().map(|(at, _)| (at.position.line, "")).collect();
        let lines = lines(text, wanted);
        let list = found.into_iter().map(|(at, message)| Mistake::new(at, message, &lines)).collect();
        Self { file: file.to_owned(), list, warnings: Vec::new() }
    }

    /// Adds warnings: an expired certificate is worth reporting in the same run.
    pub(super) fn with(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// As the control socket sends them.
    #[must_use]
    pub fn view(&self) -> Vec<MistakeView> {
        self.list.iter().map(|mistake| mistake.view(&self.file)).collect()
    }

    /// The mistakes in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }
}

/// Fills in the text of the wanted lines. A YAML line ends with CR, LF or both (YAML 1.2.2 §5.4).
fn lines<'a>(text: &'a str, mut wanted: BTreeMap<usize, &'a str>) -> BTreeMap<usize, &'a str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let ends_of_lf = text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
    for (number, line) in (1..).zip(ends_of_lf) {
        if let Some(wanted) = wanted.get_mut(&number) {
            *wanted = line;
        }
    }
    wanted
}

impl Mistake {
    fn new(at: SourceLocation, message: String, lines: &BTreeMap<usize, &str>) -> Self {
        let line = lines.get(&at.position.line).copied().unwrap_or_default();
        let shown = (!line.trim().is_empty()).then(|| excerpt(line, at.position));
        Self { position: Some(at.position), path: at.path, message, shown }
    }

    /// As the control socket sends it.
    #[must_use]
    pub fn view(&self, file: &Path) -> MistakeView {
        MistakeView {
            file: file.display().to_string(),
            line: self.position.map(|position| position.line),
            column: self.position.map(|position| position.column),
            path: self.path.clone(),
            message: self.message.clone(),
            shown: self.shown.clone(),
        }
    }
}

/// The beginning of a certificate or a key (RFC 7468 §2).
pub(super) const PEM: &str = "-----BEGIN";

/// Characters shown before and after the column; the rest of a longer line is left out.
const BEFORE: usize = 60;
const AFTER: usize = 60;

/// A line with its number, as it may be shown, and below it the marked part.
fn excerpt(line: &str, position: Position) -> String {
    let line = &*without_key(line);
    let column = position.column.saturating_sub(1);
    let skipped = column.saturating_sub(BEFORE);
    let ahead = line.chars().skip(skipped).take(BEFORE.min(column)).map(printable);
    let (mut shown, mut below) = (String::new(), String::new());
    if skipped > 0 {
        shown.push('…');
        below.push(' ');
    }
    for character in ahead {
        shown.push(character);
        below.push(if character == '\t' { '\t' } else { ' ' });
    }
    let meant: String = line.chars().skip(column).take(AFTER).collect();
    below.extend(std::iter::repeat_n('^', extent(&meant)));
    shown.extend(meant.chars().map(printable));
    if line.chars().nth(column + AFTER).is_some() {
        shown.push('…');
    }
    let number = position.line.to_string();
    format!("{number:>4} | {shown}\n{:>width$} | {below}", "", width = number.len().max(4))
}

/// The text up to a certificate or key in it.
fn without_key(text: &str) -> Cow<'_, str> {
    match text.find(PEM) {
        Some(begin) => Cow::Owned(format!("{}…", &text[..begin + PEM.len()])),
        None => Cow::Borrowed(text),
    }
}

/// The estimated length, in characters, of the key or value that begins here: only a whole document tells exactly.
fn extent(text: &str) -> usize {
    let count = |bytes: usize| text[..bytes].trim_end().chars().count().max(1);
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let rest = &text[1..];
            rest.find(quote).map_or_else(|| count(text.len()), |end| count(1 + end + 1))
        }
        // Of a collection, or a text of several lines, only the first character is marked.
        None | Some('{' | '[' | '|' | '>' | '&' | '*' | '!') => 1,
        Some(_) => {
            let ends = [": ", ", ", " #", "]", "}", ",\n"].iter().filter_map(|end| text.find(end));
            let end = ends.min().unwrap_or(text.len());
            count(text[..end].trim_end_matches([':', ',']).len())
        }
    }
}

/// The file's text must not control the terminal that shows it.
const fn printable(character: char) -> char {
    if is_control(character) && character != '\t' { char::REPLACEMENT_CHARACTER } else { character }
}

/// A text of the file inside a message: shortened, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    let (shown, is_all) = words(text);
    let more = if is_all { "" } else { "…" };
    format!("`{shown}{more}`")
}

/// What [`quoted`] shows of it, and whether that is everything.
fn words(text: &str) -> (String, bool) {
    const LONGEST: usize = 80;
    let text = &*without_key(text);
    let shown = text.chars().take(LONGEST).flat_map(visible).collect();
    (shown, text.chars().nth(LONGEST).is_none())
}

fn visible(character: char) -> Box<dyn Iterator<Item = char>> {
    if is_control(character) {
        Box::new(character.escape_default())
    } else {
        Box::new(std::iter::once(character))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// `FILE:LINE:COLUMN: PATH: message`, without unknown parts.
pub(super) fn headline(file: &Path, position: Option<Position>, path: &str, message: &str) -> String {
    Mistake { position, path: path.into(), message: message.into(), shown: None }.view(file).to_string()
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_list(&self.view()))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, path: &str) -> SourceLocation {
        SourceLocation { position: Position { line, column }, path: path.into() }
    }

    #[test]
    fn mistakes_are_printed_in_the_files_order_with_line_and_caret() {
        let found = vec![(at(2, 6, "a.b"), "second".into()), (at(1, 1, "a"), "first".into())];
        let shown = Mistakes::new(Path::new("l.yaml"), "a:\n\tb: ü\u{7}x\n", found).to_string();
        let expected = "l.yaml:1:1: a: first\n   1 | a:\n     | ^\n\n\
                        l.yaml:2:6: a.b: second\n   2 | \tb: ü\u{fffd}x\n     | \t    ^^\n\n\
                        2 mistakes in l.yaml";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_file_without_text_is_named_alone() {
        let mistakes = Mistakes::unreadable(Path::new("l.yaml"), "cannot be read".into());
        assert_eq!(mistakes.to_string(), "l.yaml: cannot be read");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let shown = excerpt(&line, Position { line: 12345, column: 5001 });
        let (a, b) = ("a".repeat(60), "b".repeat(59));
        let below = format!("{}{}", " ".repeat(61), "^".repeat(60));
        assert_eq!(shown, format!("12345 | …{a}X{b}…\n      | {below}"));
    }

    #[test]
    fn what_is_meant_is_underlined() {
        for (text, expected) in [
            ("protokol: tcp", "protokol"),
            ("protokol:", "protokol"),
            ("127.0.0.1:1, 127.0.0.1:2 ]", "127.0.0.1:1"),
            ("off }", "off"),
            ("two words  # and why", "two words"),
            ("'a: b, c' }", "'a: b, c'"),
            ("\"open", "\"open"),
            ("{ a: 1 }", "{"),
            ("ü, b", "ü"),
            (", ", "?"),
            ("", "?"),
        ] {
            assert_eq!(extent(text), expected.chars().count(), "{text}");
        }
    }

    #[test]
    fn a_path_is_made_of_its_steps() {
        let of =
            |steps: &[&str]| steps.iter().fold(at(1, 1, ""), |at, step| at.below(step, at.position)).path;
        assert_eq!(of(&["clusters", "a.b", "endpoints", "[3]"]), "clusters.a.b.endpoints[3]");
        assert_eq!(of(&["a", "ü\u{7} "]), "a.ü\u{fffd} ");
        let long = "k".repeat(STEP_MAX);
        assert_eq!(of(&[&long]), long);
        assert_eq!(of(&[&format!("{long}k")]), format!("{long}…"));
    }

    #[test]
    fn a_place_outside_the_text_is_no_panic() {
        for (line, column) in [(0, 0), (1, 99), (9, 9), (usize::MAX, usize::MAX)] {
            let found = vec![(at(line, column, ""), "x".into())];
            let _ = Mistakes::new(Path::new("f"), "a: 1", found).to_string();
        }
    }

    #[test]
    fn every_kind_of_line_end_counts() {
        let wanted = [(1, ""), (2, ""), (3, ""), (4, "")].into();
        let found: Vec<_> = lines("\u{feff}a\r\nb\rc\nd", wanted).into_values().collect();
        assert_eq!(found, ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_comes_from_the_environment_is_in_no_message() {
        let (secret, long) = ("hunter2/x".to_owned(), "k".repeat(100));
        let mut findings = Findings::default();
        findings.redact("${A}:1", "hunter2/x:1", &[("A".into(), secret)]);
        findings.redact("${B}", &long, &[("B".into(), long.clone())]);
        findings.redact("${C}", "1", &[("C".into(), "1".into())]);
        for (message, expected) in [
            (format!("{} is no address", quoted("hunter2/x:1")), "`${A}:1` is no address"),
            ("cannot reach hunter2/x, port 1".into(), "cannot reach ${A}, port 1"),
            ("hunter2/xyz is another word".into(), "hunter2/xyz is another word"),
            (quoted(&long), "`${B}`"),
            (format!("host {long} in 11 lines"), "host ${B} in 11 lines"),
            ("`1` is too little".into(), "`${C}` is too little"),
        ] {
            findings.mistake(&at(1, 1, ""), message);
            assert_eq!(findings.mistakes.pop().unwrap().1, expected);
        }
    }

    /// Forty-two clusters with one world-readable key gave forty-two warnings.
    #[test]
    fn what_is_the_same_of_several_places_is_said_once() {
        let mut findings = Findings::default();
        for line in (1..=11).rev() {
            findings.warning(&at(line, 1, &format!("clusters.c{line}.tls.key")), "is readable");
        }
        findings.warning(&at(5, 1, "x"), "is another");
        let told = findings.warning_lines(Path::new("l.yaml"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with(
                "l.yaml:1:1: clusters.c1.tls.key: is readable (and so for clusters.c2.tls.key, "
            ),
            "{told:?}"
        );
        assert!(told[0].ends_with("clusters.c9.tls.key and 2 more)"), "{told:?}");
    }

    /// A private key that was pasted into the configuration was shown in the message and below it.
    #[test]
    fn a_key_is_shown_nowhere() {
        let line = "key: \"-----BEGIN PRIVATE KEY-----\\nMIIEvQ\"";
        for column in [1, 6, 20, 40] {
            let shown = excerpt(line, Position { line: 1, column });
            assert!(!shown.contains("MIIEvQ"), "{shown}");
        }
        assert_eq!(quoted("-----BEGIN PRIVATE KEY-----\nMIIEvQ"), "`-----BEGIN…`");
    }

    #[test]
    fn quoted_words_are_short_and_harmless() {
        assert_eq!(quoted("a\u{1b}[2J"), "`a\\u{1b}[2J`");
        assert_eq!(quoted(&"é".repeat(100)), format!("`{}…`", "é".repeat(80)));
    }
}
