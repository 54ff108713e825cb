//! The line written by hand against what serde makes of the same fields.

use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::*;
use crate::head::connect::RequestReader;
use crate::head::{HeadReader, Progress};
use crate::session::session_id::SessionIds;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'static str,
    target: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: &'a Fields<'a>,
}

/// What is needed of each.
struct Parts {
    words: Vec<String>,
    proxied: Vec<ProxyAddresses>,
    context: Context,
}

impl Parts {
    fn of(rng: &mut Rng) -> Self {
        let address = |rng: &mut Rng| match rng.bool() {
            true => (Ipv4Addr::from(rng.u32(..)), rng.u16(..)).into(),
            false => (Ipv6Addr::from(rng.u128(..) >> rng.u8(..127)), rng.u16(..)).into(),
        };
        let path = |rng: &mut Rng| (0..rng.usize(..5)).map(|_| rng.u8(..)).collect();
        let proxied = vec![
            ProxyAddresses::Unknown,
            ProxyAddresses::Tcp { source: address(rng), destination: address(rng) },
            ProxyAddresses::Unix { source: path(rng), destination: path(rng) },
        ];
        Self { words: (0..8).map(|_| word(rng)).collect(), proxied, context: context() }
    }

    /// Fields of any shape; they need not fit together.
    fn fields(&self, rng: &mut Rng, sessions: &SessionIds) -> Fields<'_> {
        Fields {
            session: sessions.next(),
            listener: self.word(rng),
            cluster: self.maybe(rng),
            peer: self.peer(rng),
            transport_peer: rng.bool().then(|| self.peer(rng)),
            proxy_authority: self.maybe(rng),
            proxy_unique_id: self.maybe(rng).map(str::to_owned),
            context: rng.bool().then_some(&self.context),
            caller: rng.bool().then(|| CallerFields {
                uid: rng.u32(..) >> rng.u8(..32),
                user: self.maybe(rng),
                unit: self.maybe(rng),
                pid: rng.bool().then(|| rng.u32(..)),
            }),
            endpoint: self.maybe(rng),
            attempts: rng.u32(..5),
            resolve_ms: rng.bool().then(|| millis(rng)),
            connect_ms: rng.bool().then(|| millis(rng)),
            greeting_ms: rng.bool().then(|| millis(rng)),
            handshake_ms: rng.bool().then(|| millis(rng)),
            login_as: self.maybe(rng),
            login_ms: rng.bool().then(|| millis(rng)),
            first_byte_ms: rng.bool().then(|| millis(rng)),
            duration_ms: millis(rng),
            sent_bytes: rng.u64(..) >> rng.u8(..64),
            received_bytes: rng.u64(..) >> rng.u8(..64),
            tls: rng.bool().then(|| TlsFields {
                version: "TLSv1.3",
                cipher: "TLS13_AES_128_GCM_SHA256",
                resumed: rng.bool(),
                identity: self.maybe(rng),
                unclean_end: rng.bool(),
            }),
            outcome: "completed",
            closed_by: "downstream",
            error: self.maybe(rng),
            sample: rng.bool().then(|| rng.f64() * 10_f64.powi(rng.i32(-9..1))),
        }
    }

    fn word(&self, rng: &mut Rng) -> &str {
        &self.words[rng.usize(..self.words.len())]
    }

    fn maybe(&self, rng: &mut Rng) -> Option<&str> {
        rng.bool().then(|| self.word(rng))
    }

    fn peer(&self, rng: &mut Rng) -> ShownPeer<'_> {
        match (rng.u8(..4), &self.proxied[rng.usize(..3)]) {
            (0, _) => ShownPeer::Transport(Peer::Unix),
            (1, proxied) => ShownPeer::Proxied(proxied),
            (2, _) => ShownPeer::Transport(Peer::Tcp((Ipv6Addr::from(rng.u128(..)), 7).into())),
            _ => ShownPeer::Transport(Peer::Tcp((Ipv4Addr::from(rng.u32(..)), rng.u16(..)).into())),
        }
    }
}

/// Half of them need escapes, or are not ASCII.
fn word(rng: &mut Rng) -> String {
    let odd = ['"', '\\', '/', '\0', '\n', '\t', '\u{8}', '\u{1f}', '\u{7f}', 'é', '\u{2028}', '🦀'];
    let is_plain = rng.bool();
    (0..rng.usize(..20))
        .map(|_| if is_plain || rng.bool() { rng.lowercase() } else { odd[rng.usize(..odd.len())] })
        .collect()
}

fn context() -> Context {
    let head = "CONNECT a HTTP/1.0\r\nAmbassador-Context: job=\"x\\y\", note=, path=/a/b\r\n\r\n";
    match RequestReader::default().receive(head.as_bytes()) {
        Ok(Progress::Whole { head, .. }) => head.context.expect("it has one"),
        other => panic!("{other:?}"),
    }
}

fn millis(rng: &mut Rng) -> Millis {
    Millis::of(Duration::from_nanos(rng.u64(..) >> rng.u8(..64)))
}

/// The line, and what serde makes of the fields.
fn line_of(fields: Fields<'_>) -> (String, String) {
    let without_time =
        Line { timestamp: "", level: "INFO", target: "access", message: "session ended", fields: &fields };
    let without_time = serde_json::to_string(&without_time).unwrap() + "\n";
    let mut line = Vec::new();
    fields.append_line(&mut line);
    let line = String::from_utf8(line).unwrap();
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    let timestamp = read["timestamp"].as_str().unwrap();
    let expected = without_time.replacen("\"\"", &format!("\"{timestamp}\""), 1);
    (line, expected)
}

#[test]
fn a_line_is_what_serde_writes_whatever_its_shape() {
    let mut rng = Rng::with_seed(18);
    let sessions = SessionIds::new(18);
    for _ in 0..5000 {
        let parts = Parts::of(&mut rng);
        let (line, expected) = line_of(parts.fields(&mut rng, &sessions));
        assert_eq!(line, expected);
    }
}

#[test]
fn milliseconds_are_the_shortest_number() {
    let whole = (0..2000).chain([9_999, 10_000, 123_456_789, 999_999_999_999_999, 1_000_000_000_000_000]);
    for micros in whole.chain((0..62).map(|bit| (1_u64 << bit) + 1)) {
        let millis = Millis::of(Duration::from_micros(micros));
        let mut line = Vec::new();
        millis.append(&mut line);
        assert_eq!(String::from_utf8(line).unwrap(), serde_json::to_string(&millis).unwrap(), "{micros}");
    }
}
