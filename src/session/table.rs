//! The sessions that live between a listener and its clusters, and what those that ended have left.
//!
//! A session owns its byte counters while it lives (database sessions last for hours); a scrape reads them
//! there, and they fold into the totals when it ends, under one lock, so that no byte is counted twice or
//! lost between the two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::counters::{Counters, OwnCounters};
use super::guard::SessionEntry;
use super::record::SessionId;
use super::route::REFUSING_MAX;
use crate::clock;
use crate::metrics::DestinationMetrics;
use crate::name::{ClusterName, ListenerName};
use crate::outcome::Outcome;
use crate::sync::{Mutex, MutexGuard};

/// The sessions between a listener and the clusters it leads to, and what those that ended have left.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    sessions: Mutex<LiveSessions>,
    own_counters: OwnCounters,
}

impl SessionTable {
    /// What it has seen since the start.
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

    /// One more route leads here; the greatest so far is its number.
    pub(super) fn number_route(&self) -> u32 {
        let mut sessions = self.sessions();
        sessions.routes += 1;
        sessions.routes
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, LiveSessions> {
        self.sessions.lock()
    }
}

/// What is recorded of the sessions between a listener and a cluster, whatever route they went by.
#[derive(Debug)]
pub(crate) struct DestinationCounters {
    pub(super) metrics: DestinationMetrics,
    /// Bytes of the sessions that have ended.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl DestinationCounters {
    /// Of that listener and cluster; there must be one only, for its counters to be right.
    #[must_use]
    pub(crate) fn of(listener: &ListenerName, cluster: &ClusterName) -> Arc<Self> {
        let metrics = DestinationMetrics::new(listener, cluster);
        Arc::new(Self { metrics, sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }
}

#[derive(Debug, Default)]
pub(super) struct LiveSessions {
    pub(super) live: BTreeMap<SessionId, Arc<SessionEntry>>,
    /// Those of `live` that are being refused, and take nobody's room.
    pub(super) refusing: u32,
    pub(super) accepted: u64,
    /// Bytes of the sessions that have ended.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Given to each session that begins from now on: the drain's deadline has passed.
    pub(super) stopped: Option<Outcome>,
    /// Until when nobody looks for a silent client, for there was none.
    none_silent: Option<Instant>,
    /// Routes that have led here so far.
    pub(super) routes: u32,
}

/// Whoever has been here for less is about to speak: in a burst of connections all are silent at first.
const SILENT_MIN: Duration = Duration::from_secs(5);

/// After so long it is worth to look again for one that is silent: a look goes through all sessions, while others wait to end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl LiveSessions {
    /// Bytes to and from the upstreams, those of live sessions included.
    fn bytes(&self) -> (u64, u64) {
        sum((self.sent, self.received), self.live.values())
    }

    /// Has the session end whose client has said nothing for the longest, and for [`SILENT_MIN`] at least. Whether there was one; while many are on their way out
    /// already nobody looks.
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

    /// The same of one tally.
    pub(super) fn bytes_of(&self, counters: &Arc<DestinationCounters>) -> (u64, u64) {
        let ended = (counters.sent.load(Ordering::Relaxed), counters.received.load(Ordering::Relaxed));
        sum(ended, self.live.values().filter(|entry| entry.counts_for(counters)))
    }
}

fn sum<'a>(ended: (u64, u64), live: impl Iterator<Item = &'a Arc<SessionEntry>>) -> (u64, u64) {
    live.fold(ended, |(sent, received), entry| (sent + entry.live.sent(), received + entry.live.received()))
}
