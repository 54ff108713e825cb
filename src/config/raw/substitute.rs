//! `${NAME}` and `${NAME:-default}` in text, from the environment.
//!
//! Done on values after YAML parsing, so the environment's text cannot become structure. The result is
//! not substituted again: a dollar in it is a dollar.

use std::borrow::Cow;

use super::Environment;
use crate::config::mistakes::quoted;

/// The text with everything substituted; borrowed when there was nothing to do. `$$` is a dollar.
pub(super) fn substitute<'t>(text: &'t str, environment: Environment<'_>) -> Result<Cow<'t, str>, String> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            after
        } else if let Some(inside) = after.strip_prefix('{') {
            let (reference, after) = inside
                .split_once('}')
                .ok_or_else(|| format!("`${{` without `}}` in {}; a dollar is written `$$`", quoted(text)))?;
            result.push_str(&look_up(reference, environment)?);
            after
        } else {
            return Err(bare_dollar(after));
        };
    }
    result.push_str(rest);
    Ok(Cow::Owned(result))
}

/// As in a shell, the default also replaces an empty value.
fn look_up(reference: &str, environment: Environment<'_>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_name(name) {
        let name = quoted(name);
        return Err(format!(
            "{name} is no name of an environment variable; write `${{NAME}}` or `${{NAME:-default}}`"
        ));
    }
    match (environment(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.into()),
        (None, None) => Err(format!(
            "the environment variable `{name}` is not set; `${{{name}:-…}}` would give it a default"
        )),
    }
}

/// `$NAME` looks as if it should work; taking it literally would hide the slip.
fn bare_dollar(after: &str) -> String {
    let name: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    if is_name(&name) {
        let name = name.chars().take(64).collect::<String>();
        return format!("`${name}` is not read; write `${{{name}}}`, or `$$` for a dollar");
    }
    "a dollar is written `$$`".into()
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let environment = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("${A}".to_owned()),
            _ => None,
        };
        match (substitute(text, &environment), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(part)) => assert!(found.contains(part), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn values_come_from_the_environment_once() {
        check("plain", Ok("plain"));
        check("${A}", Ok("one"));
        check("x-${A}-${A}", Ok("x-one-one"));
        check("${B:-two}", Ok("two"));
        check("${B:-}", Ok(""));
        check("${A:-two}", Ok("one"));
        check("${EMPTY}", Ok(""));
        check("${EMPTY:-two}", Ok("two"));
        check("${B:-a:-b}", Ok("a:-b"));
        check("${DOLLAR}", Ok("${A}"));
        check("a$$b$$", Ok("a$b$"));
        check("$${A}", Ok("${A}"));
    }

    #[test]
    fn what_cannot_be_put_in_is_a_mistake() {
        check("${B}", Err("`B` is not set"));
        check("${A", Err("without `}`"));
        check("${}", Err("is no name"));
        check("${1A}", Err("is no name"));
        check("${A-x}", Err("is no name"));
        check("$HOME/x", Err("write `${HOME}`"));
        check("5$", Err("written `$$`"));
    }
}
