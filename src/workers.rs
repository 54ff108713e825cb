//! Worker threads, each with a runtime of its own.
//!
//! A session stays on the worker it began on, so the byte path shares nothing between threads: no work stealing, no
//! wake-ups across cores. Where a new session goes is decided by [`placement`]. Nothing else runs here but accept
//! loops. Deadlines are in the worker's own [`Alarms`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::alarm::Alarms;
use crate::policy::placement::{self, BusyShare};
use crate::sync::Mutex;

/// The workers that sessions run on. Dropping it ends their threads.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
    /// How busy each of them was lately.
    shares: Mutex<Vec<BusyShare>>,
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
        let shares = Mutex::new(vec![BusyShare::default(); all.len()]);
        Ok(Self { all, shares, _alive: alive })
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

    /// The worker for a session that was accepted at `now`.
    #[must_use]
    pub fn place(&self, now: Instant) -> &Worker {
        if self.all.len() == 1 {
            return &self.all[0];
        }
        let mut shares = self.shares.lock();
        let measured = self.all.iter().zip(shares.iter_mut()).map(|(worker, share)| {
            if share.is_due(now) {
                share.measure(worker.busy(), now);
            }
            placement::Load { sessions: worker.live.load(Ordering::Relaxed), busy: share.parts() }
        });
        placement::place(measured).map(|place| &self.all[place]).expect("start makes at least one worker")
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

    /// How long it has been busy in all. tokio measures it anyway, for each look at the sockets.
    fn busy(&self) -> Duration {
        // A runtime of one thread has one worker in tokio's sense.
        self.handle.metrics().worker_total_busy_duration(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Least loaded counted sessions alone, so that half of all new ones went to a worker that one bulky session kept
    /// busy all the time.
    #[test]
    fn a_busy_worker_is_avoided_although_it_has_the_fewest_sessions() {
        let workers = Workers::start(2).unwrap();
        let start = clock::now();
        let first = workers.place(start);
        assert!(std::ptr::eq(first, workers.listening()), "of equals the one that accepts");
        let before = first.busy();
        let window = 2 * placement::WINDOW;
        let done = first.handle().spawn(async move {
            let until = clock::now() + window;
            while clock::now() < until {}
        });
        let _resting = workers.all()[1].load();
        // tokio publishes what a worker did when it looks at the sockets again.
        let deadline = start + Duration::from_secs(10);
        while !(done.is_finished() && first.busy() - before >= placement::WINDOW) {
            assert!(clock::now() < deadline, "the worker's time is not measured");
            std::thread::yield_now();
        }
        assert!(std::ptr::eq(workers.place(start + window), &workers.all()[1]));
    }
}
