//! Sessions that wait for room in a full cluster, or for one that is down to come back, where `limits.queue_timeout` lets them.
//!
//! Whoever is next is decided under the cluster's lock, after each decision that may have made room, and is called: one at a
//! time, so that room for one is told to one. Until that one has come, and while others wait, nobody passes. Each waits on a
//! channel of its own outside the lock; whoever gives up leaves, and passes a call on that came too late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::alarm;
use crate::caller::CallerKey;
use crate::clock;
use crate::policy::queue::{self, Queue, Ticket};
use crate::policy::retry;
use crate::policy::roster::Unavailable;

use super::dial::{Demand, Purpose};
use super::lease::Lease;
use super::{Cluster, Settings, State};

/// Why there is no lease.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoLease {
    /// At once, or at the end of a wait.
    Unavailable(Unavailable),
    /// That, and waiting did not help.
    Waited(Unavailable, NoRoom),
}

/// Why waiting did not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Time ran out.
    #[error("that did not change in the {0:.1?} that it waited (limits.queue_timeout)")]
    Late(Duration),
    /// There is no room to wait either.
    #[error("{0}")]
    Crowd(#[from] queue::Full),
}

/// What somebody who waits hears: to come, or why there is nothing to come for.
type Call = Result<(), Unavailable>;

/// Those who wait in one cluster.
#[derive(Debug)]
pub(super) struct Line {
    queue: Queue,
    calls: BTreeMap<Ticket, oneshot::Sender<Call>>,
    /// The one that room is kept for until it comes.
    called: Option<Ticket>,
    /// What the last one met.
    cap: Option<Unavailable>,
}

impl Line {
    pub(super) const fn new(settings: queue::Settings) -> Self {
        Self { queue: Queue::new(settings), calls: BTreeMap::new(), called: None, cap: None }
    }

    pub(super) const fn reconfigure(&mut self, settings: queue::Settings) {
        self.queue.reconfigure(settings);
    }

    pub(super) const fn len(&self) -> usize {
        self.queue.len()
    }

    /// What somebody else waits for, who comes first; `None` for the one that was called, and where nobody waits.
    pub(super) fn before(&self, ticket: Option<&Ticket>) -> Option<Unavailable> {
        let is_free = self.called.is_none() && self.queue.is_empty();
        let is_called = ticket.is_some() && self.called.as_ref() == ticket;
        self.cap.filter(|_| !is_free && !is_called)
    }

    /// One more waits, because of that.
    fn enter(
        &mut self,
        caller: CallerKey,
        most: Option<usize>,
        cap: Unavailable,
    ) -> Result<(Ticket, oneshot::Receiver<Call>), queue::Full> {
        let ticket = self.queue.enter(caller, most)?;
        let (sender, receiver) = oneshot::channel();
        self.calls.insert(ticket.clone(), sender);
        self.cap = Some(cap);
        Ok((ticket, receiver))
    }

    /// The one that was called found the room taken, because of that, and waits in front of all others. `None`: it was not the
    /// one that was called.
    fn wait_on(&mut self, ticket: &Ticket, cap: Unavailable) -> Option<oneshot::Receiver<Call>> {
        self.called.take_if(|called| called == ticket)?;
        self.queue.put_back(ticket);
        let (sender, receiver) = oneshot::channel();
        self.calls.insert(ticket.clone(), sender);
        self.cap = Some(cap);
        Some(receiver)
    }

    /// There is room for one.
    fn call_next(&mut self) {
        while self.called.is_none()
            && let Some(ticket) = self.queue.call_next()
        {
            let heard = self.calls.remove(&ticket).is_some_and(|call| call.send(Ok(())).is_ok());
            self.called = heard.then_some(ticket);
        }
    }

    /// There is nothing to wait for.
    fn dismiss(&mut self, why: Unavailable) {
        while let Some(ticket) = self.queue.call_next() {
            if let Some(call) = self.calls.remove(&ticket) {
                let _ = call.send(Err(why));
            }
        }
    }

    /// It has come, or will not come any more.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        if self.queue.leave(ticket) {
            self.calls.remove(ticket);
        } else if self.called.as_ref() == Some(ticket) {
            self.called = None;
        }
    }
}

impl State {
    /// Calls the next, if there is room.
    pub(super) fn call_next(&mut self) {
        if self.line.queue.is_empty() {
            return;
        }
        match self.roster.room() {
            Ok(()) => self.line.call_next(),
            Err(why) if why.may_pass() => {}
            Err(why) => self.line.dismiss(why),
        }
    }
}

impl Settings {
    /// Half of them of one caller, unless its listener says otherwise, so that nobody can fill it alone. Where callers are not
    /// told apart, there is nobody to keep a place for.
    pub(super) const fn queue(&self) -> queue::Settings {
        let max_waiting = self.limits.max_pending as usize;
        let max_per_caller = if self.takes_turns { max_waiting.div_ceil(2) } else { max_waiting };
        queue::Settings { max_waiting, max_per_caller }
    }
}

/// A place in the line; dropped, it is given up.
#[derive(Debug)]
struct Place<'a> {
    cluster: &'a Cluster,
    ticket: Ticket,
    call: oneshot::Receiver<Call>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.cluster.decide(|state| state.line.leave(&self.ticket));
        self.cluster.metrics.waiting.decrement(1);
    }
}

impl Cluster {
    /// How many sessions wait for room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().line.len()
    }

    /// The next endpoint to try, with room reserved on it. A session waits for room where it may.
    pub(super) async fn lease_in_turn(
        self: &Arc<Self>,
        demand: &Demand<'_>,
        plan: &mut retry::Plan,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Lease, NoLease> {
        match self.lease(demand, plan, None, purpose) {
            Err(cap)
                if purpose == Purpose::Session
                    && cap.may_pass()
                    && !self.settings.queue_timeout.is_zero() =>
            {
                // Boxed: few have to, and every dial would have room for it.
                Box::pin(self.wait_for_room(cap, demand, plan, deadline)).await
            }
            leased => leased.map_err(NoLease::Unavailable),
        }
    }

    async fn wait_for_room(
        self: &Arc<Self>,
        mut cap: Unavailable,
        demand: &Demand<'_>,
        plan: &mut retry::Plan,
        deadline: Instant,
    ) -> Result<Lease, NoLease> {
        let begun = clock::now();
        let until = deadline.min(begun + self.settings.queue_timeout);
        let caller = CallerKey::of(demand.caller, demand.from);
        let most = demand.max_queued.map(|most| most as usize);
        let mut place = self.enter(caller, most, cap).map_err(|crowd| NoLease::Waited(cap, crowd.into()))?;
        loop {
            match alarm::before(until, &mut place.call).await {
                // The room may be gone all the same, to a cancel: those ask nobody.
                Ok(Ok(Ok(()))) => match self.lease(demand, plan, Some(&place.ticket), Purpose::Session) {
                    Err(again) if again.may_pass() => {
                        if clock::now() >= until {
                            return Err(too_late(again, begun));
                        }
                        cap = again;
                        let call = self.decide(|state| state.line.wait_on(&place.ticket, cap));
                        place.call = call.expect("its call is its own until it has a lease or leaves");
                    }
                    leased => {
                        self.metrics.wait_duration.record(clock::now() - begun);
                        return leased.map_err(NoLease::Unavailable);
                    }
                },
                Ok(Ok(Err(why))) => return Err(NoLease::Unavailable(why)),
                // Nobody forgets a place that is held.
                Ok(Err(_)) | Err(alarm::Elapsed) => {
                    // It may be something else by now that is in the way.
                    let now = self.state().roster.room().err().unwrap_or(cap);
                    return Err(too_late(now, begun));
                }
            }
        }
    }

    fn enter(
        &self,
        caller: CallerKey,
        most: Option<usize>,
        cap: Unavailable,
    ) -> Result<Place<'_>, queue::Full> {
        let (ticket, call) = self.decide(|state| state.line.enter(caller, most, cap))?;
        self.metrics.waiting.increment(1);
        Ok(Place { cluster: self, ticket, call })
    }
}

fn too_late(cap: Unavailable, begun: Instant) -> NoLease {
    NoLease::Waited(cap, NoRoom::Late(clock::now() - begun))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker::Refused;
    use crate::policy::limits::Full;

    const CAP: Unavailable = Unavailable::Full(Full::Connections(1));

    fn line() -> Line {
        Line::new(queue::Settings { max_waiting: 10, max_per_caller: 5 })
    }

    fn enter(line: &mut Line, uid: u32) -> (Ticket, oneshot::Receiver<Call>) {
        line.enter(CallerKey::User(uid), None, CAP).expect("there is a place")
    }

    fn is_called((_, call): &mut (Ticket, oneshot::Receiver<Call>)) -> bool {
        call.try_recv() == Ok(Ok(()))
    }

    #[test]
    fn nobody_passes_those_who_wait_nor_the_one_who_was_called() {
        let mut line = line();
        assert_eq!(line.before(None), None);
        let mut one = enter(&mut line, 1);
        let mut two = enter(&mut line, 1);
        assert_eq!((line.before(None), line.before(Some(&one.0))), (Some(CAP), Some(CAP)));
        line.call_next();
        line.call_next();
        assert!(is_called(&mut one) && !is_called(&mut two), "room for one is told to one");
        assert_eq!((line.before(None), line.before(Some(&one.0))), (Some(CAP), None));
        assert_eq!(line.before(Some(&two.0)), Some(CAP));
        line.leave(&one.0);
        line.call_next();
        assert!(is_called(&mut two));
        assert_eq!((line.len(), line.before(None)), (0, Some(CAP)), "the room is kept until it comes");
        line.leave(&two.0);
        assert_eq!(line.before(None), None);
    }

    #[test]
    fn callers_are_called_in_turn() {
        let mut line = line();
        let mut all = [1, 1, 1, 2].map(|uid| enter(&mut line, uid));
        let mut order = Vec::new();
        for _ in 0..all.len() {
            line.call_next();
            let next = all.iter_mut().position(is_called).expect("one is called");
            line.leave(&all[next].0);
            order.push(next);
        }
        assert_eq!(order, [0, 3, 1, 2]);
    }

    #[test]
    fn whoever_gives_up_is_not_called_and_passes_a_call_on() {
        let mut line = line();
        let (mut one, mut two, mut three) = (enter(&mut line, 1), enter(&mut line, 1), enter(&mut line, 1));
        line.leave(&one.0);
        line.call_next();
        assert!(!is_called(&mut one) && is_called(&mut two));
        line.leave(&two.0);
        line.call_next();
        assert!(is_called(&mut three));
        line.leave(&three.0);
        assert!(line.queue.is_empty() && line.calls.is_empty() && line.called.is_none());
    }

    /// Scenario: a cancel, which asks nobody, took the room that a session of the queue had just been called for. The session
    /// went to the back of the queue.
    #[test]
    fn whoever_was_called_in_vain_keeps_its_place() {
        let mut line = line();
        let mut one = enter(&mut line, 1);
        let mut two = enter(&mut line, 2);
        line.call_next();
        assert!(is_called(&mut one));
        assert_eq!(line.before(None), Some(CAP), "nobody passes while it looks");
        one.1 = line.wait_on(&one.0, CAP).unwrap();
        assert!(line.wait_on(&two.0, CAP).is_none(), "nobody called it");
        line.call_next();
        assert!(is_called(&mut one) && !is_called(&mut two));
        line.leave(&one.0);
        line.call_next();
        assert!(is_called(&mut two));
    }

    #[test]
    fn all_hear_that_there_is_nothing_to_wait_for() {
        let mut line = line();
        let all = [1, 2, 2].map(|uid| enter(&mut line, uid));
        let why = Unavailable::Breaker(Refused);
        line.dismiss(why);
        for (ticket, mut call) in all {
            assert_eq!(call.try_recv(), Ok(Err(why)));
            line.leave(&ticket);
        }
        assert_eq!((line.len(), line.before(None)), (0, None));
    }
}
