//! The bounded queue of lines for the thread that writes them; adding to it never blocks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::LOST;
use super::output::Sink;

/// How many lines may wait.
const LINES_MAX: usize = 16 * 1024;
/// How many bytes may wait, in all lines together.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The sending end. Clones share one queue; when the last is dropped, all lines are written and the thread ends.
#[derive(Debug, Clone)]
pub(super) struct LineQueue {
    items: SyncSender<Item>,
    waiting: Arc<AtomicUsize>,
    kind: usize,
}

#[derive(Debug)]
enum Item {
    Line(Box<[u8]>),
    Reopen(SyncSender<io::Result<()>>),
    Flush(SyncSender<()>),
}

impl LineQueue {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn begin(sink: Sink) -> io::Result<Self> {
        let (items, taken) = sync_channel(LINES_MAX);
        let waiting = Arc::<AtomicUsize>::default();
        let queue = Self { items, waiting: Arc::clone(&waiting), kind: sink.kind() };
        std::thread::Builder::new().name("log".into()).spawn(move || write(sink, &taken, &waiting))?;
        Ok(queue)
    }

    /// A line that does not fit is lost and counted.
    pub(super) fn put(&self, line: Box<[u8]>) {
        let size = line.len();
        let fits = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= BYTES_MAX;
        if !(fits && self.items.try_send(Item::Line(line)).is_ok()) {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            LOST[self.kind].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the output opened again, after the lines that are queued.
    ///
    /// # Errors
    /// When it cannot be opened, and [`io::ErrorKind::TimedOut`] when that takes too long: its reader, or the disk,
    /// hangs.
    pub(super) fn reopen(&self, patience: Duration) -> io::Result<()> {
        let (done, is_done) = sync_channel(1);
        if self.items.try_send(Item::Reopen(done)).is_err() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        is_done.recv_timeout(patience).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(io::ErrorKind::TimedOut.into()),
            RecvTimeoutError::Disconnected => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    /// Waits until all queued lines are written, or lost, without a time limit.
    pub(super) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.items.send(Item::Flush(done)).is_ok() {
            let _ = is_done.recv();
        }
    }
}

/// Writes as many of the queued lines at once as fit into one write.
fn write(mut sink: Sink, items: &Receiver<Item>, waiting: &AtomicUsize) {
    let mut next = items.recv().ok();
    while let Some(item) = next.take() {
        match item {
            Item::Line(line) => {
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
                sink.add(&line);
                next = items.try_recv().ok();
                let is_last = match &next {
                    Some(Item::Line(line)) => !sink.has_room(line.len()),
                    Some(Item::Reopen(_) | Item::Flush(_)) | None => true,
                };
                if is_last {
                    sink.write();
                }
            }
            // The caller may have timed out.
            Item::Reopen(done) => drop(done.try_send(sink.reopen())),
            Item::Flush(done) => drop(done.try_send(())),
        }
        next = next.or_else(|| items.recv().ok());
    }
}
