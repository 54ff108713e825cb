//! The live sessions of a listener, and the sums of those that have ended.
//!
//! A session owns its byte counters while it lives (database sessions last for hours), and a scrape reads them there.
//! When the session ends, they are added to the sums under the table's lock, so that no byte is counted twice or lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::{Counters, OwnCounters};
use super::entry::{DestinationCounters, SessionEntry};
use super::session_id::SessionId;
use crate::clock;
use crate::outcome::Outcome;
use crate::sync::{Mutex, MutexGuard};

/// A listener's sessions, live and ended.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    sessions: Mutex<LiveSessions>,
    own_counters: OwnCounters,
}

impl SessionTable {
    /// Sums since the start.
    #[must_use]
    pub(crate) fn counters(&self) -> Counters {
        let sessions = self.sessions();
        let (sent, received) = sessions.bytes();
        let live = sessions.live.len() as u64;
        self.own_counters.complete(Counters {
            sessions: live,
            accepted: sessions.accepted,
            sent,
            received,
            ..Counters::default()
        })
    }

    pub(super) const fn own_counters(&self) -> &OwnCounters {
        &self.own_counters
    }

    /// The number of a new route of this table: one more than the last.
    pub(super) fn number_route(&self) -> u32 {
        let mut sessions = self.sessions();
        sessions.routes += 1;
        sessions.routes
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, LiveSessions> {
        self.sessions.lock()
    }
}

#[derive(Debug, Default)]
pub(super) struct LiveSessions {
    pub(super) live: BTreeMap<SessionId, Arc<SessionEntry>>,
    /// Those of `live` that are being refused, and do not count against the cap.
    pub(super) refusing: u32,
    pub(super) accepted: u64,
    /// Bytes of ended sessions.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Every session that begins is stopped with this: the drain's deadline has passed.
    pub(super) stopped: Option<Outcome>,
    /// Until when no search for a silent client is made, as the last one found none.
    none_silent: Option<Instant>,
    /// Routes that had this table so far.
    pub(super) routes: u32,
}

/// Connections over the cap that may be sent a refusal at the same time; further ones are reset.
pub(super) const REFUSING_MAX: u32 = 64;

/// A client that is silent for less is about to send its opening: in a burst of connections all are silent at first.
const SILENT_MIN: Duration = Duration::from_secs(5);

/// Between two searches for a silent client: each goes through all sessions under the lock, which ending sessions wait
/// for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl LiveSessions {
    /// Bytes to and from the upstreams, live sessions included.
    fn bytes(&self) -> (u64, u64) {
        sum((self.sent, self.received), self.live.values())
    }

    /// Stops the session whose client has been silent for the longest, and for [`SILENT_MIN`] at least. False if there
    /// is none, or if [`REFUSING_MAX`] are being refused already.
    pub(super) fn make_room(&mut self) -> bool {
        let now = clock::now();
        if self.refusing >= REFUSING_MAX || self.none_silent.is_some_and(|until| now < until) {
            return false;
        }
        let silent = self.live.values().filter(|entry| entry.is_silent_for(SILENT_MIN, now));
        let Some(oldest) = silent.min_by_key(|entry| entry.silent_since()) else {
            self.none_silent = Some(now + LOOK_AGAIN);
            return false;
        };
        self.refusing += u32::from(oldest.live.give_up_room());
        oldest.live.stop(Outcome::ListenerFull);
        true
    }

    /// Bytes to and from the upstreams of live sessions, by the counters of their destination.
    pub(super) fn bytes_by_destination(&self) -> BTreeMap<*const DestinationCounters, (u64, u64)> {
        let mut sums = BTreeMap::new();
        for entry in self.live.values() {
            if let Some(counters) = entry.counters() {
                let (sent, received): &mut (u64, u64) = sums.entry(Arc::as_ptr(counters)).or_default();
                *sent += entry.live.sent();
                *received += entry.live.received();
            }
        }
        sums
    }
}

fn sum<'a>(ended: (u64, u64), live: impl Iterator<Item = &'a Arc<SessionEntry>>) -> (u64, u64) {
    live.fold(ended, |(sent, received), entry| (sent + entry.live.sent(), received + entry.live.received()))
}
