//! Sessions that wait for room in a full cluster, or for an endpoint to come back, for up to `limits.queue_timeout`.
//!
//! After each decision that may have made room, the next session is chosen under the cluster's lock and called. Only
//! one is called at a time, so that room for one session is offered to one. Until it has come, and while others wait,
//! no session passes the queue. Each session waits on its own channel outside the lock; one that gives up leaves, and
//! its call goes to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::alarm;
use crate::caller::CallerKey;
use crate::clock;
use crate::policy::cluster_state::Unavailable;
use crate::policy::queue::{self, Queue, QueueTicket};
use crate::policy::retry;

use super::lease::{Lease, LeaseRequest, Purpose};
use super::{Cluster, State};

/// Why there is no lease.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NoLease {
    /// At once, or at the end of a wait.
    Unavailable(Unavailable),
    /// The session waited, or could not wait, for the second reason.
    Waited(Unavailable, NoRoom),
}

/// Why waiting did not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoom {
    /// The wait timed out, after this long.
    #[error("that did not change in the {0:.1?} that it waited (limits.queue_timeout)")]
    Late(Duration),
    /// The queue is full too.
    #[error("{0}")]
    Crowd(#[from] queue::QueueFull),
}

/// Sent to a waiting session: to retry, or why waiting is pointless.
type Call = Result<(), Unavailable>;

/// The waiting sessions of one cluster.
#[derive(Debug)]
pub(super) struct WaitQueue {
    queue: Queue,
    calls: BTreeMap<QueueTicket, oneshot::Sender<Call>>,
    /// The called session; room is kept for it until it comes.
    called: Option<QueueTicket>,
    /// Why the last session had to wait.
    cap: Option<Unavailable>,
}

impl WaitQueue {
    pub(super) const fn new(settings: queue::Settings) -> Self {
        Self { queue: Queue::new(settings), calls: BTreeMap::new(), called: None, cap: None }
    }

    pub(super) const fn reconfigure(&mut self, settings: queue::Settings) {
        self.queue.reconfigure(settings);
    }

    pub(super) const fn len(&self) -> usize {
        self.queue.len()
    }

    /// Why a session must queue behind others; `None` for the called one, and if the queue is empty.
    pub(super) fn before(&self, ticket: Option<&QueueTicket>) -> Option<Unavailable> {
        let is_free = self.called.is_none() && self.queue.is_empty();
        let is_called = ticket.is_some() && self.called.as_ref() == ticket;
        self.cap.filter(|_| !is_free && !is_called)
    }

    /// Adds a waiting session. `most`: the caller's own maximum; `cap`: why it waits.
    fn enter(
        &mut self,
        caller: CallerKey,
        most: Option<usize>,
        cap: Unavailable,
    ) -> Result<(QueueTicket, oneshot::Receiver<Call>), queue::QueueFull> {
        let ticket = self.queue.enter(caller, most)?;
        let (sender, receiver) = oneshot::channel();
        self.calls.insert(ticket.clone(), sender);
        self.cap = Some(cap);
        Ok((ticket, receiver))
    }

    /// Puts the called session back to the front, because it found the room taken. `cap`: why. `None`: it was not
    /// called.
    fn wait_on(&mut self, ticket: &QueueTicket, cap: Unavailable) -> Option<oneshot::Receiver<Call>> {
        self.called.take_if(|called| called == ticket)?;
        self.queue.put_back(ticket);
        let (sender, receiver) = oneshot::channel();
        self.calls.insert(ticket.clone(), sender);
        self.cap = Some(cap);
        Some(receiver)
    }

    /// Calls the next session: there is room for one.
    fn call_next(&mut self) {
        while self.called.is_none()
            && let Some(ticket) = self.queue.call_next()
        {
            let heard = self.calls.remove(&ticket).is_some_and(|call| call.send(Ok(())).is_ok());
            self.called = heard.then_some(ticket);
        }
    }

    /// Sends all waiting sessions away: waiting is pointless.
    fn dismiss(&mut self, why: Unavailable) {
        while let Some(ticket) = self.queue.call_next() {
            if let Some(call) = self.calls.remove(&ticket) {
                let _ = call.send(Err(why));
            }
        }
    }

    /// Removes a session that has got a lease or gave up.
    pub(super) fn leave(&mut self, ticket: &QueueTicket) {
        if self.queue.leave(ticket) {
            self.calls.remove(ticket);
        } else if self.called.as_ref() == Some(ticket) {
            self.called = None;
        }
    }
}

impl State {
    /// Calls the next session if there is room.
    pub(super) fn call_next(&mut self) {
        if self.wait_queue.queue.is_empty() {
            return;
        }
        match self.cluster_state.room() {
            Ok(()) => self.wait_queue.call_next(),
            Err(why) if why.may_pass() => {}
            Err(why) => self.wait_queue.dismiss(why),
        }
    }
}

/// A place in the queue; given up on drop.
#[derive(Debug)]
struct QueueGuard<'a> {
    cluster: &'a Cluster,
    ticket: QueueTicket,
    call: oneshot::Receiver<Call>,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.cluster.decide(|state| state.wait_queue.leave(&self.ticket));
        self.cluster.metrics.waiting.decrement();
    }
}

impl Cluster {
    /// How many sessions wait for room.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.state().wait_queue.len()
    }

    /// The next endpoint to try, with room reserved on it. A session waits for room if configured.
    pub(crate) async fn lease_in_turn(
        self: &Arc<Self>,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        deadline: Instant,
    ) -> Result<Lease, NoLease> {
        match self.lease(request, plan, None) {
            Err(cap)
                if request.purpose == Purpose::Session
                    && cap.may_pass()
                    && !self.settings.queue_timeout.is_zero() =>
            {
                // Boxed: rarely needed, and it would enlarge every dial.
                Box::pin(self.wait_for_room(cap, request, plan, deadline)).await
            }
            leased => leased.map_err(NoLease::Unavailable),
        }
    }

    async fn wait_for_room(
        self: &Arc<Self>,
        mut cap: Unavailable,
        request: &LeaseRequest<'_>,
        plan: &mut retry::Plan,
        deadline: Instant,
    ) -> Result<Lease, NoLease> {
        let begun = clock::now();
        let until = deadline.min(begun + self.settings.queue_timeout);
        let caller = CallerKey::of(request.caller, request.from);
        let most = request.max_queued.map(|most| most as usize);
        let mut guard = self.enter(caller, most, cap).map_err(|crowd| NoLease::Waited(cap, crowd.into()))?;
        loop {
            match alarm::timeout_at(until, &mut guard.call).await {
                // A cancel may have taken the room: it bypasses the queue.
                Ok(Ok(Ok(()))) => match self.lease(request, plan, Some(&guard.ticket)) {
                    Err(again) if again.may_pass() => {
                        if clock::now() >= until {
                            return Err(too_late(again, begun));
                        }
                        cap = again;
                        let call = self.decide(|state| state.wait_queue.wait_on(&guard.ticket, cap));
                        guard.call = call.expect("its call is its own until it has a lease or leaves");
                    }
                    leased => {
                        self.metrics.wait_duration.record(clock::now() - begun);
                        return leased.map_err(NoLease::Unavailable);
                    }
                },
                Ok(Ok(Err(why))) => return Err(NoLease::Unavailable(why)),
                // The sender is not dropped while the place is held.
                Ok(Err(_)) | Err(alarm::Elapsed) => {
                    // The reason may have changed meanwhile.
                    let now = self.state().cluster_state.room().err().unwrap_or(cap);
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
    ) -> Result<QueueGuard<'_>, queue::QueueFull> {
        let (ticket, call) = self.decide(|state| state.wait_queue.enter(caller, most, cap))?;
        self.metrics.waiting.increment();
        Ok(QueueGuard { cluster: self, ticket, call })
    }
}

fn too_late(cap: Unavailable, begun: Instant) -> NoLease {
    NoLease::Waited(cap, NoRoom::Late(clock::now() - begun))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker::BreakerOpen;
    use crate::policy::limits::LimitReached;

    const CAP: Unavailable = Unavailable::Full(LimitReached::Connections(1));

    fn line() -> WaitQueue {
        WaitQueue::new(queue::Settings { max_waiting: 10, max_per_caller: 5 })
    }

    fn enter(wait_queue: &mut WaitQueue, uid: u32) -> (QueueTicket, oneshot::Receiver<Call>) {
        wait_queue.enter(CallerKey::User(uid), None, CAP).expect("there is a place")
    }

    fn is_called((_, call): &mut (QueueTicket, oneshot::Receiver<Call>)) -> bool {
        call.try_recv() == Ok(Ok(()))
    }

    #[test]
    fn nobody_passes_those_who_wait_nor_the_one_who_was_called() {
        let mut wait_queue = line();
        assert_eq!(wait_queue.before(None), None);
        let mut one = enter(&mut wait_queue, 1);
        let mut two = enter(&mut wait_queue, 1);
        assert_eq!((wait_queue.before(None), wait_queue.before(Some(&one.0))), (Some(CAP), Some(CAP)));
        wait_queue.call_next();
        wait_queue.call_next();
        assert!(is_called(&mut one) && !is_called(&mut two), "room for one is told to one");
        assert_eq!((wait_queue.before(None), wait_queue.before(Some(&one.0))), (Some(CAP), None));
        assert_eq!(wait_queue.before(Some(&two.0)), Some(CAP));
        wait_queue.leave(&one.0);
        wait_queue.call_next();
        assert!(is_called(&mut two));
        assert_eq!(
            (wait_queue.len(), wait_queue.before(None)),
            (0, Some(CAP)),
            "the room is kept until it comes"
        );
        wait_queue.leave(&two.0);
        assert_eq!(wait_queue.before(None), None);
    }

    #[test]
    fn callers_are_called_in_turn() {
        let mut wait_queue = line();
        let mut all = [1, 1, 1, 2].map(|uid| enter(&mut wait_queue, uid));
        let mut order = Vec::new();
        for _ in 0..all.len() {
            wait_queue.call_next();
            let next = all.iter_mut().position(is_called).expect("one is called");
            wait_queue.leave(&all[next].0);
            order.push(next);
        }
        assert_eq!(order, [0, 3, 1, 2]);
    }

    #[test]
    fn whoever_gives_up_is_not_called_and_passes_a_call_on() {
        let mut wait_queue = line();
        let (mut one, mut two, mut three) =
            (enter(&mut wait_queue, 1), enter(&mut wait_queue, 1), enter(&mut wait_queue, 1));
        wait_queue.leave(&one.0);
        wait_queue.call_next();
        assert!(!is_called(&mut one) && is_called(&mut two));
        wait_queue.leave(&two.0);
        wait_queue.call_next();
        assert!(is_called(&mut three));
        wait_queue.leave(&three.0);
        assert!(wait_queue.queue.is_empty() && wait_queue.calls.is_empty() && wait_queue.called.is_none());
    }

    /// Scenario: a cancel, which bypasses the queue, took the room that a session had just been called for. The session
    /// went to the back of the queue.
    #[test]
    fn whoever_was_called_in_vain_keeps_its_place() {
        let mut wait_queue = line();
        let mut one = enter(&mut wait_queue, 1);
        let mut two = enter(&mut wait_queue, 2);
        wait_queue.call_next();
        assert!(is_called(&mut one));
        assert_eq!(wait_queue.before(None), Some(CAP), "nobody passes while it looks");
        one.1 = wait_queue.wait_on(&one.0, CAP).unwrap();
        assert!(wait_queue.wait_on(&two.0, CAP).is_none(), "nobody called it");
        wait_queue.call_next();
        assert!(is_called(&mut one) && !is_called(&mut two));
        wait_queue.leave(&one.0);
        wait_queue.call_next();
        assert!(is_called(&mut two));
    }

    #[test]
    fn all_hear_that_there_is_nothing_to_wait_for() {
        let mut wait_queue = line();
        let all = [1, 2, 2].map(|uid| enter(&mut wait_queue, uid));
        let why = Unavailable::Breaker(BreakerOpen);
        wait_queue.dismiss(why);
        for (ticket, mut call) in all {
            assert_eq!(call.try_recv(), Ok(Err(why)));
            wait_queue.leave(&ticket);
        }
        assert_eq!((wait_queue.len(), wait_queue.before(None)), (0, None));
    }
}
