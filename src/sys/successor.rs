//! Another process of the same program that is to take over: started with our listening sockets, and heard of when it is
//! ready.
//!
//! Descriptors are inherited under the numbers that they have here. For the moment of the start they lose CLOEXEC; nothing
//! else in this program starts processes.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

/// Names the sockets that are passed: `NUMBER=ROLE`, with commas between.
pub(super) const SOCKETS: &str = "AMBASSADOR_SOCKETS";
/// Who passes them, by process id: for nobody else's children are they meant.
pub(super) const PREDECESSOR: &str = "AMBASSADOR_PREDECESSOR";
/// Where the successor says that it is ready.
const READY: &str = "AMBASSADOR_READY";

/// A process that was started to take our place.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    ready: std::fs::File,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub enum SuccessorError {
    /// It could not be started.
    #[error("cannot start {0}: {1}")]
    Start(PathBuf, io::Error),
    /// It ended before it was ready.
    #[error("it ended before it was ready: {0}")]
    Ended(ExitStatus),
    /// It takes too long.
    #[error("it was not ready within {0:?}, and was killed")]
    Late(Duration),
}

impl Successor {
    /// Starts the program that is at our path now, with our arguments. `sockets`: what is passed, each with its role.
    ///
    /// # Errors
    /// [`SuccessorError::Start`].
    pub fn start(sockets: &[(BorrowedFd<'_>, String)]) -> Result<Self, SuccessorError> {
        let program = program();
        Self::start_at(&program, sockets).map_err(|error| SuccessorError::Start(program, error))
    }

    fn start_at(program: &PathBuf, sockets: &[(BorrowedFd<'_>, String)]) -> io::Result<Self> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let list: Vec<_> = sockets.iter().map(|(fd, role)| format!("{}={role}", fd.as_raw_fd())).collect();
        let mut command = Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .env(SOCKETS, list.join(","))
            .env(PREDECESSOR, std::process::id().to_string())
            .env(READY, theirs.as_raw_fd().to_string())
            // Those of systemd are in the list.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES");
        let passed = || sockets.iter().map(|(fd, _)| *fd).chain([std::os::fd::AsFd::as_fd(&theirs)]);
        let begun = passed().try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()));
        let child = begun.map_err(io::Error::from).and_then(|()| command.spawn());
        for fd in passed() {
            let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        Ok(Self { child: child?, ready: ours.into() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready. Blocks.
    ///
    /// # Errors
    /// When it never will be; it is gone then.
    pub fn wait(mut self, patience: Duration) -> Result<(), SuccessorError> {
        let mut timeout =
            Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let heard = loop {
            match poll(&mut [PollFd::new(&self.ready, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => break ready > 0,
                // A signal for another thread; the whole time again is a fault on the safe side.
                Err(rustix::io::Errno::INTR) => timeout.tv_sec = timeout.tv_sec.min(60),
                Err(_) => break false,
            }
        };
        if heard && matches!(self.ready.read(&mut [0]), Ok(1)) {
            return Ok(());
        }
        if !heard {
            let _ = self.child.kill();
        }
        match self.child.wait() {
            Ok(status) if heard => Err(SuccessorError::Ended(status)),
            Ok(_) | Err(_) => Err(SuccessorError::Late(patience)),
        }
    }
}

/// Tells the predecessor, if there is one, that we are ready: from now on it drains. The second time there is nobody.
pub fn tell_predecessor(environment: &dyn Fn(&str) -> Option<String>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !is_succeeding(environment) || TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(number) = environment(READY).and_then(|number| number.parse::<i32>().ok()) else { return };
    // SAFETY: our predecessor left it open for us under that number, nothing else here knows of it, and this runs once.
    let mut ready = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(number) });
    // If it is gone by now, there is nobody to tell.
    let _ = ready.write_all(b"1");
}

/// Whether this process was started by one of its kind, to take its place.
#[must_use]
pub fn is_succeeding(environment: &dyn Fn(&str) -> Option<String>) -> bool {
    let predecessor = environment(PREDECESSOR).and_then(|pid| pid.parse::<i32>().ok());
    // It may have gone in the meantime; then a supervisor is our parent, and its sockets are ours all the same.
    predecessor.is_some_and(|pid| pid != i32::try_from(std::process::id()).unwrap_or(0))
}

/// The program at our path: a newer one, where it was replaced.
fn program() -> PathBuf {
    const DELETED: &str = " (deleted)";
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_else(|error| {
        debug_assert_ne!(error.kind(), ErrorKind::InvalidInput, "it is a link");
        std::env::args_os().next().unwrap_or_else(|| OsString::from("ambassador")).into()
    });
    match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(replaced) => PathBuf::from(replaced),
        None => path,
    }
}
