//! Every key of `listeners.yaml` as one entry of the manual page listeners.yaml(5), from the table of keys.

use super::spec::table::ROOT;
use super::spec::{KeySpec, Presence, SectionSpec, ValueKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyDoc {
    /// Its path in the file: `clusters.NAME.tls.cert`.
    pub path: String,
    /// The values it accepts, in words.
    pub takes: String,
    /// Its default, or `required`. `None`: off, or derived from other keys.
    pub default: Option<String>,
    pub about: &'static str,
}

/// All keys, each section before its own keys.
#[must_use]
pub(crate) fn key_docs() -> Vec<KeyDoc> {
    let mut all = Vec::new();
    section(&ROOT, "", &mut all);
    all
}

fn section(spec: &SectionSpec, above: &str, all: &mut Vec<KeyDoc>) {
    for KeySpec { name, about, kind, presence } in spec.keys {
        let path = format!("{above}{name}");
        let default = match presence {
            Presence::Required => Some("required".to_owned()),
            Presence::Default("") | Presence::Optional => None,
            Presence::Default(value) => Some((*value).to_owned()),
        };
        all.push(KeyDoc { path: path.clone(), takes: takes(kind), default, about });
        for (way, spec) in kind.sections() {
            section(spec, &format!("{path}{way}."), all);
        }
    }
}

/// A section is only "a map": its keys follow as entries of their own.
fn takes(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Section(_) => "a map".into(),
        ValueKind::Names(_) => "a map from names".into(),
        ValueKind::List(item) => format!("a list, each item {}", takes(item)),
        ValueKind::Either(kinds) => kinds.iter().map(takes).collect::<Vec<_>>().join(", or "),
        ValueKind::Text(_)
        | ValueKind::Bytes(_)
        | ValueKind::Account
        | ValueKind::Mode
        | ValueKind::Boolean
        | ValueKind::Integer(..)
        | ValueKind::Ratio(_)
        | ValueKind::Duration(_)
        | ValueKind::Word(_) => kind.expected(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> KeyDoc {
        let found = key_docs().into_iter().find(|key| key.path == path);
        found.unwrap_or_else(|| panic!("no key {path}"))
    }

    #[test]
    fn a_key_is_told_with_its_place_its_default_and_what_it_takes() {
        let timeout = of("clusters.NAME.connect.timeout");
        assert_eq!(timeout.default.as_deref(), Some("3s"));
        assert!(timeout.takes.contains("duration"), "{timeout:?}");
        assert_eq!(of("listeners.NAME.bind").default.as_deref(), Some("required"));
        assert_eq!(of("clusters.NAME.tls").default, None);
    }

    #[test]
    fn sections_inside_lists_are_told_too() {
        assert_eq!(of("clusters.NAME.endpoints[].weight").default.as_deref(), Some("1"));
    }

    #[test]
    fn no_place_is_told_twice() {
        let mut paths: Vec<_> = key_docs().into_iter().map(|key| key.path).collect();
        let all = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), all);
    }
}
