//! The structure of the file as data: which keys there are, what each takes, and its default.
//!
//! One table ([`table`]) is used for parsing, rejecting, suggesting and the schema for editors, so they
//! cannot disagree.

#[rustfmt::skip]
pub(super) mod table;

use std::time::Duration;

/// A section: a map with known keys.
pub(super) struct SectionSpec {
    pub(super) about: &'static str,
    pub(super) keys: &'static [KeySpec],
}

/// One key of a section.
pub(super) struct KeySpec {
    pub(super) name: &'static str,
    /// One line, for editors.
    pub(super) about: &'static str,
    pub(super) kind: ValueKind,
    pub(super) presence: Presence,
}

/// What the key is when the file does not have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    /// As if this had been written.
    Default(&'static str),
    /// Off, or derived from something else.
    Optional,
}

/// What kind of value is expected.
pub(super) enum ValueKind {
    /// Text; with an example.
    Text(&'static str),
    /// Bytes in printable ASCII with escapes; with an example.
    Bytes(&'static str),
    /// The name or the number of a user, a group or a port.
    Account,
    /// Permission bits in octal, in quotes.
    Mode,
    Boolean,
    /// From the first to the second, inclusive.
    Integer(u32, u32),
    /// A number from 0 to that, fractions included.
    Ratio(u32),
    Duration(DurationRange),
    /// One of these words.
    Word(&'static [&'static str]),
    List(&'static Self),
    Section(&'static SectionSpec),
    /// A map from names chosen by the user to sections.
    Names(&'static SectionSpec),
    /// At most one kind for each form of YAML.
    Either(&'static [Self]),
}

/// The range of durations that a key takes.
pub(super) struct DurationRange {
    pub(super) min: Duration,
    pub(super) max: Duration,
    /// Whether `none` is allowed.
    pub(super) none: bool,
}

/// The forms of YAML that are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum YamlKind {
    Scalar,
    List,
    Map,
}

impl ValueKind {
    /// The sections that such a value may hold, with the way from its key to theirs: nothing, `.NAME`, or `[]` for the items of a
    /// list.
    pub(super) fn sections(&self) -> Vec<(String, &'static SectionSpec)> {
        match self {
            Self::Section(spec) => vec![(String::new(), spec)],
            Self::Names(spec) => vec![(".NAME".to_owned(), spec)],
            Self::List(item) => {
                item.sections().into_iter().map(|(way, spec)| (format!("[]{way}"), spec)).collect()
            }
            Self::Either(kinds) => kinds.iter().flat_map(Self::sections).collect(),
            Self::Text(_)
            | Self::Bytes(_)
            | Self::Account
            | Self::Mode
            | Self::Boolean
            | Self::Integer(..)
            | Self::Ratio(_)
            | Self::Duration(_)
            | Self::Word(_) => Vec::new(),
        }
    }
}

impl SectionSpec {
    pub(super) fn key(&self, name: &str) -> Option<&'static KeySpec> {
        self.keys.iter().find(|key| key.name == name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    /// The sections directly below.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'static str, &'static Self)> {
        self.keys.iter().filter_map(|key| key.kind.as_section().map(|spec| (key.name, spec)))
    }
}

impl ValueKind {
    const fn as_section(&self) -> Option<&'static SectionSpec> {
        if let Self::Section(spec) = self { Some(spec) } else { None }
    }

    pub(super) const fn form(&self) -> YamlKind {
        match self {
            Self::List(_) => YamlKind::List,
            Self::Section(_) | Self::Names(_) => YamlKind::Map,
            Self::Text(_)
            | Self::Bytes(_)
            | Self::Account
            | Self::Mode
            | Self::Boolean
            | Self::Integer(..)
            | Self::Ratio(_)
            | Self::Duration(_)
            | Self::Word(_)
            | Self::Either(_) => YamlKind::Scalar,
        }
    }

    /// The text after the word "expected".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Text(example) => format!("text such as \"{example}\""),
            Self::Bytes(example) => format!("bytes as text with escapes, such as '{example}'"),
            Self::Account => "a name or a number".into(),
            Self::Mode => "octal digits in quotes, such as \"0660\"".into(),
            Self::Boolean => "true or false".into(),
            Self::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Self::Ratio(max) => format!("a number from 0 to {max}, such as 0.2"),
            Self::Duration(span) if span.none => "a duration such as 250ms, 5s or 1h30m, or none".into(),
            Self::Duration(_) => "a duration such as 250ms, 5s or 1h30m".into(),
            Self::Word(words) => one_of(words),
            Self::List(kind) => format!("a list, each item {}", kind.expected()),
            Self::Section(spec) => format!("a map of {}", one_of_keys(spec)),
            Self::Names(_) => "a map from names to sections".into(),
            Self::Either(kinds) => kinds.iter().map(Self::expected).collect::<Vec<_>>().join(", or "),
        }
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).into(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn one_of_keys(spec: &SectionSpec) -> String {
    one_of(&spec.names().collect::<Vec<_>>())
}
