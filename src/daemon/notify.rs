//! What systemd is told, where there is one (sd_notify(3)). It never holds us up: who does not read is not told.

use crate::clock;
use crate::sys::Supervisor;

pub(super) enum Notice<'a> {
    /// Every listener accepts.
    Ready,
    /// The configuration is read again; [`Notice::Ready`] follows, whatever comes of it.
    Reloading,
    /// On the way down.
    Stopping,
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
        Notice::Status(status) => format!("STATUS={status}"),
    };
    let Some(address) = std::env::var("NOTIFY_SOCKET").ok().filter(|address| !address.is_empty()) else {
        return;
    };
    if let Err(error) = Supervisor::at(&address).and_then(|supervisor| supervisor.tell(&words, &[])) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
