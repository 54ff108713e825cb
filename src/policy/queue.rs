//! The queue of sessions that wait for room. Callers take turns, and sessions of one caller are served in their order:
//! a caller with a thousand waiting sessions delays another's first one by one place.
//!
//! The queue has no clock: the waiting side measures its time, and a session that gives up leaves.

use std::collections::{BTreeMap, VecDeque};

use crate::caller::CallerKey;

/// How many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Sessions that may wait at once.
    pub max_waiting: usize,
    /// Per caller, unless the caller has a limit of its own.
    pub max_per_caller: usize,
}

/// The limit that leaves no room in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// The queue is full.
    #[error("{0} sessions wait already")]
    All(usize),
    /// The caller has reached the limit of each caller.
    #[error("this caller has its share of limits.max_pending waiting already ({0})")]
    Share(usize),
    /// The caller has reached its own limit.
    #[error("this caller has reached per_caller.max_queued ({0})")]
    Own(usize),
}

/// One session's place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueTicket {
    caller: CallerKey,
    number: u64,
}

/// The queue of one cluster.
#[derive(Debug)]
pub struct Queue {
    settings: Settings,
    /// The sessions of each caller that has any, in their order. No queue in it is empty.
    waiting: BTreeMap<CallerKey, VecDeque<u64>>,
    /// Each of those callers once, the next one first.
    turns: VecDeque<CallerKey>,
    length: usize,
    next_number: u64,
}

impl Queue {
    /// A queue in which no session waits.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, waiting: BTreeMap::new(), turns: VecDeque::new(), length: 0, next_number: 0 }
    }

    /// Replaces the settings. Sessions that wait already stay.
    pub const fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The number of waiting sessions.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether no session waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Enters a session, until [`Queue::call_next`] returns its ticket or [`Queue::leave`] takes it back. `own`: the
    /// caller's own limit, in place of the one in the settings.
    ///
    /// # Errors
    /// The limit that is reached; the caller's own, if several are.
    pub fn enter(&mut self, caller: CallerKey, own: Option<usize>) -> Result<QueueTicket, QueueFull> {
        let theirs = self.waiting.get(&caller).map_or(0, VecDeque::len);
        if let Some(most) = own.filter(|most| theirs >= *most) {
            return Err(QueueFull::Own(most));
        }
        let Settings { max_waiting, max_per_caller } = self.settings;
        if self.length >= max_waiting {
            return Err(QueueFull::All(max_waiting));
        }
        if own.is_none() && theirs >= max_per_caller {
            return Err(QueueFull::Share(max_per_caller));
        }
        if theirs == 0 {
            self.turns.push_back(caller.clone());
        }
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.entry(caller.clone()).or_default().push_back(number);
        self.length += 1;
        Ok(QueueTicket { caller, number })
    }

    /// There is room for one session: takes the next from the queue. Its caller's next one comes after all other
    /// callers.
    pub fn call_next(&mut self) -> Option<QueueTicket> {
        let caller = self.turns.pop_front()?;
        let theirs = self.waiting.get_mut(&caller)?;
        let number = theirs.pop_front()?;
        if theirs.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.turns.push_back(caller.clone());
        }
        self.length -= 1;
        Some(QueueTicket { caller, number })
    }

    /// Puts a session back in front: it was called, but the room had been taken.
    pub fn put_back(&mut self, ticket: &QueueTicket) {
        let QueueTicket { caller, number } = ticket;
        let theirs = self.waiting.entry(caller.clone()).or_default();
        theirs.push_front(*number);
        self.turns.retain(|other| other != caller);
        self.turns.push_front(caller.clone());
        self.length += 1;
    }

    /// Takes a session out. Returns false if it had been called already.
    pub fn leave(&mut self, ticket: &QueueTicket) -> bool {
        let Some(theirs) = self.waiting.get_mut(&ticket.caller) else { return false };
        // The numbers are ascending.
        let Ok(place) = theirs.binary_search(&ticket.number) else { return false };
        theirs.remove(place);
        if theirs.is_empty() {
            self.waiting.remove(&ticket.caller);
            self.turns.retain(|caller| *caller != ticket.caller);
        }
        self.length -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> CallerKey {
        CallerKey::User(uid)
    }

    fn queue(max_waiting: usize, max_per_caller: usize) -> Queue {
        Queue::new(Settings { max_waiting, max_per_caller })
    }

    /// The callers in the order of their turns, until the queue is empty.
    fn drained(queue: &mut Queue) -> Vec<CallerKey> {
        std::iter::from_fn(|| queue.call_next()).map(|ticket| ticket.caller).collect()
    }

    #[test]
    fn callers_take_turns_however_many_one_has() {
        let mut queue = queue(100, 100);
        for uid in [1, 1, 1, 1, 2, 3, 2] {
            queue.enter(user(uid), None).unwrap();
        }
        assert_eq!(drained(&mut queue), [1, 2, 3, 1, 2, 1, 1].map(user));
        assert!(queue.is_empty() && queue.waiting.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn one_callers_come_in_their_order() {
        let mut queue = queue(100, 100);
        let tickets = [(); 3].map(|()| queue.enter(user(1), None).unwrap());
        for ticket in tickets {
            assert_eq!(queue.call_next(), Some(ticket));
        }
    }

    #[test]
    fn both_limits_count_exactly() {
        let mut queue = queue(3, 2);
        let first = queue.enter(user(1), None).unwrap();
        queue.enter(user(1), None).unwrap();
        assert_eq!(queue.enter(user(1), None), Err(QueueFull::Share(2)));
        queue.enter(user(2), None).unwrap();
        assert_eq!(queue.enter(user(3), None), Err(QueueFull::All(3)));
        assert!(queue.leave(&first));
        queue.enter(user(3), None).unwrap();
    }

    #[test]
    fn a_limit_of_its_own_stands_for_a_callers_share() {
        let mut queue = queue(5, 2);
        for _ in 0..3 {
            queue.enter(user(1), Some(3)).unwrap();
        }
        assert_eq!(queue.enter(user(1), Some(3)), Err(QueueFull::Own(3)));
        assert_eq!(
            queue.enter(user(1), None),
            Err(QueueFull::Share(2)),
            "all that it has count, whatever let them in"
        );
        assert_eq!(queue.enter(user(2), Some(0)), Err(QueueFull::Own(0)), "nobody of its may wait");
        queue.enter(user(2), Some(1)).unwrap();
        queue.enter(user(3), Some(100)).unwrap();
        assert_eq!(queue.enter(user(3), Some(100)), Err(QueueFull::All(5)), "no more than all there are");
        assert_eq!(queue.enter(user(2), Some(1)), Err(QueueFull::Own(1)), "its own limit comes first");
    }

    #[test]
    fn who_has_left_is_not_called_and_costs_nobody_a_turn() {
        let mut queue = queue(100, 100);
        let one = queue.enter(user(1), None).unwrap();
        let two = queue.enter(user(2), None).unwrap();
        let other = queue.enter(user(2), None).unwrap();
        assert!(queue.leave(&one) && !queue.leave(&one));
        assert!(queue.leave(&two));
        assert_eq!(queue.call_next(), Some(other.clone()));
        assert!(!queue.leave(&other), "it has its room already");
        assert_eq!((queue.len(), queue.call_next()), (0, None));
    }

    #[test]
    fn who_was_called_in_vain_is_the_next_one_again() {
        let mut queue = queue(4, 100);
        for uid in [1, 1, 2, 3] {
            queue.enter(user(uid), None).unwrap();
        }
        let first = queue.call_next().unwrap();
        queue.enter(user(3), None).unwrap();
        queue.put_back(&first);
        assert_eq!(queue.len(), 5, "there is no limit to coming back");
        assert_eq!(queue.call_next(), Some(first));
        assert_eq!(drained(&mut queue), [2, 3, 1, 3].map(user));
        let only = queue.enter(user(1), None).unwrap();
        assert_eq!(queue.call_next(), Some(only.clone()));
        queue.put_back(&only);
        assert!(queue.leave(&only) && queue.is_empty() && queue.turns.is_empty());
    }

    /// Compares with a plain list of waiting sessions: none is lost, and between two turns of a caller with waiting
    /// sessions each other one has at most one.
    #[test]
    fn nobody_is_lost_and_nobody_overtaken_twice() {
        let mut rng = fastrand::Rng::with_seed(17);
        let (mut queue, mut model) = (queue(50, 20), Vec::new());
        let mut since: BTreeMap<CallerKey, Vec<CallerKey>> = BTreeMap::new();
        for _ in 0..50_000 {
            match rng.u8(..4) {
                0 | 1 => {
                    let caller = user(rng.u32(..5));
                    if let Ok(ticket) = queue.enter(caller.clone(), None) {
                        since.entry(caller).or_default();
                        model.push(ticket);
                    }
                }
                2 if !model.is_empty() => {
                    let ticket = model.swap_remove(rng.usize(..model.len()));
                    assert!(queue.leave(&ticket));
                    if !model.iter().any(|waits| waits.caller == ticket.caller) {
                        since.remove(&ticket.caller);
                    }
                }
                _ => {
                    let Some(ticket) = queue.call_next() else {
                        assert!(model.is_empty());
                        continue;
                    };
                    let place = model.iter().position(|waits| *waits == ticket).expect("it waits");
                    model.swap_remove(place);
                    let oldest = model
                        .iter()
                        .filter(|waits| waits.caller == ticket.caller)
                        .map(|waits| waits.number)
                        .min();
                    assert!(oldest.is_none_or(|oldest| oldest > ticket.number));
                    for (caller, others) in &mut since {
                        if *caller != ticket.caller {
                            assert!(
                                !others.contains(&ticket.caller),
                                "{caller:?} was overtaken twice by one caller"
                            );
                            others.push(ticket.caller.clone());
                        }
                    }
                    since.remove(&ticket.caller);
                    if oldest.is_some() {
                        since.insert(ticket.caller, Vec::new());
                    }
                }
            }
            assert_eq!(queue.len(), model.len());
        }
    }
}
