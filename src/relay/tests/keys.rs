//! TLS keys that are used up, and other failures that are our own and not the connection's.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::tls::tests::{Server, TLS12, secured, tcp, within_a_minute};

async fn echo(server: &mut Server) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match server.read(&mut bytes).await? {
            0 => return Ok(()),
            read => server.write_all(&bytes[..read]).await?,
        }
        server.flush().await?;
    }
}

/// Sends a byte and waits for its echo, until the end; returns how many echoes arrived.
async fn ping(client: &mut TcpStream) -> (u32, io::Result<usize>) {
    let mut rounds = 0;
    loop {
        if client.write_all(b"p").await.is_err() {
            return (rounds, Err(io::ErrorKind::BrokenPipe.into()));
        }
        match client.read(&mut [0; 16]).await {
            Ok(1) => rounds += 1,
            end => return (rounds, end),
        }
    }
}

/// An upload that is too large for its keys: rustls refused the record after the last, and as the server did not know
/// of that, both sides stayed open and neither was read any more.
#[test]
fn a_write_that_tls_itself_refuses_ends_both_sides_at_once() {
    within_a_minute(async {
        let ((downstream, mut client), (stream, mut server)) = (tcp().await, secured(TLS12, 64).await);
        let live = LiveSession::default();
        let flood = async {
            let bytes = vec![7; 64 * 1024];
            while client.write_all(&bytes).await.is_ok() {}
            client.read(&mut [0; 1]).await
        };
        let listening = async {
            let mut bytes = vec![0; 64 * 1024];
            loop {
                match server.read(&mut bytes).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        let (ended, flooded, ()) = tokio::join!(
            relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live),
            flood,
            listening
        );
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::KeyLimit, Side::Ambassador));
        assert!(!ended.can_be_refused, "nobody else is to blame");
        assert!(ended.error.unwrap().contains("RFC 9325"));
        assert!(flooded.is_err() || flooded.unwrap() == 0);
    });
}

/// A Redis client at 10,000 commands a second: its session ends between two commands, before the keys are used up, and
/// both sides get an orderly end.
#[test]
fn a_session_ends_between_a_request_and_the_next_before_its_keys_are_used_up() {
    within_a_minute(async {
        let ((downstream, mut client), (stream, mut server)) = (tcp().await, secured(TLS12, 1024).await);
        let live = LiveSession::default();
        let relayed = relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live);
        let (ended, (rounds, end), served) = tokio::join!(relayed, ping(&mut client), echo(&mut server));
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::KeyLimit, Side::Ambassador));
        assert!(ended.error.unwrap().contains("RFC 9325"));
        assert_eq!(rounds, 1024 / 64 * 63, "the last 64th is for pauses");
        assert!(matches!(end, Ok(0) | Err(_)));
        served.expect("a close_notify");
    });
}

/// A client that is idle now and then: its session ends at the first idle moment in the last eighth of its keys.
#[test]
fn a_session_that_rests_ends_earlier() {
    within_a_minute(async {
        let ((downstream, mut client), (stream, mut server)) = (tcp().await, secured(TLS12, 256).await);
        let live = LiveSession::default();
        let relayed = relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live);
        let rests = async {
            let mut rounds = 0;
            let end = loop {
                if rounds < 230 {
                    client.write_all(b"p").await.unwrap();
                }
                match client.read(&mut [0; 16]).await {
                    Ok(1) => rounds += 1,
                    end => break end,
                }
            };
            (rounds, end)
        };
        let (ended, (rounds, end), served) = tokio::join!(relayed, rests, echo(&mut server));
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::KeyLimit, Side::Ambassador));
        assert_eq!((rounds, end.unwrap()), (230, 0));
        served.expect("a close_notify");
    });
}

/// A client that only ever sends is never idle: its session ends a little before the last record, and everything that
/// was read from it is delivered.
#[test]
fn a_session_that_never_rests_ends_before_the_last_record() {
    within_a_minute(async {
        let ((downstream, mut client), (stream, mut server)) = (tcp().await, secured(TLS12, 4096).await);
        let live = LiveSession::default();
        let relayed = relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live);
        let (ended, received) = tokio::join!(relayed, async {
            let mut received = 0_u32;
            loop {
                let _ = client.write_all(b"x").await;
                match server.read(&mut [0; 16]).await.expect("a close_notify") {
                    0 => return received,
                    read => received += read as u32,
                }
            }
        });
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::KeyLimit, Side::Ambassador));
        assert_eq!(received, 4096 / 1024 * 1023);
    });
}

/// The upstream takes no more bytes, and its own end does not follow, here because our direction was shut down on the
/// socket. The relay waited for the server for ever.
#[test]
fn a_write_error_without_an_end_of_the_server_is_waited_for_by_a_timer() {
    within_a_minute(async {
        let ((downstream, mut client), (upstream, _server)) = (tcp().await, tcp().await);
        rustix::net::shutdown(&upstream, rustix::net::Shutdown::Write).unwrap();
        let settings = Settings { half_close_timeout: Some(Duration::from_millis(50)), ..ENDLESS };
        let live = LiveSession::default();
        let start = over(downstream, UpstreamStream::Socket(upstream));
        let (ended, written) = tokio::join!(relayed_by(start, &settings, &live), client.write_all(b"hello"));
        written.unwrap();
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::UpstreamReset, Side::Upstream));
        assert!(ended.error.is_some(), "the error is that of the failure");
    });
}
