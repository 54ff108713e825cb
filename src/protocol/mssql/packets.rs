//! Finds the end of each TDS packet, so that each goes in a TLS record of its own: SQL Server drops a connection whose
//! records hold more than one packet or parts of one.
//!
//! Sources: MS-TDS §2.2.3.1 (packet header); MC-SMP §2.2.1 (the header around packets of a connection with MARS). For
//! the server's expectations of records: tediousjs/tedious#932, eclipse-vertx/vertx-sql-client#1438 (none longer than
//! the agreed packet size), denisenkom/go-mssqldb#166 (no packet in several). With TLS a packet is never longer than a
//! record may be (16,383 bytes: the setting "network packet size"). Deliberately absent: the packets' contents are not
//! read.

use std::borrow::Cow;

use super::HEAD;

/// The first byte of an SMP packet, and the length of its header.
const SMP: u8 = 0x53;
const SMP_HEAD: usize = 16;
/// The longest packet: the maximum of a two-byte length, within SMP.
const LENGTH_MAX: usize = 0xffff + SMP_HEAD;

/// Cuts a client's bytes into packets.
#[derive(Debug, Default)]
pub struct Packets {
    /// The beginning of an incomplete packet.
    held: Vec<u8>,
    /// These are no packets: all bytes are passed on as they come.
    is_lost: bool,
}

/// The length of the packet that begins with these bytes.
enum Length {
    Unknown,
    Is(usize),
    None,
}

fn length(bytes: &[u8]) -> Length {
    let Some(&[kind, _, high, low, a, b, c, d]) = bytes.first_chunk::<HEAD>() else { return Length::Unknown };
    let (least, length) = match kind {
        SMP => (SMP_HEAD, u32::from_le_bytes([a, b, c, d]) as usize),
        _ => (HEAD, usize::from(u16::from_be_bytes([high, low]))),
    };
    if (least..=LENGTH_MAX).contains(&length) { Length::Is(length) } else { Length::None }
}

impl Packets {
    /// Takes the next packet from the front of `bytes`; `None`: it is incomplete, and its bytes have been kept.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
        loop {
            if bytes.is_empty() {
                return None;
            }
            let length = match length(if self.held.is_empty() { bytes } else { &self.held }) {
                Length::Is(length) if !self.is_lost => length,
                Length::Unknown if !self.is_lost => HEAD,
                Length::Unknown | Length::Is(_) | Length::None => {
                    self.is_lost = true;
                    return Some(self.rest_with(std::mem::take(bytes)));
                }
            };
            let (now, later) = bytes.split_at((length - self.held.len()).min(bytes.len()));
            *bytes = later;
            if self.held.is_empty() && now.len() == length {
                return Some(Cow::Borrowed(now));
            }
            self.held.extend_from_slice(now);
            if matches!(self::length(&self.held), Length::Is(length) if length == self.held.len()) {
                return Some(Cow::Owned(std::mem::take(&mut self.held)));
            }
        }
    }

    /// The bytes kept of a packet that will not be completed.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn rest_with<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.held.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut rest = self.rest();
        rest.extend_from_slice(bytes);
        Cow::Owned(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(said: &[u8], portion: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut packets, mut cut) = (Packets::default(), Vec::new());
        for mut bytes in said.chunks(portion) {
            while let Some(packet) = packets.next(&mut bytes) {
                cut.push(packet.into_owned());
            }
            assert!(bytes.is_empty());
        }
        (cut, packets.rest())
    }

    fn tds(payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(HEAD + payload.len()).unwrap().to_be_bytes();
        [&[1, 1, high, low, 0, 0, 1, 0], payload].concat()
    }

    fn smp(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(SMP_HEAD + payload.len()).unwrap().to_le_bytes();
        [&[SMP, 8, 0, 0][..], &length, &[0; 8], payload].concat()
    }

    proptest! {
        #[test]
        fn packets_come_whole_however_they_were_sent(
            payloads in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..6000)), 0..6),
            portion in 1_usize..9000,
        ) {
            let packets: Vec<Vec<u8>> = payloads
                .iter()
                .map(|(is_multiplexed, payload)| if *is_multiplexed { smp(&tds(payload)) } else { tds(payload) })
                .collect();
            prop_assert_eq!(cut(&packets.concat(), portion), (packets, vec![]));
        }

        #[test]
        fn nothing_is_lost_of_what_are_no_packets(bytes: Vec<u8>, portion in 1_usize..40) {
            let (packets, rest) = cut(&bytes, portion);
            prop_assert_eq!([packets.concat(), rest].concat(), bytes);
        }
    }

    #[test]
    fn a_length_that_no_packet_has_ends_the_cutting() {
        let none = [1, 1, 0, 7, 0, 0, 1, 0];
        let said = [&tds(b"one")[..], &none, &tds(b"two")].concat();
        let (packets, rest) = cut(&said, usize::MAX);
        assert_eq!((packets, rest), (vec![tds(b"one"), [&none[..], &tds(b"two")].concat()], vec![]));
        assert_eq!(cut(&[SMP, 8, 0, 0, 15, 0, 0, 0, 1], 1).0.concat(), [SMP, 8, 0, 0, 15, 0, 0, 0, 1]);
        assert_eq!(cut(&tds(b""), 3).0, [tds(b"")]);
    }
}
