//! The timers of one relay behind one lazily set alarm.
//!
//! Nothing is set while nothing is due for ever, and nothing is reset per byte: bytes are looked at when
//! the alarm rings, and it is set again to the moment that would be due then.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::Settings;
use crate::clock;
use crate::outcome::Outcome;

pub(super) struct Timers {
    settings: Settings,
    begun: Instant,
    /// The count of bytes when it last changed, and when that was seen (kept only where a timer asks).
    bytes: u64,
    active: Instant,
    half_closed: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    pub(super) const fn new(settings: Settings, now: Instant) -> Self {
        Self { settings, begun: now, bytes: 0, active: now, half_closed: None, alarm: None }
    }

    /// Ready with the outcome when a timer has run out. Called after each move of bytes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, bytes: u64, half_closed: bool) -> Poll<Outcome> {
        if bytes != self.bytes && (self.settings.idle_timeout.is_some() || half_closed) {
            self.bytes = bytes;
            self.active = clock::now();
        }
        if half_closed && self.half_closed.is_none() {
            self.half_closed = Some(clock::now());
            // It may be due before the alarm that is set.
            self.alarm = None;
        }
        while let Some((due, outcome)) = self.next() {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due <= clock::now() {
                return Poll::Ready(outcome);
            }
            self.alarm = None;
        }
        Poll::Pending
    }

    /// What is due next.
    fn next(&self) -> Option<(Instant, Outcome)> {
        let Settings { idle_timeout, half_close_timeout, max_lifetime } = self.settings;
        let idle = idle_timeout.map(|most| (self.active + most, Outcome::IdleTimeout));
        let half_close = self
            .half_closed
            .zip(half_close_timeout)
            .map(|(since, most)| (since.max(self.active) + most, Outcome::HalfCloseTimeout));
        let lifetime = max_lifetime.map(|most| (self.begun + most, Outcome::MaxLifetime));
        [idle, half_close, lifetime].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}
