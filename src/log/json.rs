//! JSON written member by member, byte for byte what serde_json writes, for lines of which there are many.
//!
//! Names are literals, and a string that needs no escape is copied whole; whatever is rare goes through serde_json.

use serde::Serialize;

/// A value that is appended to a line as JSON.
pub(crate) trait JsonValue {
    /// Appends it.
    fn append(&self, line: &mut Vec<u8>);
}

/// Appends members, named like the variables that hold their values, each with a comma in front.
macro_rules! append_members {
    ($line:expr, $($name:ident),+ $(,)?) => {$(
        $line.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
        $crate::log::JsonValue::append(&$name, $line);
    )+};
}

/// Appends an object of members, named like the variables that hold their values.
macro_rules! append_object {
    ($line:expr, $($name:ident),+ $(,)?) => {{
        let begin = $line.len();
        $crate::log::append_members!($line, $($name),+);
        // In place of the first comma.
        $line[begin] = b'{';
        $line.push(b'}');
    }};
}

pub(crate) use {append_members, append_object};

/// Appends an object by its pairs.
pub(crate) fn append_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, line: &mut Vec<u8>) {
    line.push(b'{');
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            line.push(b',');
        }
        name.append(line);
        line.push(b':');
        value.append(line);
    }
    line.push(b'}');
}

/// Appends a value as serde_json has it.
pub(crate) fn append_serialized(value: &(impl Serialize + ?Sized), line: &mut Vec<u8>) {
    // Writing to memory does not fail, and plain values can be serialised.
    let _ = serde_json::to_writer(line, value);
}

impl JsonValue for str {
    fn append(&self, line: &mut Vec<u8>) {
        // RFC 8259 §7. Without an early exit, so that the compiler looks at many bytes at once.
        let is_escaped = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
        if self.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
            return append_serialized(self, line);
        }
        line.push(b'"');
        line.extend_from_slice(self.as_bytes());
        line.push(b'"');
    }
}

impl JsonValue for String {
    fn append(&self, line: &mut Vec<u8>) {
        self.as_str().append(line);
    }
}

macro_rules! plain {
    ($($kind:ty),+) => {$(
        impl JsonValue for $kind {
            fn append(&self, line: &mut Vec<u8>) {
                append_serialized(self, line);
            }
        }
    )+};
}

plain!(bool, u32, u64, f64);

impl<T: JsonValue + ?Sized> JsonValue for &T {
    fn append(&self, line: &mut Vec<u8>) {
        (**self).append(line);
    }
}

impl<T: JsonValue> JsonValue for Option<T> {
    fn append(&self, line: &mut Vec<u8>) {
        match self {
            Some(value) => value.append(line),
            None => line.extend_from_slice(b"null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_written_as_serde_writes_it() {
        for character in ('\0'..'\u{800}').chain('\u{2000}'..'\u{2100}').chain(['\u{ffff}', '🦀', char::MAX])
        {
            for text in [format!("{character}"), format!("a longer text with {character} inside")] {
                let mut line = Vec::new();
                text.append(&mut line);
                assert_eq!(line, serde_json::to_vec(&text).unwrap(), "{character:?}");
            }
        }
    }
}
