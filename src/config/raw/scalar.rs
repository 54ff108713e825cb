//! Reads one scalar of the file as the kind that the table requires.
//!
//! YAML has already decided what a scalar is (`5` a number, `"5"` text). That counts, except for text from the
//! environment, which may be a number all the same.

use std::borrow::Cow;

use super::escapes::unescape;
use super::section::Datum;
use crate::config::document::Value;
use crate::config::mistakes::quoted;
use crate::config::spec::{DurationRange, ValueKind, YamlKind};
use crate::config::suggest::did_you_mean;
use crate::config::synonyms::suggest_value;
use crate::quantity::{duration, show_duration};

/// A scalar as it is in the file.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
    /// Text that comes, at least in part, from the environment, or from the table of defaults.
    Substituted(Cow<'a, str>),
}

impl<'a> Scalar<'a> {
    pub(super) fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Boolean(value) => Some(Self::Boolean(*value)),
            Value::Integer(value) => Some(Self::Integer(*value)),
            Value::Float(value) => Some(Self::Float(*value)),
            Value::Text(text) => Some(Self::Text(text)),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// As it would be written.
    pub(super) fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Boolean(value) => value.to_string().into(),
            Self::Integer(value) => value.to_string().into(),
            Self::Float(value) => value.to_string().into(),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Substituted(text) => Cow::Borrowed(text),
        }
    }

    /// Its value, or why it is not valid here.
    pub(super) fn read(&self, kind: &ValueKind) -> Result<Datum, String> {
        match kind {
            ValueKind::Boolean => self.boolean().map(Datum::Boolean),
            ValueKind::Integer(min, max) => {
                self.integer().filter(|n| (min..=max).contains(&n)).map(Datum::Integer)
            }
            ValueKind::Ratio(max) => {
                let known = self.number().filter(|n| (0.0..=f64::from(*max)).contains(n));
                known.map(Datum::Ratio)
            }
            ValueKind::Duration(span) => return self.duration(span),
            ValueKind::Word(words) => return self.word(words),
            ValueKind::Mode => self.text().and_then(mode).map(Datum::Integer),
            ValueKind::Account if matches!(self, Self::Integer(0..)) => {
                Some(Datum::Text(self.to_text().into_owned()))
            }
            ValueKind::Account | ValueKind::Text(_) => return self.plain_text(kind),
            ValueKind::Bytes(_) => return self.bytes(kind),
            ValueKind::Either(kinds) => match kinds.iter().find(|kind| kind.form() == YamlKind::Scalar) {
                Some(scalar) => return self.read(scalar),
                None => None,
            },
            ValueKind::List(_) | ValueKind::Section(_) | ValueKind::Names(_) => None,
        }
        .ok_or_else(|| self.unexpected(kind))
    }

    fn unexpected(&self, kind: &ValueKind) -> String {
        format!("expected {}, found {}", kind.expected(), self.describe())
    }

    fn describe(&self) -> String {
        match self {
            Self::Boolean(value) => format!("the boolean {value}"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => format!("the text {}", quoted(text)),
            Self::Substituted(text) => format!("{} after substitution", quoted(text)),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Substituted(text) => Some(text),
            Self::Boolean(_) | Self::Integer(_) | Self::Float(_) => None,
        }
    }

    /// Text that names something: not empty, and without control characters.
    fn plain_text(&self, kind: &ValueKind) -> Result<Datum, String> {
        let text = self.text().ok_or_else(|| self.unexpected(kind))?;
        if text.is_empty() {
            return Err(format!("is empty; expected {}", kind.expected()));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("{} has a control character or a line break in it", quoted(text)));
        }
        Ok(Datum::Text(text.to_owned()))
    }

    /// Escapes are accepted whether YAML has resolved them already (in double quotes) or not.
    fn bytes(&self, kind: &ValueKind) -> Result<Datum, String> {
        let text = self.text().ok_or_else(|| self.unexpected(kind))?;
        if text.is_empty() {
            return Err(format!("is empty; expected {}", kind.expected()));
        }
        unescape(text).map(Datum::Bytes)
    }

    fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::Substituted(text) => text.parse().ok(),
            Self::Integer(_) | Self::Float(_) | Self::Text(_) => None,
        }
    }

    fn integer(&self) -> Option<u32> {
        match self {
            Self::Integer(value) => u32::try_from(*value).ok(),
            Self::Substituted(text) => text.parse().ok(),
            Self::Boolean(_) | Self::Float(_) | Self::Text(_) => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => u32::try_from(*value).ok().map(f64::from),
            Self::Float(value) => Some(*value),
            Self::Substituted(text) => text.parse().ok(),
            Self::Boolean(_) | Self::Text(_) => None,
        }
    }

    fn duration(&self, span: &DurationRange) -> Result<Datum, String> {
        let text = self.to_text();
        if text == "none" {
            return if span.none {
                Ok(Datum::Duration(None))
            } else {
                Err("`none` is not possible here".into())
            };
        }
        let value = duration(&text).map_err(|reason| format!("{} {reason}", quoted(&text)))?;
        if value < span.min {
            let or_none = if span.none { ", or `none` for no limit" } else { "" };
            return Err(format!("must be at least {}{or_none}", show_duration(span.min)));
        }
        if value > span.max {
            let or_none = if span.none { ", or `none`" } else { "" };
            return Err(format!("must be at most {}{or_none}", show_duration(span.max)));
        }
        Ok(Datum::Duration(Some(value)))
    }

    /// Words are compared as text, so that `1.2` may stand for `"1.2"`.
    fn word(&self, words: &[&str]) -> Result<Datum, String> {
        let text = self.to_text();
        if words.contains(&text.as_ref()) {
            return Ok(Datum::Text(text.into_owned()));
        }
        let advice =
            suggest_value(&text, words).unwrap_or_else(|| did_you_mean(&text, words.iter().copied()));
        let advice = if advice.is_empty() { format!("; there is {}", words.join(", ")) } else { advice };
        Err(format!("{} is not known here{advice}", quoted(&text)))
    }
}

/// Three octal digits, with or without a leading zero.
fn mode(text: &str) -> Option<u32> {
    let digits = if text.len() == 4 { text.strip_prefix('0')? } else { text };
    let is_octal = digits.len() == 3 && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if is_octal { u32::from_str_radix(digits, 8).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn modes_are_octal() {
        let cases = [("0660", Some(0o660)), ("600", Some(0o600)), ("0000", Some(0)), ("0777", Some(0o777))];
        for (text, expected) in cases {
            assert_eq!(mode(text), expected, "{text}");
        }
        for text in ["", "0", "66", "0680", "1777", "00660", "+66", "0x1f", "rw-", "é60"] {
            assert_eq!(mode(text), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_may_be_whole_or_not() {
        let kind = ValueKind::Ratio(2);
        for scalar in [Scalar::Integer(1), Scalar::Float(1.0), Scalar::Substituted("1".into())] {
            assert!(matches!(scalar.read(&kind), Ok(Datum::Ratio(1.0))), "{}", scalar.describe());
        }
        for scalar in [
            Scalar::Float(2.01),
            Scalar::Float(-0.1),
            Scalar::Float(f64::NAN),
            Scalar::Float(f64::INFINITY),
            Scalar::Integer(3),
            Scalar::Text("0.5"),
            Scalar::Substituted("NaN".into()),
        ] {
            let error = scalar.read(&kind).expect_err("out of range");
            assert!(error.starts_with("expected a number from 0 to 2, such as 0.2, found"), "{error}");
        }
    }

    #[test]
    fn only_what_came_from_the_environment_is_a_number_in_text() {
        let kind = ValueKind::Integer(1, 10);
        assert!(matches!(Scalar::Integer(5).read(&kind), Ok(Datum::Integer(5))));
        assert!(matches!(Scalar::Substituted("5".into()).read(&kind), Ok(Datum::Integer(5))));
        for scalar in [
            Scalar::Text("5"),
            Scalar::Integer(11),
            Scalar::Integer(i128::MAX),
            Scalar::Integer(-5),
            Scalar::Float(5.0),
            Scalar::Substituted("5.0".into()),
        ] {
            let error = scalar.read(&kind).expect_err("out of range");
            assert!(error.starts_with("expected a whole number from 1 to 10, found"), "{error}");
        }
        assert!(matches!(
            Scalar::Substituted("true".into()).read(&ValueKind::Boolean),
            Ok(Datum::Boolean(true))
        ));
        assert!(Scalar::Text("yes").read(&ValueKind::Boolean).is_err());
    }

    #[test]
    fn durations_keep_to_their_span() {
        let second = Duration::from_secs(1);
        let kind = |none| ValueKind::Duration(DurationRange { min: second, max: 2 * second, none });
        assert!(matches!(Scalar::Text("1s").read(&kind(false)), Ok(Datum::Duration(Some(_)))));
        assert!(matches!(Scalar::Text("none").read(&kind(true)), Ok(Datum::Duration(None))));
        for (scalar, none, part) in [
            (Scalar::Text("none"), false, "`none` is not possible here"),
            (Scalar::Text("999ms"), false, "at least 1s"),
            (Scalar::Text("0s"), true, "at least 1s, or `none` for no limit"),
            (Scalar::Text("2s1ms"), false, "at most 2s"),
            (Scalar::Integer(5), false, "`5` has no unit"),
            (Scalar::Float(1.5), false, "`1.5` is no duration"),
            (Scalar::Boolean(true), false, "`true` is no duration"),
        ] {
            let error = scalar.read(&kind(none)).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn words_may_look_like_numbers() {
        let words = ValueKind::Word(&["1.2", "1.3"]);
        assert!(matches!(Scalar::Float(1.2).read(&words), Ok(Datum::Text(word)) if word == "1.2"));
        for (scalar, part) in
            [(Scalar::Text("1,2"), "did you mean `1.2`?"), (Scalar::Text("ssl3"), "there is 1.2, 1.3")]
        {
            let error = scalar.read(&words).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
