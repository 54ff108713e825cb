//! PostgreSQL's part of a session: the client's first packets, the request for TLS, and the server's login
//! with its offer rewritten, in the sizes that libpq and PostgreSQL 18 send.

use std::hint::black_box;

use std::sync::Arc;

use ambassador::internals::protocol::postgres::ScramPlus;
use ambassador::internals::protocol::{self, Dialogue, OpeningState, Options, Outbox, Protocol, UpgradeStep};
use criterion::{BatchSize, Criterion};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dialogue");
    let startup = startup();
    let postgres = postgres();
    group.bench_function("opening", |bencher| bencher.iter(|| opening(&*postgres, black_box(&startup))));
    group.bench_function("upgrade", |bencher| bencher.iter(|| upgrade(&*postgres, black_box(b"S"))));
    let login = login();
    let begin = || opening(&*postgres, &startup);
    group.bench_function("login", |bencher| {
        bencher.iter_batched(
            begin,
            |dialogue| rewrite(dialogue, login.iter().map(Vec::as_slice)),
            BatchSize::SmallInput,
        );
    });
    // A server behind a slow link: the cost of partial messages at its worst.
    let whole = login.concat();
    group.bench_function("login_byte_by_byte", |bencher| {
        bencher.iter_batched(begin, |dialogue| rewrite(dialogue, whole.chunks(1)), BatchSize::SmallInput);
    });
    group.finish();
}

/// A client with `sslmode=prefer`: asks for TLS, is declined, sends its StartupMessage.
fn opening(postgres: &dyn Protocol, startup: &[u8]) -> Box<dyn Dialogue> {
    let mut opening = postgres.opening().expect("a PostgreSQL client speaks first");
    let declined = opening.receive(&SSL_REQUEST);
    assert!(matches!(declined, Ok(OpeningState::Answer(_))));
    match opening.receive(startup) {
        Ok(OpeningState::Opened(opened)) => {
            black_box(opened.bytes);
            opened.dialogue.expect("there is an offer to rewrite")
        }
        other => unreachable!("a StartupMessage opens a session: {other:?}"),
    }
}

fn upgrade(postgres: &dyn Protocol, answer: &[u8]) -> UpgradeStep {
    let mut upgrade = postgres.upgrade().expect("PostgreSQL has one");
    black_box(upgrade.begin());
    black_box(upgrade.note_sent());
    upgrade.receive(answer).expect("the server agrees")
}

/// From the server's first byte to the end of the rewriting; the client has answered in between.
fn rewrite<'a>(mut dialogue: Box<dyn Dialogue>, server: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut delivered = 0;
    for bytes in server {
        let mut out = Outbox::default();
        dialogue.on_upstream(black_box(bytes), &mut out).expect("it is what PostgreSQL sends");
        delivered += out.to_downstream.len();
    }
    let mut out = Outbox::default();
    dialogue.on_downstream(black_box(CLIENT_FIRST), &mut out).expect("it is what libpq sends");
    assert!(dialogue.is_finished());
    delivered + out.to_upstream.len()
}

/// SASLInitialResponse, as libpq sends it on a plaintext hop.
const CLIENT_FIRST: &[u8] = b"p\0\0\0\x36SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdefghijklmnopqrstuvwx";

fn startup() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for word in ["user", "shop", "database", "shop", "application_name", "psql", "client_encoding", "UTF8"] {
        packet.extend(word.bytes().chain([0]));
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).expect("a small packet");
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// The server's reads: the offer, two rounds of SCRAM, and everything up to ReadyForQuery. The last read ends the
/// rewriting with its first message; the rest of it is passed on.
fn login() -> [Vec<u8>; 3] {
    let scram_first = [b"r=".as_slice(), &[b'n'; 42], b",s=", &[b's'; 24], b",i=4096"].concat();
    let scram_last = [b"v=".as_slice(), &[b'v'; 44]].concat();
    let mut ready = authentication(AUTHENTICATION_SASL_FINAL, &scram_last);
    ready.extend(authentication(AUTHENTICATION_OK, b""));
    for (name, value) in PARAMETERS {
        ready.extend(message(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat()));
    }
    ready.extend(message(b'K', &[0x5a; 8]));
    ready.extend(message(b'Z', b"I"));
    [
        authentication(AUTHENTICATION_SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        authentication(AUTHENTICATION_SASL_CONTINUE, &scram_first),
        ready,
    ]
}

fn authentication(kind: u32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), body].concat())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a small message");
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

fn postgres() -> Arc<dyn Protocol> {
    let options = Options {
        scram_plus: ScramPlus::Auto,
        server_is_verified: true,
        rsa_key: None,
        host_name: String::from("here"),
        helo_name: None,
        signs_in: false,
    };
    protocol::named("postgres", &options).expect("a protocol of that name")
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_SASL: u32 = 10;
const AUTHENTICATION_SASL_CONTINUE: u32 = 11;
const AUTHENTICATION_SASL_FINAL: u32 = 12;

/// The ParameterStatus messages of PostgreSQL 18.
const PARAMETERS: [(&str, &str); 15] = [
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("TimeZone", "Etc/UTC"),
    ("IntervalStyle", "postgres"),
    ("search_path", "\"$user\", public"),
    ("is_superuser", "off"),
    ("application_name", "psql"),
    ("default_transaction_read_only", "off"),
    ("scram_iterations", "4096"),
    ("DateStyle", "ISO, MDY"),
    ("standard_conforming_strings", "on"),
    ("session_authorization", "shop"),
    ("client_encoding", "UTF8"),
    ("server_version", "18.1"),
    ("server_encoding", "UTF8"),
];
