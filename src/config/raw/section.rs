//! A section after parsing, and its getters for the next stage.
//!
//! A getter's `None` means that there is no value to use: the key is absent, or a mistake about it was
//! reported. [`Section::is_given`], and the getters for optional keys, distinguish the two.

use std::time::Duration;

use crate::config::mistakes::{Position, SourceLocation};

/// A value of the kind that the table requires.
#[derive(Debug)]
pub(in crate::config) enum Datum {
    Text(String),
    Bytes(Vec<u8>),
    Integer(u32),
    Ratio(f64),
    Boolean(bool),
    /// `None` for the word `none`.
    Duration(Option<Duration>),
    List(Vec<Item>),
    Section(Section),
    Names(Vec<(String, Section)>),
}

impl Datum {
    /// Appends the value so that no two different ones look the same.
    fn add_to(&self, bytes: &mut Vec<u8>) {
        let sized = |bytes: &mut Vec<u8>, kind: u8, part: &[u8]| {
            bytes.push(kind);
            add_size(part.len(), bytes);
            bytes.extend(part);
        };
        match self {
            Self::Text(text) => sized(bytes, b't', text.as_bytes()),
            Self::Bytes(value) => sized(bytes, b'b', value),
            Self::Integer(value) => sized(bytes, b'i', &value.to_le_bytes()),
            Self::Ratio(value) => sized(bytes, b'r', &value.to_le_bytes()),
            Self::Boolean(value) => sized(bytes, b'o', &[u8::from(*value)]),
            Self::Duration(None) => sized(bytes, b'd', &[]),
            Self::Duration(Some(value)) => sized(bytes, b'd', &value.as_nanos().to_le_bytes()),
            Self::List(items) => {
                bytes.push(b'l');
                add_size(items.len(), bytes);
                items.iter().for_each(|item| add_value(item.datum.as_ref(), bytes));
            }
            Self::Section(section) => {
                bytes.push(b's');
                section.add_to(bytes);
            }
            Self::Names(names) => {
                bytes.push(b'n');
                add_size(names.len(), bytes);
                for (name, section) in names {
                    sized(bytes, b't', name.as_bytes());
                    section.add_to(bytes);
                }
            }
        }
    }

    fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Text(text) => Box::new(std::iter::once(text.as_str())),
            Self::List(items) => {
                Box::new(items.iter().filter_map(|item| item.datum.as_ref()).flat_map(Self::texts))
            }
            Self::Section(section) => section.texts(),
            Self::Names(names) => Box::new(names.iter().flat_map(|(_, section)| section.texts())),
            Self::Bytes(_) | Self::Integer(_) | Self::Ratio(_) | Self::Boolean(_) | Self::Duration(_) => {
                Box::new(std::iter::empty())
            }
        }
    }
}

fn add_value(datum: Option<&Datum>, bytes: &mut Vec<u8>) {
    match datum {
        Some(datum) => datum.add_to(bytes),
        None => bytes.push(0),
    }
}

fn add_size(size: usize, bytes: &mut Vec<u8>) {
    bytes.extend((size as u64).to_le_bytes());
}

/// An item of a list; without a datum, it is a mistake that was reported.
#[derive(Debug)]
pub(in crate::config) struct Item {
    pub(in crate::config) at: SourceLocation,
    pub(super) datum: Option<Datum>,
}

impl Item {
    pub(in crate::config) fn text(&self) -> Option<&str> {
        if let Some(Datum::Text(text)) = &self.datum { Some(text) } else { None }
    }

    pub(in crate::config) fn integer(&self) -> Option<u32> {
        if let Some(Datum::Integer(value)) = &self.datum { Some(*value) } else { None }
    }

    pub(in crate::config) fn section(&self) -> Option<&Section> {
        if let Some(Datum::Section(section)) = &self.datum { Some(section) } else { None }
    }
}

#[derive(Debug)]
pub(in crate::config) struct Section {
    pub(in crate::config) at: SourceLocation,
    /// In the table's order, whatever the file's is.
    pub(super) fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// The value's position; `None` when the file does not have the key.
    pub(super) position: Option<Position>,
    pub(super) datum: Option<Datum>,
}

impl Section {
    /// The place of a key's value; of the section, when the file does not have the key.
    pub(in crate::config) fn at(&self, name: &str) -> SourceLocation {
        let position = self.field(name).and_then(|field| field.position);
        self.at.below(name, position.unwrap_or(self.at.position))
    }

    /// Whether the file has the key, valid or not.
    pub(in crate::config) fn is_given(&self, name: &str) -> bool {
        self.field(name).is_some_and(|field| field.position.is_some())
    }

    pub(in crate::config) fn text(&self, name: &str) -> Option<&str> {
        let Datum::Text(text) = self.datum(name)? else { return None };
        Some(text)
    }

    /// For a key that may be absent: `Some(None)` when it is.
    pub(in crate::config) fn optional_text(&self, name: &str) -> Option<Option<&str>> {
        if self.is_given(name) { self.text(name).map(Some) } else { Some(None) }
    }

    pub(in crate::config) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let Datum::Bytes(bytes) = self.datum(name)? else { return None };
        Some(bytes)
    }

    pub(in crate::config) fn integer(&self, name: &str) -> Option<u32> {
        let Datum::Integer(value) = self.datum(name)? else { return None };
        Some(*value)
    }

    /// For a key that may be absent: `Some(None)` when it is.
    pub(in crate::config) fn optional_integer(&self, name: &str) -> Option<Option<u32>> {
        if self.is_given(name) { self.integer(name).map(Some) } else { Some(None) }
    }

    pub(in crate::config) fn ratio(&self, name: &str) -> Option<f64> {
        let Datum::Ratio(value) = self.datum(name)? else { return None };
        Some(*value)
    }

    pub(in crate::config) fn boolean(&self, name: &str) -> Option<bool> {
        let Datum::Boolean(value) = self.datum(name)? else { return None };
        Some(*value)
    }

    /// For a duration that cannot be `none`.
    pub(in crate::config) fn duration(&self, name: &str) -> Option<Duration> {
        self.duration_or_none(name)?
    }

    /// For a duration that may be `none`: `Some(None)` then.
    pub(in crate::config) fn duration_or_none(&self, name: &str) -> Option<Option<Duration>> {
        let Datum::Duration(duration) = self.datum(name)? else { return None };
        Some(*duration)
    }

    /// The meaning of the word that is given.
    pub(in crate::config) fn choice<T: Clone>(&self, name: &str, meanings: &[(&str, T)]) -> Option<T> {
        let word = self.text(name)?;
        meanings.iter().find(|(known, _)| *known == word).map(|(_, meaning)| meaning.clone())
    }

    pub(in crate::config) fn section(&self, name: &str) -> Option<&Self> {
        let Datum::Section(section) = self.datum(name)? else { return None };
        Some(section)
    }

    /// The sections under names chosen by the user, in the file's order; none when there is no such map.
    pub(in crate::config) fn names(&self, name: &str) -> &[(String, Self)] {
        if let Some(Datum::Names(names)) = self.datum(name) { names } else { &[] }
    }

    /// Whether the file has such a map, and it is empty.
    pub(in crate::config) fn is_empty_map(&self, name: &str) -> bool {
        matches!(self.datum(name), Some(Datum::Names(names)) if names.is_empty())
    }

    pub(in crate::config) fn list(&self, name: &str) -> Option<&[Item]> {
        let Datum::List(items) = self.datum(name)? else { return None };
        Some(items)
    }

    /// Appends every key with its value, at any depth, in the table's order: sections of one table that mean the same give
    /// the same bytes.
    pub(in crate::config) fn add_to(&self, bytes: &mut Vec<u8>) {
        add_size(self.fields.len(), bytes);
        self.fields.iter().for_each(|field| add_value(field.datum.as_ref(), bytes));
    }

    /// Every text in it, at any depth.
    pub(in crate::config) fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.fields.iter().filter_map(|field| field.datum.as_ref()).flat_map(Datum::texts))
    }

    fn datum(&self, name: &str) -> Option<&Datum> {
        self.field(name)?.datum.as_ref()
    }

    fn field(&self, name: &str) -> Option<&Field> {
        let field = self.fields.iter().find(|field| field.name == name);
        // A badly formed section has no fields at all; any other has all of its table.
        debug_assert!(
            field.is_some() || self.fields.is_empty(),
            "`{name}` is not in the table of {}",
            self.at.path
        );
        field
    }
}
