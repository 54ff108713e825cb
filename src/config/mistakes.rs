//! What is wrong with a file, and what it says where: for people, all of it in one go.
//!
//! While the file is compiled, [`Findings`] collects; at the end what was found is put beside the lines it
//! is about. Nothing here decides what a mistake is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::admin::{MistakeView, listed};
use crate::shown::steers;

/// Line and column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Where something is: in the text, and in the tree of keys.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub(super) place: Place,
    pub(super) path: String,
}

/// What was found so far, in any order.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) mistakes: Vec<(At, String)>,
    pub(super) warnings: Vec<(At, String)>,
    /// What is wrong with files that the text names, and in how many more places it does.
    of_files: BTreeMap<String, usize>,
    /// Texts that come from the environment, and what messages say in their stead.
    hidden: Vec<(String, String)>,
}

/// Everything that is wrong with a file, in the file's order. Never empty.
#[derive(Debug)]
pub struct Mistakes {
    file: PathBuf,
    list: Vec<Mistake>,
    /// What else was found of the files that it names: true whatever else is wrong.
    beside: Vec<String>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the text; `None` when there is no text.
    pub place: Option<Place>,
    /// The keys that lead there, such as `clusters.orders.tls.cert`; empty when the text is not YAML.
    pub path: String,
    /// What is wrong, and where it can be known what to do.
    pub message: String,
    /// The line it is about, cut to a width that a terminal shows, and below it what is meant, underlined.
    shown: Option<String>,
}

impl Findings {
    pub(super) fn mistake(&mut self, at: &At, message: impl Into<String>) {
        self.mistakes.push((at.clone(), self.without_values(message.into())));
    }

    pub(super) fn warning(&mut self, at: &At, message: impl Into<String>) {
        self.warnings.push((at.clone(), self.without_values(message.into())));
    }

    /// Of a file, whose name the message has: said once, however many parts of the text name it.
    pub(super) fn warning_of_file(&mut self, at: &At, message: String) {
        match self.of_files.get_mut(&message) {
            Some(more) => *more += 1,
            None => {
                self.of_files.insert(message.clone(), 0);
                self.warnings.push((at.clone(), message));
            }
        }
    }

    /// The warnings in the text's order, each in one line.
    pub(super) fn warnings(&mut self, file: &Path) -> Vec<String> {
        self.warnings.sort_by_key(|(at, _)| at.place);
        self.warnings.iter().map(|warning| self.in_a_line(warning, file)).collect()
    }

    /// Those of files alone.
    pub(super) fn warnings_of_files(&self, file: &Path) -> Vec<String> {
        let of_files = self.warnings.iter().filter(|(_, message)| self.of_files.contains_key(message));
        of_files.map(|warning| self.in_a_line(warning, file)).collect()
    }

    fn in_a_line(&self, (at, message): &(At, String), file: &Path) -> String {
        let shown = self.without_values(message.clone());
        let line = headline(file, Some(at.place), &at.path, &shown);
        match self.of_files.get(message) {
            None | Some(0) => line,
            Some(more) => format!("{line} (and it is named in {more} more place(s))"),
        }
    }

    /// From here on no message shows what the environment says of these names, which `text` of the file has become `value`
    /// by: more people read messages than may know it.
    pub(super) fn hide(&mut self, text: &str, value: &str, names: &[(String, String)]) {
        self.hidden.push((quoted(value), quoted(text)));
        for (name, value) in names.iter().filter(|(_, value)| value.chars().count() >= HIDDEN_MIN) {
            for said in [value.clone(), value.escape_default().to_string(), words(value).0] {
                self.hidden.push((said, format!("${{{name}}}")));
            }
        }
        // What is part of another comes behind it.
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

/// Shorter values are no secrets, and would be found in ordinary words.
const HIDDEN_MIN: usize = 4;

/// Characters of a key that are shown; it may be anything, as long as nobody has judged it.
const STEP_MAX: usize = 128;

impl At {
    /// A key, or an index such as `[1]`, below this place.
    pub(super) fn below(&self, step: &str, place: Place) -> Self {
        let dot = if self.path.is_empty() || step.starts_with('[') { "" } else { "." };
        let shown: String = step.chars().take(STEP_MAX).map(printable).collect();
        let more = if step.chars().nth(STEP_MAX).is_some() { "…" } else { "" };
        Self { place, path: format!("{}{dot}{shown}{more}", self.path) }
    }
}

impl Mistakes {
    /// A file whose text is not at hand.
    pub(super) fn unreadable(file: &Path, message: String) -> Self {
        let mistake = Mistake { place: None, path: String::new(), message, shown: None };
        Self { file: file.to_owned(), list: vec![mistake], beside: Vec::new() }
    }

    /// What was found in `text`.
    pub(super) fn new(file: &Path, text: &str, mut found: Vec<(At, String)>) -> Self {
        // Stable: of two mistakes at one place, the one found first is the nearer to the cause.
        found.sort_by_key(|(at, _)| at.place);
        let wanted = found.iter().map(|(at, _)| (at.place.line, "")).collect();
        let lines = lines(text, wanted);
        let list = found.into_iter().map(|(at, message)| Mistake::new(at, message, &lines)).collect();
        Self { file: file.to_owned(), list, beside: Vec::new() }
    }

    /// With these warnings.
    pub(super) fn beside(self, warnings: Vec<String>) -> Self {
        Self { beside: warnings, ..self }
    }

    /// As the control socket tells them.
    #[must_use]
    pub fn view(&self) -> Vec<MistakeView> {
        self.list.iter().map(|mistake| mistake.view(&self.file)).collect()
    }

    /// Each of them.
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
    fn new(at: At, message: String, lines: &BTreeMap<usize, &str>) -> Self {
        let line = lines.get(&at.place.line).copied().unwrap_or_default();
        let shown = (!line.trim().is_empty()).then(|| excerpt(line, at.place));
        Self { place: Some(at.place), path: at.path, message, shown }
    }

    /// As others see it.
    #[must_use]
    pub fn view(&self, file: &Path) -> MistakeView {
        MistakeView {
            file: file.display().to_string(),
            line: self.place.map(|place| place.line),
            column: self.place.map(|place| place.column),
            path: self.path.clone(),
            message: self.message.clone(),
            shown: self.shown.clone(),
        }
    }
}

/// Characters shown before and after the column; the rest of a longer line is left out.
const BEFORE: usize = 60;
const AFTER: usize = 60;

/// A line behind its number as it may be shown, and below it what is meant, underlined.
fn excerpt(line: &str, place: Place) -> String {
    let column = place.column.saturating_sub(1);
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
    let number = place.line.to_string();
    format!("{number:>4} | {shown}\n{:>width$} | {below}", "", width = number.len().max(4))
}

/// How many characters the key or value has that begins here: a guess, since only a whole document tells.
fn extent(text: &str) -> usize {
    let count = |bytes: usize| text[..bytes].trim_end().chars().count().max(1);
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let rest = &text[1..];
            rest.find(quote).map_or_else(|| count(text.len()), |end| count(1 + end + 1))
        }
        // A whole collection, or a text of several lines, is named by its first character.
        None | Some('{' | '[' | '|' | '>' | '&' | '*' | '!') => 1,
        Some(_) => {
            let ends = [": ", ", ", " #", "]", "}", ",\n"].iter().filter_map(|end| text.find(end));
            let end = ends.min().unwrap_or(text.len());
            count(text[..end].trim_end_matches([':', ',']).len())
        }
    }
}

/// What the file says must not steer the terminal that shows it.
const fn printable(character: char) -> char {
    if steers(character) && character != '\t' { char::REPLACEMENT_CHARACTER } else { character }
}

/// A word of the file inside a message: shortened, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    let (shown, is_all) = words(text);
    let more = if is_all { "" } else { "…" };
    format!("`{shown}{more}`")
}

/// What [`quoted`] shows of it, and whether that is all.
fn words(text: &str) -> (String, bool) {
    const LONGEST: usize = 80;
    let shown = text.chars().take(LONGEST).flat_map(visible).collect();
    (shown, text.chars().nth(LONGEST).is_none())
}

fn visible(character: char) -> Box<dyn Iterator<Item = char>> {
    if steers(character) {
        Box::new(character.escape_default())
    } else {
        Box::new(std::iter::once(character))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// `FILE:LINE:COLUMN: PATH: message`, without what is not known.
pub(super) fn headline(file: &Path, place: Option<Place>, path: &str, message: &str) -> String {
    Mistake { place, path: path.into(), message: message.into(), shown: None }.view(file).to_string()
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.beside.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        f.write_str(&listed(&self.view()))
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, path: &str) -> At {
        At { place: Place { line, column }, path: path.into() }
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
        let shown = excerpt(&line, Place { line: 12345, column: 5001 });
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
        findings.hide("${A}:1", "hunter2/x:1", &[("A".into(), secret)]);
        findings.hide("${B}", &long, &[("B".into(), long.clone())]);
        findings.hide("${C}", "1", &[("C".into(), "1".into())]);
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

    #[test]
    fn quoted_words_are_short_and_harmless() {
        assert_eq!(quoted("a\u{1b}[2J"), "`a\\u{1b}[2J`");
        assert_eq!(quoted(&"é".repeat(100)), format!("`{}…`", "é".repeat(80)));
    }
}
