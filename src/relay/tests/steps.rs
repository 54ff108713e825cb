//! Every error at every step: each call on either connection fails once, in plaintext and TLS, with either side ending
//! first, with portions and windows of several sizes; and what each side must see of it.

use std::sync::Arc;

use super::*;
use crate::tls::tests::steps::{WiredServer, shaken, words};
use crate::tls::tests::wire::{Call, ECONNRESET, EIO, End as PeerEnd, Peer, Wire, Woken, wire};
use crate::tls::tests::{TLS12, TLS13, configs, within_a_minute};

/// The server, with plaintext or TLS.
enum Server {
    Plain(Peer, Vec<u8>),
    Tls(Box<WiredServer>),
}

impl Server {
    const fn peer(&self) -> &Peer {
        match self {
            Self::Plain(peer, _) => peer,
            Self::Tls(server) => &server.peer,
        }
    }

    fn received(&self) -> &[u8] {
        match self {
            Self::Plain(_, received) => received,
            Self::Tls(server) => &server.received,
        }
    }

    fn turn(&mut self) {
        match self {
            Self::Plain(peer, received) => received.extend(peer.receive(usize::MAX)),
            Self::Tls(server) => server.turn(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(peer, _) => peer.send(bytes),
            Self::Tls(server) => server.send(bytes),
        }
    }

    fn send_close_notify(&mut self) {
        match self {
            Self::Plain(peer, _) => peer.end(PeerEnd::Orderly),
            Self::Tls(server) => server.send_close_notify(),
        }
    }

    /// Whether what it has received looks complete.
    fn takes_it_for_complete(&self) -> bool {
        match self {
            Self::Plain(peer, _) => peer.ended() == Some(PeerEnd::Orderly),
            Self::Tls(server) => server.has_received_close_notify,
        }
    }
}

/// What the upstream's stream is.
type Kind = Option<(Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>)>;

/// One scenario, and its fault.
#[derive(Debug, Clone, Copy)]
struct Plot {
    /// The connection that fails.
    side: Side,
    call: Call,
    step: usize,
    /// How the server's direction ends after a failed write to it.
    then: PeerEnd,
    portion: usize,
    window: usize,
    client_ends_first: bool,
}

/// A step: the client or the server sends something, or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    ClientSends(usize),
    ServerSends(usize),
    ClientEnds,
    ServerEnds,
}

impl Plot {
    const fn scenes(&self) -> [Scene; 5] {
        use Scene::{ClientEnds, ClientSends, ServerEnds, ServerSends};
        if self.client_ends_first {
            [ClientSends(20_000), ServerSends(20_000), ClientEnds, ServerSends(100), ServerEnds]
        } else {
            [ClientSends(20_000), ServerSends(20_000), ServerEnds, ClientSends(100), ClientEnds]
        }
    }
}

struct Seen {
    ended: RelaySummary,
    client: Peer,
    server: Server,
    /// What each has sent, and what the client has received.
    by_client: Vec<u8>,
    by_server: Vec<u8>,
    received: Vec<u8>,
    client_has_ended: bool,
    has_failed: bool,
}

async fn connected(kind: &Kind) -> (UpstreamStream<Wire>, Server) {
    let (socket, peer) = wire();
    match kind {
        None => (UpstreamStream::Socket(socket), Server::Plain(peer, Vec::new())),
        Some(configs) => {
            let mut server = WiredServer::new(&configs.1, peer);
            let stream = shaken(configs, socket, &mut server).await.unwrap();
            (UpstreamStream::Tls(Box::new(stream)), Server::Tls(Box::new(server)))
        }
    }
}

async fn play(kind: &Kind, plot: Plot) -> Seen {
    let ((downstream, client), (upstream, mut server)) = (wire(), connected(kind).await);
    for peer in [&client, server.peer()] {
        peer.set_portion(plot.portion, false);
        peer.set_window(plot.window);
    }
    let faulty = if plot.side == Side::Downstream { client.clone() } else { server.peer().clone() };
    faulty.set_fault(plot.call, plot.step, EIO);
    let (mut by_client, mut by_server, mut received) = (Vec::new(), Vec::new(), Vec::new());
    let mut client_has_ended = false;
    let live = LiveSession::default();
    let mut relaying = Woken::new(relayed(over(downstream, upstream), &live));
    let mut ended = None;
    for (salt, scene) in (1..).zip(plot.scenes()) {
        match scene {
            Scene::ClientSends(length) => {
                by_client.extend(words(salt, length));
                client.send(&words(salt, length));
            }
            Scene::ServerSends(length) => {
                by_server.extend(words(salt, length));
                server.send(&words(salt, length));
            }
            Scene::ClientEnds => {
                client_has_ended = true;
                client.end(PeerEnd::Orderly);
            }
            Scene::ServerEnds => server.send_close_notify(),
        }
        while ended.is_none() {
            if let Poll::Ready(summary) = relaying.run().await {
                ended = Some(summary);
            }
            if client.is_quiet() && server.peer().is_quiet() {
                break;
            }
            received.extend(client.receive(usize::MAX));
            server.turn();
            if faulty.has_failed() && (plot.side, plot.call) == (Side::Upstream, Call::Send) {
                // As with the kernel, a connection that takes no more bytes has ended or soon will.
                faulty.end(plot.then);
            }
        }
        if ended.is_some() {
            break;
        }
    }
    received.extend(client.receive(usize::MAX));
    server.turn();
    let ended = ended.unwrap_or_else(|| panic!("both have ended, and it goes on: {plot:?}"));
    let has_failed = faulty.has_failed();
    Seen { ended, client, server, by_client, by_server, received, client_has_ended, has_failed }
}

impl Seen {
    /// Asserts what must hold; returns whether the fault occurred.
    fn judged(&self, plot: Plot, kind: &str) -> bool {
        let Self { ended, client, server, by_client, by_server, received, client_has_ended, .. } = self;
        let at = format!(
            "{kind}: {plot:?}: {ended:?}, {} and {} received",
            server.received().len(),
            received.len()
        );
        assert!(client.is_closed() && server.peer().is_closed(), "{at}");
        // What arrives is what was sent, and it never looks complete when it is not.
        assert!(by_client.starts_with(server.received()) && by_server.starts_with(received), "{at}");
        // A side whose own connection failed learns that from its kernel.
        let broke = self.has_failed.then_some(plot.side);
        if server.takes_it_for_complete() && broke != Some(Side::Upstream) {
            assert!(
                *client_has_ended && server.received() == by_client,
                "{at}: cut, and the server cannot know"
            );
        }
        if client.ended() == Some(PeerEnd::Orderly) && broke != Some(Side::Downstream) {
            assert!(
                ended.can_be_refused && received.is_empty() || received == by_server,
                "{at}: cut, and the client cannot know"
            );
        }
        if !self.has_failed {
            assert_eq!(ended.outcome, Outcome::Completed, "{at}");
            assert!(server.received() == by_client && received == by_server, "{at}");
            return false;
        }
        let (reset, closed_by) = (PeerEnd::Failed(ECONNRESET), ended.closed_by);
        match (plot.side, ended.outcome) {
            (Side::Downstream, outcome) => {
                assert_eq!((outcome, closed_by), (Outcome::DownstreamReset, Side::Downstream), "{at}");
                assert_eq!(server.peer().ended(), Some(reset), "{at}");
            }
            // A failure after the client's close is no fault of the server, and no data is lost with it.
            (_, Outcome::Completed) => {
                let is_all = server.received() == by_client && received == by_server;
                assert!(is_all || *client_has_ended && closed_by == Side::Downstream, "{at}");
            }
            (_, outcome) => {
                assert_eq!((outcome, closed_by), (Outcome::UpstreamReset, Side::Upstream), "{at}");
                assert!(ended.can_be_refused || client.ended() == Some(reset), "{at}");
                assert!(ended.error.is_some(), "{at}");
            }
        }
        true
    }
}

/// The last bytes of a server that takes no more are passed on, and then a reset.
fn last_words_arrive(seen: &Seen, plot: Plot) {
    if (plot.side, plot.call) == (Side::Upstream, Call::Send) && plot.then == PeerEnd::Orderly {
        assert_eq!(seen.received, seen.by_server, "{plot:?}");
    }
}

async fn every_step(kind: &Kind, name: &str, sizes: (usize, usize)) {
    let (portion, window) = sizes;
    for (side, call) in [Side::Downstream, Side::Upstream]
        .into_iter()
        .flat_map(|side| [(side, Call::Recv), (side, Call::Send)])
    {
        for (then, client_ends_first) in [
            (PeerEnd::Failed(ECONNRESET), true),
            (PeerEnd::Failed(ECONNRESET), false),
            (PeerEnd::Orderly, true),
            (PeerEnd::Orderly, false),
        ] {
            if then == PeerEnd::Orderly && (side, call) != (Side::Upstream, Call::Send) {
                continue;
            }
            for step in 0.. {
                let plot = Plot { side, call, step, then, portion, window, client_ends_first };
                let seen = play(kind, plot).await;
                if !seen.judged(plot, name) {
                    assert!(step > 0, "{plot:?}: no step at all");
                    break;
                }
                last_words_arrive(&seen, plot);
            }
        }
    }
}

/// How much one call moves, and how much a peer buffers: all, or little of either.
const SIZES: [(usize, usize); 3] = [(usize::MAX, usize::MAX), (3000, usize::MAX), (usize::MAX, 3000)];

#[test]
fn an_error_at_any_step_of_plaintext_never_looks_like_an_end() {
    within_a_minute(async {
        for sizes in SIZES {
            every_step(&None, "plaintext", sizes).await;
        }
    });
}

#[test]
fn an_error_at_any_step_of_tls_never_looks_like_an_end() {
    within_a_minute(async {
        for version in [TLS12, TLS13] {
            let kind = Some(configs(version, u64::MAX));
            for sizes in SIZES {
                every_step(&kind, "TLS", sizes).await;
            }
        }
    });
}
