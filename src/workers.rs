//! Worker threads, each with a runtime of its own.
//!
//! A session stays on the worker it began on, so the byte path shares nothing between threads: no work stealing, no
//! wake-ups across cores. New sessions go to the worker with the fewest. Nothing else runs here but accept loops.
//! Deadlines are in the worker's own [`Alarms`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::alarm::Alarms;

/// The workers that sessions run on. Dropping it ends their threads.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
    /// The threads end when this is dropped.
    _alive: watch::Sender<()>,
}

/// A handle to one worker: its runtime, and how many sessions it runs.
#[derive(Debug, Clone)]
pub struct Worker {
    handle: Handle,
    live: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` workers, at least one, with a thread each.
    ///
    /// # Errors
    /// When a thread or its reactor cannot be made.
    pub fn start(count: usize) -> io::Result<Self> {
        let (alive, _) = watch::channel(());
        let mut all = Vec::new();
        for index in 0..count.max(1) {
            let runtime = without_timers()?;
            all.push(Worker::on(runtime.handle().clone()));
            let alarms = {
                let _registering = runtime.enter();
                Alarms::new()?
            };
            let mut watched = alive.subscribe();
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                // An error means that the sender was dropped, which this waits for.
                let _ = runtime.block_on(alarms.drive(watched.changed()));
                // Blocking work must not hold up the end of the process.
                runtime.shutdown_background();
            })?;
        }
        Ok(Self { all, _alive: alive })
    }

    /// The worker that accepts: its own sessions begin without waking another thread.
    #[must_use]
    pub fn listening(&self) -> &Worker {
        &self.all[0]
    }

    /// Every worker, the listening one first.
    #[must_use]
    pub fn all(&self) -> &[Worker] {
        &self.all
    }

    /// The worker with the fewest live sessions.
    #[must_use]
    pub fn least_loaded(&self) -> &Worker {
        self.all
            .iter()
            .min_by_key(|worker| worker.live.load(Ordering::Relaxed))
            .expect("start makes at least one worker")
    }
}

impl Worker {
    fn on(handle: Handle) -> Self {
        Self { handle, live: Arc::default() }
    }

    /// The runtime that the worker's tasks are spawned on.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Counts one more session on this worker.
    #[must_use]
    pub fn load(&self) -> WorkerLoad {
        self.live.fetch_add(1, Ordering::Relaxed);
        WorkerLoad(Arc::clone(&self.live))
    }
}

/// Counts one session on a worker until it is dropped.
#[derive(Debug)]
pub struct WorkerLoad(Arc<AtomicUsize>);

impl Drop for WorkerLoad {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker's runtime. Its deadlines are in its [`Alarms`]; tokio's own timers would read the clock before and after
/// each epoll_wait, even if none is set.
fn without_timers() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().build()
}

/// A runtime for one thread that is not a worker.
///
/// # Errors
/// When the reactor cannot be made.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
