//! Parses YAML text to a tree in which every value has its line and column.
//!
//! Only the syntax is checked here. All pairs of a map are kept, duplicates too, so that the next stage
//! can report both places. The amount of work is bounded before the tree is built: the text by
//! [`TEXT_MAX`], the repetition by aliases by [`REPLAYED_MAX`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Options, Spanned};

use super::mistakes::{PEM, Position, SourceLocation};

/// A value and its place.
pub(super) type Node = Spanned<Value>;

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The key of a pair. YAML allows `null` as a key; here it is an unknown one.
pub(super) type Key = Spanned<Option<String>>;

/// The largest text accepted, in bytes.
pub(super) const TEXT_MAX: usize = 1024 * 1024;
/// Parser events that aliases may repeat; a reasonable file has some thousands in all.
const REPLAYED_MAX: usize = 100_000;

/// The depth of nested maps and lists, aliases included. The table needs 7; each level costs stack.
const DEPTH_MAX: usize = 16;

/// Reads one document. An empty text is [`Value::Null`].
pub(super) fn parse(text: &str) -> Result<Node, (SourceLocation, String)> {
    if let Some(line) = text.lines().position(|line| line.starts_with(PEM)) {
        let at = SourceLocation { position: Position { line: line + 1, column: 1 }, path: String::new() };
        return Err((
            at,
            "a certificate or a key (PEM) begins here; `cert`, `key` and `ca` name files that have them"
                .into(),
        ));
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(text, &error))
}

fn options() -> Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `off` and `no` are words of the configuration, or may be names.
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, flow_nesting_limit: DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_MAX },
        with_snippet: false,
    }
}

/// The syntax error in words, with advice on the two most common ones.
fn explain(text: &str, error: &Error) -> (SourceLocation, String) {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let position = place(&location);
    let said = error.without_snippet().to_string();
    let said = if matches!(error, Error::MultipleDocuments { .. }) {
        "a second YAML document begins here; only one is read"
    } else if matches!(error, Error::Budget { .. }) {
        "the text is nested too deeply, or its aliases repeat too much"
    } else {
        // The parser's messages end with the position, which we show ourselves.
        said.split(" at line ").next().unwrap_or_default()
    };
    let line = text.lines().nth(position.line.saturating_sub(1)).unwrap_or_default();
    let hint = if line.contains("[::") || line.contains("]:") {
        "; put an IPv6 address in quotes, as in \"[::1]:5432\""
    } else if line.contains("${") {
        "; put ${…} in quotes when it stands inside { } or [ ]"
    } else {
        ""
    };
    (SourceLocation { position, path: String::new() }, format!("{said}{hint}"))
}

/// Where a node is written: for an alias, where its anchor is, because that is the text to change.
pub(super) fn position_of<T>(node: &Spanned<T>) -> Position {
    place(&node.defined)
}

/// Positions of parsed values are never 0; the position of an empty text is its beginning.
fn place(location: &Location) -> Position {
    let from_one = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
    Position { line: from_one(location.line()), column: from_one(location.column()) }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            map.push(pair);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::mistakes::Mistakes;

    fn check_error(text: &str, line: usize, column: usize, part: &str) {
        let (at, message) = parse(text).expect_err(text);
        assert_eq!(at.position, Position { line, column }, "{text:?}: {message}");
        assert!(message.contains(part), "{text:?}: {message}");
        assert!(!message.contains("at line"), "{text:?}: {message}");
    }

    #[test]
    fn syntax_errors_say_where_and_what_to_do() {
        check_error("a: 'x", 1, 4, "unclosed quote");
        check_error("a: b: c", 1, 5, "mapping values are not allowed");
        check_error("bind: [::1]:5432\nb: 1", 1, 12, "put an IPv6 address in quotes");
        check_error("e:\n  - [::1]:5432", 2, 10, "put an IPv6 address in quotes");
        check_error("e: { w: ${N} }", 1, 10, "put ${…} in quotes");
        check_error("a: 1\n---\nb: 2", 3, 1, "only one is read");
        check_error("a: *none", 1, 4, "unknown anchor");
        check_error("a: !secret x", 1, 12, "unsupported tag");
        check_error("? [a]\n: b", 1, 3, "expected string");
    }

    #[test]
    fn duplicates_and_odd_keys_reach_the_tree() {
        let Value::Map(pairs) = parse("a: 1\n5432: 2\na: 3\n~: 4\ntrue: 5").unwrap().value else {
            panic!("a map");
        };
        let keys: Vec<_> =
            pairs.iter().map(|(key, _)| (key.value.as_deref(), position_of(key).line)).collect();
        let expected = [(Some("a"), 1), (Some("5432"), 2), (Some("a"), 3), (None, 4), (Some("true"), 5)];
        assert_eq!(keys, expected);
    }

    #[test]
    fn values_of_an_alias_are_where_the_anchor_is() {
        let Value::Map(pairs) = parse("a: &x\n  k: 1\nb:\n  <<: *x\n").unwrap().value else {
            panic!("a map")
        };
        let Value::Map(merged) = &pairs[1].1.value else { panic!("a map") };
        assert_eq!(position_of(&merged[0].1), Position { line: 2, column: 6 });
    }

    #[test]
    fn bombs_are_defused() {
        for (opening, closing) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
            let nested = |depth: usize| format!("{}x{}", opening.repeat(depth), closing.repeat(depth));
            assert!(parse(&nested(DEPTH_MAX)).is_ok(), "{opening}");
            assert!(parse(&nested(DEPTH_MAX + 1)).is_err(), "{opening}");
            assert!(parse(&nested(100_000)).is_err(), "{opening}");
        }
        let mut deep = String::from("a0: &a0 [x]\n");
        for level in 1..1000 {
            deep += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        check_error(&deep, 16, 12, "depth: 17");
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let item = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "));
        }
        assert!(parse(&laughs).is_err());
    }

    /// A private key that was given as the configuration was shown in the message and below it.
    #[test]
    fn a_key_that_is_no_configuration_is_not_shown() {
        let (at, message) = parse("-----BEGIN PRIVATE KEY-----\nMIIEvQ\n").expect_err("a key");
        let told =
            Mistakes::new(Path::new("k.pem"), "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n", vec![(at, message)])
                .to_string();
        assert!(told.contains("a certificate or a key (PEM)") && !told.contains("MIIEvQ"), "{told}");
    }
}
