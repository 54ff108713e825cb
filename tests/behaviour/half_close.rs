//! One direction ends, the other continues: `nc -N`, `psql \copy` through pipes and many old protocols rely on it.

use std::time::Duration;

use crate::harness::{Ambassador, Config, End, Pki, ServerTls, Upstream, roles};

const ANSWER: &str = "the answer after the end of the question";

fn tls_app(pki: &Pki, upstream: &Upstream, session: &str) -> Ambassador {
    let cluster = format!("tls: {{ ca: {} }}\nsession: {{ {session} }}", pki.ca().display());
    Ambassador::start(&Config::app(&[&upstream.address()], &cluster))
}

fn plain_app(upstream: &Upstream, session: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[&upstream.address()], &format!("session: {{ {session} }}")))
}

#[track_caller]
fn client_ends_first(upstream: &Upstream, ambassador: &Ambassador) {
    let mut client = ambassador.connect();
    client.send("question");
    client.end_sending();
    assert_eq!(client.read_out(), (ANSWER.into(), End::Orderly));
    upstream.wait_note("all: question");
    assert_eq!(ambassador.record()["outcome"], "completed");
}

#[test]
fn a_client_that_ended_its_side_still_gets_the_answer() {
    let upstream = Upstream::plain(roles::answer_after_end(ANSWER));
    client_ends_first(&upstream, &plain_app(&upstream, ""));
}

#[test]
fn a_client_that_ended_its_side_still_gets_the_answer_through_tls() {
    let pki = Pki::new();
    for tls in
        [ServerTls::new(&pki.server(&["127.0.0.1"])), ServerTls::new(&pki.server(&["127.0.0.1"])).only_1_2()]
    {
        let upstream = Upstream::tls(tls.build(), roles::answer_after_end(ANSWER));
        client_ends_first(&upstream, &tls_app(&pki, &upstream, ""));
    }
}

#[track_caller]
fn upstream_ends_first(upstream: &Upstream, ambassador: &Ambassador) {
    let mut client = ambassador.connect();
    // The end of the upstream's side arrives while ours is open …
    assert_eq!(client.read_out(), (ANSWER.into(), End::Orderly));
    // … and bytes that we send afterwards still arrive.
    client.send("the last word");
    client.end_sending();
    upstream.wait_note("all: the last word");
    assert_eq!(ambassador.record()["outcome"], "completed");
}

#[test]
fn an_upstream_that_ended_its_side_still_hears_the_client() {
    let upstream = Upstream::plain(roles::end_then_listen(ANSWER));
    upstream_ends_first(&upstream, &plain_app(&upstream, ""));
}

#[test]
fn an_upstream_that_ended_its_side_still_hears_the_client_through_tls() {
    let pki = Pki::new();
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::end_then_listen(ANSWER));
    upstream_ends_first(&upstream, &tls_app(&pki, &upstream, ""));
}

#[test]
fn a_session_half_closed_for_too_long_is_ended() {
    let pki = Pki::new();
    let plain = Upstream::plain(roles::deaf);
    let tls = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::deaf);
    let keys = "half_close_timeout: 300ms";
    for ambassador in [plain_app(&plain, keys), tls_app(&pki, &tls, keys)] {
        let mut client = ambassador.connect();
        client.send("question");
        client.end_sending();
        client.ending();
        let record = ambassador.record();
        assert_eq!(
            (record["outcome"].as_str(), record["closed_by"].as_str()),
            (Some("half_close_timeout"), Some("ambassador"))
        );
        let took = Duration::from_secs_f64(record["duration_ms"].as_f64().expect("a duration") / 1000.0);
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    }
}

/// Only silence is limited, not the work: an answer that keeps coming may take longer than the timeout.
#[test]
fn a_half_closed_session_that_still_moves_bytes_is_not_ended() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::plain(|mut conn| async move {
        let mut question = Vec::new();
        drop(conn.read_to_end(&mut question).await);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(conn.write_all(b"tick ").await);
        }
        drop(conn.shutdown().await);
    });
    let ambassador = plain_app(&upstream, "half_close_timeout: 500ms");
    let mut client = ambassador.connect();
    client.send("question");
    client.end_sending();
    assert_eq!(client.read_out(), ("tick ".repeat(10).into_bytes(), End::Orderly));
    assert_eq!(ambassador.record()["outcome"], "completed");
}
