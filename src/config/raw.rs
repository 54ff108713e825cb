//! Checks the document against the table of keys.
//!
//! The result is a [`Section`] in which every key of the table has its value, its default, or nothing
//! because of a mistake that was reported. Meaning is left to `resolve`: whether a file exists or a name
//! is defined. A mistake never stops the reading, so one run shows them all.

mod escapes;
mod scalar;
mod section;
mod substitute;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use section::Field;
pub(super) use section::{Datum, Item, Section};

use super::document::{Key as DocumentKey, Node, Value, position_of};
use super::mistakes::{Findings, Position, SourceLocation, quoted};
use super::spec::{KeySpec, Presence, SectionSpec, ValueKind, YamlKind};
use super::synonyms;
use scalar::Scalar;

/// Looks up the variable of a `${NAME}` in the file.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Checks documents against tables.
pub(super) struct DocumentReader<'a> {
    /// `None` for a file other than the configuration, whose author must not get values of the
    /// environment.
    pub(super) environment: Option<Environment<'a>>,
    pub(super) findings: &'a mut Findings,
}

impl DocumentReader<'_> {
    pub(super) fn root(&mut self, spec: &'static SectionSpec, root: &Node) -> Section {
        let at = SourceLocation { position: position_of(root), path: String::new() };
        match &root.value {
            Value::Map(pairs) => self.section(spec, pairs, at),
            Value::Null => self.section(spec, &[], at),
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
                let found = root.value.describe();
                self.findings.mistake(&at, format!("expected a map of sections, found {found}"));
                Section { at, fields: Vec::new() }
            }
        }
    }

    fn section(
        &mut self,
        spec: &'static SectionSpec,
        pairs: &[(DocumentKey, Node)],
        at: SourceLocation,
    ) -> Section {
        let mut given: Vec<Option<Field>> = spec.keys.iter().map(|_| None).collect();
        for (name, key_at, node) in self.unique(pairs, &at) {
            match spec.keys.iter().zip(&mut given).find(|(key, _)| key.name == name) {
                None => {
                    let advice = synonyms::advice(&name, spec);
                    self.findings.mistake(&key_at, format!("unknown key {}{advice}", quoted(&name)));
                }
                Some((key, field)) => {
                    let (position, key_at) =
                        (key_at.position, SourceLocation { position: position_of(node), ..key_at });
                    let datum = self.value(&key.kind, node, &key_at, position);
                    *field = Some(Field { name: key.name, position: Some(key_at.position), datum });
                }
            }
        }
        let mut default = |key: &'static KeySpec| Field {
            name: key.name,
            position: None,
            datum: self.default_of(key, &at),
        };
        let all = spec.keys.iter().zip(given);
        let fields = all.map(|(key, given)| given.unwrap_or_else(|| default(key))).collect();
        Section { at, fields }
    }

    /// The pairs of a map without repeated keys, which are reported with both places.
    fn unique<'n>(
        &mut self,
        pairs: &'n [(DocumentKey, Node)],
        at: &SourceLocation,
    ) -> Vec<(Cow<'n, str>, SourceLocation, &'n Node)> {
        let mut seen: BTreeMap<Cow<'n, str>, Position> = BTreeMap::new();
        let mut unique = Vec::with_capacity(pairs.len());
        for (key, node) in pairs {
            let name = name_of(key);
            let key_at = at.below(&name, position_of(key));
            if let Some(first) = seen.get(&name) {
                let message =
                    format!("{} is given twice; the first is at line {}", quoted(&name), first.line);
                self.findings.mistake(&key_at, message);
            } else {
                seen.insert(name.clone(), key_at.position);
                unique.push((name, key_at, node));
            }
        }
        unique
    }

    /// The default of a key that the file does not have.
    fn default_of(&mut self, key: &'static KeySpec, section: &SourceLocation) -> Option<Datum> {
        let at = || section.below(key.name, section.position);
        match (key.presence, &key.kind) {
            (Presence::Optional, _) => None,
            (Presence::Required, kind) => {
                let message = format!("`{}` is missing: {}", key.name, kind.expected());
                self.findings.mistake(&at(), message);
                None
            }
            (Presence::Default(_), ValueKind::Section(spec)) => {
                Some(Datum::Section(self.section(spec, &[], at())))
            }
            (Presence::Default(text), kind) => {
                let default = Scalar::Substituted(Cow::Borrowed(text));
                default.read(kind).map_err(|reason| self.findings.mistake(&at(), reason)).ok()
            }
        }
    }

    /// Reads the value at a place. A section's position is its key's; of everything else, its own.
    fn value(
        &mut self,
        kind: &'static ValueKind,
        node: &Node,
        at: &SourceLocation,
        key: Position,
    ) -> Option<Datum> {
        match (kind, &node.value) {
            (_, Value::Null) => {
                let at = SourceLocation { position: key, path: at.path.clone() };
                self.findings.mistake(&at, "has no value; give it one, or leave the key out");
                None
            }
            (ValueKind::Either(kinds), value) => {
                match kinds.iter().find(|kind| kind.form() == value.form()) {
                    Some(kind) => self.value(kind, node, at, key),
                    None => self.mismatch(kind, value, at),
                }
            }
            (ValueKind::List(kind), Value::List(nodes)) => Some(Datum::List(self.list(kind, nodes, at))),
            (ValueKind::Section(spec), Value::Map(pairs)) => {
                let at = SourceLocation { position: key, path: at.path.clone() };
                Some(Datum::Section(self.section(spec, pairs, at)))
            }
            (ValueKind::Names(spec), Value::Map(pairs)) => Some(Datum::Names(self.names(spec, pairs, at))),
            (kind, value) => match Scalar::of(value).filter(|_| kind.form() == YamlKind::Scalar) {
                Some(scalar) => {
                    let scalar = self.substitute(scalar, at)?;
                    self.scalar(kind, &scalar, at)
                }
                None => self.mismatch(kind, value, at),
            },
        }
    }

    fn list(&mut self, kind: &'static ValueKind, nodes: &[Node], at: &SourceLocation) -> Vec<Item> {
        let items = nodes.iter().enumerate().map(|(index, node)| {
            let at = at.below(&format!("[{index}]"), position_of(node));
            let datum = self.value(kind, node, &at, at.position);
            Item { at, datum }
        });
        items.collect()
    }

    fn names(
        &mut self,
        spec: &'static SectionSpec,
        pairs: &[(DocumentKey, Node)],
        at: &SourceLocation,
    ) -> Vec<(String, Section)> {
        let mut named = Vec::new();
        for (name, at, node) in self.unique(pairs, at) {
            if let Err(reason) = check_name(&name) {
                self.findings.mistake(&at, reason);
            }
            let value_at = SourceLocation { position: position_of(node), path: at.path.clone() };
            match &node.value {
                Value::Map(pairs) => named.push((name.into_owned(), self.section(spec, pairs, at))),
                Value::Null => named.push((name.into_owned(), self.section(spec, &[], at))),
                Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
                    let found = node.value.describe();
                    self.findings.mistake(&value_at, format!("expected a map of keys, found {found}"));
                    // Its name counts as defined, so that references to it are not reported as well.
                    named.push((name.into_owned(), Section { at, fields: Vec::new() }));
                }
            }
        }
        named
    }

    /// Replaces `${NAME}` in text from the environment; other scalars are unchanged.
    fn substitute<'n>(&mut self, scalar: Scalar<'n>, at: &SourceLocation) -> Option<Scalar<'n>> {
        let Scalar::Text(text) = scalar else { return Some(scalar) };
        let Some(environment) = self.environment else { return self.literal(text, at) };
        let used = RefCell::new(Vec::new());
        let noting = |name: &str| {
            let value = environment(name)?;
            used.borrow_mut().push((name.to_owned(), value.clone()));
            Some(value)
        };
        match substitute::substitute(text, &noting) {
            Ok(Cow::Borrowed(text)) => Some(Scalar::Text(text)),
            Ok(Cow::Owned(value)) => {
                self.findings.redact(text, &value, &used.into_inner());
                Some(Scalar::Substituted(Cow::Owned(value)))
            }
            Err(reason) => {
                self.findings.mistake(at, reason);
                None
            }
        }
    }

    /// Where the environment is not available, a dollar can only be a mistake.
    fn literal<'n>(&mut self, text: &'n str, at: &SourceLocation) -> Option<Scalar<'n>> {
        if text.contains('$') {
            let message = format!(
                "{} has a dollar in it, and `${{NAME}}` is not substituted in this file: its author may not be allowed to read \
                 the daemon's environment",
                quoted(text)
            );
            self.findings.mistake(at, message);
            return None;
        }
        Some(Scalar::Text(text))
    }

    fn scalar(&mut self, kind: &ValueKind, scalar: &Scalar<'_>, at: &SourceLocation) -> Option<Datum> {
        scalar.read(kind).map_err(|reason| self.findings.mistake(at, reason)).ok()
    }

    fn mismatch(&mut self, kind: &ValueKind, found: &Value, at: &SourceLocation) -> Option<Datum> {
        let message = format!("expected {}, found {}", kind.expected(), found.describe());
        self.findings.mistake(at, message);
        None
    }
}

fn name_of(key: &DocumentKey) -> Cow<'_, str> {
    Cow::Borrowed(key.value.as_deref().unwrap_or("null"))
}

/// Names become metric labels, parts of admin URLs and of paths in messages: letters, digits and `-_.:`,
/// as in HAProxy.
fn check_name(name: &str) -> Result<(), String> {
    const LONGEST: usize = 128;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(allowed) {
        let name = quoted(name);
        return Err(format!(
            "{name} cannot be a name: use 1 to {LONGEST} letters, digits, `-`, `_`, `.`, `:`"
        ));
    }
    Ok(())
}

impl Value {
    pub(super) const fn is_scalar(&self) -> bool {
        matches!(self.form(), YamlKind::Scalar) && !matches!(self, Self::Null)
    }

    const fn form(&self) -> YamlKind {
        match self {
            Self::List(_) => YamlKind::List,
            Self::Map(_) => YamlKind::Map,
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Float(_) | Self::Text(_) => {
                YamlKind::Scalar
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
            Self::Boolean(value) => format!("the boolean {value}"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => quoted(text),
        }
    }
}
