//! The fields of a protobuf message, before it is read: how many there are decides whether it is ("Encoding" in protobuf's documentation).

use prost::encoding::decode_varint;

/// A field with its bytes, if it has a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireField<'a> {
    pub(super) tag: u64,
    /// Empty where the value is a number.
    pub(super) value: &'a [u8],
}

/// The fields of that message, up to the first that is malformed: whoever reads the message finds that, too.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = WireField<'_>> {
    std::iter::from_fn(move || {
        let key = decode_varint(&mut message).ok()?;
        let length = match key & 7 {
            0 => {
                decode_varint(&mut message).ok()?;
                0
            }
            1 => 8,
            2 => usize::try_from(decode_varint(&mut message).ok()?).ok()?,
            5 => 4,
            // Groups, which nothing here has.
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        Some(WireField { tag: key >> 3, value: if key & 7 == 2 { value } else { &[] } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_up_to_what_is_malformed() {
        // 1: 150; 2: "abc"; 3: fixed64; 4: fixed32; 2: "".
        let message = b"\x08\x96\x01\x12\x03abc\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x12\0";
        let found: Vec<_> = fields(message).map(|field| (field.tag, field.value)).collect();
        assert_eq!(found, [(1, &b""[..]), (2, b"abc"), (3, b""), (4, b""), (2, b"")]);
        for length in 0..message.len() {
            assert!(fields(&message[..length]).count() <= found.len());
        }
        for malformed in
            [&b"\x12\x05abc"[..], b"\xff", b"\x0b", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert_eq!(fields(malformed).count(), 0);
        }
    }
}
