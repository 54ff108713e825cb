//! Work that may block for as long as a file system or a user database hangs: it runs on a thread of its own, and the
//! task that wants its result goes on meanwhile.
//!
//! On a mount whose server is gone an open(2) can take hours. On a serving thread that would stop everything; on the
//! runtime's pool it would hold up the end of the process. So it has a detached thread, which ends with the process at
//! the latest. Such work cannot be stopped, so an owner keeps its [`BlockingTask`] and begins nothing else before that work has
//! ended, or counts what it gives up: each has a thread for as long as it hangs.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::Builder;

use tokio::sync::oneshot;

use crate::sync::Mutex;

/// Work of many owners, done one piece after the other on one thread, which lives for as long as there is some. Where a thread for each
/// would cost more than the work, and two must not do theirs at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockingQueue(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    works: VecDeque<Box<dyn FnOnce() + Send>>,
    is_served: bool,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("works", &self.works.len()).finish_non_exhaustive()
    }
}

impl BlockingQueue {
    fn push(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let mut waiting = self.0.lock();
        if !waiting.is_served {
            let queue = self.clone();
            Builder::new().name("in-turn".into()).spawn(move || queue.serve())?;
            waiting.is_served = true;
        }
        waiting.works.push_back(work);
        Ok(())
    }

    fn serve(&self) {
        loop {
            let mut waiting = self.0.lock();
            let Some(work) = waiting.works.pop_front() else {
                waiting.is_served = false;
                return;
            };
            drop(waiting);
            // Its owner hears of a panic by the channel that it drops.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }
}

/// Runs one piece of work at a time.
#[derive(Debug)]
pub(crate) struct BlockingTask<T> {
    work: Option<oneshot::Receiver<T>>,
    /// The result of work that has ended.
    result: Option<Result<T, Panicked>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

impl<T> Default for BlockingTask<T> {
    fn default() -> Self {
        Self { work: None, result: None }
    }
}

impl<T: Send + 'static> BlockingTask<T> {
    /// Begins that work. The result of earlier work is dropped; if that hangs, so does its thread.
    ///
    /// # Errors
    /// When no thread can be started: `EAGAIN`.
    pub(crate) fn begin(&mut self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<()> {
        let (result, receiver) = oneshot::channel();
        // The receiver may have been dropped.
        Builder::new().name("aside".into()).spawn(move || drop(result.send(work())))?;
        *self = Self { work: Some(receiver), result: None };
        Ok(())
    }

    /// Begins several pieces of work on one thread, one after the other. A thread for each would cost more than the work, where it is
    /// to read a small file. Once a task is dropped, its work and all behind it is not begun any more.
    ///
    /// # Errors
    /// When no thread can be started: `EAGAIN`.
    pub(crate) fn begin_in_turn(
        works: impl IntoIterator<Item = impl FnOnce() -> T + Send + 'static>,
    ) -> io::Result<Vec<Self>> {
        let (queue, tasks): (Vec<_>, Vec<_>) = works
            .into_iter()
            .map(|work| {
                let (result, receiver) = oneshot::channel();
                ((work, result), Self { work: Some(receiver), result: None })
            })
            .unzip();
        Builder::new().name("aside".into()).spawn(move || {
            for (work, result) in queue {
                if result.is_closed() {
                    return;
                }
                // The receiver may have been dropped.
                drop(result.send(work()));
            }
        })?;
        Ok(tasks)
    }

    /// Begins that work when all that is before it in the queue has ended. The owners bound the queue: each has one piece in it.
    ///
    /// # Errors
    /// When no thread can be started: `EAGAIN`.
    pub(crate) fn begin_behind(
        &mut self,
        queue: &BlockingQueue,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<()> {
        let (result, receiver) = oneshot::channel();
        queue.push(Box::new(move || {
            // Nobody wants it any more.
            if !result.is_closed() {
                drop(result.send(work()));
            }
        }))?;
        *self = Self { work: Some(receiver), result: None };
        Ok(())
    }

    /// Whether work was begun whose result has not been taken.
    #[must_use]
    pub(crate) const fn is_busy(&self) -> bool {
        self.work.is_some() || self.result.is_some()
    }

    /// Ready when the work has ended, so that [`BlockingTask::join`] returns at once; never, if none was begun.
    pub(crate) fn poll_finished(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(work) = &mut self.work {
            let result = ready!(Pin::new(work).poll(cx));
            self.work = None;
            self.result = Some(result.map_err(|_| Panicked));
        }
        if self.result.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits for the result of the work; for ever, if none was begun. Dropping the future loses nothing. The caller
    /// sets the deadline.
    ///
    /// # Errors
    /// [`Panicked`].
    pub(crate) async fn join(&mut self) -> Result<T, Panicked> {
        poll_fn(|cx| {
            ready!(self.poll_finished(cx));
            self.result.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn what_hangs_hangs_beside_and_its_result_is_taken_when_it_comes() {
        let (release, released) = mpsc::channel::<u8>();
        let mut aside = BlockingTask::default();
        aside.begin(move || released.recv().unwrap()).unwrap();
        let mut now = Context::from_waker(Waker::noop());
        assert!(pin!(aside.join()).poll(&mut now).is_pending(), "it hangs");
        assert!(aside.is_busy());
        release.send(7).unwrap();
        assert_eq!(aside.join().await, Ok(7));
        assert!(!aside.is_busy());
    }

    #[tokio::test]
    async fn a_queue_does_one_piece_after_the_other_and_outlives_a_panic() {
        let queue = BlockingQueue::default();
        let (release, released) = mpsc::channel::<u8>();
        let mut tasks: [BlockingTask<u8>; 4] = Default::default();
        let [first, panics, dropped, last] = &mut tasks;
        first.begin_behind(&queue, move || released.recv().unwrap()).unwrap();
        panics.begin_behind(&queue, || panic!("it fails")).unwrap();
        dropped.begin_behind(&queue, || unreachable!("nobody wants it")).unwrap();
        last.begin_behind(&queue, || 2).unwrap();
        *dropped = BlockingTask::default();
        let mut now = Context::from_waker(Waker::noop());
        assert!(pin!(last.join()).poll(&mut now).is_pending(), "it waits for the first");
        release.send(1).unwrap();
        assert_eq!(
            (first.join().await, panics.join().await, last.join().await),
            (Ok(1), Err(Panicked), Ok(2))
        );
        // The thread may have ended meanwhile; then there is another one.
        first.begin_behind(&queue, || 3).unwrap();
        assert_eq!(first.join().await, Ok(3));
    }

    #[tokio::test]
    async fn what_is_behind_work_that_was_given_up_is_not_begun() {
        let (release, released) = mpsc::channel::<u8>();
        let (begun, beginnings) = mpsc::channel::<u8>();
        let mut released = Some(released);
        let works = (0..3).map(|number| {
            let (begun, released) = (begun.clone(), if number == 1 { released.take() } else { None });
            move || {
                begun.send(number).unwrap();
                released.map(|released| released.recv().unwrap());
                number
            }
        });
        let mut tasks = BlockingTask::begin_in_turn(works).unwrap();
        drop(begun);
        assert_eq!(tasks[0].join().await, Ok(0));
        tasks.truncate(2);
        release.send(0).unwrap();
        assert_eq!(tasks[1].join().await, Ok(1));
        assert_eq!(beginnings.iter().collect::<Vec<_>>(), [0, 1], "until the thread has ended");
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let mut aside = BlockingTask::<()>::default();
        aside.begin(|| panic!("on purpose")).unwrap();
        assert_eq!(aside.join().await, Err(Panicked));
    }
}
