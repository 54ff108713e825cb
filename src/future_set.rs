//! A few futures that one task waits for together: each wake-up polls all of them.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The futures that have not ended yet; cancelled on drop.
pub(crate) struct FutureSet<'a, T>(Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>);

impl<'a, T> FutureSet<'a, T> {
    pub(crate) fn push(&mut self, future: impl Future<Output = T> + Send + 'a) {
        self.0.push(Box::pin(future));
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits for one to end; for ever if the set is empty.
    pub(crate) async fn next(&mut self) -> T {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for all to end.
    pub(crate) async fn all(&mut self) {
        while !self.0.is_empty() {
            drop(self.next().await);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        for index in 0..self.0.len() {
            if let Poll::Ready(output) = self.0[index].as_mut().poll(cx) {
                drop(self.0.swap_remove(index));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    }
}

impl<T> Default for FutureSet<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
