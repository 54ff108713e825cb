//! A stream over a connection in memory: every size of portions, every wait and every error at every step.

use std::io::{Read as _, Write as _};

use rustls::ServerConnection;

use super::wire::{Call, ECONNRESET, EIO, EPIPE, End, Peer, Wire, Woken, wire};
use super::*;
use crate::tls::HandshakeError;

/// The server of a stream: rustls, at the other end of a wire.
pub(crate) struct WiredServer {
    pub(crate) peer: Peer,
    pub(crate) connection: ServerConnection,
    pub(crate) received: Vec<u8>,
    pub(crate) has_received_close_notify: bool,
}

impl WiredServer {
    pub(crate) fn new(config: &Arc<ServerConfig>, peer: Peer) -> Self {
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        Self { peer, connection, received: Vec::new(), has_received_close_notify: false }
    }

    /// Processes what was received, and sends what TLS has to send.
    pub(crate) fn turn(&mut self) {
        let ciphertext = self.peer.receive(usize::MAX);
        let mut rest = &ciphertext[..];
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest).unwrap();
            let state = self.connection.process_new_packets().expect("a client that speaks TLS");
            self.has_received_close_notify |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.connection.reader().read_exact(&mut plain).unwrap();
            self.received.extend(plain);
        }
        let mut answer = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut answer).unwrap();
        }
        self.peer.send(&answer);
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.connection.writer().write_all(bytes).unwrap();
        self.turn();
    }

    pub(crate) fn send_close_notify(&mut self) {
        self.connection.send_close_notify();
        self.turn();
        self.peer.end(End::Orderly);
    }
}

/// A handshake over a wire, until it is done or fails.
pub(crate) async fn shaken(
    configs: &(Arc<ClientConfig>, Arc<ServerConfig>),
    socket: Wire,
    server: &mut WiredServer,
) -> Result<Stream<Wire>, HandshakeError> {
    shaken_with(configs, socket, server, LastFlight::AtOnce).await
}

async fn shaken_with(
    configs: &(Arc<ClientConfig>, Arc<ServerConfig>),
    socket: Wire,
    server: &mut WiredServer,
    last_flight: LastFlight,
) -> Result<Stream<Wire>, HandshakeError> {
    let name = ServerName::try_from("localhost").unwrap();
    let hello = Stream::hello(Arc::clone(&configs.0), name).unwrap();
    let mut shaking = Woken::new(Stream::handshake(socket, hello, None, last_flight));
    loop {
        if let Poll::Ready(shaken) = shaking.run().await {
            server.turn();
            return shaken;
        }
        assert!(!server.peer.is_quiet(), "a handshake in which everybody waits");
        server.turn();
    }
}

/// A pattern without repetitions.
pub(crate) fn words(salt: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ salt).collect()
}

/// The result of a conversation: the step and error where it failed, and what each side had received by then.
#[derive(Debug)]
struct Talk {
    failed: Option<(&'static str, io::Error)>,
    read: Vec<u8>,
}

const SAID: usize = 40_000;

/// The client sends its bytes, receives the server's, and both end.
async fn talk(stream: &mut Stream<Wire>, server: &mut WiredServer) -> Talk {
    let mut talk = Talk { failed: None, read: Vec::new() };
    let said = words(1, SAID);
    let result = written(stream, server, &said).await;
    if let Err(error) = result {
        talk.failed = Some(("write", error));
    }
    // After a failed write, reading goes on.
    server.send(&words(2, SAID));
    let mut buffer = vec![0; 64 * 1024];
    while talk.read.len() < SAID {
        match woken(server, poll_fn(|cx| stream.poll_read(cx, &mut buffer))).await {
            Ok(read) => talk.read.extend(&buffer[..read]),
            Err(error) => {
                talk.failed.get_or_insert(("read", error));
                break;
            }
        }
    }
    if let Err(error) = woken(server, poll_fn(|cx| stream.poll_finish(cx))).await {
        talk.failed.get_or_insert(("finish", error));
    }
    server.turn();
    talk
}

async fn written(stream: &mut Stream<Wire>, server: &mut WiredServer, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[woken(server, poll_fn(|cx| stream.poll_write(cx, bytes))).await?..];
    }
    woken(server, poll_fn(|cx| stream.poll_flush(cx))).await
}

/// Polls a call while the server takes its turns.
async fn woken<T>(server: &mut WiredServer, call: impl Future<Output = T>) -> T {
    let mut call = Woken::new(call);
    loop {
        match call.run().await {
            Poll::Ready(output) => return output,
            Poll::Pending => assert!(!server.peer.is_quiet(), "everybody waits"),
        }
        server.turn();
    }
}

/// A connection that moves a byte at a time, and nothing at every second call: all bytes pass unchanged, and no buffer
/// is left.
#[test]
fn bytes_pass_whole_in_portions_of_any_size() {
    within_a_minute(async {
        for (version, flight) in
            [(TLS12, LastFlight::AtOnce), (TLS13, LastFlight::AtOnce), (TLS13, LastFlight::WithFirstWrite)]
        {
            for (portion, halts) in [(1, true), (1, false), (7, true), (4096, true), (usize::MAX, true)] {
                let configs = configs(version, u64::MAX);
                let (socket, peer) = wire();
                peer.set_portion(portion, halts);
                let mut server = WiredServer::new(&configs.1, peer);
                let mut stream = shaken_with(&configs, socket, &mut server, flight).await.unwrap();
                let talk = talk(&mut stream, &mut server).await;
                assert!(talk.failed.is_none(), "{:?}", talk.failed);
                assert!(talk.read == words(2, SAID) && server.received == words(1, SAID));
                assert!(server.has_received_close_notify && server.peer.ended() == Some(End::Orderly));
                assert_eq!(stream.memory(), 0);
                server.send_close_notify();
                let mut buffer = vec![0; 64 * 1024];
                assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap(), 0);
                assert!(!stream.was_truncated());
            }
        }
    });
}

/// A session sends two times in all: its hello, and its Finished with the first record. They were two sends, and two
/// wake-ups of the server. A client that waits for the server's word sends its Finished all the same.
#[test]
fn the_end_of_the_handshake_leaves_with_the_first_record() {
    within_a_minute(async {
        for speaks in [true, false] {
            let configs = configs(TLS13, u64::MAX);
            let (socket, peer) = wire();
            peer.set_fault(Call::Send, 2, EIO);
            let mut server = WiredServer::new(&configs.1, peer);
            let mut stream =
                shaken_with(&configs, socket, &mut server, LastFlight::WithFirstWrite).await.unwrap();
            assert!(server.connection.is_handshaking());
            let mut buffer = vec![0; 64 * 1024];
            if speaks {
                assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"first")).await.unwrap(), 5);
                server.turn();
                assert_eq!(server.received, b"first");
            } else {
                server.send(b"greeting");
                let read = woken(&mut server, poll_fn(|cx| stream.poll_read(cx, &mut buffer))).await;
                assert_eq!(&buffer[..read.unwrap()], b"greeting");
            }
            assert!(!server.connection.is_handshaking() && !server.peer.has_failed());
            assert_eq!(stream.memory(), 0);
        }
    });
}

/// What was peeked at is still read: bytes, an end, or an error, which the kernel reports only once.
#[test]
fn what_is_looked_at_is_still_there() {
    within_a_minute(async {
        for (portion, is_reset) in [(usize::MAX, false), (7, false), (usize::MAX, true)] {
            let configs = configs(TLS13, u64::MAX);
            let (socket, peer) = wire();
            peer.set_portion(portion, false);
            let mut server = WiredServer::new(&configs.1, peer);
            let mut stream = shaken(&configs, socket, &mut server).await.unwrap();
            server.send(b"first");
            let mut buffer = vec![0; 64 * 1024];
            let mut read: Vec<u8> = Vec::new();
            while read != b"first" {
                for _ in 0..2 {
                    let seen = woken(&mut server, poll_fn(|cx| stream.poll_peek(cx, &mut buffer))).await;
                    assert!(b"first"[read.len()..].starts_with(&buffer[..seen]) && seen > 0);
                }
                let seen = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
                read.extend(&buffer[..seen]);
            }
            assert_eq!(stream.memory(), 0);
            if is_reset {
                server.peer.set_fault(Call::Recv, 0, EIO);
            } else {
                server.send_close_notify();
            }
            let seen = woken(&mut server, poll_fn(|cx| stream.poll_peek(cx, &mut buffer))).await;
            assert_eq!(seen, 0);
            for _ in 0..2 {
                let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await;
                match is_reset {
                    true => assert_eq!(read.unwrap_err().raw_os_error(), Some(EIO)),
                    false => assert_eq!(read.unwrap(), 0),
                }
            }
        }
    });
}

/// An error of a write that is kept for the reader comes behind what the server sent before it.
#[test]
fn an_error_that_is_remembered_comes_last() {
    within_a_minute(async {
        let configs = configs(TLS13, u64::MAX);
        let (socket, peer) = wire();
        let mut server = WiredServer::new(&configs.1, peer);
        let mut stream = shaken(&configs, socket, &mut server).await.unwrap();
        server.send(b"why");
        let mut buffer = vec![0; 64 * 1024];
        assert_eq!(woken(&mut server, poll_fn(|cx| stream.poll_peek(cx, &mut buffer))).await, 3);
        stream.remember(&io::Error::from_raw_os_error(EPIPE));
        assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap(), 3);
        let error = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EPIPE));
    });
}

/// Each call to the connection fails once, from the first of the handshake to the last of the close: the caller gets
/// that error, all data before it has arrived, and the server sees an end, for otherwise both sides would wait for each
/// other.
#[test]
fn an_error_at_any_step_is_told_to_whoever_asked() {
    within_a_minute(async {
        for version in [TLS12, TLS13] {
            let configs = configs(version, u64::MAX);
            for (call, portion) in
                [Call::Recv, Call::Send].into_iter().flat_map(|call| [(call, 1500), (call, usize::MAX)])
            {
                for step in 0.. {
                    let (socket, peer) = wire();
                    peer.set_portion(portion, false);
                    peer.set_fault(call, step, EIO);
                    let mut server = WiredServer::new(&configs.1, peer);
                    let at = format!("{version:?}, {call:?} {step} of {portion} bytes");
                    let is_eio = |error: &io::Error| error.raw_os_error() == Some(EIO);
                    let mut stream = match shaken(&configs, socket, &mut server).await {
                        Ok(stream) => stream,
                        Err(HandshakeError::Io(error)) if is_eio(&error) => continue,
                        Err(other) => panic!("{at}: {other}"),
                    };
                    let was_early = server.peer.has_failed();
                    let talk = talk(&mut stream, &mut server).await;
                    assert!(words(1, SAID).starts_with(&server.received), "{at}");
                    assert!(words(2, SAID).starts_with(&talk.read), "{at}");
                    assert_eq!(
                        server.peer.ended(),
                        Some(End::Orderly),
                        "{at}: a FIN, whatever became of the rest"
                    );
                    let Some((what, error)) = talk.failed else {
                        assert!(
                            server.received.len() == SAID && server.has_received_close_notify,
                            "{at}: lost and not told"
                        );
                        assert!(!was_early && !server.peer.has_failed(), "{at}: nobody was told");
                        break;
                    };
                    assert!(is_eio(&error), "{at}: {what}: {error}");
                    assert_eq!(what == "read", call == Call::Recv, "{at}: {what}");
                    assert!(
                        call == Call::Recv || talk.read.len() == SAID,
                        "{at}: a send that fails cuts no answer"
                    );
                }
            }
        }
    });
}

/// A server stops reading and then resets, with a part of what was written still buffered here: writes and flushes
/// fail, the FIN is sent all the same, and what the server sent last is read.
#[test]
fn a_pipe_that_breaks_with_ciphertext_held_fails_every_write_and_no_read() {
    within_a_minute(async {
        for version in [TLS12, TLS13] {
            let configs = configs(version, u64::MAX);
            let (socket, peer) = wire();
            let mut server = WiredServer::new(&configs.1, peer);
            let mut stream = shaken(&configs, socket, &mut server).await.unwrap();
            server.peer.set_window(1000);
            let bytes = words(1, 300 * 1024);
            let taken = poll_fn(|cx| stream.poll_write(cx, &bytes)).await.unwrap();
            assert_eq!(taken, 128 * 1024, "what is sealed at once");
            assert!(
                Woken::new(poll_fn(|cx| stream.poll_write(cx, &bytes[taken..]))).run().await.is_pending()
            );
            server.peer.refuse(EPIPE);
            server.send(b"last words");
            server.peer.end(End::Failed(ECONNRESET));
            let is_epipe = |error: io::Error| error.raw_os_error() == Some(EPIPE);
            assert!(is_epipe(poll_fn(|cx| stream.poll_flush(cx)).await.unwrap_err()));
            assert!(is_epipe(poll_fn(|cx| stream.poll_write(cx, b"more")).await.unwrap_err()));
            let mut buffer = vec![0; 64 * 1024];
            let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
            assert_eq!(&buffer[..read], b"last words");
            let error = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(ECONNRESET));
            assert!(is_epipe(poll_fn(|cx| stream.poll_finish(cx)).await.unwrap_err()));
            assert_eq!(server.peer.ended(), Some(End::Orderly), "a FIN, whatever became of the rest");
        }
    });
}

/// rustls has to send a response of its own (a key update was requested) and cannot: reads do not fail, for the
/// server's data still comes; the next write does.
#[test]
fn an_answer_of_tls_that_cannot_be_given_fails_the_next_write() {
    within_a_minute(async {
        let configs = configs(TLS13, u64::MAX);
        let (socket, peer) = wire();
        let mut server = WiredServer::new(&configs.1, peer);
        let mut stream = shaken(&configs, socket, &mut server).await.unwrap();
        server.connection.refresh_traffic_keys().unwrap();
        server.send(b"with new keys");
        server.peer.refuse(EPIPE);
        let mut buffer = vec![0; 64 * 1024];
        let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(&buffer[..read], b"with new keys");
        let error = poll_fn(|cx| stream.poll_write(cx, b"more")).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EPIPE));
    });
}

/// The connection does not take the close_notify at once: the FIN follows it and not before, or the server would
/// consider the stream truncated.
#[test]
fn an_end_waits_until_everything_before_it_has_gone() {
    within_a_minute(async {
        for version in [TLS12, TLS13] {
            let configs = configs(version, u64::MAX);
            let (socket, peer) = wire();
            let mut server = WiredServer::new(&configs.1, peer);
            let mut stream = shaken(&configs, socket, &mut server).await.unwrap();
            server.peer.set_window(3);
            let said = words(1, 1000);
            assert_eq!(poll_fn(|cx| stream.poll_write(cx, &said)).await.unwrap(), 1000);
            let mut finishing = Woken::new(poll_fn(|cx| stream.poll_finish(cx)));
            while finishing.run().await.is_pending() {
                assert_eq!(server.peer.ended(), None);
                server.turn();
            }
            server.turn();
            assert!(server.received == said && server.has_received_close_notify);
            assert_eq!(server.peer.ended(), Some(End::Orderly));
        }
    });
}
