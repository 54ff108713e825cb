//! The session tickets of one endpoint.
//!
//! rustls' own store keeps eight per server name. TLS 1.3 tickets are used once (RFC 8446 Appendix C.4), so a burst of
//! more dials than that would need full handshakes. Server names are ignored here: a store belongs to one endpoint, one
//! name and one identity, and is never shared.
//!
//! A ticket is a hint (RFC 8446 §2.2, RFC 5077 §3.3): a server that does not accept it continues with a full handshake.
//! Some servers end the connection instead (OpenSSL without a session id context that asks for client certificates;
//! processes behind one address with different ticket keys). Those are offered none for a while, longer each time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::clock;
use crate::sync::{Mutex, MutexGuard};

/// Tickets kept, at about 1 KiB each; the oldest is dropped first.
const TICKETS_MAX: usize = 64;

/// How long none is offered after the first refusal; ten times as long after each further one in a row, up to the
/// maximum.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Kept>);

thread_local! {
    /// Whether the last ClientHello made on this thread offers a ticket. rustls takes one from the store while it makes
    /// the hello, and does not report it.
    static OFFERED: Cell<bool> = const { Cell::new(false) };
}

/// Makes a hello, and returns whether it offers to resume a session.
pub(super) fn watched<T>(make: impl FnOnce() -> T) -> (T, bool) {
    OFFERED.set(false);
    let made = make();
    (made, OFFERED.get())
}

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
    /// Refusals in a row.
    refusals: u32,
    /// No ticket is offered before that.
    resting_until: Option<Instant>,
}

impl Kept {
    fn rests(&self) -> bool {
        self.resting_until.is_some_and(|until| clock::now() < until)
    }
}

impl Tickets {
    /// The server ended a handshake that offered a ticket: drops all. Returns for how long none is offered.
    pub(super) fn note_refused(&self) -> Duration {
        let mut kept = self.kept();
        // Of several refusals at once only the first counts: a server that dies during many handshakes does not refuse
        // tickets.
        let now = clock::now();
        if let Some(until) = kept.resting_until.filter(|until| now < *until) {
            return until - now;
        }
        let rest = REST.saturating_mul(10_u32.saturating_pow(kept.refusals)).min(REST_MAX);
        *kept = Kept {
            group: kept.group,
            refusals: kept.refusals.saturating_add(1),
            resting_until: Some(now + rest),
            ..Kept::default()
        };
        rest
    }

    /// The server resumed a session.
    pub(super) fn note_resumed(&self) {
        self.kept().refusals = 0;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        let mut kept = self.kept();
        if !kept.rests() {
            kept.tls12 = Some(session);
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let kept = self.kept();
        let offered = kept.tls12.clone().filter(|_| !kept.rests());
        OFFERED.set(OFFERED.get() || offered.is_some());
        offered
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.rests() {
            return;
        }
        if kept.tls13.len() == TICKETS_MAX {
            kept.tls13.pop_front();
        }
        kept.tls13.push_back(ticket);
    }

    /// The newest ticket is the likeliest to be still valid.
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut kept = self.kept();
        let offered = if kept.rests() { None } else { kept.tls13.pop_back() };
        OFFERED.set(OFFERED.get() || offered.is_some());
        offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_them_is_offered_none_for_longer_each_time() {
        let tickets = Tickets::default();
        let refused = || {
            tickets.kept().resting_until = None;
            tickets.note_refused().as_secs()
        };
        let rests: Vec<_> = (0..5).map(|_| refused()).collect();
        assert_eq!(rests, [1, 10, 100, 600, 600]);
        assert!(tickets.note_refused() <= REST_MAX, "one of several at once");
        tickets.note_resumed();
        tickets.kept().resting_until = None;
        assert_eq!(tickets.note_refused(), REST);
        assert!(tickets.kept().rests());
    }
}
