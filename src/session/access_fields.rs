//! The fields of a session's record, in the order of the line.
//!
//! A line of JSON is written by hand, as one is written for each session; text and the journal take the fields through
//! serde. A test holds the one against the other.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::record::Record;
use super::session_id::SessionId;
use crate::caller::{Caller, Unit};
use crate::head::connect::Context;
use crate::head::proxy::ProxyAddresses;
use crate::log::{
    JsonValue, append_members, append_object, append_pairs, append_serialized, append_timestamp,
};
use crate::sys::Peer;
use crate::tls::HandshakeInfo;

#[derive(Serialize)]
pub(super) struct Fields<'a> {
    #[serde(serialize_with = "shown")]
    session: SessionId,
    listener: &'a str,
    cluster: Option<&'a str>,
    peer: ShownPeer<'a>,
    transport_peer: Option<ShownPeer<'a>>,
    proxy_authority: Option<&'a str>,
    proxy_unique_id: Option<String>,
    #[serde(serialize_with = "pairs")]
    context: Option<&'a Context>,
    caller: Option<CallerFields<'a>>,
    endpoint: Option<&'a str>,
    attempts: u32,
    resolve_ms: Option<Millis>,
    connect_ms: Option<Millis>,
    greeting_ms: Option<Millis>,
    handshake_ms: Option<Millis>,
    login_as: Option<&'a str>,
    login_ms: Option<Millis>,
    first_byte_ms: Option<Millis>,
    duration_ms: Millis,
    sent_bytes: u64,
    received_bytes: u64,
    tls: Option<TlsFields<'a>>,
    outcome: &'static str,
    closed_by: &'static str,
    error: Option<&'a str>,
    /// The share of ordinary sessions that are recorded, where this is one.
    sample: Option<f64>,
}

#[derive(Serialize)]
struct CallerFields<'a> {
    uid: u32,
    user: Option<&'a str>,
    unit: Option<&'a str>,
    pid: Option<u32>,
}

#[derive(Serialize)]
struct TlsFields<'a> {
    version: &'static str,
    cipher: &'static str,
    resumed: bool,
    identity: Option<&'a str>,
    /// The server ended TLS without close_notify.
    unclean_end: bool,
}

/// Milliseconds, as whole microseconds.
#[derive(Clone, Copy)]
struct Millis(f64);

/// Whom the client connected as, or through.
#[derive(Clone, Copy)]
enum ShownPeer<'a> {
    Transport(Peer),
    Proxied(&'a ProxyAddresses),
}

impl<'a> Fields<'a> {
    pub(super) fn of(
        record: &'a Record,
        caller: Option<&'a Caller>,
        ended: Instant,
        sample: Option<f64>,
    ) -> Self {
        let dial = &record.dial;
        let transport_peer = ShownPeer::Transport(record.peer);
        let (peer, transport_peer) = match record.proxied() {
            Some(proxied) => (ShownPeer::Proxied(proxied), Some(transport_peer)),
            None => (transport_peer, None),
        };
        let header = record.metadata.as_deref().and_then(|metadata| metadata.header.as_ref());
        Self {
            session: record.session(),
            listener: record.route().listener().as_str(),
            cluster: record.cluster().map(|cluster| cluster.settings().name.as_str()),
            peer,
            transport_peer,
            proxy_authority: header.and_then(|header| header.authority.as_deref()),
            proxy_unique_id: header
                .and_then(|header| header.unique_id.as_deref())
                .map(|id| id.escape_ascii().to_string()),
            context: record.context(),
            caller: caller.map(CallerFields::of),
            endpoint: dial.endpoint.as_ref().map(|name| name.as_str()),
            attempts: dial.attempts,
            resolve_ms: dial.resolve.get().map(Millis::of),
            connect_ms: dial.connect.get().map(Millis::of),
            greeting_ms: dial.greeting.get().map(Millis::of),
            handshake_ms: dial.handshake.get().map(Millis::of),
            login_as: dial.login.as_ref().map(|login| &*login.0),
            login_ms: dial.login.as_ref().map(|login| Millis::of(login.1)),
            first_byte_ms: record.first_byte.map(|at| Millis::of(at - record.accepted())),
            duration_ms: Millis::of(ended - record.accepted()),
            sent_bytes: record.sent(),
            received_bytes: record.received(),
            tls: dial.agreed.as_deref().map(|agreed| TlsFields::of(agreed, record.unclean_tls_end)),
            outcome: record.outcome.label(),
            closed_by: record.closed_by.label(),
            error: record.error.as_deref(),
            sample,
        }
    }

    /// Appends the line of JSON, with the time of now and its line break.
    #[rustfmt::skip]
    pub(super) fn append_line(self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"timestamp\":\"");
        append_timestamp(line);
        line.extend_from_slice(b"\",\"level\":\"INFO\",\"target\":\"access\",\"message\":\"session ended\"");
        // All of them by name, so that a new one cannot be forgotten.
        let Self {
            session, listener, cluster, peer, transport_peer, proxy_authority, proxy_unique_id, context, caller, endpoint,
            attempts, resolve_ms, connect_ms, greeting_ms, handshake_ms, login_as, login_ms, first_byte_ms, duration_ms,
            sent_bytes, received_bytes, tls, outcome, closed_by, error, sample,
        } = self;
        append_members!(
            line,
            session, listener, cluster, peer, transport_peer, proxy_authority, proxy_unique_id, context, caller, endpoint,
            attempts, resolve_ms, connect_ms, greeting_ms, handshake_ms, login_as, login_ms, first_byte_ms, duration_ms,
            sent_bytes, received_bytes, tls, outcome, closed_by, error, sample,
        );
        line.extend_from_slice(b"}\n");
    }
}

fn shown<S: Serializer>(session: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(session)
}

/// `{"k": "v", …}`, in the client's order.
fn pairs<S: Serializer>(context: &Option<&Context>, serializer: S) -> Result<S::Ok, S::Error> {
    match context {
        Some(context) => serializer.collect_map(context.pairs()),
        None => serializer.serialize_none(),
    }
}

impl JsonValue for SessionId {
    fn append(&self, line: &mut Vec<u8>) {
        line.push(b'"');
        let number = self.number();
        line.extend((0..16).rev().map(|place| b"0123456789abcdef"[(number >> (4 * place)) as usize & 15]));
        line.push(b'"');
    }
}

impl JsonValue for Context {
    fn append(&self, line: &mut Vec<u8>) {
        append_pairs(self.pairs(), line);
    }
}

impl<'a> CallerFields<'a> {
    fn of(caller: &'a Caller) -> Self {
        let unit = caller.unit().map(Unit::as_str);
        Self { uid: caller.uid, user: caller.user.as_deref(), unit, pid: caller.pid }
    }
}

impl JsonValue for CallerFields<'_> {
    fn append(&self, line: &mut Vec<u8>) {
        let Self { uid, user, unit, pid } = *self;
        append_object!(line, uid, user, unit, pid);
    }
}

impl<'a> TlsFields<'a> {
    fn of(agreed: &'a HandshakeInfo, unclean_end: bool) -> Self {
        Self {
            version: agreed.version(),
            cipher: agreed.cipher,
            resumed: agreed.resumed,
            identity: agreed.identity.as_ref().map(|name| name.as_str()),
            unclean_end,
        }
    }
}

impl JsonValue for TlsFields<'_> {
    fn append(&self, line: &mut Vec<u8>) {
        let Self { version, cipher, resumed, identity, unclean_end } = *self;
        append_object!(line, version, cipher, resumed, identity, unclean_end);
    }
}

/// As many microseconds have at most 15 digits: their shortest decimal number is the exact one.
const EXACT: f64 = 1e15;

impl Millis {
    fn of(duration: Duration) -> Self {
        Self((duration.as_secs_f64() * 1e6).round())
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 / 1e3)
    }
}

impl JsonValue for Millis {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and below EXACT")]
    fn append(&self, line: &mut Vec<u8>) {
        if self.0 >= EXACT {
            return append_serialized(self, line);
        }
        let micros = self.0 as u64;
        (micros / 1000).append(line);
        let rest = (micros % 1000) as usize;
        let digit = |number: usize| b"0123456789"[number % 10];
        let digits = [b'.', digit(rest / 100), digit(rest / 10), digit(rest)];
        let needed = match () {
            () if !rest.is_multiple_of(10) => 4,
            () if !rest.is_multiple_of(100) => 3,
            () => 2,
        };
        line.extend_from_slice(&digits[..needed]);
    }
}

impl fmt::Display for ShownPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(Peer::Tcp(address)) => address.fmt(f),
            Self::Transport(Peer::Unix) => f.write_str("unix"),
            Self::Proxied(addresses) => addresses.fmt(f),
        }
    }
}

impl Serialize for ShownPeer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonValue for ShownPeer<'_> {
    fn append(&self, line: &mut Vec<u8>) {
        let Self::Transport(Peer::Tcp(SocketAddr::V4(address))) = self else {
            return self.to_string().append(line);
        };
        let mut before = b'"';
        for octet in address.ip().octets() {
            line.push(before);
            u32::from(octet).append(line);
            before = b'.';
        }
        line.push(b':');
        u32::from(address.port()).append(line);
        line.push(b'"');
    }
}

#[cfg(test)]
mod tests;
