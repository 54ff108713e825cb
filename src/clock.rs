//! The only reader of the clock.
//!
//! Decisions (`policy`, `protocol`) take `now` as an argument; effects take it from here. Nothing here
//! decides anything, and no other file may call `Instant::now` (a clippy ban keeps that).
//!
//! Whatever waits or is measured does so by [`now`], which no step of the wall clock moves, and which stands while the host
//! sleeps. [`wall`] is for what is printed or counted from 1970, and for when certificates end; tests/tidy.rs has the list of
//! those who may ask for it.

use std::time::{Instant, SystemTime};

/// Monotonic time, for every duration and deadline.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds of CLOCK_MONOTONIC, for whoever outside this process compares them.
#[must_use]
pub fn monotonic_usec() -> i64 {
    // By way of the C library: rustix looks for the kernel's vDSO by itself, and dies under valgrind, which hides it.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // It fails for clocks that do not exist.
    now.map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

/// Wall-clock time, for certificates and for what people read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
