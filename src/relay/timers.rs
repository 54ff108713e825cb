//! The timers of one relay, with one alarm that is set lazily.
//!
//! No alarm is set while no timer runs, and none is reset per byte: an alarm that is set too early stays so, and is
//! set to the next deadline when it has fired.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Settings;
use crate::alarm::Alarm;
use crate::clock;
use crate::outcome::Outcome;

/// How long a server that takes no more bytes may be silent if there is no `half_close_timeout`: its kernel has closed
/// the connection, so only what it sent before can still arrive.
const SILENCE: Duration = Duration::from_secs(60);

/// The state of a relay that its timers depend on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    /// Bytes so far, both ways.
    pub(super) bytes: u64,
    /// One direction has ended.
    pub(super) half_closed: bool,
    /// The upstream takes no more bytes.
    pub(super) broken: bool,
    /// It ends when nothing has moved for this long, as its TLS keys are nearly used up.
    pub(super) rest: Option<Duration>,
}

pub(super) struct Timers<'a> {
    settings: &'a Settings,
    /// Boxed, and `None` until a timer runs: most sessions have none most of the time.
    running: Option<Box<Running>>,
}

struct Running {
    begun: Instant,
    /// The byte count at the last poll that saw it change; `active` is when that was.
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

    /// The next deadline, with the outcome that it leads to.
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
