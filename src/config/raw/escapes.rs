//! Bytes as text: ASCII, with `\r`, `\n`, `\t`, `\\` and `\xHH` for any byte.

/// Parses bytes. The error does not quote the text itself.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let byte = match character {
            '\\' => escaped(&mut rest)?,
            // In YAML's double quotes `\xff` is the character ÿ, which is two bytes.
            _ if !character.is_ascii() => {
                return Err(format!(
                    "{character:?} is not ASCII; in single quotes, `\\xHH` stands for any byte"
                ));
            }
            _ => character as u8,
        };
        bytes.push(byte);
    }
    Ok(bytes)
}

fn escaped(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    const KNOWN: &str = "there is \\r, \\n, \\t, \\\\ and \\xHH";
    match rest.next() {
        Some('r') => Ok(b'\r'),
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits = (rest.next(), rest.next());
            let (Some(high), Some(low)) = (digits.0.and_then(hex), digits.1.and_then(hex)) else {
                return Err("`\\x` takes two hexadecimal digits".into());
            };
            Ok(high << 4 | low)
        }
        Some(other) => Err(format!("`\\{}` is no escape; {KNOWN}", other.escape_debug())),
        None => Err(format!("ends in the middle of an escape; {KNOWN}")),
    }
}

fn hex(digit: char) -> Option<u8> {
    digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_escapes() {
        for (text, bytes) in [
            ("PING\\r\\n", b"PING\r\n".as_slice()),
            ("PING\r\n", b"PING\r\n"),
            ("\\x00\\xfF\\x41", b"\x00\xffA"),
            ("a\\\\b\\t", b"a\\b\t"),
            ("\\\\x41", b"\\x41"),
        ] {
            assert_eq!(unescape(text).as_deref(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_escape_is_refused_in_words() {
        for (text, part) in [
            ("\\", "in the middle of an escape"),
            ("\\q", "`\\q` is no escape"),
            ("\\x4", "two hexadecimal digits"),
            ("\\xg0", "two hexadecimal digits"),
            ("\\x+1", "two hexadecimal digits"),
            ("\u{ff}", "not ASCII; in single quotes"),
        ] {
            let error = unescape(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
