//! Notifications to systemd, where it runs us (sd_notify(3)). They never block: one that cannot be sent is
//! dropped.

use std::os::fd::BorrowedFd;

use crate::clock;
use crate::sys::Supervisor;

pub(super) enum Notice<'a> {
    Ready,
    /// The configuration is being read again; [`Notice::Ready`] follows, whatever the result.
    Reloading,
    /// The shutdown has begun.
    Stopping,
    /// The process that has taken over.
    Succeeded(u32),
    /// The watchdog's keep-alive (`WATCHDOG=1`).
    Fed,
    /// What `systemctl status` shows.
    Status(&'a str),
}

pub(super) fn send(notice: &Notice<'_>) {
    let words = match notice {
        Notice::Ready => "READY=1\nSTATUS=ready".to_owned(),
        // In one message: Type=notify-reload accepts a READY=1 only after this time.
        Notice::Reloading => {
            format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", clock::monotonic_usec())
        }
        Notice::Stopping => "STOPPING=1".to_owned(),
        Notice::Succeeded(id) => format!("MAINPID={id}\nREADY=1\nSTATUS=ready"),
        Notice::Fed => "WATCHDOG=1".to_owned(),
        Notice::Status(status) => format!("STATUS={status}"),
    };
    send_with_descriptors(&words, &[]);
}

/// Sends a notification with descriptors. Returns whether systemd got it.
pub(super) fn send_with_descriptors(words: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
    let Some(address) = std::env::var("NOTIFY_SOCKET").ok().filter(|address| !address.is_empty()) else {
        return false;
    };
    Supervisor::at(&address)
        .and_then(|supervisor| supervisor.notify(words, descriptors))
        .inspect_err(|error| tracing::warn!(%error, "cannot notify systemd"))
        .is_ok()
}
