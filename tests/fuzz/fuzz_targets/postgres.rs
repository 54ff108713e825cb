//! The Postgres dialogues against bytes of either side: no panic, no memory without bound, and the same
//! result however the bytes are split.
#![no_main]

use ambassador::protocol::postgres::{ScramPlus, Settings};
use ambassador::protocol::{Outbox, Protocol, Said};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, u8)| {
    let (client, server, chunk) = input;
    let chunk = usize::from(chunk).max(1);
    let protocol = Protocol::Postgres(Settings { scram_plus: ScramPlus::Auto });

    let mut opening = protocol.opening().expect("a client of Postgres speaks first");
    let mut hello = None;
    for bytes in client.chunks(chunk) {
        match opening.received(bytes) {
            Ok(Said::Opened { hello: heard, bytes }) => {
                assert!(bytes.len() <= 10_004 + chunk, "held {} bytes", bytes.len());
                hello = Some(heard);
                break;
            }
            Ok(Said::Incomplete | Said::Answer(_)) => {}
            Err(_) => break,
        }
    }

    let mut upgrade = protocol.upgrade().expect("Postgres has an upgrade");
    upgrade.begin();
    upgrade.sent();
    let _ = upgrade.received(&server);

    let Some(hello) = hello else { return };
    let run = |chunk: usize| {
        let mut dialogue = protocol.dialogue(hello, true)?;
        let mut out = Outbox::default();
        let ended = server.chunks(chunk).try_for_each(|bytes| dialogue.upstream_said(bytes, &mut out));
        Some((ended, out.to_downstream, dialogue.is_finished()))
    };
    let outcome = run(chunk);
    assert_eq!(outcome, run(server.len().max(1)));
    if let Some((_, rewritten, _)) = outcome {
        assert!(rewritten.len() <= server.len() + chunk, "grew from {} to {}", server.len(), rewritten.len());
    }
});
