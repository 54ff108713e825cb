//! Events of folders' entries, by name (inotify).

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::register;

/// Watches folders, registered with the current worker's reactor. Dropping it ends the watching.
#[derive(Debug)]
pub(crate) struct Inotify {
    io: AsyncFd<OwnedFd>,
}

/// Room for a few events; each is at most 16 bytes and a name (inotify(7)).
const EVENTS: usize = 4096;

impl Inotify {
    /// An instance without watches.
    ///
    /// # Errors
    /// What inotify_init1(2) returns: `EMFILE` if the user's `max_user_instances` are used up.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { io: register(inotify, Interest::READABLE)? })
    }

    /// Watches a folder for entries that come, go, or were written; not what is below them.
    ///
    /// # Errors
    /// What inotify_add_watch(2) returns: `ENOENT`, `EACCES`, `ENOSPC` if `max_user_watches` are used up.
    pub(crate) fn follow(&self, folder: &Path) -> io::Result<()> {
        let what = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(self.io.get_ref(), folder, what)?;
        Ok(())
    }

    /// Waits for an event of an entry whose name counts, of a folder itself, or for an overflow of the kernel's queue.
    /// Takes all events from the queue.
    ///
    /// # Errors
    /// What read(2) returns.
    pub(crate) async fn wait_event(&self, counts: impl Fn(&OsStr) -> bool) -> io::Result<()> {
        loop {
            let mut readable = self.io.readable().await?;
            let is_due = drain(self.io.get_ref(), &counts)?;
            readable.clear_ready();
            if is_due {
                return Ok(());
            }
        }
    }
}

/// Reads to the end of the queue; returns whether an event in it counts.
fn drain(inotify: &OwnedFd, counts: &impl Fn(&OsStr) -> bool) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); EVENTS];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut is_due = false;
    loop {
        let event = match events.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(is_due),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // Only says that a watch has ended, of which there was an event already.
        if event.events().contains(ReadFlags::IGNORED) {
            continue;
        }
        is_due |= event.file_name().is_none_or(|name| counts(OsStr::from_bytes(name.to_bytes())));
    }
}
