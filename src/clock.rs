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

/// Wall-clock time, for certificates and for what people read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
