//! Recognizes what a server speaks by its first bytes, to explain a wrong port to users. It decides nothing: each
//! protocol refuses what is not its own.
//!
//! Sources: RFC 4253 §4.2, RFC 9112 §4, RFC 8446 §5.1; PostgreSQL, "Message Formats".

use super::{Options, all, named};

/// What is none of our protocols, by the beginning of its first message.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"SSH-", "it greets as servers of SSH do"),
    (b"HTTP/1.", "it answers as servers of HTTP do"),
    (&[0x15, 0x03], "it speaks TLS with the first byte (write tls.start: direct)"),
];

/// A description, if the protocol is recognized and is not the expected one; `protocol` is the name in the file.
pub fn recognize(first: &[u8], protocol: &str) -> Option<&'static str> {
    if named(protocol, &Options::default()).is_some_and(|expected| expected.recognize(first).is_some()) {
        return None;
    }
    let foreign = FOREIGN.iter().find(|(prefix, _)| first.starts_with(prefix)).map(|(_, words)| *words);
    foreign.or_else(|| all().find_map(|protocol| protocol.recognize(first)))
}

/// Asks a server that waits for its client what it speaks: PostgreSQL's SSLRequest, which changes nothing and which
/// PostgreSQL answers before any login.
pub const ASK_SILENT: &[u8] = &super::postgres::SSL_REQUEST;

/// A description of a server by its answer to [`ASK_SILENT`]; `None` also for a greeting of `protocol`: it greets late.
pub fn recognize_answer(answer: &[u8], protocol: &str) -> Option<&'static str> {
    match answer {
        b"S" | b"N" => Some("it answers as servers of postgres do"),
        _ => recognize(answer, protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_ssl_request_tells_postgres_and_tls() {
        for (answer, word) in [
            (&b"S"[..], Some("postgres")),
            (b"N", Some("postgres")),
            (&[0x15, 3, 3, 0, 2, 2, 70], Some("tls.start: direct")),
            (b"So", None),
            (b"220 mx ESMTP", Some("smtp")),
            // Of the protocol that was expected: the other connection waits for its greeting still.
            (&[0x59, 0, 0, 0, 10, b'1', b'1'], None),
            (b"", None),
        ] {
            let told = recognize_answer(answer, "mysql");
            assert_eq!(told.is_some(), word.is_some(), "{answer:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(word.unwrap_or_default()), "{answer:?}: {told:?}");
        }
    }

    #[test]
    fn a_greeting_tells_what_greets() {
        let mysql = [&[0x59, 0, 0, 0, 10][..], b"11.8.3-MariaDB"].concat();
        for (first, protocol, word) in [
            (&b"220 mx ESMTP"[..], "postgres", Some("smtp")),
            (b"220-mx ESMTP", "lmtp", None),
            (b"220 mx", "ftp-control", None),
            (b"* OK ready", "smtp", Some("imap")),
            (&mysql, "postgres", Some("mysql")),
            (&mysql, "mysql", None),
            (&[0x15, 3, 1, 0, 2], "postgres", Some("tls.start: direct")),
            (b"SSH-2.0-x", "smtp", Some("SSH")),
            (b"\0\x01\x02", "smtp", None),
            (b"", "smtp", None),
        ] {
            let told = recognize(first, protocol);
            assert_eq!(told.is_some(), word.is_some(), "{first:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(word.unwrap_or_default()), "{first:?}: {told:?}");
        }
    }
}
