//! How many of the process's descriptors are used, by the number of the newest: the kernel assigns the lowest free
//! number (open(2)).
//!
//! Sessions must not take the last ones: admin requests that find out why nothing is accepted need them, and so do
//! files that are read again, look-ups and logs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// What takes a descriptor and has to leave some free.
#[derive(Debug, Clone, Copy)]
pub(super) enum DescriptorUser {
    /// An accepted connection; it will need another for its endpoint.
    Accept,
    /// A connection to an endpoint, or a pipe: sessions that were accepted have priority.
    Dial,
}

/// RLIMIT_NOFILE when it was last read.
static LIMIT: AtomicU64 = AtomicU64::new(0);
/// How often it was needed; it is read again every [`ASK_EVERY`] times.
static ASKED: AtomicU64 = AtomicU64::new(0);
const ASK_EVERY: u64 = 32;

/// Accepted sessions that may still need a descriptor.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

/// A session that may still need a descriptor. Zero-sized, as it is part of each session's opening.
#[derive(Debug)]
pub(crate) struct DescriptorReservation(());

impl DescriptorReservation {
    /// Until it is dropped, accepts leave a descriptor for it.
    #[must_use]
    pub(crate) fn begin() -> Self {
        EXPECTED.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for DescriptorReservation {
    fn drop(&mut self) {
        EXPECTED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// # Errors
/// `EMFILE` if that descriptor, the newest, is among the last, which `taker` has to leave free.
pub(super) fn check_headroom(newest: BorrowedFd<'_>, taker: DescriptorUser) -> io::Result<()> {
    let expected = match taker {
        DescriptorUser::Accept => EXPECTED.load(Ordering::Relaxed),
        DescriptorUser::Dial => 0,
    };
    let number = u64::try_from(newest.as_raw_fd()).unwrap_or_default();
    let is_among_the_last = |limit| number + expected >= first_of_the_last(limit, taker);
    // Before a refusal the limit is read again, as it may have been raised.
    if is_among_the_last(limit()) && is_among_the_last(ask_limit()) {
        return Err(Errno::MFILE.into());
    }
    Ok(())
}

/// A recent RLIMIT_NOFILE: reading it costs a system call, and it only ever changes by prlimit(1).
fn limit() -> u64 {
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    if asked.is_multiple_of(ASK_EVERY) { ask_limit() } else { LIMIT.load(Ordering::Relaxed) }
}

fn ask_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    LIMIT.store(limit, Ordering::Relaxed);
    limit
}

/// Whether one more could be accepted.
///
/// # Errors
/// `EMFILE`.
pub(super) fn have_room(any: impl AsFd) -> io::Result<()> {
    let lowest_free = fcntl_dupfd_cloexec(any, 0)?;
    check_headroom(lowest_free.as_fd(), DescriptorUser::Accept)
}

/// Dials leave a sixteenth free, from 8 to 64, and accepts twice as many.
fn first_of_the_last(limit: u64, taker: DescriptorUser) -> u64 {
    let portion = (limit / 16).clamp(8, 64);
    limit.saturating_sub(match taker {
        DescriptorUser::Accept => 2 * portion,
        DescriptorUser::Dial => portion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_left_by_dials_and_more_by_accepts() {
        for (limit, accept, dial) in
            [(8, 0, 0), (64, 48, 56), (256, 224, 240), (1024, 896, 960), (262_144, 262_016, 262_080)]
        {
            assert_eq!(first_of_the_last(limit, DescriptorUser::Accept), accept, "{limit}");
            assert_eq!(first_of_the_last(limit, DescriptorUser::Dial), dial, "{limit}");
        }
    }
}
