//! How much one peer may send before other sessions get their turn.

use std::future::Future;
use std::pin::pin;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::tls::tests::{tcp, within_a_minute};

/// A dialogue that never finishes, and passes on everything unchanged.
#[derive(Debug)]
struct Everlasting;

impl Dialogue for Everlasting {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_upstream.extend_from_slice(bytes);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        out.to_downstream.extend_from_slice(bytes);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        false
    }
}

/// The most that `relaying` moves in one poll.
async fn longest_turn(relaying: impl Future<Output = Ended>, live: &LiveSession) -> u64 {
    let (mut relaying, mut longest) = (pin!(relaying), 0);
    poll_fn(|cx| {
        let before = live.total();
        let ended = relaying.as_mut().poll(cx);
        longest = longest.max(live.total() - before);
        ended.map(drop)
    })
    .await;
    longest
}

/// A server that sends one parameter after the other and never ReadyForQuery, or a client that floods a control
/// connection: while the protocol rewrote, a session read on as long as there was anything, a megabyte at a time, and
/// the other sessions of its worker waited 4 s.
#[test]
fn a_peer_that_floods_a_dialogue_has_one_turn_at_a_time() {
    within_a_minute(async {
        for from_client in [true, false] {
            let ((downstream, mut client), (upstream, mut server)) = (tcp().await, tcp().await);
            let (near, far) =
                if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let start = RelayInput {
                dialogue: Some(Box::new(Everlasting)),
                ..over(downstream, UpstreamStream::Socket(upstream))
            };
            let live = LiveSession::default();
            let flood = async {
                let bytes = vec![b'S'; 1 << 20];
                for _ in 0..16 {
                    near.write_all(&bytes).await.unwrap();
                }
                near.shutdown().await.unwrap();
            };
            let reading = async {
                tokio::io::copy(far, &mut tokio::io::sink()).await.unwrap();
                far.shutdown().await.unwrap();
            };
            let (longest, (), ()) =
                tokio::join!(longest_turn(relay(start, &ENDLESS, &live), &live), flood, reading);
            assert_eq!(live.total(), 16 << 20);
            assert!(longest <= 2 * coop::PARSED as u64, "{longest} bytes in one turn, client {from_client}");
        }
    });
}
