//! The record of a session, filled in as it goes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::guard::SessionEntry;
use super::route::Route;
use crate::caller::Caller;
use crate::head::connect::Context;
use crate::head::proxy::{ProxyAddresses, ProxyCommand, ProxyHeader};
use crate::outcome::{Outcome, Side};
use crate::protocol::{Refusal, RefusalKind, ReplyTo, TurnedAway};
use crate::sys::Peer;
use crate::upstream::{Cluster, DialRecord};

/// Names a session in the log, in refusals and in `/sessions`: 16 hex digits, unique within a process and,
/// all but certainly, among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

#[derive(Debug)]
pub(crate) struct SessionIds(AtomicU64);

impl SessionIds {
    /// `seed` is random, so that ids of several processes differ.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A step of splitmix64, which yields every 64-bit number once and does not reveal how many came before.
    pub(crate) fn next(&self) -> SessionId {
        let mut id = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        SessionId(id ^ (id >> 31))
    }
}

impl SessionId {
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no session's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session's id is 16 hex digits")]
pub(crate) struct NoSessionId;

impl FromStr for SessionId {
    type Err = NoSessionId;

    fn from_str(text: &str) -> Result<Self, NoSessionId> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_one);
        number.map(Self).ok_or(NoSessionId)
    }
}

/// What the access log says of a session. It stays small, as sessions last for hours: names are in the route, counts
/// in the session's table entry.
#[derive(Debug)]
pub(crate) struct Record {
    route: Arc<Route>,
    entry: Arc<SessionEntry>,
    /// The address that the client connected from.
    pub peer: Peer,
    /// What heads said about the connection, if it had any.
    pub metadata: Option<Box<ClientMetadata>>,
    pub dial: DialRecord,
    /// What a refusal needs of the client's message that it answers.
    pub reply_to: ReplyTo,
    /// When the upstream's first byte arrived.
    pub first_byte: Option<Instant>,
    /// The upstream's TLS ended without close_notify.
    pub unclean_tls_end: bool,
    /// The upstream asked for a certificate that we do not have, and its end was taken for a rejection.
    pub is_uncertified: bool,
    pub outcome: Outcome,
    /// The side that ended the session.
    pub closed_by: Side,
    /// What went wrong, for people.
    pub error: Option<Box<str>>,
}

/// What the heads of a connection said.
#[derive(Debug, Default)]
pub(crate) struct ClientMetadata {
    pub header: Option<ProxyHeader>,
    /// The client's context of its CONNECT request.
    pub context: Option<Context>,
}

/// The owned parts of a [`Refusal`].
#[derive(Debug)]
pub(super) struct RefusalText {
    kind: RefusalKind,
    reason: String,
    session: String,
    reply_to: ReplyTo,
    server: Option<TurnedAway>,
}

impl RefusalText {
    pub(super) fn borrow(&self) -> Refusal<'_> {
        Refusal {
            kind: self.kind,
            reason: &self.reason,
            session: &self.session,
            reply_to: self.reply_to,
            server: self.server.as_ref(),
        }
    }
}

impl Record {
    pub(super) fn begin(route: Arc<Route>, entry: Arc<SessionEntry>, peer: Peer) -> Self {
        Self {
            peer,
            metadata: None,
            dial: DialRecord::default(),
            reply_to: ReplyTo::default(),
            first_byte: None,
            unclean_tls_end: false,
            is_uncertified: false,
            outcome: Outcome::Completed,
            closed_by: Side::Downstream,
            error: None,
            route,
            entry,
        }
    }

    #[must_use]
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    #[must_use]
    pub(crate) fn session(&self) -> SessionId {
        self.entry.session
    }

    /// `None` until the cluster is known.
    #[must_use]
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.entry.cluster()
    }

    /// `None` for a stranger, and where callers are not looked up.
    #[must_use]
    pub(crate) fn caller(&self) -> Option<Arc<Caller>> {
        self.entry.caller()
    }

    pub(super) fn metadata_mut(&mut self) -> &mut ClientMetadata {
        self.metadata.get_or_insert_default()
    }

    /// The client's context of its CONNECT request.
    #[must_use]
    pub(crate) fn context(&self) -> Option<&Context> {
        self.metadata.as_deref()?.context.as_ref()
    }

    /// The addresses of the client's connection to the proxy before us, if that sent them.
    #[must_use]
    pub(crate) fn proxied(&self) -> Option<&ProxyAddresses> {
        match &self.metadata.as_deref()?.header.as_ref()?.command {
            ProxyCommand::Proxied(addresses) => Some(addresses),
            ProxyCommand::Local => None,
        }
    }

    #[must_use]
    pub(crate) fn accepted(&self) -> Instant {
        self.entry.accepted
    }

    /// Bytes to the upstream.
    #[must_use]
    pub(crate) fn sent(&self) -> u64 {
        self.entry.live.sent()
    }

    /// Bytes from the upstream.
    #[must_use]
    pub(crate) fn received(&self) -> u64 {
        self.entry.live.received()
    }

    pub(super) fn end(&mut self, outcome: Outcome, closed_by: Side, error: Option<String>) {
        self.outcome = outcome;
        self.closed_by = closed_by;
        self.error = error.map(String::into_boxed_str);
    }

    /// The refusal that the client is sent: the outcome's label, which scripts may look for, and the reason. `server`:
    /// the server's own refusal, if that is the cause.
    pub(super) fn refusal(&self, kind: RefusalKind, server: Option<TurnedAway>) -> RefusalText {
        let error = self.error.as_deref().unwrap_or_default();
        RefusalText {
            kind,
            reason: format!("{}: {error}", self.outcome.label()),
            session: self.session().to_string(),
            reply_to: self.reply_to,
            server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_sixteen_digits() {
        let ids = SessionIds::new(42);
        let all: BTreeSet<_> = (0..100_000).map(|_| ids.next()).collect();
        assert_eq!(all.len(), 100_000);
        assert!(all.iter().all(|id| id.to_string().len() == 16));
        assert!(all.iter().all(|id| id.to_string().parse() == Ok(*id)));
    }

    #[test]
    fn only_sixteen_hex_digits_are_an_id() {
        assert_eq!("000000000000000A".parse(), Ok(SessionId(10)));
        for text in ["", "a", "+00000000000000a", "000000000000000g", "00000000000000000a"] {
            assert_eq!(text.parse::<SessionId>(), Err(NoSessionId), "{text}");
        }
    }
}
