//! The bounded queue of lines for the thread that writes them; adding to it never blocks.
//!
//! The thread sleeps between the first line and its write. It is woken for that one only: who adds a line while it
//! sleeps makes no system call.

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
/// How long a line waits for others that are written with it.
const GATHERING: Duration = Duration::from_millis(5);

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
        std::thread::Builder::new().name("log".into()).spawn(move || {
            write(sink, &taken, &waiting, || std::thread::sleep(GATHERING));
        })?;
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

/// Writes the queued lines until the queue is closed, as many at once as fit into one write. `gather` lets others join
/// a line for which the thread was woken.
fn write(mut sink: Sink, items: &Receiver<Item>, waiting: &AtomicUsize, gather: impl Fn()) {
    while let Ok(first) = items.recv() {
        if matches!(first, Item::Line(_)) {
            gather();
        }
        let mut next = Some(first);
        while let Some(item) = next.take() {
            next = match item {
                Item::Line(line) => {
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    sink.add(&line);
                    let next = items.try_recv().ok();
                    let is_last = match &next {
                        Some(Item::Line(line)) => !sink.has_room(line.len()),
                        Some(Item::Reopen(_) | Item::Flush(_)) | None => true,
                    };
                    if is_last {
                        sink.write();
                    }
                    next
                }
                // The caller may have timed out.
                Item::Reopen(done) => {
                    let _ = done.try_send(sink.reopen());
                    items.try_recv().ok()
                }
                Item::Flush(done) => {
                    let _ = done.try_send(());
                    items.try_recv().ok()
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::log::Output;

    /// Each line woke the writer, as it was written before the next came: with a line for each session, a wake-up, a
    /// switch of threads and a write(2) a session.
    #[test]
    fn lines_that_come_while_the_writer_gathers_wake_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (items, taken) = sync_channel(LINES_MAX);
        let waiting = Arc::<AtomicUsize>::default();
        let queue = LineQueue { items, waiting: Arc::clone(&waiting), kind: 3 };
        let gathered = Cell::new(0);
        queue.put((*b"0\n").into());
        let others = Cell::new(Some(queue));
        let gather = || {
            gathered.set(gathered.get() + 1);
            let queue = others.take().expect("it is woken once");
            (1..100).for_each(|line| queue.put(format!("{line}\n").into_bytes().into()));
        };
        write(Sink::open(&Output::File(path.clone())).unwrap(), &taken, &waiting, gather);
        let lines: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert_eq!((gathered.get(), std::fs::read_to_string(&path).unwrap()), (1, lines));
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
