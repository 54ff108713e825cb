//! The JSON Schema of `listeners.yaml`, for editors that complete and mark errors: the table of keys in
//! another notation.
//!
//! It has forms, names, words and bounds; what depends on more than one place of the file is left to
//! `ambassador check`.

use serde_json::{Map, Value, json};

use super::spec::table::ROOT;
use super::spec::{KeySpec, Presence, SectionSpec, ValueKind};

/// The schema, draft 2020-12.
#[must_use]
pub(crate) fn schema() -> Value {
    let mut root = section(&ROOT);
    let mut whole = Map::new();
    whole.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    whole.insert("title".into(), json!("listeners.yaml of ambassador"));
    if let Some(root) = root.as_object_mut() {
        whole.append(root);
    }
    whole.insert("$defs".into(), json!({ "substitution": substitution() }));
    Value::Object(whole)
}

/// Text that takes at least a part of its value from the environment, so that it may become anything.
fn substitution() -> Value {
    json!({
        "type": "string",
        "pattern": r"\$\{[A-Za-z_]",
        "description": "A value from the environment: ${NAME} or ${NAME:-default}.",
    })
}

fn section(spec: &SectionSpec) -> Value {
    let properties: Map<_, _> = spec.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<_> =
        spec.keys.iter().filter(|key| key.presence == Presence::Required).map(|key| key.name).collect();
    let mut section = json!({
        "type": "object",
        "description": spec.about,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        section["required"] = json!(required);
    }
    section
}

fn property(key: &KeySpec) -> Value {
    let mut property = of_kind(&key.kind);
    property["description"] = json!(key.about);
    match (&key.kind, key.presence) {
        (ValueKind::Section(_), _) | (_, Presence::Required | Presence::Optional) => {}
        (
            ValueKind::Boolean | ValueKind::Integer(..) | ValueKind::Ratio(_) | ValueKind::Either(_),
            Presence::Default(value),
        ) => {
            property["default"] = as_json(value);
        }
        (_, Presence::Default(value)) => property["default"] = json!(value),
    }
    property
}

/// A value of the table as YAML would parse it.
fn as_json(text: &str) -> Value {
    let number = text.parse::<u32>().map(Value::from);
    number.or_else(|_| text.parse::<bool>().map(Value::from)).unwrap_or_else(|_| Value::from(text))
}

fn of_kind(kind: &ValueKind) -> Value {
    match kind {
        ValueKind::Text(example) => json!({ "type": "string", "minLength": 1, "examples": [example] }),
        ValueKind::Bytes(example) => json!({ "type": "string", "minLength": 1, "examples": [example] }),
        ValueKind::Account => json!({ "type": ["string", "integer"], "minLength": 1, "minimum": 0 }),
        ValueKind::Mode => or_substituted(&json!({ "type": "string", "pattern": "^0?[0-7]{3}$" })),
        ValueKind::Boolean => or_substituted(&json!({ "type": "boolean" })),
        ValueKind::Integer(min, max) => {
            or_substituted(&json!({ "type": "integer", "minimum": min, "maximum": max }))
        }
        ValueKind::Ratio(max) => or_substituted(&json!({ "type": "number", "minimum": 0, "maximum": max })),
        ValueKind::Duration(span) => {
            let none = if span.none { "none|" } else { "" };
            let units = r"(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?";
            or_substituted(&json!({ "type": "string", "pattern": format!("^({none}{units})$") }))
        }
        ValueKind::Word(words) => or_substituted(&json!({ "enum": words })),
        ValueKind::List(kind) => json!({ "type": "array", "items": of_kind(kind) }),
        ValueKind::Section(spec) => section(spec),
        ValueKind::Names(spec) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_.:-]{1,128}$" },
            "additionalProperties": section(spec),
        }),
        ValueKind::Either(kinds) => {
            json!({ "anyOf": kinds.iter().map(of_kind).collect::<Vec<_>>() })
        }
    }
}

fn or_substituted(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/substitution" }] })
}
