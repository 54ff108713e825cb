//! The only reader of the clock.
//!
//! Decisions (`policy`, `protocol`) take `now` as an argument; effects take it from here. Nothing here
//! decides anything, and no other file may call `Instant::now` (a clippy ban keeps that).

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

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

/// Waits for `duration`; returns at once for zero, without a trip through the timer wheel.
pub async fn sleep(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// The deadline passed before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// Bounds `future` by an absolute deadline.
///
/// # Errors
/// [`Elapsed`] when the deadline came first; the future is dropped, which cancels it.
pub async fn before<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout_at(deadline.into(), future).await.map_err(|_| Elapsed)
}
