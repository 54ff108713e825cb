//! What systemd is told, where there is one (sd_notify(3)). It never holds us up: who does not read is not told.

use std::os::fd::BorrowedFd;

use crate::clock;
use crate::sys::Supervisor;

pub(super) enum Notice<'a> {
    /// Every listener accepts.
    Ready,
    /// The configuration is read again; [`Notice::Ready`] follows, whatever comes of it.
    Reloading,
    /// On the way down.
    Stopping,
    /// Another process goes on in our place.
    Succeeded(u32),
    /// To the watchdog.
    Fed,
    /// What `systemctl status` shows.
    Status(&'a str),
}

pub(super) fn send(notice: &Notice<'_>) {
    let words = match notice {
        Notice::Ready => "READY=1\nSTATUS=ready".to_owned(),
        // In one message: Type=notify-reload takes READY=1 for an answer only behind this moment.
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

/// Says it, with descriptors. Whether somebody heard it.
pub(super) fn send_with_descriptors(words: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
    let Some(address) = std::env::var("NOTIFY_SOCKET").ok().filter(|address| !address.is_empty()) else {
        return false;
    };
    Supervisor::at(&address)
        .and_then(|supervisor| supervisor.notify(words, descriptors))
        .inspect_err(|error| tracing::warn!(%error, "cannot notify systemd"))
        .is_ok()
}
