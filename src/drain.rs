//! Stopping: who runs, who is told to stop accepting, and waiting for the rest.
//!
//! Every task of the program is spawned through [`Drain`], so that a stop can wait for all of them. The
//! order to a single session goes through its `relay::Live`, not through here: a relay must not poll a
//! shared token for every byte it moves.

use std::future::Future;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alarm::{self, Elapsed};

/// The side that stops. Cheap to clone: clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A part of a drain that can be stopped alone, and stops with the whole.
#[derive(Debug, Clone)]
pub struct Branch {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The side that is stopped.
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

    /// Runs what blocks on a thread of its own; [`Drain::finished`] waits for it.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn_blocking(work)
    }

    /// How many tasks run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// For a task that ends when the drain begins.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.stop.clone())
    }

    /// For tasks that can be told to end before the others.
    #[must_use]
    pub fn branch(&self) -> Branch {
        Branch { tasks: TaskTracker::new(), stop: self.stop.child_token() }
    }

    /// Tells every watch.
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

impl Branch {
    /// For a task that ends when this part is stopped, or the whole.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.stop.clone())
    }

    /// Runs a task of this part on that worker of the whole, which waits for it too.
    pub fn spawn_on(&self, whole: &Drain, worker: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        whole.spawn_on(worker, self.tasks.track_future(task));
    }

    /// Tells this part alone.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it was told.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether no task of this part runs.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the tasks of this part, which was stopped.
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
