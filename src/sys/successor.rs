//! The successor: a process of the same program that takes over. It is started with our listening sockets, and reports
//! when it is ready.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::launcher::{Launcher, LauncherReply, PREDECESSOR, READY};

/// A process that was started to take our place.
#[derive(Debug)]
pub(crate) struct Successor {
    launcher: Arc<Launcher>,
    /// The launcher's number of its start.
    order: u32,
    id: u32,
    ready: std::fs::File,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuccessorError {
    /// It could not be started.
    #[error("cannot start it: {0}")]
    Start(#[from] io::Error),
    /// It ended before it was ready.
    #[error("it ended before it was ready: {0}")]
    Ended(ExitStatus),
    /// It was not ready in time.
    #[error("it was not ready within {0:?}, and was killed")]
    Late(Duration),
}

impl Successor {
    /// Starts the program that is at our path now, with our arguments. `sockets`: what is passed, each with its role.
    ///
    /// # Errors
    /// [`SuccessorError::Start`].
    pub(crate) fn start(
        launcher: &Arc<Launcher>,
        sockets: &[(BorrowedFd<'_>, String)],
    ) -> Result<Self, SuccessorError> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let (order, id) = launcher.start(sockets, theirs.as_fd())?;
        Ok(Self { launcher: Arc::clone(launcher), order, id, ready: ours.into() })
    }

    #[must_use]
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Waits until it is ready. Blocks.
    ///
    /// # Errors
    /// When it will not be; it has been killed then.
    pub(crate) fn wait(mut self, patience: Duration) -> Result<(), SuccessorError> {
        let mut timeout =
            Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let is_ready = loop {
            match poll(&mut [PollFd::new(&self.ready, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => break ready > 0,
                // After an interruption the wait starts again, with at most 60 s.
                Err(rustix::io::Errno::INTR) => timeout.tv_sec = timeout.tv_sec.min(60),
                Err(_) => break false,
            }
        };
        if is_ready && matches!(self.ready.read(&mut [0]), Ok(1)) {
            return Ok(());
        }
        // If its end of the pipe is closed, it has ended or can never report.
        self.launcher.kill();
        match self.launcher.answer(self.order) {
            Ok(LauncherReply::Ended(status)) if is_ready => {
                Err(SuccessorError::Ended(ExitStatus::from_raw(status)))
            }
            Ok(_) => Err(SuccessorError::Late(patience)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reports to the predecessor, if there is one, that we are ready: from now on it drains. A second call does nothing.
pub(crate) fn report_ready(environment: &dyn Fn(&str) -> Option<String>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !is_succeeding(environment) || TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(number) = environment(READY).and_then(|number| number.parse::<i32>().ok()) else { return };
    // SAFETY: our predecessor passed it to us under that number, nothing else here uses it, and this runs once.
    let mut ready = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(number) });
    // An error means that the predecessor is gone.
    let _ = ready.write_all(b"1");
}

/// Whether this process was started as a successor.
#[must_use]
pub(crate) fn is_succeeding(environment: &dyn Fn(&str) -> Option<String>) -> bool {
    let predecessor = environment(PREDECESSOR).and_then(|pid| pid.parse::<i32>().ok());
    // The predecessor may have ended meanwhile, so our parent is not checked: its sockets are ours all the same.
    predecessor.is_some_and(|pid| pid != i32::try_from(std::process::id()).unwrap_or(0))
}
