//! Work on what came that takes long: on a thread of its own, as the one that discovers also probes and answers scrapes.

use crate::blocking::BlockingTask;

/// What is shorter, in bytes, is read where it came.
pub(super) const SHORT: usize = 64 * 1024;

/// Does it on a thread of its own.
///
/// # Errors
/// There is no thread, or the work panicked; in words.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let mut task = BlockingTask::default();
    task.begin(work).map_err(|error| format!("no thread can be started: {error}"))?;
    task.join().await.map_err(|_| "ambassador itself failed while it read an answer".into())
}
