//! A timer as a descriptor among the others (timerfd).
//!
//! The runtime's own timers become the timeout of each epoll_wait, for which the kernel arms and disarms a timer every
//! time; this one is armed only when it is set.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::register;

/// One timer, registered with the current worker's reactor.
#[derive(Debug)]
pub(crate) struct Timer {
    io: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// What timerfd_create(2) returns: `EMFILE`, `ENFILE`.
    pub(crate) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { io: register(timer, Interest::READABLE)? })
    }

    /// Sets it to fire once, after that long, in place of what it was set to before.
    pub(crate) fn set(&self, after: Duration) {
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm it.
        let after = Timespec::try_from(after.max(Duration::from_nanos(1)));
        let Ok(it_value) = after else { return };
        // Fails only for an invalid descriptor or time.
        let _ = timerfd_settime(
            self.io.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: once, it_value },
        );
    }

    /// Ready each time it has fired.
    pub(crate) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is not read: setting it again resets it, and it raises a new edge when it fires again.
        ready!(self.io.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}
