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
        assert_eq!(matches!(judge(bytes), FirstMessageVerdict::Speaks(_)), is_redis, "{bytes:?}");
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
            let mut verdict = Ok(ProbeStep::Incomplete);
            for bytes in answer.chunks(chunk).chain([&b""[..]]) {
                if matches!(verdict, Ok(ProbeStep::Incomplete)) {
                    verdict = ping.receive(bytes);
                }
            }
            assert_eq!(matches!(verdict, Ok(ProbeStep::Serves { .. })), serves, "{answer:?}: {verdict:?}");
        }
    }
    let endless = std::iter::repeat_n(b'x', ANSWER_MAX + 1).collect::<Vec<_>>();
    assert!(Ping::default().receive(&endless).is_err());
}

/// ioredis begins with three commands at once: one error answered the first, and the client never reported it.
#[test]
fn each_command_of_a_pipeline_is_answered() {
    for (bytes, count) in [
        (&b"PING\r\n"[..], 1),
        (b"\r\nPING\r\nPING\r\n", 2),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b"*2\r\n$3\r\nGET\r\n$6\r\na\r\n*b\r\n\r\n*1\r\n$4\r\nPING\r\nPING\r\n", 3),
        (b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n", 1),
        (b"*2\r\n$3\r\nGET\r\n$1000\r\nabc", 1),
        (b"*99999\r\n$1\r\na", 1),
    ] {
        assert_eq!(commands(bytes), count, "{:?}", String::from_utf8_lossy(bytes));
        let FirstMessageVerdict::Speaks(reply_to) = judge(bytes) else { panic!("it is Redis") };
        let refusal =
            Refusal { server: None, kind: RefusalKind::Unreachable, reason: "r", session: "s", reply_to };
        let words = Redis.refusal(&refusal).unwrap();
        assert_eq!(words, b"-LOADING ambassador: r [session s]\r\n".repeat(count.into()));
    }
}
