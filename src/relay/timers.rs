//! The timers of one relay behind one lazily set alarm.
//!
//! Nothing is set while nothing is due for ever, and nothing is reset per byte: an alarm that is set to an earlier
//! moment stays so, and is set again to the moment that is due when it has rung.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Settings;
use crate::alarm::Alarm;
use crate::clock;
use crate::outcome::Outcome;

/// How long a server that takes no more bytes may be silent, where `half_close_timeout` says nothing: its kernel has closed
/// the connection, so that what it said before is all there is to wait for.
const SILENCE: Duration = Duration::from_secs(60);

/// What the timers have to know of a relay.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    /// Bytes so far, both ways.
    pub(super) bytes: u64,
    /// One direction has ended.
    pub(super) half_closed: bool,
    /// The upstream takes no more bytes.
    pub(super) broken: bool,
    /// It ends when nothing has moved for so long.
    pub(super) rest: Option<Duration>,
}

pub(super) struct Timers<'a> {
    settings: &'a Settings,
    /// Boxed, and `None` until one of them runs: most sessions have none for most of their time.
    running: Option<Box<Running>>,
}

struct Running {
    begun: Instant,
    /// The count of bytes when it last changed, and when that was seen.
    bytes: u64,
    active: Instant,
    half_closed: Option<Instant>,
    alarm: Alarm,
}

impl<'a> Timers<'a> {
    pub(super) fn new(settings: &'a Settings, now: Instant) -> Self {
        let runs_at_once = settings.idle_timeout.is_some() || settings.max_lifetime.is_some();
        Self { settings, running: runs_at_once.then(|| Box::new(Running::new(now))) }
    }

    /// Ready with the outcome when a timer has run out. Called after each move of bytes.
    pub(super) fn poll(&mut self, cx: &Context<'_>, state: State) -> Poll<Outcome> {
        let half_closed = state.half_closed || state.broken;
        if self.running.is_none() && !half_closed && state.rest.is_none() {
            return Poll::Pending;
        }
        let now = clock::now();
        let running = self.running.get_or_insert_with(|| Box::new(Running::new(now)));
        if state.bytes != running.bytes {
            running.bytes = state.bytes;
            running.active = now;
        }
        if half_closed {
            running.half_closed.get_or_insert(now);
        }
        match running.next(self.settings, state) {
            Some((due, outcome)) if due <= now => Poll::Ready(outcome),
            Some((due, _)) => {
                running.alarm.set(now, due, cx.waker());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

impl Running {
    fn new(now: Instant) -> Self {
        Self { begun: now, bytes: 0, active: now, half_closed: None, alarm: Alarm::default() }
    }

    /// What is due next.
    fn next(&self, settings: &Settings, state: State) -> Option<(Instant, Outcome)> {
        let Settings { idle_timeout, half_close_timeout, max_lifetime } = *settings;
        let half_close_timeout = half_close_timeout.or_else(|| state.broken.then_some(SILENCE));
        let idle = idle_timeout.map(|most| (self.active + most, Outcome::IdleTimeout));
        let half_close = self
            .half_closed
            .zip(half_close_timeout)
            .map(|(since, most)| (since.max(self.active) + most, Outcome::HalfCloseTimeout));
        let lifetime = max_lifetime.map(|most| (self.begun + most, Outcome::MaxLifetime));
        let rest = state.rest.map(|most| (self.active + most, Outcome::KeyLimit));
        [idle, half_close, lifetime, rest].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}
