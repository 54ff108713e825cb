//! The only reader of the clock.
//!
//! Decisions (`policy`, `protocol`) take `now` as an argument; effects take it from here. Nothing here
//! decides anything, and no other file may call `Instant::now` (a clippy ban keeps that).

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
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// Wall-clock time, for certificates and for what people read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
