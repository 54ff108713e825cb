//! Tables and properties of CONNECT heads.

use proptest::prelude::*;

use super::*;
use crate::outcome::Outcome;

/// Reads in portions of that size; returns the request, and how many bytes were left for the session.
fn read(bytes: &[u8], portion: usize) -> Result<Option<(ConnectRequest, usize)>, Error> {
    let mut reader = RequestReader::default();
    let mut seen = 0;
    for part in bytes.chunks(portion) {
        match reader.receive(part)? {
            Progress::Incomplete => seen += part.len(),
            Progress::Whole { head, taken } => return Ok(Some((head, bytes.len() - seen - taken))),
        }
    }
    Ok(None)
}

#[track_caller]
fn check(text: &str) -> Result<Option<(ConnectRequest, usize)>, Error> {
    let whole = read(text.as_bytes(), text.len().max(1));
    for portion in [1, 3] {
        assert_eq!(read(text.as_bytes(), portion), whole, "in portions of {portion}");
    }
    whole
}

/// A request for `orders` with these lines.
fn with(lines: &str) -> Result<ConnectRequest, Error> {
    let head = format!("CONNECT orders:5432 HTTP/1.1\r\nHost: orders:5432\r\n{lines}\r\n");
    Ok(check(&head)?.expect("a whole head").0)
}

#[test]
fn a_whole_request_is_read_and_what_follows_it_is_left() {
    let text = "CONNECT orders HTTP/1.1\r\nhost: orders\r\nUser-Agent: curl/8\r\nProxy-Connection: Keep-Alive\r\n\
                AMBASSADOR-ATTEMPTS:\t0 \r\nAmbassador-Deadline: 1s500ms\r\nAmbassador-Affinity: tenant 7\r\n\
                Ambassador-Context: job=nightly, run = 42,note=\r\n\r\n\r\nSELECT";
    let (request, left) = check(text).expect("a request").expect("a whole one");
    assert_eq!(left, 8);
    assert_eq!(request.target, "orders");
    assert_eq!(request.attempts, Some(0));
    assert_eq!(request.deadline, Some(Duration::from_millis(1500)));
    assert_eq!(request.affinity.as_deref(), Some("tenant 7"));
    assert_eq!(request.context.expect("a context").to_string(), "job=nightly, run=42, note=");
    // OpenBSD's nc.
    assert!(matches!(check("CONNECT orders:5432 HTTP/1.0\r\n\r\n"), Ok(Some((_, 0)))));
}

#[test]
fn what_is_no_request_of_ours_is_refused_with_its_status() {
    for (text, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(405)),
        ("connect a HTTP/1.1\r\nHost: a\r\n\r\n", Some(405)),
        ("PRI * HTTP/2.0\r\n\r\n", Some(505)),
        ("CONNECT a HTTP/1.2\r\nHost: a\r\n\r\n", Some(505)),
        ("CONNECT a\r\n\r\n", Some(400)),
        ("CONNECT  a HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT a HTTP/1.1 \r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT\ta HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT a@b HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT  HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT a HTTP/1.1\r\n\r\n", Some(400)),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Some(400)),
        ("\r\nCONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        ("CONNECT a HTTP/1.1\nHost: a\n\n", Some(400)),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\n", Some(400)),
        ("CONNECT a HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Some(400)),
        ("\u{16}\u{3}\u{1}", None),
        ("\0\0\0\u{8}", Some(400)),
    ] {
        let error = check(text).expect_err(text);
        assert_eq!(error.status(), status, "{text:?}: {error}");
    }
}

#[test]
fn fields_that_smuggle_are_refused() {
    for lines in [
        "Content-Length: 0\r\n",
        "content-length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: a\r\n b\r\n",
        " X: a\r\n",
        "X\r\n",
        ": a\r\n",
        "X Y: a\r\n",
        "X\u{e9}: a\r\n",
        "X: a\0b\r\n",
    ] {
        assert_eq!(with(lines).expect_err(lines).status(), Some(400), "{lines:?}");
    }
}

#[test]
fn fields_of_ours_are_taken_literally() {
    for lines in [
        "Ambassador-Attempts: \r\n",
        "Ambassador-Attempts: -1\r\n",
        "Ambassador-Attempts: +1\r\n",
        "Ambassador-Attempts: 1.0\r\n",
        "Ambassador-Attempts: 4294967296\r\n",
        "Ambassador-Attempts: 1\r\nAmbassador-Attempts: 1\r\n",
        "Ambassador-Attemps: 1\r\n",
        "Ambassador-Deadline: 5\r\n",
        "Ambassador-Deadline: 0s\r\n",
        "Ambassador-Deadline: 5 s\r\n",
        "Ambassador-Affinity: \r\n",
        "Ambassador-Affinity: \u{e9}\r\n",
        "Ambassador-Context: \r\n",
        "Ambassador-Context: job\r\n",
        "Ambassador-Context: =x\r\n",
        "Ambassador-Context: a b=x\r\n",
        "Ambassador-Context: a=1,a=2\r\n",
        "Ambassador-Context: a=1,\r\n",
        "Ambassador-Context: a=\u{e9}\r\n",
    ] {
        assert_eq!(with(lines).expect_err(lines).status(), Some(400), "{lines:?}");
    }
    let long = |name: &str, length: usize| format!("{name}: {}\r\n", "x".repeat(length));
    assert!(with(&long("Ambassador-Affinity", 256)).is_ok());
    assert!(with(&long("Ambassador-Affinity", 257)).is_err());
    let pairs = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert!(with(&format!("Ambassador-Context: {}\r\n", pairs(16))).is_ok());
    assert!(with(&format!("Ambassador-Context: {}\r\n", pairs(17))).is_err());
}

#[test]
fn a_head_has_8_kib_and_64_fields_at_most() {
    assert!(with(&"X: y\r\n".repeat(63)).is_ok(), "with Host these are 64");
    assert_eq!(with(&"X: y\r\n".repeat(64)), Err(Error::TooManyFields));
    let endless = format!("CONNECT orders HTTP/1.1\r\nX: {}", "y".repeat(9000));
    assert_eq!(check(&endless), Err(Error::TooLong));
    assert_eq!(check(&endless[..8192]), Ok(None));
}

#[test]
fn a_target_is_a_name_with_or_without_a_port() {
    let names = ["orders", "Orders-2", "a:b", "twin", "TWIN"];
    for (target, expected) in [
        ("orders", Some(0)),
        ("orders:5432", Some(0)),
        ("ORDERS:443", Some(0)),
        ("orders-2:1", Some(1)),
        ("a:b", Some(2)),
        ("a:b:80", Some(2)),
        ("twin", Some(3)),
        ("TWIN:1", Some(4)),
        ("Twin", None),
        ("orders:", None),
        ("orders:99999", None),
        ("orders:+1", None),
        ("order", None),
        (":80", None),
    ] {
        let request = ConnectRequest { target: target.into(), ..ConnectRequest::default() };
        assert_eq!(request.which(&names.into_iter()), expected, "{target}");
    }
}

#[test]
fn replies_are_whole_and_have_one_line_for_each_field() {
    let took = Duration::from_micros(1234);
    let reply =
        success_reply(&SessionInfo { session: "0123456789abcdef", endpoint: "db\r\n1:5", attempts: 2, took });
    let text = String::from_utf8(reply).expect("text");
    assert_eq!(
        text,
        "HTTP/1.1 200 Connection established\r\nAmbassador-Session: 0123456789abcdef\r\n\
         Ambassador-Endpoint: db  1:5\r\nAmbassador-Attempts: 2\r\nAmbassador-Connect-Ms: 1.234\r\n\r\n"
    );
    let reply = refusal_reply(405, Outcome::BadContext, "0123456789abcdef", "no: a\nb");
    let text = String::from_utf8(reply).expect("text");
    assert!(text.starts_with(
        "HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nAmbassador-Outcome: bad_context\r\n"
    ));
    assert!(text.ends_with("Content-Length: 8\r\nConnection: close\r\n\r\nno: a b\n"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_and_no_cut_matters(
        start in prop::sample::select(vec!["", "CONNECT ", "CONNECT a HTTP/1.1\r\nHost: a\r\n", "CONNECT a HTTP/1.0\r\nAmbassador-"]),
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), 32u8..127], 0..120),
    ) {
        let bytes = [start.as_bytes(), &rest].concat();
        let whole = read(&bytes, bytes.len().max(1));
        prop_assert_eq!(read(&bytes, 1), whole);
    }

    #[test]
    fn what_a_request_may_say_is_bounded(lines in "(Ambassador-(Context|Affinity|Deadline|Attempts): [ -~]{0,60}\r\n){0,4}") {
        if let Ok(request) = with(&lines) {
            prop_assert!(request.context.is_none_or(|context| context.to_string().len() <= 1100));
        }
    }
}
