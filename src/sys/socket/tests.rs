//! Reads that stop before the socket is empty.

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

use super::*;
use crate::sys::{Bind, ListeningSocket, UnixBind};

async fn unix_pair() -> (Socket, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let bind = Bind::Unix(UnixBind { path: path.clone(), mode: 0o600, owner: None, group: None });
    let listening = ListeningSocket::bind(&bind, &Options::NONE).unwrap();
    let peer = UnixStream::connect(path).unwrap();
    (Socket::adopt(listening.accept().await.unwrap().0).unwrap(), peer)
}

/// Reads once what is queued already; it has to arrive without anything more being sent.
async fn read(socket: &Socket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    let read = read.expect("bytes wait").unwrap();
    buffer[..read].to_vec()
}

/// A read of a unix socket stops after a message with descriptors. It is short, so the reactor's readiness was
/// cleared, and what was queued behind it waited for the peer's next byte.
#[tokio::test]
async fn a_read_that_stops_at_a_message_with_descriptors_does_not_forget_what_is_behind_it() {
    let (socket, mut peer) = unix_pair().await;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let passed = [peer.as_fd()];
    assert!(with.push(SendAncillaryMessage::ScmRights(&passed)));
    sendmsg(&peer, &[IoSlice::new(b"one")], &mut with, SendFlags::empty()).unwrap();
    peer.write_all(b"two").unwrap();
    assert_eq!(read(&socket).await, b"one");
    assert_eq!(read(&socket).await, b"two");
}

/// The same at urgent data, which unix sockets have since Linux 5.15.
#[tokio::test]
async fn a_read_that_stops_at_urgent_data_does_not_forget_what_is_behind_it() {
    let (socket, mut peer) = unix_pair().await;
    peer.write_all(b"one").unwrap();
    match send(&peer, b"!", SendFlags::OOB) {
        Err(Errno::OPNOTSUPP | Errno::INVAL) => return,
        sent => assert_eq!(sent, Ok(1)),
    }
    peer.write_all(b"two").unwrap();
    assert_eq!(read(&socket).await, b"one");
    assert_eq!(read(&socket).await, b"two");
}

/// A process may bind its end to any address of its host, and is not another host for that.
#[test]
fn a_peer_with_an_address_of_ours_is_on_this_host() {
    let from = |ip: &str| Peer::Tcp(SocketAddr::new(ip.parse().unwrap(), 9)).other_host();
    for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(from(own), None, "{own}");
    }
    // Addresses for documentation (RFC 5737, RFC 3849).
    for other in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(from(other), Some(other.parse().unwrap()));
    }
    assert_eq!(from("::ffff:192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(Peer::Unix.other_host(), None);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing.
    if socket.connect("192.0.2.1:9").is_ok() {
        let own = socket.local_addr().unwrap().ip();
        assert_eq!(from(&own.to_string()), None, "{own}");
    }
}
