//! Work that may block for as long as a file system or a user database hangs: on a thread of its own, beside whoever wants
//! its result and goes on meanwhile.
//!
//! A file on a mount whose server is gone can be opened for hours. On the thread that serves, that would stop everything;
//! on the runtime's pool it would hold up the end of the process. So the thread is nobody's: it is not waited for, and ends
//! with the process at the latest. Lacks a way to stop such work, because there is none; whoever begins it keeps the
//! [`BlockingTask`], and begins no second before the first has ended.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::Builder;

use tokio::sync::oneshot;

/// One piece of work at a time.
#[derive(Debug)]
pub(crate) struct BlockingTask<T> {
    work: Option<oneshot::Receiver<T>>,
    /// Of work that has ended.
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
    /// Begins that work. What was begun before is forgotten; where it hangs, so does its thread.
    ///
    /// # Errors
    /// When there is no thread to be had: `EAGAIN`.
    pub(crate) fn begin(&mut self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<()> {
        let (result, receiver) = oneshot::channel();
        // Whoever wanted it may have given up.
        Builder::new().name("aside".into()).spawn(move || drop(result.send(work())))?;
        *self = Self { work: Some(receiver), result: None };
        Ok(())
    }

    /// Whether something was begun whose result nobody has taken.
    #[must_use]
    pub(crate) const fn is_busy(&self) -> bool {
        self.work.is_some() || self.result.is_some()
    }

    /// Whether what was begun has ended, so that [`BlockingTask::join`] returns at once; never, if that is nothing.
    pub(crate) fn poll_finished(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(work) = &mut self.work {
            let result = ready!(Pin::new(work).poll(cx));
            self.work = None;
            self.result = Some(result.map_err(|_| Panicked));
        }
        if self.result.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The result of what was begun; never, if that is nothing. Dropping the future loses nothing. No deadline here: the
    /// caller has one.
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
    use std::sync::mpsc;

    use super::*;
    use crate::{alarm, clock};

    #[tokio::test]
    async fn what_hangs_hangs_beside_and_its_result_is_taken_when_it_comes() {
        alarm::drive(async {
            let (release, released) = mpsc::channel::<u8>();
            let mut aside = BlockingTask::default();
            aside.begin(move || released.recv().unwrap()).unwrap();
            let short = std::time::Duration::from_millis(20);
            assert!(alarm::timeout_at(clock::now() + short, aside.join()).await.is_err(), "it hangs");
            assert!(aside.is_busy());
            release.send(7).unwrap();
            assert_eq!(aside.join().await, Ok(7));
            assert!(!aside.is_busy());
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let mut aside = BlockingTask::<()>::default();
        aside.begin(|| panic!("on purpose")).unwrap();
        assert_eq!(aside.join().await, Err(Panicked));
    }
}
