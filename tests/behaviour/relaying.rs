//! The relay: counters, resets, ends of streams, and an upstream that dies.

use std::io::ErrorKind;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::harness::{Ambassador, Client, Config, Conn, End, Pki, ServerTls, Upstream, roles, until};

/// Runs `claim` with a plaintext upstream and then with a TLS one: the kind of relay must not be visible.
fn both_ways<F, Fut>(script: F, claim: impl Fn(&Upstream, &Ambassador))
where
    F: Fn(Conn) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let pki = Pki::new();
    let plain = Upstream::plain(script.clone());
    claim(&plain, &Ambassador::start(&Config::app(&[&plain.address()], "")));
    let tls = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), script);
    let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
    claim(&tls, &Ambassador::start(&Config::app(&[&tls.address()], &cluster)));
}

#[test]
fn counters_grow_while_the_session_lives() {
    both_ways(roles::echo, |_, ambassador| {
        let labels = [("listener", "app"), ("cluster", "up")];
        let mut client = ambassador.connect();
        for round in 1..=3 {
            client.echo("0123456789");
            until("the counters show the round trip", || {
                let metrics = ambassador.metrics();
                let moved =
                    (metrics.sum("sent_bytes_total", &labels), metrics.sum("received_bytes_total", &labels));
                let due = f64::from(round) * 10.0;
                (moved == (due, due)).then_some(())
            });
            assert_eq!(ambassador.metrics().sum("sessions_active", &labels), 1.0);
        }
        let sessions = ambassador.get("/sessions").json();
        assert_eq!(sessions["sessions"][0]["sent_bytes"], 30);
        assert_eq!(sessions["sessions"][0]["received_bytes"], 30);
        drop(client);
        let record = ambassador.record();
        assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (Some(30), Some(30)));
        assert_eq!(sessions["sessions"][0]["session"], record["session"]);
        let metrics = ambassador.metrics();
        assert_eq!(metrics.sum("sent_bytes_total", &labels), 30.0, "the end neither loses nor doubles bytes");
        assert_eq!(metrics.sum("sessions_active", &labels), 0.0);
        assert_eq!(metrics.sum("session_duration_seconds_count", &[("cluster", "up")]), 1.0);
        assert_eq!(metrics.sum("accepted_total", &[("listener", "app")]), 1.0);
    });
}

#[test]
fn a_reset_of_the_client_is_passed_on_as_a_reset() {
    both_ways(roles::echo, |upstream, ambassador| {
        let mut client = ambassador.connect();
        client.echo("hello");
        client.reset();
        upstream.wait_note("error after 5: ConnectionReset");
        let record = ambassador.record();
        assert_eq!(record["outcome"], "downstream_reset");
        assert_eq!(record["closed_by"], "downstream");
        assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "downstream_reset")]), 1.0);
    });
}

#[test]
fn a_reset_of_the_upstream_is_passed_on_as_a_reset() {
    both_ways(roles::reset_after(5), |_, ambassador| {
        let mut client = ambassador.connect();
        client.send("hello");
        assert_eq!(client.ending(), End::Reset);
        let record = ambassador.record();
        assert_eq!(record["outcome"], "upstream_reset");
        assert_eq!(record["closed_by"], "upstream");
        assert!(record["error"].is_string());
    });
}

#[test]
fn an_end_of_the_upstream_is_an_orderly_end_and_completes() {
    let say_and_leave = |mut conn: Conn| async move {
        drop(conn.write_all(b"bye").await);
        drop(conn.shutdown().await);
        let mut rest = Vec::new();
        drop(conn.read_to_end(&mut rest).await);
    };
    both_ways(say_and_leave, |_, ambassador| {
        let mut client = ambassador.connect();
        assert_eq!(client.read_out(), (b"bye".to_vec(), End::Orderly));
        drop(client);
        let record = ambassador.record();
        assert_eq!(
            (record["outcome"].as_str(), record["closed_by"].as_str()),
            (Some("completed"), Some("upstream"))
        );
    });
}

#[test]
fn an_end_of_the_client_is_recorded_as_its() {
    both_ways(roles::echo, |upstream, ambassador| {
        let mut client = ambassador.connect();
        client.echo("hello");
        drop(client);
        upstream.wait_note("end after 5");
        let record = ambassador.record();
        assert_eq!(
            (record["outcome"].as_str(), record["closed_by"].as_str()),
            (Some("completed"), Some("downstream"))
        );
    });
}

#[test]
fn an_upstream_that_dies_midstream_ends_its_sessions_and_no_others() {
    let (mut doomed, other) =
        (Upstream::plain(roles::greet("doomed")), Upstream::plain(roles::greet("lively")));
    let config = Config::app(&[&doomed.address(), &other.address()], "balance: round_robin");
    let ambassador = Ambassador::start(&config);
    let open = |_| {
        let mut client = ambassador.connect();
        (client.receive(6), client)
    };
    let (on_doomed, mut on_other): (Vec<_>, Vec<_>) =
        (0..6).map(open).partition(|(name, _)| name == b"doomed");
    assert_eq!((on_doomed.len(), on_other.len()), (3, 3));
    doomed.stop();
    for (_, mut client) in on_doomed {
        client.ending();
    }
    ambassador.wait_active(3);
    for (_, client) in &mut on_other {
        client.echo("still here");
    }
    // New sessions go to the remaining endpoint.
    for _ in 0..4 {
        ambassador.connect().expect("lively");
    }
    let refused = ambassador.record_where("a second attempt", |record| record["attempts"] == 2);
    assert_eq!(refused["endpoint"], other.address());
}

/// A killed process, a host that loses power, a middlebox that gives up: here all are resets within an answer.
#[test]
fn a_reset_amid_an_answer_is_never_an_orderly_end() {
    let torn = |mut conn: Conn| async move {
        drop(conn.write_all(b"half an ans").await);
        drop(conn.flush().await);
        let mut one = [0];
        drop(conn.read_exact(&mut one).await);
        conn.reset();
    };
    both_ways(torn, |_, ambassador| {
        let mut client = ambassador.connect();
        client.expect("half an ans");
        client.send("?");
        assert_eq!(client.ending(), End::Reset);
        assert_eq!(ambassador.record()["outcome"], "upstream_reset");
    });
}

/// A server that rejects an upload sends the reason and closes while the client still writes. Our next write to it
/// fails before we have read that reason; the client must get it all the same.
#[test]
fn words_before_a_reset_reach_a_client_that_keeps_writing() {
    const WORDS: &[u8] = b"552 the mailbox is full\r\n";
    const SESSIONS: usize = 20;
    let cue = Arc::new(Notify::new());
    let script = {
        let cue = cue.clone();
        move |conn| say_and_reset(conn, cue.clone(), WORDS)
    };
    both_ways(script, |upstream, ambassador| {
        for session in 1..=SESSIONS {
            let mut client = ambassador.connect();
            let writing = client.keep_writing();
            until("the server reads", || (times(upstream, "reads") == session).then_some(()));
            ambassador.frozen(|| {
                cue.notify_one();
                upstream.wait_active(0);
            });
            let (words, end) = client.read_out();
            assert_eq!(String::from_utf8_lossy(&words), String::from_utf8_lossy(WORDS), "session {session}");
            // The kernel reports a reset once, to the reader or to the writer; behind a FIN it reports it to neither.
            let stopped = writing.join().expect("a writer that does not panic");
            let told = end == End::Reset || stopped.kind() == ErrorKind::ConnectionReset;
            assert!(told, "session {session}: the words end in good order ({stopped}), and they were cut");
        }
        let records = ambassador.wait_records(SESSIONS);
        assert!(records.iter().all(|record| record["outcome"] == "upstream_reset"), "{records:?}");
    });
}

/// Reads until its cue, then sends `words` and resets.
async fn say_and_reset(mut conn: Conn, cue: Arc<Notify>, words: &[u8]) {
    let mut buffer = vec![0; 64 * 1024];
    let mut reads = conn.read(&mut buffer).await.is_ok();
    conn.note("reads");
    while reads {
        tokio::select! {
            () = cue.notified() => break,
            read = conn.read(&mut buffer) => reads = read.is_ok(),
        }
    }
    drop(conn.write_all(words).await);
    drop(conn.flush().await);
    conn.reset();
}

/// Telnet, FTP's ABOR and rlogin send urgent data. A read stops in front of such a byte; no further event announces
/// the ordinary bytes behind it.
#[test]
fn urgent_data_between_ordinary_bytes_stalls_neither_direction() {
    let cue = Arc::new(Notify::new());
    let upstream = Upstream::plain({
        let cue = cue.clone();
        move |mut conn| {
            let cue = cue.clone();
            async move {
                let mut hello = [0; 5];
                drop(conn.read_exact(&mut hello).await);
                drop(conn.write_all(&hello).await);
                cue.notified().await;
                drop(conn.write_all(b"ghi").await);
                conn.send_urgent(b'?');
                drop(conn.write_all(b"jkl").await);
                conn.note("said");
                roles::echo(conn).await;
            }
        }
    });
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    for session in 1..=5 {
        let mut client = ambassador.connect();
        client.echo("hello");
        ambassador.frozen(|| {
            client.send("abc");
            client.send_urgent(b'!');
            client.send("def");
            cue.notify_one();
            until("the server has spoken", || (times(&upstream, "said") == session).then_some(()));
        });
        assert_eq!(ordinary_letters(&mut client, 12), "ghijklabcdef");
        client.echo("and on");
    }
}

fn times(upstream: &Upstream, note: &str) -> usize {
    upstream.notes().iter().filter(|noted| *noted == note).count()
}

/// The same before there is an upstream, and towards an upstream with TLS.
#[test]
fn urgent_data_that_came_while_we_dialled_stalls_nothing() {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    let cue = Arc::new(Notify::new());
    let upstream = Upstream::plain({
        let cue = cue.clone();
        move |conn| {
            let (tls, cue) = (tls.clone(), cue.clone());
            async move {
                cue.notified().await;
                if let Some(conn) = conn.start_tls(tls).await {
                    roles::echo(conn).await;
                }
            }
        }
    });
    let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    upstream.wait_accepted(1);
    client.send("abc");
    client.send_urgent(b'!');
    client.send("def");
    cue.notify_one();
    assert_eq!(ordinary_letters(&mut client, 6), "abcdef");
    client.echo("and on");
}

/// Reads this many letters. An urgent byte, which is not a letter, may be among them or be lost.
#[track_caller]
fn ordinary_letters(client: &mut Client, count: usize) -> String {
    let mut letters = String::new();
    while letters.len() < count {
        letters.extend(client.receive(1).into_iter().map(char::from).filter(char::is_ascii_alphabetic));
    }
    letters
}

/// Many servers close without a close_notify, so its absence is no failure; the protocols above mark their own ends.
#[test]
fn a_tls_stream_that_ends_without_close_notify_has_ended() {
    let pki = Pki::new();
    let cut = |mut conn: Conn| async move {
        drop(conn.write_all(b"all there is").await);
        drop(conn.flush().await);
        conn.shutdown_tcp();
        let mut rest = Vec::new();
        drop(conn.read_to_end(&mut rest).await);
    };
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), cut);
    let cluster = format!("tls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    assert_eq!(client.read_out(), (b"all there is".to_vec(), End::Orderly));
    drop(client);
    assert_eq!(ambassador.record()["outcome"], "completed");
}

/// A reader that stops must stop the writer: data in flight stays bounded by buffers, and all of it arrives in the
/// end.
#[test]
fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    const BYTES: usize = 64_000_000;
    both_ways(roles::exchange(BYTES), |upstream, ambassador| {
        let client = ambassador.connect();
        // Nothing is read yet: the counter stops well below the total.
        let mut last = -1.0;
        until("the flow came to rest", || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let now = ambassador.metrics().sum("received_bytes_total", &[]);
            (now > 0.0 && std::mem::replace(&mut last, now) == now).then_some(())
        });
        assert!(
            last < BYTES as f64 * 0.6,
            "{last} bytes were taken from the upstream for a client that reads none"
        );
        client.exchange(BYTES);
        upstream.wait_note(&format!("identical {BYTES}"));
    });
}
