//! The whole path behind a dial: a client, the relay with a protocol's dialogue, a server, over connections in memory,
//! step by step as the input says.
//!
//! Invariants: no panic, no overflow, no sleep while there is work and no waking without work, no more buffered than a
//! portion; each side receives what the dialogue made of the other's bytes and then those bytes themselves, none lost,
//! none twice; and each end reaches the other side. Lacks TLS, which src/relay/tests/steps.rs has.
//!
//! An input is the label of a protocol and a line feed, then steps: a byte for the kind, two for the length of its
//! payload (big endian), and the payload.
#![no_main]

#[path = "../../../src/tls/tests/wire.rs"]
mod wire;

/// The imports of that file.
mod sys {
    pub(crate) use ambassador::internals::sys::{Socket, Transport};
}

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use ambassador::internals::alarm;
use ambassador::internals::protocol::postgres::ScramPlus;
use ambassador::internals::protocol::{
    self, CancelKey, Dialogue, DialogueError, Options, Outbox, Probe, Protocol, OpeningState, UpgradeStep,
};
use ambassador::internals::relay::{self, Ended, LiveSession, Settings, RelayInput};
use ambassador::internals::workers;
use libfuzzer_sys::fuzz_target;
use wire::{ECONNRESET, EPIPE, End, Peer, Wire, Woken, wire};

/// More than a dialogue makes of its input.
const MADE_MAX: usize = 256 * 1024;
/// The most that one read may return, which is all that is buffered besides.
const PORTION: usize = 1024 * 1024;
/// The bytes of both sides in one input.
const SAID_MAX: usize = 256 * 1024;
/// Some steps repeat their bytes this often.
const ECHOES: usize = 64;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = workers::runtime().expect("a runtime can be made");
}

fuzz_target!(|input: &[u8]| {
    let Some(mut script) = Script::of(input) else { return };
    let Some(begun) = Begun::with(&mut script) else { return };
    RUNTIME.with(|runtime| runtime.block_on(alarm::drive(play(begun, script))).expect("a timer can be had"));
});

/// The protocol, and the steps that are left.
struct Script<'a> {
    protocol: Arc<dyn Protocol>,
    steps: Vec<(u8, &'a [u8])>,
}

impl<'a> Script<'a> {
    fn of(input: &'a [u8]) -> Option<Self> {
        let end = input.iter().position(|byte| *byte == b'\n')?;
        let label = std::str::from_utf8(&input[..end]).ok()?;
        let options = Options {
            scram_plus: ScramPlus::Auto,
            server_is_verified: true,
            rsa_key: None,
            host_name: "fuzz.test".into(),
            ..Options::default()
        };
        let protocol = protocol::named(label, &options)?;
        let (mut rest, mut steps) = (&input[end + 1..], Vec::new());
        while let Some((&[what, high, low], behind)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low])).min(behind.len());
            let (bytes, behind) = behind.split_at(length);
            steps.push((what, bytes));
            rest = behind;
        }
        steps.reverse();
        Some(Self { protocol, steps })
    }

    /// The payload of the next step, whatever its kind: what comes before the relay has no steps.
    fn next(&mut self) -> Option<&'a [u8]> {
        self.steps.pop().map(|(_, bytes)| bytes)
    }
}

/// The input of a dialogue, and its output.
#[derive(Debug, Default)]
struct Book {
    from_client: usize,
    from_server: usize,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    is_finished: bool,
}

/// A dialogue, with a record of its input and output.
#[derive(Debug)]
struct Watched {
    dialogue: Box<dyn Dialogue>,
    book: Arc<Mutex<Book>>,
}

impl Watched {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with it")
    }

    fn note(&self, out: &Outbox, before: (usize, usize)) {
        let mut book = self.book();
        book.to_client.extend(&out.to_downstream[before.0..]);
        book.to_server.extend(&out.to_upstream[before.1..]);
        assert!(out.to_downstream.len() + out.to_upstream.len() <= MADE_MAX + SAID_MAX);
    }
}

impl Dialogue for Watched {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let before = (out.to_downstream.len(), out.to_upstream.len());
        let said = self.dialogue.on_downstream(bytes, out);
        self.book().from_client += bytes.len();
        self.note(out, before);
        said
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let before = (out.to_downstream.len(), out.to_upstream.len());
        let said = self.dialogue.on_upstream(bytes, out);
        self.book().from_server += bytes.len();
        self.note(out, before);
        said
    }

    fn is_finished(&self) -> bool {
        let is_finished = self.dialogue.is_finished();
        self.book().is_finished = is_finished;
        is_finished
    }

    fn cancel_key(&mut self) -> Option<CancelKey> {
        self.dialogue.cancel_key()
    }

    fn rest(&mut self) -> Option<Box<dyn Probe>> {
        self.dialogue.rest()
    }
}

/// The start of a relay.
struct Begun {
    opening: Vec<u8>,
    dialogue: Option<Box<dyn Dialogue>>,
}

impl Begun {
    /// As in a session: the client's opening, the server's upgrade, and in some protocols the client's reply in
    /// between.
    fn with(script: &mut Script<'_>) -> Option<Self> {
        let mut begun = Self { opening: Vec::new(), dialogue: None };
        if let Some(mut opening) = script.protocol.opening() {
            let Ok(OpeningState::Opened(opened)) = opening.receive(script.next()?) else { return None };
            (begun.opening, begun.dialogue) = (opened.bytes, opened.dialogue);
        }
        if let Some(mut upgrade) = script.protocol.upgrade() {
            let mut server = script.next()?;
            let mut step = upgrade.begin();
            for _ in 0..MADE_MAX {
                step = match step {
                    UpgradeStep::Send(_) => upgrade.note_sent(),
                    UpgradeStep::ReadAtMost(most) => {
                        let (now, later) = server.split_at(most.min(server.len()));
                        server = later;
                        upgrade.receive(now).ok()?
                    }
                    UpgradeStep::AwaitClientReply(mut greeting) => {
                        let introduced = greeting.client_reply.receive(script.next()?).ok()??;
                        begun.dialogue = introduced.upgraded.dialogue.or(begun.dialogue);
                        break;
                    }
                    UpgradeStep::Upgrade(upgraded) => {
                        begun.dialogue = upgraded.dialogue.or(begun.dialogue);
                        break;
                    }
                };
            }
        }
        begun.dialogue = begun.dialogue.or_else(|| script.protocol.dialogue());
        Some(begun)
    }
}

/// A side, as the test controls it.
struct Actor {
    peer: Peer,
    said: Vec<u8>,
    heard: Vec<u8>,
    /// It was reset, refuses, or its missing bytes no longer count as an error.
    is_broken: bool,
}

impl Actor {
    fn say(&mut self, bytes: &[u8]) {
        // Bytes behind an end are not sent.
        let before = self.peer.unread();
        self.peer.send(bytes);
        if self.peer.unread() > before {
            self.said.extend(bytes);
        }
    }

    fn hear(&mut self, most: usize) {
        self.heard.extend(self.peer.receive(most));
    }

    /// Of its own bytes.
    fn read(&self) -> usize {
        self.said.len() - self.peer.unread()
    }
}

struct Stage {
    client: Actor,
    server: Actor,
    opening: Vec<u8>,
    /// Absent: there is nothing to rewrite.
    book: Option<Arc<Mutex<Book>>>,
    ended: Option<Ended<Wire>>,
    moved: usize,
    polls: usize,
}

const ENDLESS: Settings = Settings { idle_timeout: None, half_close_timeout: None, max_lifetime: None };

async fn play(begun: Begun, mut script: Script<'_>) {
    let ((downstream, client), (upstream, server)) = (wire(), wire());
    let actor = |peer| Actor { peer, said: Vec::new(), heard: Vec::new(), is_broken: false };
    let Begun { opening, dialogue } = begun;
    let book = dialogue.as_ref().map(|_| Arc::<Mutex<Book>>::default());
    let mut stage = Stage {
        client: actor(client),
        server: actor(server),
        opening: opening.clone(),
        book: book.clone(),
        ended: None,
        moved: 0,
        polls: 0,
    };
    let dialogue = dialogue
        .zip(book)
        .map(|(dialogue, book)| -> Box<dyn Dialogue> { Box::new(Watched { dialogue, book }) });
    let live = LiveSession::default();
    let start = RelayInput {
        downstream,
        upstream: relay::UpstreamStream::Socket(upstream),
        opening,
        dialogue,
        verdict_until: None,
    };
    let mut relaying = Woken::new(relay::relay(start, &ENDLESS, &live));
    while let (Some((what, bytes)), None) = (script.steps.pop(), &stage.ended) {
        stage.step(what, bytes);
        // Some things happen at once.
        if what & 0x10 == 0 {
            stage.run(&mut relaying).await;
        }
    }
    for actor in [&stage.client, &stage.server] {
        actor.peer.set_portion(usize::MAX, false);
        actor.peer.set_window(usize::MAX);
    }
    stage.settle(&mut relaying).await;
    stage.client.peer.end(End::Orderly);
    stage.settle(&mut relaying).await;
    // A server that reads no more is waited for until its own end, as it may still send.
    let is_told = stage.server.peer.ended().is_some() || stage.server.is_broken;
    assert!(stage.ended.is_some() || is_told, "the client's end goes no further");
    stage.server.peer.end(End::Orderly);
    stage.settle(&mut relaying).await;
    let ended = stage.ended.take().expect("both have ended, and it goes on");
    stage.judge(ended);
}

impl Stage {
    fn step(&mut self, what: u8, bytes: &[u8]) {
        let (actor, other) = match what & 1 {
            0 => (&mut self.client, &mut self.server),
            _ => (&mut self.server, &mut self.client),
        };
        let number = bytes.first().map_or(0, |byte| usize::from(*byte));
        match what >> 1 & 7 {
            0 => {
                let times = if what & 0x20 == 0 { 1 } else { ECHOES };
                for _ in 0..times {
                    if actor.said.len() + other.said.len() + bytes.len() <= SAID_MAX {
                        actor.say(bytes);
                    }
                }
            }
            1 => actor.hear(number),
            2 => actor.hear(usize::MAX),
            3 => actor.peer.set_window(number * number),
            // A portion of one byte is costly with many bytes.
            4 => actor.peer.set_portion([1000, 4096, 65_536, usize::MAX][number % 4], number & 4 != 0),
            5 => actor.peer.end(End::Orderly),
            6 => {
                actor.is_broken = true;
                actor.peer.end(End::Failed(ECONNRESET));
                actor.peer.refuse(EPIPE);
            }
            _ => {
                actor.is_broken = true;
                actor.peer.refuse(EPIPE);
            }
        }
    }

    async fn run<F: Future<Output = Ended<Wire>>>(&mut self, relaying: &mut Woken<F>) {
        if self.ended.is_none()
            && let Poll::Ready(ended) = relaying.run().await
        {
            self.ended = Some(ended);
        }
        // Each turn moves bytes or is one of a few that a step causes.
        let moved = self.client.read() + self.server.read();
        let (polls, portions) = (relaying.polls - self.polls, (moved - self.moved) / 1000 + 1);
        assert!(polls <= 64 + 8 * portions, "{polls} turns for {portions} portions");
        (self.polls, self.moved) = (relaying.polls, moved);
        self.hold_what_holds();
    }

    /// Until nothing happens any more, with peers that read everything.
    async fn settle<F: Future<Output = Ended<Wire>>>(&mut self, relaying: &mut Woken<F>) {
        loop {
            self.run(relaying).await;
            let before = (self.client.heard.len(), self.server.heard.len(), self.moved);
            self.client.hear(usize::MAX);
            self.server.hear(usize::MAX);
            self.run(relaying).await;
            if before == (self.client.heard.len(), self.server.heard.len(), self.moved) {
                return;
            }
        }
    }

    /// The bytes that the sides must have received of each other by now.
    fn expected(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut to_client, mut to_server) = (Vec::new(), self.opening.clone());
        let (mut from_client, mut from_server, mut is_finished) = (0, 0, true);
        if let Some(book) = &self.book {
            let book = book.lock().expect("nobody panics with it");
            to_client.extend(&book.to_client);
            to_server.extend(&book.to_server);
            (from_client, from_server, is_finished) = (book.from_client, book.from_server, book.is_finished);
        }
        if is_finished {
            to_client.extend(&self.server.said[from_server..self.server.read()]);
            to_server.extend(&self.client.said[from_client..self.client.read()]);
        }
        (to_client, to_server)
    }

    fn hold_what_holds(&self) {
        let (to_client, to_server) = self.expected();
        let heard = |actor: &Actor| [&actor.heard[..], &actor.peer.waiting()].concat();
        let (by_client, by_server) = (heard(&self.client), heard(&self.server));
        assert!(to_client.starts_with(&by_client), "the client hears what nobody said");
        assert!(to_server.starts_with(&by_server), "the server hears what nobody said");
        let held = to_client.len() - by_client.len() + to_server.len() - by_server.len();
        assert!(held <= self.opening.len() + 2 * PORTION + MADE_MAX, "{held} bytes held");
    }

    fn judge(mut self, ended: Ended<Wire>) {
        let is_orderly = ended.fault.is_none() && ended.unfinished.is_none();
        drop(ended);
        self.client.hear(usize::MAX);
        self.server.hear(usize::MAX);
        self.hold_what_holds();
        if self.client.is_broken || self.server.is_broken || !is_orderly {
            return;
        }
        let (to_client, to_server) = self.expected();
        assert!(
            self.client.heard == to_client && self.client.peer.unread() == 0,
            "words for the client are lost"
        );
        assert!(self.server.heard == to_server, "words for the server are lost");
        assert_eq!(
            (self.client.peer.ended(), self.server.peer.ended()),
            (Some(End::Orderly), Some(End::Orderly))
        );
    }
}
