//! The TLS handshake in TDS packets, as in TDS 7: each flight is sent and received as a message of packets of type
//! 0x12; records after the handshake are not wrapped.
//!
//! Sources: MS-TDS §2.2.6.5 (PRELOGIN as the handshake's carrier), §3.2.5.2 and §3.3.5.2 (until when). Some endpoints
//! answer in packets of type 0x04 (microsoft/go-mssqldb#174). Deliberately absent: the records are not read.

use super::upgrade::TLS_ALERT;
use super::{HEAD, IS_LAST, PACKET_MAX, PRELOGIN, RESPONSE};

/// Wraps our part of a handshake and unwraps the server's, at most one packet at a time, because records after the last
/// packet are not wrapped.
#[derive(Debug, Default)]
pub struct Wrapping {
    /// Bytes of the server that have not been unwrapped.
    held: Vec<u8>,
    /// The remaining payload of the server's current packet, in bytes.
    left: usize,
    /// The server sent a TLS alert without a packet around it.
    is_bare: bool,
}

/// The server's bytes during a handshake are not a valid packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrappingError {
    /// It is of another type, or has an impossible length.
    #[error("what the server sent in the middle of the TLS handshake is no TDS packet of it: byte 0x{0:02x}")]
    Foreign(u8),
    /// The handshake ended within the packet.
    #[error("the server's TLS handshake ended in the middle of a TDS packet")]
    Overlong,
}

impl Wrapping {
    /// Wraps one flight as one message, in packets of at most 4096 bytes, the size before another is agreed on.
    #[must_use]
    pub fn wrap(&self, flight: &[u8]) -> Vec<u8> {
        let portions = flight.chunks(PACKET_MAX - HEAD);
        let last = portions.len().saturating_sub(1);
        let mut message = Vec::with_capacity(flight.len() + (last + 1) * HEAD);
        for ((index, portion), number) in portions.enumerate().zip((1..=u8::MAX).cycle()) {
            let status = if index == last { IS_LAST } else { 0 };
            let [high, low] = u16::try_from(HEAD + portion.len()).unwrap_or(u16::MAX).to_be_bytes();
            message.extend([PRELOGIN, status, high, low, 0, 0, number, 0]);
            message.extend_from_slice(portion);
        }
        message
    }

    /// Bytes of the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Appends the payload received of the current packet to `records`. Returns whether there was any.
    ///
    /// # Errors
    /// See [`WrappingError`].
    pub fn unwrap_into(&mut self, records: &mut Vec<u8>) -> Result<bool, WrappingError> {
        if self.left == 0 && !self.is_bare {
            match self.held[..] {
                [] => return Ok(false),
                [TLS_ALERT, ..] => self.is_bare = true,
                [kind, ..] if kind != PRELOGIN && kind != RESPONSE => {
                    return Err(WrappingError::Foreign(kind));
                }
                [_, _, high, low, _, _, _, _, ..] => {
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    if length <= HEAD {
                        return Err(WrappingError::Foreign(high));
                    }
                    self.held.drain(..HEAD);
                    self.left = length - HEAD;
                }
                [..] => return Ok(false),
            }
        }
        let here = if self.is_bare { self.held.len() } else { self.left.min(self.held.len()) };
        self.left = self.left.saturating_sub(here);
        records.extend(self.held.drain(..here));
        Ok(here > 0)
    }

    /// Ends the handshake. Returns the bytes received after its last packet.
    ///
    /// # Errors
    /// If that packet is incomplete.
    pub fn end(self) -> Result<Vec<u8>, WrappingError> {
        if self.left == 0 { Ok(self.held) } else { Err(WrappingError::Overlong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unwrapped(said: &[u8], portion: usize) -> Result<(Vec<u8>, Wrapping), WrappingError> {
        let (mut wrapping, mut records) = (Wrapping::default(), Vec::new());
        for bytes in said.chunks(portion) {
            wrapping.receive(bytes);
            while wrapping.unwrap_into(&mut records)? {}
        }
        Ok((records, wrapping))
    }

    #[test]
    fn a_flight_is_one_message_whose_last_packet_says_so() {
        let flight: Vec<u8> = (0..10_000_usize).map(|at| at.to_le_bytes()[0]).collect();
        let message = Wrapping::default().wrap(&flight);
        let (mut rest, mut heads) = (&message[..], Vec::new());
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
            heads.push((head[0], head[1], head[6]));
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            assert!(length <= PACKET_MAX);
            rest = &behind[length - HEAD..];
        }
        assert_eq!(heads, [(PRELOGIN, 0, 1), (PRELOGIN, 0, 2), (PRELOGIN, IS_LAST, 3)]);
        assert_eq!(Wrapping::default().wrap(b""), b"");
    }

    #[test]
    fn what_follows_the_last_packet_is_not_looked_at() {
        let mut wrapping = Wrapping::default();
        wrapping.receive(&[&wrapping.wrap(b"finished")[..], &[0x17, 3, 3, 0, 1, 0]].concat());
        let mut records = Vec::new();
        assert_eq!(wrapping.unwrap_into(&mut records), Ok(true));
        assert_eq!((&records[..], wrapping.end()), (&b"finished"[..], Ok(vec![0x17, 3, 3, 0, 1, 0])));
    }

    #[test]
    fn a_packet_of_type_4_and_a_bare_alert_are_taken_and_all_else_is_told() {
        let answer = [&[RESPONSE, 1, 0, 10, 0, 0, 1, 0][..], b"ab"].concat();
        assert_eq!(unwrapped(&answer, 3).unwrap().0, b"ab");
        assert_eq!(unwrapped(&[0x15, 3, 3, 0, 2, 2, 40], 2).unwrap().0, [0x15, 3, 3, 0, 2, 2, 40]);
        assert_eq!(unwrapped(b"HTTP/1.1", 1).unwrap_err(), WrappingError::Foreign(b'H'));
        assert_eq!(unwrapped(&[PRELOGIN, 1, 0, 8, 0, 0, 1, 0], 9).unwrap_err(), WrappingError::Foreign(0));
        let (_, cut) = unwrapped(&[PRELOGIN, 1, 0, 10, 0, 0, 1, 0, b'a'], 9).unwrap();
        assert_eq!(cut.end(), Err(WrappingError::Overlong));
    }

    proptest! {
        #[test]
        fn what_was_wrapped_is_unwrapped_however_it_comes(
            flights in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9000), 1..4),
            portion in 1_usize..5000,
        ) {
            let said: Vec<u8> = flights.iter().flat_map(|flight| Wrapping::default().wrap(flight)).collect();
            let (records, wrapping) = unwrapped(&said, portion).unwrap();
            prop_assert_eq!(records, flights.concat());
            prop_assert_eq!(wrapping.end(), Ok(Vec::new()));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, portion in 1_usize..40) {
            let _ = unwrapped(&bytes, portion).map(|(_, wrapping)| wrapping.end());
        }
    }
}
