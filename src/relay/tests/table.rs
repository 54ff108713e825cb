//! Every way to end at every step: which side ends, how, during what, and what the other side must see of it.
//!
//! A row is one relay over loopback, with plaintext or TLS towards the server. What is sent before an end is always
//! delivered, an orderly end is passed on as one, and a failure never looks like one.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::tls::tests::{Server, TLS12, TLS13, secured, tcp, within_a_minute};

/// How a side ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It ends its direction and closes when the other has ended, too.
    Orderly,
    /// It closes both directions at once.
    Close,
    Reset,
    /// A server closes its connection without a close_notify.
    Cut,
    /// A server sends something that is not a TLS record.
    Garbage,
}

/// What has happened by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum While {
    /// Nothing was sent yet.
    Nothing,
    /// A request was answered.
    Answered,
    /// A request has no answer yet.
    Asked,
    /// The other side has ended its direction.
    HalfClosed,
}

/// What the other side sees in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    Ended,
    Failed,
}

trait Peer: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Peer for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Peer for Server {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn said(from: &mut dyn Peer, to: &mut dyn Peer) {
    from.write_all(b"word").await.unwrap();
    from.flush().await.unwrap();
    let mut received = [0; 4];
    to.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"word");
}

/// What `side` sees until its end.
async fn sees(side: &mut dyn Peer) -> Sees {
    let mut rest = [0; 1024];
    loop {
        match side.read(&mut rest).await {
            Ok(0) => return Sees::Ended,
            Ok(_) => {}
            Err(_) => return Sees::Failed,
        }
    }
}

async fn end(mut side: Box<dyn Peer>, how: How) -> Option<Box<dyn Peer>> {
    match how {
        How::Orderly => {
            side.shutdown().await.unwrap();
            return Some(side);
        }
        How::Close => {
            side.shutdown().await.unwrap();
        }
        How::Reset => SockRef::from(side.tcp()).set_linger(Some(Duration::ZERO)).unwrap(),
        How::Cut => {}
        How::Garbage => {
            rustix::net::send(side.tcp(), &[0x17, 3, 3, 0, 4, 1, 2, 3, 4], rustix::net::SendFlags::empty())
                .unwrap();
            return Some(side);
        }
    }
    None
}

/// Runs one row. `by_client`: the client ends first, else the server.
async fn row(
    mut pair: (Box<dyn Peer>, Box<dyn Peer>),
    start: RelayInput,
    (by_client, how, going): (bool, How, While),
) -> (RelaySummary, Sees) {
    let live = LiveSession::default();
    let story = async {
        let (client, server) = (&mut pair.0, &mut pair.1);
        if going != While::Nothing {
            said(&mut **client, &mut **server).await;
        }
        if matches!(going, While::Answered | While::HalfClosed) {
            said(&mut **server, &mut **client).await;
        }
        let (mut ends, mut other) = if by_client { (pair.0, pair.1) } else { (pair.1, pair.0) };
        if going == While::HalfClosed {
            other.shutdown().await.unwrap();
            assert_eq!(sees(&mut *ends).await, Sees::Ended);
        }
        let mut ended = end(ends, how).await;
        let seen = sees(&mut *other).await;
        // Orderly ends wait for each other.
        if let Some(ended) = &mut ended {
            let _ = other.shutdown().await;
            let _ = sees(&mut **ended).await;
        }
        seen
    };
    tokio::join!(relayed(start, &live), story)
}

type Expected = (bool, How, While, Outcome, Side, Sees);

const CLIENT: bool = true;
const SERVER: bool = false;

/// The rows for both plaintext and TLS.
const TABLE: &[Expected] = &[
    (CLIENT, How::Orderly, While::Nothing, Outcome::Completed, Side::Downstream, Sees::Ended),
    (CLIENT, How::Orderly, While::Answered, Outcome::Completed, Side::Downstream, Sees::Ended),
    (CLIENT, How::Orderly, While::Asked, Outcome::Completed, Side::Downstream, Sees::Ended),
    (CLIENT, How::Orderly, While::HalfClosed, Outcome::Completed, Side::Upstream, Sees::Ended),
    (CLIENT, How::Close, While::HalfClosed, Outcome::Completed, Side::Upstream, Sees::Ended),
    (CLIENT, How::Reset, While::Nothing, Outcome::DownstreamReset, Side::Downstream, Sees::Failed),
    (CLIENT, How::Reset, While::Answered, Outcome::DownstreamReset, Side::Downstream, Sees::Failed),
    (CLIENT, How::Reset, While::Asked, Outcome::DownstreamReset, Side::Downstream, Sees::Failed),
    (SERVER, How::Orderly, While::Nothing, Outcome::Completed, Side::Upstream, Sees::Ended),
    (SERVER, How::Orderly, While::Answered, Outcome::Completed, Side::Upstream, Sees::Ended),
    (SERVER, How::Orderly, While::Asked, Outcome::Completed, Side::Upstream, Sees::Ended),
    (SERVER, How::Orderly, While::HalfClosed, Outcome::Completed, Side::Downstream, Sees::Ended),
    (SERVER, How::Close, While::HalfClosed, Outcome::Completed, Side::Downstream, Sees::Ended),
    (SERVER, How::Reset, While::Answered, Outcome::UpstreamReset, Side::Upstream, Sees::Failed),
];

/// The rows for TLS alone.
const TLS_TABLE: &[Expected] = &[
    (SERVER, How::Garbage, While::Answered, Outcome::UpstreamReset, Side::Upstream, Sees::Failed),
    (SERVER, How::Cut, While::HalfClosed, Outcome::Completed, Side::Downstream, Sees::Ended),
];

async fn held(kind: &str, expected: &Expected, upstream: UpstreamStream, server: Box<dyn Peer>) {
    let &(by_client, how, going, outcome, closed_by, sees) = expected;
    let (downstream, client) = tcp().await;
    let (ended, seen) =
        row((Box::new(client), server), over(downstream, upstream), (by_client, how, going)).await;
    let row = format!("{kind}: {expected:?}, {ended:?}");
    assert_eq!((ended.outcome, ended.closed_by), (outcome, closed_by), "{row}");
    assert_eq!(seen, sees, "{row}");
    assert_eq!(ended.error.is_some(), sees == Sees::Failed, "{row}");
}

#[test]
fn each_side_sees_of_the_other_what_it_would_see_without_us() {
    within_a_minute(async {
        for expected in TABLE {
            let (upstream, server) = tcp().await;
            held("plaintext", expected, UpstreamStream::Socket(upstream), Box::new(server)).await;
        }
        for version in [TLS12, TLS13] {
            for expected in TABLE.iter().chain(TLS_TABLE) {
                let (stream, server) = secured(version, u64::MAX).await;
                held("TLS", expected, UpstreamStream::Tls(Box::new(stream)), Box::new(server)).await;
            }
        }
    });
}

/// A server fails while bytes are pending for a client that does not read: these are delivered first, then comes the
/// reset.
#[test]
fn what_was_said_before_a_failure_is_passed_on_and_then_a_reset() {
    within_a_minute(async {
        let ((downstream, mut client), (stream, server)) = (tcp().await, secured(TLS13, u64::MAX).await);
        SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
        let live = LiveSession::default();
        let story = async move {
            let mut server = server;
            server.write_all(&[7; 512 * 1024]).await.unwrap();
            server.flush().await.unwrap();
            let garbage = [0x17, 3, 3, 0, 4, 1, 2, 3, 4];
            while let Err(error) = server.get_ref().0.try_write(&garbage) {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                server.get_ref().0.writable().await.unwrap();
            }
            let (mut received, mut portion) = (0, vec![0; 8 * 1024]);
            loop {
                match client.read(&mut portion).await {
                    Ok(0) => panic!("a failure that looks like an end, after {received}"),
                    Ok(read) => received += read,
                    Err(error) => return (received, error.kind(), server),
                }
            }
        };
        let (ended, (received, error, _server)) =
            tokio::join!(relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live), story);
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::UpstreamReset, Side::Upstream));
        assert_eq!(error, io::ErrorKind::ConnectionReset);
        assert!(received > 0 && live.received() == 512 * 1024, "{received}");
    });
}

/// A server closes without close_notify, or its stream is truncated on the way: it was passed on as an orderly end and
/// not recorded. A server that closes in reply to the client's close is not meant.
#[test]
fn an_end_without_close_notify_is_told() {
    within_a_minute(async {
        for version in [TLS12, TLS13] {
            for (goodbye, answers, how, unclean) in [
                (false, false, How::Cut, true),
                (false, false, How::Close, false),
                (true, false, How::Cut, false),
                (true, true, How::Cut, true),
                (true, true, How::Close, false),
            ] {
                let ((downstream, mut client), (stream, mut server)) =
                    (tcp().await, secured(version, u64::MAX).await);
                let live = LiveSession::default();
                let story = async {
                    said(&mut client, &mut server).await;
                    said(&mut server, &mut client).await;
                    if goodbye {
                        client.shutdown().await.unwrap();
                        assert_eq!(sees(&mut server).await, Sees::Ended);
                    }
                    if answers {
                        said(&mut server, &mut client).await;
                    }
                    end(Box::new(server), how).await;
                    sees(&mut client).await;
                    drop(client);
                };
                let (ended, ()) = tokio::join!(
                    relayed(over(downstream, UpstreamStream::Tls(Box::new(stream))), &live),
                    story
                );
                assert_eq!(ended.outcome, Outcome::Completed);
                assert_eq!(ended.unclean_tls_end, unclean, "{version:?} {goodbye} {answers} {how:?}");
            }
        }
    });
}
