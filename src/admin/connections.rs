//! Limits the connections of an admin socket: how many there are at once, by owner, and which one is closed for a new
//! one.
//!
//! A silent connection never keeps a new one out: the longest silent one is closed, of the same owner where that has
//! reached its limit, else of the owner with the most silent ones. When none is silent, some connections remain that
//! answer only about health.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};

/// How many connections may be open at once.
const PLACES: usize = 56;
/// How many more that answer only /healthz and /readyz.
const KEPT: usize = 8;
/// How many of all these one owner may have.
const CALLER_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnectionOwner {
    /// A user of this host.
    User(u32),
    /// A peer outside of this host.
    Host(IpAddr),
    /// It cannot be determined.
    Unknown,
}

/// The connections of one admin socket.
#[derive(Debug, Default)]
pub(super) struct ConnectionTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Counts events, so that they can be ordered without a clock.
    now: u64,
    taken: BTreeMap<u64, OccupiedConnection>,
}

#[derive(Debug)]
struct OccupiedConnection {
    caller: ConnectionOwner,
    is_kept: bool,
    /// Since when there has been no request; `None`: one is under way.
    silent: Option<u64>,
    leave: Arc<Notify>,
}

/// A connection's entry in the table, until it is dropped or evicted.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    connections: Arc<ConnectionTable>,
    number: u64,
    leave: Arc<Notify>,
    /// Only health is answered here.
    pub(super) is_kept: bool,
}

/// Marks a request as under way, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard<'a>(&'a ConnectionGuard);

impl ConnectionTable {
    /// Admits a new connection; `None`: all others have requests under way.
    pub(super) fn admit(self: &Arc<Self>, caller: ConnectionOwner) -> Option<ConnectionGuard> {
        let mut table = self.table();
        if table.count(|taken| taken.caller == caller) >= CALLER_MAX
            && !table.dismiss(|taken| taken.caller == caller)
        {
            return None;
        }
        let is_kept = !table.make_room(PLACES, false);
        if is_kept && !table.make_room(KEPT, true) {
            return None;
        }
        table.now += 1;
        let (number, leave) = (table.now, Arc::<Notify>::default());
        let taken = OccupiedConnection { caller, is_kept, silent: Some(number), leave: Arc::clone(&leave) };
        table.taken.insert(number, taken);
        Some(ConnectionGuard { connections: Arc::clone(self), number, leave, is_kept })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }
}

impl Table {
    fn count(&self, is_meant: impl Fn(&OccupiedConnection) -> bool) -> usize {
        self.taken.values().filter(|taken| is_meant(taken)).count()
    }

    /// Whether one more of a kind fits, after evicting the longest silent one of the owner that has most if necessary.
    fn make_room(&mut self, most: usize, is_kept: bool) -> bool {
        if self.count(|taken| taken.is_kept == is_kept) < most {
            return true;
        }
        let mut silent = BTreeMap::<ConnectionOwner, usize>::new();
        for taken in self.taken.values().filter(|taken| taken.is_kept == is_kept && taken.silent.is_some()) {
            *silent.entry(taken.caller).or_default() += 1;
        }
        let greatest = silent.into_iter().max_by_key(|(_, count)| *count);
        greatest.is_some_and(|(caller, _)| {
            self.dismiss(|taken| taken.caller == caller && taken.is_kept == is_kept)
        })
    }

    /// Evicts the longest silent one of these. Returns whether there was one.
    fn dismiss(&mut self, is_meant: impl Fn(&OccupiedConnection) -> bool) -> bool {
        let meant = self.taken.iter().filter(|(_, taken)| is_meant(taken));
        let oldest = meant.filter_map(|(number, taken)| Some((taken.silent?, *number))).min();
        let taken = oldest.and_then(|(_, number)| self.taken.remove(&number));
        taken.inspect(|taken| taken.leave.notify_one()).is_some()
    }
}

impl ConnectionGuard {
    pub(super) fn begin_request(&self) -> RequestGuard<'_> {
        self.set_silent(false);
        RequestGuard(self)
    }

    /// Whether there has been no request yet.
    pub(super) fn is_new(&self) -> bool {
        let table = self.connections.table();
        table.taken.get(&self.number).is_some_and(|taken| taken.silent == Some(self.number))
    }

    /// Waits until it is evicted for another connection.
    pub(super) async fn evicted(&self) {
        self.leave.notified().await;
    }

    fn set_silent(&self, is_silent: bool) {
        let mut table = self.connections.table();
        table.now += 1;
        let now = table.now;
        if let Some(taken) = table.taken.get_mut(&self.number) {
            taken.silent = is_silent.then_some(now);
        }
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.0.set_silent(true);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.table().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Arc<ConnectionTable> {
        Arc::default()
    }

    fn is_dismissed(guard: &ConnectionGuard) -> bool {
        !guard.connections.table().taken.contains_key(&guard.number)
    }

    #[test]
    fn of_one_callers_silent_connections_the_oldest_makes_way() {
        let connections = connections();
        let mut mine: Vec<_> =
            (0..CALLER_MAX).map(|_| connections.admit(ConnectionOwner::User(1)).unwrap()).collect();
        let other = connections.admit(ConnectionOwner::User(2)).unwrap();
        // The oldest has had a request since; the next has one under way.
        drop(mine[0].begin_request());
        assert!(!mine[0].is_new() && mine[1].is_new());
        let (asking, rest) = mine.split_at_mut(2);
        let _asking = asking[1].begin_request();
        let newcomer = connections.admit(ConnectionOwner::User(1)).unwrap();
        assert!(is_dismissed(&rest[0]) && !is_dismissed(&asking[0]) && !is_dismissed(&asking[1]));
        assert!(!is_dismissed(&other) && !newcomer.is_kept);
    }

    #[test]
    fn a_full_house_of_silent_ones_makes_way_for_whoever_comes() {
        let connections = connections();
        let users = (0..).flat_map(|uid| [ConnectionOwner::User(uid); CALLER_MAX]);
        let house: Vec<_> = users.take(PLACES).map(|caller| connections.admit(caller).unwrap()).collect();
        let newcomer = connections.admit(ConnectionOwner::User(77)).unwrap();
        assert!(!newcomer.is_kept);
        assert_eq!(house.iter().filter(|guard| is_dismissed(guard)).count(), 1);
    }

    #[test]
    fn where_all_ask_there_are_places_left_for_health_and_no_more() {
        let connections = connections();
        let users = (0..).flat_map(|uid| [ConnectionOwner::User(uid); CALLER_MAX]);
        let house: Vec<_> = users.take(PLACES).map(|caller| connections.admit(caller).unwrap()).collect();
        let _asking: Vec<_> = house.iter().map(ConnectionGuard::begin_request).collect();
        let kept: Vec<_> = (0..KEPT).map(|_| connections.admit(ConnectionOwner::User(77)).unwrap()).collect();
        assert!(kept.iter().all(|guard| guard.is_kept));
        // Of those, too, silent ones are evicted.
        let another = connections.admit(ConnectionOwner::User(78)).unwrap();
        assert!(another.is_kept && is_dismissed(&kept[0]));
        let kept: Vec<_> = kept.into_iter().skip(1).chain([another]).collect();
        let _all: Vec<_> = kept.iter().map(ConnectionGuard::begin_request).collect();
        assert!(connections.admit(ConnectionOwner::User(79)).is_none());
        assert!(house.iter().chain(&kept).all(|guard| !is_dismissed(guard)));
    }
}
