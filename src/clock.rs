//! The only reader of the clock.
//!
//! Decisions (`policy`, `protocol`) take `now` as an argument; effects take it from here. Nothing here decides
//! anything, and no other file may call `Instant::now` (a clippy ban enforces it).
//!
//! Waiting and measuring use [`now`], which is not affected by changes of the wall clock, and stands still while the
//! host sleeps. [`wall`] is for what is printed or counted from 1970, and for the expiry of certificates; tests/tidy.rs
//! lists the modules that may use it.

use std::time::{Instant, SystemTime};

/// Monotonic time, for every duration and deadline.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds of CLOCK_MONOTONIC, for comparison in other processes.
#[must_use]
pub fn monotonic_usec() -> i64 {
    // Through the C library: rustix looks for the kernel's vDSO by itself, and crashes under valgrind, which hides it.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // It only fails for clocks that do not exist.
    now.map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

/// Wall-clock time, for certificates and for output to people.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
