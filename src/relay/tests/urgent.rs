//! Urgent data (MSG_OOB) in a bulky flow, which goes through a pipe.

use rustix::net::{SendFlags, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::tls::tests::{tcp, within_a_minute};

/// Enough for a flow to become bulky, and not more than two socket buffers take.
const BULK: usize = 200 * 1024;
const TAIL: &[u8] = b"and now?";

/// Sends bulk, an urgent byte, and a question behind it.
async fn send_with_urgent(peer: &mut TcpStream) {
    peer.write_all(&[b'a'; BULK]).await.unwrap();
    assert_eq!(send(&*peer, b"!", SendFlags::OOB).unwrap(), 1);
    peer.write_all(TAIL).await.unwrap();
}

async fn receive(peer: &mut TcpStream) {
    let mut bytes = vec![0; BULK + TAIL.len()];
    peer.read_exact(&mut bytes).await.unwrap();
    assert!(bytes[..BULK].iter().all(|byte| *byte == b'a'));
    assert_eq!(&bytes[BULK..], TAIL);
}

/// splice(2) returns EAGAIN at the mark of urgent data as long as the peer is open, whatever is queued behind it: the
/// question was never passed on, and its answer never came.
#[test]
fn what_stands_behind_an_urgent_byte_is_passed_on_while_both_sides_are_open() {
    within_a_minute(async {
        let ((downstream, mut client), (upstream, mut server)) = (tcp().await, tcp().await);
        let live = LiveSession::default();
        let (ended, ()) =
            tokio::join!(relayed(over(downstream, UpstreamStream::Socket(upstream)), &live), async move {
                for _ in 0..3 {
                    tokio::join!(send_with_urgent(&mut client), receive(&mut server));
                    tokio::join!(send_with_urgent(&mut server), receive(&mut client));
                }
                drop(client);
                assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
            });
        assert_eq!((ended.outcome, ended.closed_by), (Outcome::Completed, Side::Downstream));
        assert_eq!((live.sent(), live.received()), (3 * (BULK + 8) as u64, 3 * (BULK + 8) as u64));
    });
}

/// And it returns 0, as at an end, once the peer has sent its FIN: what was queued behind the mark was lost, in a
/// session that was recorded as completed.
#[test]
fn what_stands_behind_an_urgent_byte_is_passed_on_behind_which_the_peer_has_ended() {
    within_a_minute(async {
        for from_client in [true, false] {
            let ((downstream, mut client), (upstream, mut server)) = (tcp().await, tcp().await);
            let (near, far) =
                if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            send_with_urgent(near).await;
            near.shutdown().await.unwrap();
            let live = LiveSession::default();
            let (ended, ()) =
                tokio::join!(relayed(over(downstream, UpstreamStream::Socket(upstream)), &live), async {
                    receive(far).await;
                    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
                    far.shutdown().await.unwrap();
                });
            assert_eq!(ended.outcome, Outcome::Completed);
            assert_eq!(live.total(), (BULK + 8) as u64);
        }
    });
}
