//! Every protocol's dialogues with any bytes from either side: no panic, bounded memory, no TLS while plaintext is
//! left over, and the same result however the bytes are split. `AMBASSADOR_PROTOCOL` names the protocol, and
//! `scripts/fuzz` runs them all, each with a corpus of its own.
#![no_main]

use ambassador::internals::protocol::postgres::ScramPlus;
use ambassador::internals::protocol::{
    self, Dialogue, ClientReply, ClientOpening, LoginContext, LoginCredentials, LoginStep, Options, Outbox, ProbeStep, Protocol, OpeningState, Secret, SecretKind, UpgradeStep, Upgraded,
};
use libfuzzer_sys::fuzz_target;

/// More than any dialogue may buffer, or make of its input.
const HELD_MAX: usize = 256 * 1024;
/// The seed of an nkey, of its documentation.
const NKEY: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

fuzz_target!(|input: &[u8]| {
    let label = std::env::var("AMBASSADOR_PROTOCOL").expect("AMBASSADOR_PROTOCOL names a protocol");
    let Some(Input { client, before, after, chunk }) = Input::of(input) else { return };
    let options =
        Options { scram_plus: ScramPlus::Auto, server_is_verified: true, rsa_key: None, host_name: "fuzz.test".into(), ..Options::default() };
    let protocol = protocol::named(&label, &options).expect("a protocol of that name");
    for portion in [chunk, usize::MAX] {
        let opened = open(&*protocol, client, portion);
        let upgraded = upgrade(&*protocol, &opened, client, before, portion);
        if let Some(dialogue) = opened.dialogue {
            rewrite(dialogue, client, after, portion);
        }
        if let Some(upgraded) = upgraded {
            unwrap(&upgraded, after, portion);
            if let Some(dialogue) = answered(&*protocol, client, portion, upgraded) {
                rewrite(dialogue, client, after, portion);
            }
        }
        cut(&*protocol, client, portion);
        if let Some(dialogue) = protocol.dialogue() {
            rewrite(dialogue, client, after, portion);
        }
        probe(&*protocol, after, portion);
        if let Some(dialogue) = sign_in(&*protocol, client, after, portion) {
            rewrite(dialogue, client, after, portion);
        }
    }
    let passed = |portion| protocol.dialogue().map(|dialogue| passed(dialogue, after, portion));
    assert_eq!(passed(chunk), passed(usize::MAX));
});

/// One exchange: a byte for the size of portions, the lengths (two bytes each, big endian) of the client's bytes and
/// of the server's bytes before TLS, these two, and the server's bytes after TLS.
struct Input<'a> {
    client: &'a [u8],
    before: &'a [u8],
    after: &'a [u8],
    chunk: usize,
}

impl<'a> Input<'a> {
    fn of(input: &'a [u8]) -> Option<Self> {
        let (&[chunk, a, b, c, d], rest) = input.split_first_chunk()?;
        let length = |high, low| usize::from(u16::from_be_bytes([high, low]));
        let (client, rest) = rest.split_at(length(a, b).min(rest.len()));
        let (before, after) = rest.split_at(length(c, d).min(rest.len()));
        Some(Self { client, before, after, chunk: usize::from(chunk).max(1) })
    }
}

/// Bytes that a protocol may put in front of a client's first message.
const PREFACE_MAX: usize = 64;

fn open(protocol: &dyn Protocol, client: &[u8], portion: usize) -> ClientOpening {
    let Some(mut opening) = protocol.opening() else { return ClientOpening::default() };
    for bytes in client.chunks(portion.min(client.len().max(1))) {
        match opening.receive(bytes) {
            Ok(OpeningState::Opened(opened)) => {
                assert!(opened.bytes.len() <= client.len() + PREFACE_MAX && opened.preface <= opened.bytes.len());
                return opened;
            }
            Ok(OpeningState::Incomplete | OpeningState::Answer(_)) => {}
            Err(_) => break,
        }
    }
    ClientOpening::default()
}

/// The dialogue that is left after an upgrade: its own, or the opening's, which has to accept the answer that it kept.
fn answered(protocol: &dyn Protocol, client: &[u8], portion: usize, upgraded: Upgraded) -> Option<Box<dyn Dialogue>> {
    let Some(answer) = upgraded.answer else { return upgraded.dialogue };
    let mut dialogue = open(protocol, client, portion).dialogue?;
    let mut out = Outbox::default();
    dialogue.on_upstream(&answer, &mut out).expect("the upgrade has understood it");
    assert!(out.to_downstream.len() <= answer.len() && out.to_upstream.is_empty());
    Some(dialogue).filter(|dialogue| !dialogue.is_finished())
}

/// A handshake within the protocol's packets: never more bytes come out than went in.
fn unwrap(upgraded: &Upgraded, server: &[u8], portion: usize) {
    if upgraded.wrapping.is_none() {
        return;
    }
    let (mut wrapping, mut records) = (ambassador::internals::protocol::Wrapping::default(), Vec::new());
    for bytes in server.chunks(portion.min(server.len().max(1))) {
        wrapping.receive(bytes);
        loop {
            match wrapping.unwrap_into(&mut records) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return,
            }
        }
        assert!(records.len() <= server.len());
    }
    let _ = wrapping.end();
}

/// Packets for separate records: no byte is lost, however they arrive.
fn cut(protocol: &dyn Protocol, client: &[u8], portion: usize) {
    let Some(mut packets) = protocol.packets() else { return };
    let mut whole = Vec::new();
    for mut bytes in client.chunks(portion.min(client.len().max(1))) {
        while let Some(packet) = packets.next(&mut bytes) {
            whole.extend_from_slice(&packet);
        }
    }
    whole.extend(packets.rest());
    assert_eq!(whole, client);
}

/// The server's bytes, in portions no larger than the dialogue asks for.
fn upgrade(
    protocol: &dyn Protocol,
    opened: &ClientOpening,
    client: &[u8],
    mut server: &[u8],
    portion: usize,
) -> Option<Upgraded> {
    let mut upgrade = protocol.upgrade_for(&opened.bytes[..opened.preface])?;
    let mut step = upgrade.begin();
    for _ in 0..HELD_MAX {
        step = match step {
            UpgradeStep::Send(bytes) => {
                assert!(bytes.len() < HELD_MAX);
                upgrade.note_sent()
            }
            UpgradeStep::ReadAtMost(most) => {
                assert!(most > 0, "a read of nothing would be taken for the end");
                let (now, later) = server.split_at(most.min(portion).min(server.len()));
                server = later;
                upgrade.receive(now).ok()?
            }
            UpgradeStep::AwaitClientReply(greeting) => {
                assert!(greeting.words.len() < HELD_MAX);
                return Some(reply(greeting.client_reply, client, portion));
            }
            UpgradeStep::Upgrade(upgraded) => {
                assert!(upgraded.welcome.len() < HELD_MAX);
                return Some(upgraded);
            }
        };
    }
    panic!("an upgrade that neither ends nor takes the end of the server's bytes for one");
}

fn reply(mut client_reply: Box<dyn ClientReply>, client: &[u8], portion: usize) -> Upgraded {
    for bytes in client.chunks(portion.min(client.len().max(1))) {
        match client_reply.receive(bytes) {
            Ok(Some(introduced)) => return introduced.upgraded,
            Ok(None) => {}
            Err(_) => break,
        }
    }
    client_reply.conclude_without_client().upgraded
}

fn rewrite(mut dialogue: Box<dyn Dialogue>, client: &[u8], server: &[u8], portion: usize) {
    let (mut client, mut server) =
        (client.chunks(portion.min(client.len().max(1))), server.chunks(portion.min(server.len().max(1))));
    loop {
        let mut out = Outbox::default();
        let (said, answered) = (client.next(), server.next());
        let given = said.map_or(0, <[u8]>::len) + answered.map_or(0, <[u8]>::len);
        if said.is_none() && answered.is_none() {
            return;
        }
        if said.is_some_and(|bytes| dialogue.on_downstream(bytes, &mut out).is_err())
            || answered.is_some_and(|bytes| dialogue.on_upstream(bytes, &mut out).is_err())
        {
            return;
        }
        assert!(out.to_downstream.len() + out.to_upstream.len() <= given + HELD_MAX);
        if dialogue.is_finished() {
            let _ = dialogue.cancel_key();
            return;
        }
    }
}

/// The output of a dialogue for the server's bytes alone.
fn passed(mut dialogue: Box<dyn Dialogue>, server: &[u8], portion: usize) -> (Vec<u8>, bool) {
    let mut out = Outbox::default();
    let portions = server.chunks(portion.min(server.len().max(1)));
    let ended = portions.map(|bytes| dialogue.on_upstream(bytes, &mut out)).find(Result::is_err);
    (out.to_downstream, ended.is_some())
}

/// The server's bytes for a login; returns what it leaves for the session.
fn sign_in(
    protocol: &dyn Protocol,
    client: &[u8],
    server: &[u8],
    portion: usize,
) -> Option<Box<dyn Dialogue>> {
    let mut left = None;
    let kinds = protocol.login_secrets().iter().flat_map(|kind| [(*kind, false), (*kind, true)]);
    for (kind, is_greeted) in kinds {
        let secret = if kind == SecretKind::Nkey { NKEY } else { "pencil" };
        let credentials =
            LoginCredentials { user: "app".into(), secret: Secret::new(kind, secret.to_owned().into()) };
        let context = LoginContext {
            credentials,
            mechanisms: Default::default(),
            database: None,
            client: None,
            opening: client,
            is_greeted,
            channel_binding: None,
            nonce: [7; 18],
        };
        let mut login = protocol.login(context)?;
        login.greeted(server);
        if login.begin().is_err() {
            continue;
        }
        // At the end its close.
        for bytes in server.chunks(portion.min(server.len().max(1))).chain([&b""[..]]) {
            match login.receive(bytes) {
                Ok(LoginStep::SignedIn(signed_in)) => {
                    assert!(signed_in.to_client.len() <= server.len() + client.len() + HELD_MAX);
                    left = signed_in.dialogue;
                    break;
                }
                Ok(LoginStep::Send(_) | LoginStep::Read) => {}
                Err(_) => break,
            }
        }
    }
    left
}

fn probe(protocol: &dyn Protocol, server: &[u8], portion: usize) {
    for upgraded in [false, true] {
        let Some(mut probe) = protocol.probe(upgraded) else { continue };
        assert!(probe.begin().len() < HELD_MAX);
        for bytes in server.chunks(portion.min(server.len().max(1))) {
            if !matches!(probe.receive(bytes), Ok(ProbeStep::Incomplete | ProbeStep::Send(_))) {
                break;
            }
        }
    }
}
