//! Tables and properties of PROXY headers.

use proptest::prelude::*;

use super::*;
use crate::head::{HeadReader, Progress};

/// Reads in portions of that size; returns the header, and how many bytes were left for the session.
fn read(bytes: &[u8], portion: usize) -> Result<Option<(ProxyHeader, usize)>, Error> {
    let mut reader = HeaderReader::default();
    let mut seen = 0;
    for part in bytes.chunks(portion) {
        match reader.receive(part)? {
            Progress::Incomplete => seen += part.len(),
            Progress::Whole { head, taken } => return Ok(Some((head, bytes.len() - seen - taken))),
        }
    }
    Ok(None)
}

/// The result is the same for every size of portions.
#[track_caller]
fn check(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, Error> {
    let whole = read(bytes, bytes.len().max(1));
    for portion in [1, 2, 7] {
        assert_eq!(read(bytes, portion), whole, "in portions of {portion}");
    }
    whole
}

fn tcp(source: &str, destination: &str) -> ProxyCommand {
    let [source, destination] = [source, destination].map(|address| address.parse().expect("an address"));
    ProxyCommand::Proxied(ProxyAddresses::Tcp { source, destination })
}

/// Builds a header of version 2.
fn v2(versioned: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short");
    [&SIGNATURE[..], &[versioned, family], &length.to_be_bytes(), body].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x15, 0x38];

#[test]
fn version_1_is_read_and_what_follows_it_is_left() {
    for (line, command) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 12345 5432\r\n", tcp("192.0.2.1:12345", "198.51.100.2:5432")),
        ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", tcp("[2001:db8::1]:0", "[::1]:65535")),
        ("PROXY UNKNOWN\r\n", ProxyCommand::Proxied(ProxyAddresses::Unknown)),
        ("PROXY UNKNOWN anything 1 2 3\r\n", ProxyCommand::Proxied(ProxyAddresses::Unknown)),
    ] {
        let (header, left) = check(format!("{line}SELECT").as_bytes()).expect(line).expect(line);
        assert_eq!((header.command, left), (command, 6), "{line}");
    }
}

#[test]
fn version_1_is_taken_literally() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 -2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 +2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1\r198.51.100.2 1 2\r\n",
        "PROXY UNKNOWN \u{e9}\r\n",
    ] {
        assert!(check(line.as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn version_1_is_107_bytes_at_most() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(longest.len(), 107);
    assert!(matches!(check(longest.as_bytes()), Ok(Some(_))));
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(108 - 16));
    assert_eq!(check(longer.as_bytes()), Err(Error::LineTooLong));
    assert_eq!(check(&longest.as_bytes()[..106]), Ok(None));
}

#[test]
fn version_2_is_read_and_what_follows_it_is_left() {
    let unix = [&[0; 108][..], b"/run/x.sock", &[0; 97]].concat();
    let unix_is = ProxyAddresses::Unix { source: Vec::new(), destination: b"/run/x.sock".to_vec() };
    let v6 = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
    for (header, command) in [
        (v2(0x21, 0x11, &V4), tcp("192.0.2.1:12345", "198.51.100.2:5432")),
        (v2(0x21, 0x21, &v6), tcp("[::1]:1", "[::2]:2")),
        (v2(0x21, 0x31, &unix), ProxyCommand::Proxied(unix_is)),
        (v2(0x21, 0x00, &[]), ProxyCommand::Proxied(ProxyAddresses::Unknown)),
        (v2(0x20, 0x00, &[]), ProxyCommand::Local),
        // After LOCAL the rest is skipped, whatever it is.
        (v2(0x20, 0x77, &[9; 40]), ProxyCommand::Local),
    ] {
        let (read, left) = check(&[&header[..], b"SELECT"].concat()).expect("a header").expect("a whole one");
        assert_eq!((read.command, left), (command, 6));
    }
}

#[test]
fn version_2_is_taken_literally() {
    let tlv = |kind: u8, value: &[u8]| {
        [&[kind], &u16::try_from(value.len()).expect("short").to_be_bytes()[..], value].concat()
    };
    let with = |extensions: &[Vec<u8>]| v2(0x21, 0x11, &[&V4[..], &extensions.concat()].concat());
    for (header, why) in [
        (v2(0x11, 0x11, &V4), "version 1 in binary"),
        (v2(0x22, 0x11, &V4), "a command of the future"),
        (v2(0x21, 0x12, &V4), "datagrams"),
        (v2(0x21, 0x41, &V4), "a family of the future"),
        (v2(0x21, 0x11, &V4[..11]), "addresses cut short"),
        (v2(0x21, 0x31, &[0; 215]), "paths cut short"),
        (with(&[vec![4, 0]]), "an extension cut short"),
        (with(&[vec![4, 0, 2, 0]]), "a value cut short"),
        (with(&[tlv(3, &[0; 3])]), "a short checksum"),
        (with(&[tlv(3, &[1, 2, 3, 4])]), "a wrong checksum"),
        (with(&[tlv(5, &[7; 129])]), "a long id"),
        (with(&[tlv(5, b"a"), tlv(5, b"b")]), "two ids"),
        (with(&[tlv(2, b"a"), tlv(2, b"b")]), "two names"),
        (with(&[tlv(2, b"a\r\nb")]), "a name with a line end"),
        (with(&[tlv(2, &[0xff])]), "a name in no encoding"),
    ] {
        assert!(check(&header).is_err(), "{why}");
    }
    assert_eq!(check(&v2(0x21, 0x11, &[0; 4097])), Err(Error::BodyTooLong));
    // Padding and unknown extensions are skipped.
    let (header, _) =
        check(&with(&[tlv(4, &[0; 9]), tlv(0xee, b"x"), tlv(2, b"db")])).expect("fine").expect("whole");
    assert_eq!(header.authority.as_deref(), Some("db"));
}

#[test]
fn the_checksum_is_the_one_that_rfc_3720_shows() {
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
}

fn pair(source: &str, destination: &str) -> AddressPair {
    let [source, destination] = [source, destination].map(|address| address.parse().expect("an address"));
    AddressPair::new(source, destination)
}

#[test]
fn what_is_written_is_read_again() {
    let extensions = Extensions {
        authority: Some("db.test"),
        unique_id: Some("0123456789abcdef"),
        ..Extensions::default()
    };
    let v4 = ["192.0.2.1:12345", "198.51.100.2:5432"];
    for ([source, destination], as_read) in [
        (v4, v4),
        (["[2001:db8::1]:1", "[::1]:65535"], ["[2001:db8::1]:1", "[::1]:65535"]),
        // A connection to a socket for both families.
        (["[::ffff:192.0.2.1]:12345", "[::ffff:198.51.100.2]:5432"], v4),
        (["[::ffff:192.0.2.1]:12345", "198.51.100.2:5432"], v4),
        (["192.0.2.1:1", "[::1]:2"], ["[::ffff:192.0.2.1]:1", "[::1]:2"]),
    ] {
        let (pair, command) = (pair(source, destination), tcp(as_read[0], as_read[1]));
        let (read, left) =
            check(&write_v2(pair, &extensions, usize::MAX)).expect("a header").expect("a whole one");
        assert_eq!((&read.command, left), (&command, 0));
        assert_eq!(read.authority.as_deref(), Some("db.test"));
        assert_eq!(read.unique_id.as_deref(), Some(&b"0123456789abcdef"[..]));
        let (read, _) = check(&write_v1(pair)).expect("a header").expect("a whole one");
        assert_eq!(read.command, command);
    }
}

fn of_a_session() -> Extensions<'static> {
    Extensions {
        authority: Some("db.test"),
        unique_id: Some("0123456789abcdef"),
        host: Some("h"),
        unit: Some("u.service"),
        uid: Some(1000),
        context: Some("job=nightly"),
    }
}

#[test]
fn private_extensions_have_the_numbers_of_the_documentation() {
    let extensions = Extensions { authority: None, unique_id: None, ..of_a_session() };
    let header = write_v2(pair("192.0.2.1:1", "192.0.2.2:2"), &extensions, usize::MAX);
    let said = [&b"\xe2\0\x041000\xe1\0\x09u.service\xe0\0\x01h\xe3\0\x0bjob=nightly\x03\0\x04"[..]].concat();
    assert_eq!(&header[16 + 12..header.len() - 4], said);
    let manual = include_str!("../../../docs/CONTEXT.md");
    for row in ["| 0xE0 | host", "| 0xE1 | unit", "| 0xE2 | uid", "| 0xE3 | context"] {
        assert!(manual.contains(row), "{row}");
    }
}

/// MariaDB takes 256 bytes in all, Postfix 536: a client's context of 200 bytes ended the session there.
#[test]
fn what_does_not_fit_is_left_out_whole_in_the_order_of_the_documentation() {
    let whole = write_v2(pair("[::1]:1", "[::2]:2"), &of_a_session(), usize::MAX).len();
    let kinds = |most: usize| {
        let header = write_v2(pair("[::1]:1", "[::2]:2"), &of_a_session(), most);
        assert!(header.len() <= most, "{} of {most}", header.len());
        let mut rest = &header[V2_FIXED + 36..];
        let mut kinds = Vec::new();
        while let [kind, high, low, after @ ..] = rest {
            kinds.push(*kind);
            rest = &after[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        kinds
    };
    assert_eq!(kinds(whole), [0x05, 0x02, 0xe2, 0xe1, 0xe0, 0xe3, 0x03]);
    assert_eq!(kinds(whole - 1), [0x05, 0x02, 0xe2, 0xe1, 0xe0, 0x03]);
    // Shorter ones after one that does not fit may still fit.
    assert_eq!(kinds(V2_LEAST + 19 + 10 + 7 + 4), [0x05, 0x02, 0xe2, 0xe0, 0x03]);
    assert_eq!(kinds(V2_LEAST), [0x03]);
    let long = "x".repeat(1025);
    let extensions = Extensions { context: Some(&long), ..Extensions::default() };
    assert_eq!(write_v2(pair("[::1]:1", "[::2]:2"), &extensions, usize::MAX).len(), V2_LEAST);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_noticed(at in 0usize..64, bit in 0u8..8) {
        let extensions = Extensions { unique_id: Some("0123456789abcdef"), ..Extensions::default() };
        let mut header = write_v2(pair("192.0.2.1:1", "198.51.100.2:2"), &extensions, usize::MAX);
        let at = at % header.len();
        header[at] ^= 1 << bit;
        let becomes_local = at == 12 && bit == 0;
        let read = read(&header, header.len());
        let hides_the_checksum = at == header.len() - 7;
        // A larger length waits for more bytes; after LOCAL nothing is parsed.
        prop_assert!(becomes_local || hides_the_checksum || read.is_err() || read == Ok(None), "{:?}", read);
    }

    #[test]
    fn no_bytes_panic_and_no_cut_matters(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", &SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20"]),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [start, &rest].concat();
        let whole = read(&bytes, bytes.len().max(1));
        prop_assert_eq!(read(&bytes, 1), whole);
    }
}
