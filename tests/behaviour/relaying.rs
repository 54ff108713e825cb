//! Bytes once both sides are connected: counters, resets, ends, and an upstream that dies.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Ambassador, Config, End, Pki, ServerTls, Upstream, roles, until};

/// Runs `claim` with a plaintext upstream and then with a TLS one: which relay moves the bytes must not be
/// visible.
fn both_ways<F, Fut>(script: F, claim: impl Fn(&Upstream, &Ambassador))
where
    F: Fn(crate::harness::Conn) -> Fut + Clone + Send + 'static,
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
    let say_and_leave = |mut conn: crate::harness::Conn| async move {
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
    // New sessions go to whoever is left.
    for _ in 0..4 {
        ambassador.connect().expect("lively");
    }
    let refused = ambassador.record_where("a second attempt", |record| record["attempts"] == 2);
    assert_eq!(refused["endpoint"], other.address());
}

/// A process that is killed, a host that loses power, a middlebox that gives up: seen from here they are
/// resets amid an answer.
#[test]
fn a_reset_amid_an_answer_is_never_an_orderly_end() {
    let torn = |mut conn: crate::harness::Conn| async move {
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

/// Many servers close without a close_notify, so its absence is no failure; protocols above have ends of
/// their own.
#[test]
fn a_tls_stream_that_ends_without_close_notify_has_ended() {
    let pki = Pki::new();
    let cut = |mut conn: crate::harness::Conn| async move {
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

/// A reader that stops must stop the writer: what is under way stays bounded by buffers, and all arrives in
/// the end.
#[test]
fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    const BYTES: usize = 64_000_000;
    both_ways(roles::exchange(BYTES), |upstream, ambassador| {
        let client = ambassador.connect();
        // Nothing is read yet: the counter comes to rest well below the whole.
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
