//! Draining: the tasks that run, the signal to stop accepting, and the wait for the rest.
//!
//! Every task of the program is spawned through [`Drain`], so that a shutdown can wait for all of them. A single
//! session is stopped through its `relay::LiveSession`: a relay must not poll a shared token for every byte it moves.

use std::future::Future;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alarm::{self, Elapsed};

/// The side that drains. Cheap to clone: clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A part of a drain that can be stopped alone, and stops with the drain.
#[derive(Debug, Clone)]
pub struct ChildDrain {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The side that is told that a drain has begun.
#[derive(Debug, Clone)]
pub struct DrainWatch(CancellationToken);

impl Drain {
    /// Runs a task on that worker; [`Drain::finished`] waits for it.
    pub fn spawn_on(&self, worker: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, worker);
    }

    /// Runs a task on the current worker.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Runs blocking work on a thread of its own; [`Drain::finished`] waits for it.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn_blocking(work)
    }

    /// The number of running tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// For a task that ends when the drain begins.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.stop.clone())
    }

    /// A child for tasks that can be stopped before the others.
    #[must_use]
    pub fn child(&self) -> ChildDrain {
        ChildDrain { tasks: TaskTracker::new(), stop: self.stop.child_token() }
    }

    /// Begins the drain: notifies every watch.
    pub fn begin(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits for every task.
    ///
    /// # Errors
    /// [`Elapsed`] when some still run at the deadline.
    pub async fn finished(&self, deadline: Instant) -> Result<(), Elapsed> {
        alarm::timeout_at(deadline, self.tasks.wait()).await
    }
}

impl ChildDrain {
    /// For a task that ends when this child or the drain is stopped.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.stop.clone())
    }

    /// Runs a task of this child on that worker; [`Drain::finished`] of `whole` waits for it too.
    pub fn spawn_on(&self, whole: &Drain, worker: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        whole.spawn_on(worker, self.tasks.track_future(task));
    }

    /// Stops this child alone.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether this child, or the drain, was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether no task of this child runs.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the tasks of this child, which was stopped.
    ///
    /// # Errors
    /// [`Elapsed`] when some still run at the deadline.
    pub async fn finished(&self, deadline: Instant) -> Result<(), Elapsed> {
        self.tasks.close();
        alarm::timeout_at(deadline, self.tasks.wait()).await
    }
}

impl DrainWatch {
    /// Returns once the drain has begun.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}
