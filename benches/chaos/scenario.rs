//! One scenario: its events, number of endpoints, load, and the proxies' settings for it.
//!
//! Lacks the scenarios themselves: those are in `scenario::all`.
mod all;

use std::time::Duration;

use crate::schedule::{Event, Window, windows};
use crate::speech::Speech;

pub(crate) use self::all::{Extent, all};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) words: &'static str,
    pub(crate) lasts: Duration,
    pub(crate) events: Vec<Event>,
    pub(crate) windows: Vec<Window>,
    has_own_windows: bool,
    pub(crate) shape: Shape,
}

/// The endpoints and the clients.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) endpoints: usize,
    /// The number of them in the configuration at first.
    pub(crate) members: usize,
    pub(crate) speech: Speech,
    pub(crate) naming: Naming,
    /// Threads with short sessions.
    pub(crate) shorts: usize,
    /// The mean rest of such a thread between two sessions.
    pub(crate) rest: Duration,
    /// Long sessions, which send every 100 ms.
    pub(crate) longs: usize,
    /// One more session that sends this many bytes without reading.
    pub(crate) flood: usize,
    /// Of each endpoint; empty: not configured.
    pub(crate) weights: &'static [u32],
    pub(crate) priorities: &'static [u32],
    pub(crate) slow_start: bool,
    /// `connect.preconnect`, which only ambassador has.
    pub(crate) preconnect: usize,
    /// A member joins or leaves by a new configuration.
    pub(crate) reloads: bool,
}

/// How the configuration names the endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naming {
    Addresses,
    /// One name, which resolves to the first at first.
    OneName,
    /// A name for each.
    NameEach,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            endpoints: 3,
            members: 3,
            speech: Speech::Echo,
            naming: Naming::Addresses,
            shorts: 4,
            rest: Duration::from_millis(80),
            longs: 6,
            flood: 0,
            weights: &[],
            priorities: &[],
            slow_start: false,
            preconnect: 0,
            reloads: false,
        }
    }
}

impl Shape {
    /// This many endpoints, all of them members.
    pub(crate) fn of(endpoints: usize) -> Self {
        Self { endpoints, members: endpoints, ..Self::default() }
    }

    /// Whether it needs an option that only ambassador has.
    pub(crate) fn is_ours_alone(&self) -> bool {
        self.speech != Speech::Echo || self.preconnect > 0
    }
}

impl Scenario {
    fn new(
        name: &'static str,
        words: &'static str,
        seconds: u64,
        mut events: Vec<Event>,
        shape: Shape,
    ) -> Self {
        events.sort_by_key(|event| event.at);
        let windows = windows(&events);
        Self {
            name,
            words,
            lasts: Duration::from_secs(seconds),
            events,
            windows,
            has_own_windows: false,
            shape,
        }
    }

    /// The faults differ from those of the schedule.
    fn with_windows(self, windows: Vec<Window>) -> Self {
        Self { windows, has_own_windows: true, ..self }
    }

    /// With the moments at which the events happened: a busy machine may be late.
    pub(crate) fn as_performed(&self, events: Vec<Event>) -> Self {
        let windows = if self.has_own_windows { self.windows.clone() } else { windows(&events) };
        Self { events, windows, shape: self.shape.clone(), ..*self }
    }
}
