//! Waits for deadlines: one kernel timer per thread, and the thread's deadlines in order.
//!
//! There are many deadlines and almost none passes, so setting and dropping one is cheap: the kernel's timer is set
//! only for a deadline that is earlier than its present one, and a timer that fires for a dropped deadline is set to
//! the next. The runtime's own timers are not used (docs/DECISIONS.md, "Runtime").

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use pin_project_lite::pin_project;
use tokio::task::{coop, yield_now};

use crate::clock;
use crate::sys::Timer;

/// Wakes a task at a deadline. The task has to check the clock, as the alarm may have been set to an earlier deadline
/// before. Dropping it cancels it. It stays on the thread it was set on, as a session does.
#[derive(Debug, Default)]
pub struct Alarm(Option<Key>);

/// Orders alarms by deadline; the number tells those with the same deadline apart.
type Key = (Instant, u64);

/// The alarms of one thread.
#[derive(Debug)]
pub struct Alarms {
    timer: Timer,
    /// The deadline that the timer is set to, until it fires.
    ringing: Option<Instant>,
    due: BTreeMap<Key, Waker>,
    numbered: u64,
}

thread_local! {
    static ALARMS: RefCell<Option<Alarms>> = const { RefCell::new(None) };
}

/// The deadline passed before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// [`Alarms::drive`] with new alarms.
///
/// # Errors
/// When no timer can be made.
pub async fn drive<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(Alarms::new()?.drive(future).await)
}

/// Waits for `duration`. Zero yields once to the other tasks of the thread, so that a loop which keeps finding
/// something overdue does not block them.
pub async fn sleep(duration: Duration) {
    if duration.is_zero() {
        yield_now().await;
    } else {
        let _ = timeout_at(clock::now() + duration, pending::<()>()).await;
    }
}

/// Waits until `moment`; for ever if that is `None`. A moment that has passed yields once to the other tasks of the
/// thread, so that a loop around it does not block them.
pub async fn sleep_until(moment: Option<Instant>) {
    match moment {
        None => pending().await,
        Some(moment) if moment <= clock::now() => yield_now().await,
        Some(moment) => {
            let _ = timeout_at(moment, pending::<()>()).await;
        }
    }
}

/// The moment nearest to `moment`, at most half of `grain` away, of those that all waits with this `grain` share. Waits
/// that need not be exact end together so: the thread wakes once for all of them.
#[must_use]
pub fn coalesced(moment: Instant, grain: Duration) -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(clock::now);
    nearest(epoch, moment, grain)
}

fn nearest(epoch: Instant, moment: Instant, grain: Duration) -> Instant {
    let past = moment.saturating_duration_since(epoch).as_nanos() % grain.as_nanos().max(1);
    let past = Duration::from_nanos(u64::try_from(past).unwrap_or_default());
    if past <= grain / 2 { moment - past } else { moment + (grain - past) }
}

pin_project! {
    /// The future of [`timeout_at`]. It stores `future` once; an `async fn` would store it twice.
    struct TimeoutAt<F> {
        #[pin]
        future: F,
        deadline: Instant,
        alarm: Alarm,
    }
}

/// Bounds `future` by an absolute deadline.
///
/// # Errors
/// [`Elapsed`] when the deadline passed first; the future is dropped, which cancels it.
pub fn timeout_at<F: Future>(
    deadline: Instant,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    TimeoutAt { future, deadline, alarm: Alarm::default() }
}

impl<F: Future> Future for TimeoutAt<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let bounded = self.project();
        if let Poll::Ready(output) = bounded.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let now = clock::now();
        if *bounded.deadline <= now {
            // As in the runtime's own timers, a task whose deadlines have all passed has to yield now and then.
            return coop::poll_proceed(cx).map(|turn| {
                turn.made_progress();
                Err(Elapsed)
            });
        }
        bounded.alarm.set(now, *bounded.deadline, cx.waker());
        Poll::Pending
    }
}

impl Alarm {
    /// Wakes the task at `due`, or earlier if it was set to an earlier deadline that has not passed.
    ///
    /// # Panics
    /// On a thread that does not [`drive`]: there it would never fire.
    pub fn set(&mut self, now: Instant, due: Instant, waker: &Waker) {
        let replaced = with_alarms(|alarms| {
            let alarms = alarms.expect("this thread attends to alarms");
            if let Some(key) = self.0.filter(|key| (now..=due).contains(&key.0))
                && let Some(sleeper) = alarms.due.get_mut(&key)
            {
                return (!sleeper.will_wake(waker)).then(|| std::mem::replace(sleeper, waker.clone()));
            }
            let replaced = self.0.and_then(|key| alarms.due.remove(&key));
            self.0 = Some(alarms.insert(now, due, waker.clone()));
            replaced
        });
        drop(replaced);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            let forgotten = with_alarms(|alarms| alarms.and_then(|alarms| alarms.due.remove(&key)));
            drop(forgotten);
        }
    }
}

impl Alarms {
    /// Alarms with a timer that is registered with the current runtime.
    ///
    /// # Errors
    /// When no timer can be made: `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: Timer::new()?, ringing: None, due: BTreeMap::new(), numbered: 0 })
    }

    /// Runs `future` on this thread, together with the alarms that it and every other task of the thread set. A thread
    /// that waits for deadlines has to run in this. The future is polled when it was woken, not for each alarm.
    ///
    /// # Panics
    /// Inside another `drive` on the same thread.
    pub async fn drive<F: Future>(self, future: F) -> F::Output {
        let _attending = DriveGuard::begin(self);
        let ringing = poll_fn(|cx| {
            poll_ring(cx);
            Poll::Pending
        });
        let mut both = FuturesUnordered::new();
        both.push(Either::Left(future));
        both.push(Either::Right(ringing));
        both.next().await.expect("the alarms ring for ever")
    }

    fn insert(&mut self, now: Instant, due: Instant, waker: Waker) -> Key {
        self.numbered += 1;
        let key = (due, self.numbered);
        self.due.insert(key, waker);
        if self.ringing.is_none_or(|ringing| due < ringing) {
            self.ring_at(now, due);
        }
        key
    }

    fn ring_at(&mut self, now: Instant, at: Instant) {
        self.timer.set(at.saturating_duration_since(now));
        self.ringing = Some(at);
    }

    /// Removes the alarms that are due, and sets the timer to the next.
    fn rung(&mut self, now: Instant) -> BTreeMap<Key, Waker> {
        let later = self.due.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.due, later);
        self.ringing = None;
        if let Some((next, _)) = self.due.first_key_value().map(|(key, _)| *key) {
            self.ring_at(now, next);
        }
        due
    }
}

/// Wakes the tasks whose alarms are due.
fn poll_ring(cx: &mut Context<'_>) {
    let poll_due = |cx: &mut Context<'_>| {
        with_alarms(|alarms| {
            let alarms = alarms.expect("they are there while they are attended to");
            alarms.timer.poll_rung(cx).map_ok(|()| alarms.rung(clock::now()))
        })
    };
    // An error only comes from a reactor that is shutting down.
    while let Poll::Ready(Ok(due)) = poll_due(cx) {
        due.into_values().for_each(Waker::wake);
    }
}

/// Wakers must be dropped outside of `then`: a waker may drop its task, and that its alarms.
fn with_alarms<T>(then: impl FnOnce(Option<&mut Alarms>) -> T) -> T {
    ALARMS.with_borrow_mut(|alarms| then(alarms.as_mut()))
}

/// Keeps this thread's alarms in place until it is dropped.
struct DriveGuard;

impl DriveGuard {
    fn begin(alarms: Alarms) -> Self {
        ALARMS.with_borrow_mut(|place| {
            assert!(place.is_none(), "a thread attends to its alarms once");
            *place = Some(alarms);
        });
        Self
    }
}

impl Drop for DriveGuard {
    fn drop(&mut self) {
        // Alarms that are left do not fire: their tasks are about to be dropped.
        let left = ALARMS.take();
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(600);

    fn set_on_this_thread() -> (usize, Option<Instant>) {
        with_alarms(|alarms| {
            let alarms = alarms.unwrap();
            (alarms.due.len(), alarms.ringing)
        })
    }

    #[tokio::test]
    async fn a_deadline_ends_what_is_late_and_nothing_else() {
        drive(async {
            let begun = clock::now();
            assert_eq!(timeout_at(begun + LONG, async { 7 }).await, Ok(7));
            assert_eq!(timeout_at(begun + SHORT, pending::<()>()).await, Err(Elapsed));
            assert!((SHORT..SHORT * 20).contains(&(clock::now() - begun)), "{:?}", clock::now() - begun);
            assert_eq!(timeout_at(begun, pending::<()>()).await, Err(Elapsed), "a deadline that has passed");
            assert_eq!(set_on_this_thread().0, 0, "what is over is forgotten");
        })
        .await
        .unwrap();
    }

    /// A cluster with more names than may be queried at once found one of them overdue at every turn: its sleep of
    /// zero returned at once, so nothing else on the main thread ever ran again, the answers included.
    #[tokio::test]
    async fn a_loop_whose_waits_are_all_over_lets_others_have_their_turn() {
        let past = clock::now();
        let sleeping: fn() -> Pin<Box<dyn Future<Output = ()>>> = || Box::pin(sleep(Duration::ZERO));
        let bounded: fn() -> Pin<Box<dyn Future<Output = ()>>> = || {
            Box::pin(async {
                let _ = timeout_at(clock::now(), pending::<()>()).await;
            })
        };
        for wait in [sleeping, bounded] {
            let local = tokio::task::LocalSet::new();
            let other = local.spawn_local(async {});
            let mut turns = 0_u32;
            let looping = drive(async {
                while !other.is_finished() {
                    wait().await;
                    turns += 1;
                    assert!(turns < 10_000, "nobody else had a turn since {past:?}");
                }
            });
            local.run_until(looping).await.unwrap();
        }
    }

    /// The daemon's own future was polled, with its signals and channels, for each deadline of any task on its thread:
    /// six of a hundred instructions of a probe.
    #[tokio::test]
    async fn an_alarm_of_another_task_does_not_poll_the_future() {
        let local = tokio::task::LocalSet::new();
        let other = local.spawn_local(async {
            for _ in 0..10 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let (mut other, mut polls) = (std::pin::pin!(other), 0);
        let waiting = poll_fn(|cx| {
            polls += 1;
            other.as_mut().poll(cx)
        });
        local.run_until(drive(waiting)).await.unwrap().unwrap();
        assert_eq!(polls, 2, "once at the start, and once woken");
    }

    #[test]
    fn waits_that_need_not_be_exact_end_together() {
        let (epoch, grain) = (clock::now(), Duration::from_millis(10));
        let ends = |micros: u64| nearest(epoch, epoch + Duration::from_micros(micros), grain) - epoch;
        let rounded: Vec<_> = [0, 4_999, 5_001, 14_000, 29_999].map(|at| ends(at).as_millis()).into();
        assert_eq!(rounded, [0, 0, 10, 10, 30]);
    }

    #[tokio::test]
    async fn many_ring_each_in_its_time() {
        drive(async {
            let begun = clock::now();
            let slept = async |times: u32| {
                sleep(SHORT * times).await;
                clock::now() - begun >= SHORT * times
            };
            assert_eq!(tokio::join!(slept(3), slept(1), slept(2), slept(1)), (true, true, true, true));
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn the_kernel_hears_only_of_an_earlier_deadline() {
        drive(async {
            let (now, nobody) = (clock::now(), Waker::noop());
            let (mut first, mut later, mut earlier) = (Alarm::default(), Alarm::default(), Alarm::default());
            first.set(now, now + LONG, nobody);
            later.set(now, now + 2 * LONG, nobody);
            assert_eq!(set_on_this_thread(), (2, Some(now + LONG)));
            earlier.set(now, now + LONG / 2, nobody);
            assert_eq!(set_on_this_thread(), (3, Some(now + LONG / 2)));
            drop((first, earlier));
            assert_eq!(set_on_this_thread(), (1, Some(now + LONG / 2)), "a vain ring costs less than a call");
            later.set(now, now + 3 * LONG, nobody);
            assert_eq!(set_on_this_thread().0, 1, "it rings earlier, and is set again then");
            later.set(now, now + SHORT, nobody);
            assert_eq!(set_on_this_thread(), (1, Some(now + SHORT)), "but never later");
        })
        .await
        .unwrap();
    }
}
