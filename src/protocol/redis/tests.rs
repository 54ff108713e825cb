//! What redis-server 7 answers, and what it never would.

use super::*;

#[test]
fn a_first_byte_tells_redis_from_others() {
    for (bytes, is_redis) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], true),
        (b"PING\r\n", true),
        (b"\x00\x00\x00\x08", false),
        (b"\x30\x0c", false),
        (b"$4\r\n", false),
    ] {
        assert_eq!(matches!(judge(bytes), Verdict::Speaks(_)), is_redis, "{bytes:?}");
    }
}

#[test]
fn a_probe_needs_no_password_and_knows_who_is_not_ready() {
    for (answer, serves) in [
        (&b"+PONG\r\n"[..], true),
        (b"-NOAUTH Authentication required.\r\n", true),
        (b"-LOADING Redis is loading the dataset in memory\r\n", false),
        (b"-MASTERDOWN Link with MASTER is down\r\n", false),
        (b"HTTP/1.1 400 Bad Request\r\n", false),
        (b"", false),
    ] {
        for chunk in [1, 1000] {
            let mut ping = Ping::default();
            let mut verdict = Ok(Probed::Incomplete);
            for bytes in answer.chunks(chunk).chain([&b""[..]]) {
                if matches!(verdict, Ok(Probed::Incomplete)) {
                    verdict = ping.received(bytes);
                }
            }
            assert_eq!(matches!(verdict, Ok(Probed::Serves { .. })), serves, "{answer:?}: {verdict:?}");
        }
    }
    let endless = std::iter::repeat_n(b'x', ANSWER_MAX + 1).collect::<Vec<_>>();
    assert!(Ping::default().received(&endless).is_err());
}
