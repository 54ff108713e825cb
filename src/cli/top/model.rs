//! The state of `top`, and what keys do to it. Pure: samples come in with their time, requests are returned as values.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::admin::status::{SessionList, SessionStatus, Status};
use crate::admin::{Sample, Samples};

/// The result of one query of the daemon.
#[derive(Debug)]
pub(super) struct DaemonSample {
    pub(super) status: Status,
    pub(super) sessions: SessionList,
    pub(super) history: Samples,
}

/// A key that has a meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// What a key requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Close(String),
}

/// What keys currently mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InputMode {
    /// Leads to all others.
    Browsing,
    /// Typed characters go to the filter; Enter and Escape end it.
    Filtering,
    /// Asks whether to close that session; every key ends it.
    Asking(String),
}

/// The column that sessions are sorted by, the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Rate,
    Age,
    Sent,
    Received,
}

/// A session with what takes two samples to compute.
#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) session: SessionStatus,
    /// Bytes per second, both ways, since the previous sample; in the first sample, since the session's beginning.
    pub(super) rate: f64,
}

/// How many rows a page has.
const PAGE: usize = 10;

#[derive(Debug)]
pub(super) struct Model {
    pub(super) status: Option<Status>,
    pub(super) samples: Vec<Sample>,
    /// When the daemon last answered.
    pub(super) seen: Option<Instant>,
    /// Why it does not answer now.
    pub(super) trouble: Option<String>,
    /// The result of the last request.
    pub(super) note: Option<String>,
    pub(super) mode: InputMode,
    pub(super) sort: Sort,
    pub(super) filter: String,
    sessions: Vec<SessionRow>,
    /// Each session's bytes in the last sample.
    totals: BTreeMap<String, u64>,
    /// The selected session and its row: when the session is gone, the session in that row is selected. Before the
    /// first key that selects, the id is empty, and the first row counts as selected.
    chosen: (String, usize),
}

impl Model {
    pub(super) const fn new() -> Self {
        Self {
            status: None,
            samples: Vec::new(),
            seen: None,
            trouble: None,
            note: None,
            mode: InputMode::Browsing,
            sort: Sort::Rate,
            filter: String::new(),
            sessions: Vec::new(),
            totals: BTreeMap::new(),
            chosen: (String::new(), 0),
        }
    }

    /// Takes a sample that arrived at `now`.
    pub(super) fn update(&mut self, look: DaemonSample, now: Instant) {
        let passed = self.seen.map(|before| now.saturating_duration_since(before));
        let totals = std::mem::take(&mut self.totals);
        let live = |session: SessionStatus| {
            let total = session.sent_bytes.or_zero().saturating_add(session.received_bytes.or_zero());
            let age = Duration::from_millis(session.age_ms.or_zero());
            let (moved, within) = match totals.get(&session.session).zip(passed) {
                Some((before, passed)) => (total.saturating_sub(*before), passed),
                None => (total, age),
            };
            let rate = if within.is_zero() { 0.0 } else { moved as f64 / within.as_secs_f64() };
            self.totals.insert(session.session.clone(), total);
            SessionRow { session, rate }
        };
        self.sessions = look.sessions.sessions.into_iter().map(live).collect();
        self.samples = look.history.samples;
        self.status = Some(look.status);
        (self.seen, self.trouble) = (Some(now), None);
        self.settle();
    }

    /// The daemon did not answer; the last sample stays.
    pub(super) fn set_unreachable(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// How many sessions there are, filtered or not.
    pub(super) const fn count(&self) -> usize {
        self.sessions.len()
    }

    /// The sessions that pass the filter, in order.
    pub(super) fn visible(&self) -> Vec<&SessionRow> {
        let mut visible: Vec<_> = self.sessions.iter().filter(|live| self.passes(&live.session)).collect();
        visible.sort_by(|a, b| {
            let by = match self.sort {
                Sort::Rate => b.rate.total_cmp(&a.rate),
                Sort::Age => b.session.age_ms.or_zero().cmp(&a.session.age_ms.or_zero()),
                Sort::Sent => b.session.sent_bytes.or_zero().cmp(&a.session.sent_bytes.or_zero()),
                Sort::Received => b.session.received_bytes.or_zero().cmp(&a.session.received_bytes.or_zero()),
            };
            // Idle sessions are many, and should keep their order.
            by.then_with(|| b.session.age_ms.or_zero().cmp(&a.session.age_ms.or_zero()))
                .then_with(|| a.session.session.cmp(&b.session.session))
        });
        visible
    }

    fn passes(&self, session: &SessionStatus) -> bool {
        let wanted = self.filter.to_lowercase();
        let caller = super::super::show::caller(session.caller.as_ref());
        let [cluster, endpoint] =
            [&session.cluster, &session.endpoint].map(|name| name.as_deref().unwrap_or_default());
        [&session.session, &session.listener, cluster, endpoint, &caller]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    }

    /// The row of the selected session among the visible ones; `None` where there are none.
    pub(super) fn position(&self) -> Option<usize> {
        let visible = self.visible();
        let found = visible.iter().position(|live| live.session.session == self.chosen.0);
        found.or_else(|| Some(self.chosen.1.min(visible.len().checked_sub(1)?)))
    }

    fn choose(&mut self, place: usize) {
        let visible = self.visible();
        let place = place.min(visible.len().saturating_sub(1));
        let session = visible.get(place).map(|live| live.session.session.clone()).unwrap_or_default();
        self.chosen = (session, place);
    }

    /// To be called after a change of the visible sessions.
    fn settle(&mut self) {
        if self.chosen.0.is_empty() {
            return;
        }
        let place = self.position().unwrap_or_default();
        self.choose(place);
    }

    pub(super) fn key(&mut self, key: Key) -> Option<Action> {
        if key == Key::Interrupt {
            return Some(Action::Quit);
        }
        match std::mem::replace(&mut self.mode, InputMode::Browsing) {
            InputMode::Browsing => self.browse(key),
            InputMode::Filtering => {
                self.type_filter(key);
                None
            }
            InputMode::Asking(session) => {
                matches!(key, Key::Char('y' | 'Y')).then_some(Action::Close(session))
            }
        }
    }

    fn browse(&mut self, key: Key) -> Option<Action> {
        let place = self.position().unwrap_or_default();
        self.note = None;
        match key {
            Key::Char('q') => return Some(Action::Quit),
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('/') => self.mode = InputMode::Filtering,
            Key::Char('k') => self.ask(),
            Key::Escape => self.filter.clear(),
            Key::Up => self.choose(place.saturating_sub(1)),
            Key::Down => self.choose(place + 1),
            Key::PageUp => self.choose(place.saturating_sub(PAGE)),
            Key::PageDown => self.choose(place + PAGE),
            Key::Home => self.choose(0),
            Key::End => self.choose(usize::MAX),
            Key::Char(_) | Key::Enter | Key::Backspace | Key::Interrupt => {}
        }
        self.settle();
        None
    }

    fn ask(&mut self) {
        match self
            .position()
            .and_then(|place| self.visible().get(place).map(|live| live.session.session.clone()))
        {
            Some(session) => self.mode = InputMode::Asking(session),
            None => self.note = Some("there is no session to close".into()),
        }
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Char(typed) => self.filter.push(typed),
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::End => {}
            Key::Enter | Key::Interrupt => {}
        }
        if !matches!(key, Key::Enter | Key::Escape) {
            self.mode = InputMode::Filtering;
        }
        self.settle();
    }
}

impl Sort {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Age => "age",
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Age,
            Self::Age => Self::Sent,
            Self::Sent => Self::Received,
            Self::Received => Self::Rate,
        }
    }
}

/// The growth per second between each sample and the next.
pub(super) fn per_second(samples: &[Sample], sum: impl Fn(&Sample) -> f64) -> Vec<f64> {
    let growth = |pair: &[Sample]| {
        let within = pair[1].at - pair[0].at;
        if within > 0.0 { ((sum(&pair[1]) - sum(&pair[0])) / within).max(0.0) } else { 0.0 }
    };
    samples.windows(2).map(growth).collect()
}
