//! How far the descriptors of the process have gone, told from the number of the newest: the kernel gives the lowest that is
//! free (open(2)).
//!
//! Sessions must not take the last ones. Whoever comes to find out why nothing is accepted needs one, and so do files that
//! are read again, lookups and logs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// Who must leave something.
#[derive(Debug, Clone, Copy)]
pub(super) enum DescriptorUser {
    /// A connection that is accepted; it will want another for its endpoint.
    Accept,
    /// A connection to an endpoint, or a pipe: those that were accepted go first.
    Dial,
}

/// The limit when it was last asked.
static LIMIT: AtomicU64 = AtomicU64::new(0);
/// How often it was needed, so that it is asked again after so many times.
static ASKED: AtomicU64 = AtomicU64::new(0);
const ASK_EVERY: u64 = 32;

/// Sessions that were accepted and may want a descriptor yet.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

/// A session that may want one descriptor more. It takes no room, for it is a part of what opens each.
#[derive(Debug)]
pub(crate) struct DescriptorReservation(());

impl DescriptorReservation {
    /// From now on until it is dropped, accepts leave one for it.
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
/// `EMFILE` where that descriptor, the newest, is among the last, and is not for who took it.
pub(super) fn check_headroom(newest: BorrowedFd<'_>, taker: DescriptorUser) -> io::Result<()> {
    let expected = match taker {
        DescriptorUser::Accept => EXPECTED.load(Ordering::Relaxed),
        DescriptorUser::Dial => 0,
    };
    let number = u64::try_from(newest.as_raw_fd()).unwrap_or_default();
    let is_among_the_last = |limit| number + expected >= first_of_the_last(limit, taker);
    // Before anybody is turned away it is asked again: it may have been raised.
    if is_among_the_last(limit()) && is_among_the_last(ask_limit()) {
        return Err(Errno::MFILE.into());
    }
    Ok(())
}

/// RLIMIT_NOFILE as it was not many descriptors ago: asking costs a system call, and it changes by prlimit(1), if ever.
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

/// A sixteenth is left by dials, from 8 to 64, and twice as much by accepts.
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
