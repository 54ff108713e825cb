//! The schema for editors agrees with the compiler.

use serde_json::{Value, json};

use super::{least, parse};
use crate::config::schema;
use crate::config::spec::table::ROOT;
use crate::config::spec::{SectionSpec, ValueKind};

/// The part of JSON Schema that our schema uses, without patterns.
fn fits(schema: &Value, value: &Value) -> bool {
    let is_type = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        other => panic!("type {other:?}"),
    };
    let fits_rule = |(rule, with): (&String, &Value)| match rule.as_str() {
        "type" => with.as_array().map_or_else(|| is_type(with), |names| names.iter().any(is_type)),
        "const" => value == with,
        "enum" => with.as_array().is_some_and(|words| words.contains(value)),
        "not" => !fits(with, value),
        "anyOf" => with.as_array().is_some_and(|any| any.iter().any(|schema| fits(schema, value))),
        "$ref" => value.as_str().is_some_and(|text| text.contains("${")),
        "minimum" => value.as_f64().is_none_or(|number| Some(number) >= with.as_f64()),
        "maximum" => value.as_f64().is_none_or(|number| Some(number) <= with.as_f64()),
        "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(with, item))),
        "required" => {
            with.as_array().into_iter().flatten().all(|name| value.get(name.as_str().unwrap()).is_some())
        }
        "properties" | "additionalProperties" => value.as_object().is_none_or(|pairs| {
            pairs.iter().all(|(name, value)| match schema["properties"].get(name) {
                Some(property) => fits(property, value),
                None => {
                    let additional = &schema["additionalProperties"];
                    additional.as_bool().unwrap_or_else(|| fits(additional, value))
                }
            })
        }),
        "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "pattern"
        | "propertyNames" => true,
        other => panic!("rule {other}"),
    };
    schema.as_object().is_some_and(|rules| rules.iter().all(fits_rule))
}

fn fits_schema(yaml: &str) -> bool {
    let value: Value =
        serde_saphyr::from_str_with_options(yaml, serde_saphyr::options! { strict_booleans: true })
            .expect("YAML");
    fits(&schema(), &value)
}

#[test]
fn every_key_of_the_table_is_in_the_schema_with_words_for_people() {
    fn check(spec: &SectionSpec, schema: &Value) {
        for key in spec.keys {
            let property = &schema["properties"][key.name];
            assert!(
                property["description"].as_str().is_some_and(|about| about.ends_with('.')),
                "{}",
                key.name
            );
            if let ValueKind::Section(spec) = &key.kind {
                check(spec, property);
            } else if let ValueKind::Names(spec) = &key.kind {
                check(spec, &property["additionalProperties"]);
            }
        }
    }
    check(&ROOT, &schema());
}

#[test]
fn the_shipped_example_fits_the_schema() {
    assert!(fits_schema(include_str!("../../../listeners.yaml")));
}

#[test]
fn the_schema_and_the_compiler_agree() {
    for (listener, cluster) in [
        ("", ""),
        ("max_connections: 0", ""),
        ("max_connections: ${N:-5}", ""),
        ("accept_proxy: false", ""),
        ("accept_proxy: true", ""),
        ("accept_proxy: ${NO:-false}", ""),
        ("expose: yes", ""),
        ("xyzzy: 1", ""),
        ("", "balance: ewma"),
        ("", "balance: round_robin"),
        ("", "tls: {}"),
        ("", "tls: [x]"),
        ("", "tls: { pins: 5 }"),
        ("", "tls: { allowed_uris: [\"spiffe://a/b\"] }"),
        ("", "tls: { identity: [a] }"),
        ("", "connect: { attempts: many }"),
        ("", "connect: { preconnect: 0 }"),
        ("", "circuit_breaker: {}"),
        ("", "circuit_breaker: { open_for: 5 }"),
        ("", "connect: { retry_budget: { ratio: 0.5 } }"),
        ("", "connect: { retry_budget: { ratio: 1 } }"),
        ("", "connect: { retry_budget: { ratio: -1 } }"),
        ("", "connect: { retry_budget: { ratio: much } }"),
        ("", "outlier_detection: { consecutive_failures: 0, early_close: 1s }"),
        ("", "limits: { queue_timeout: 1s }"),
        ("", "limits: { queue_timeout: 1 }"),
    ] {
        let text = least("", listener, cluster);
        assert_eq!(fits_schema(&text), parse(&text).is_ok(), "{text}");
    }
    assert!(!fits_schema("listeners: {}"));
}

#[test]
fn defaults_have_the_type_that_the_file_would_have() {
    let whole = schema();
    let cluster = &whole["properties"]["clusters"]["additionalProperties"]["properties"];
    assert_eq!(cluster["connect"]["properties"]["deadline"]["default"], json!("10s"));
    assert_eq!(cluster["connect"]["properties"]["timeout"]["default"], json!("3s"));
    assert_eq!(cluster["tls"]["properties"]["insecure_skip_verify"]["default"], json!(false));
    assert_eq!(cluster["tls"]["properties"]["min_version"]["default"], json!("1.2"));
    assert_eq!(cluster["send_proxy"]["default"], json!("none"));
    let listener = &whole["properties"]["listeners"]["additionalProperties"]["properties"];
    assert_eq!(listener["mode"]["default"], json!("0660"));
}

/// A key that is parsed but never used would be ignored: each supported one must be read by its name.
#[test]
fn every_supported_key_is_asked_for() {
    const RESOLVE: &str = concat!(
        include_str!("../resolve.rs"),
        include_str!("../resolve/admin.rs"),
        include_str!("../resolve/admission.rs"),
        include_str!("../resolve/cluster.rs"),
        include_str!("../resolve/endpoint.rs"),
        include_str!("../resolve/health_check.rs"),
        include_str!("../resolve/https.rs"),
        include_str!("../resolve/identity.rs"),
        include_str!("../resolve/kubernetes.rs"),
        include_str!("../resolve/listener.rs"),
        include_str!("../resolve/log.rs"),
        include_str!("../resolve/login.rs"),
        include_str!("../resolve/login/certificate.rs"),
        include_str!("../resolve/login/clouds.rs"),
        include_str!("../resolve/login/oauth2.rs"),
        include_str!("../resolve/remote_source.rs"),
        include_str!("../resolve/resilience.rs"),
        include_str!("../resolve/tls.rs"),
        include_str!("../resolve/xds.rs"),
    );
    fn check(spec: &SectionSpec) {
        for key in spec.keys {
            assert!(RESOLVE.contains(&format!("\"{}\"", key.name)), "nobody asks for `{}`", key.name);
            key.kind.sections().into_iter().for_each(|(_, spec)| check(spec));
        }
    }
    check(&ROOT);
}
