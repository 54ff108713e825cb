//! What is recorded of who connects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, counter, gauge};

use super::names::{CALLER_CONNECTIONS, CALLER_REFUSED, CALLER_SESSIONS};
use crate::caller;

/// What is recorded of callers, by their unit. There are no more series than `UNITS_MAX` and three: what users run by
/// themselves is one (they may make as many units as they like), callers without a unit and strangers are one, and the
/// units that come after the first are one.
#[derive(Default)]
pub struct CallerMetrics(Mutex<BTreeMap<String, Arc<CallerSeries>>>);

/// Units that have series of their own.
const UNITS_MAX: usize = 100;

/// What is recorded of one unit's callers.
pub struct CallerSeries {
    connections: Counter,
    refused: Counter,
    sessions: Gauge,
}

impl CallerMetrics {
    /// Goes on with series that another process had, by the value of their label.
    pub fn resume(&self, labels: impl Iterator<Item = String>) {
        let mut series = self.lock();
        for label in labels.take(UNITS_MAX) {
            let new = CallerSeries::new(&label);
            series.entry(label).or_insert_with(|| Arc::new(new));
        }
    }

    /// The series of a unit.
    #[must_use]
    pub fn of(&self, unit: Option<&caller::Unit>) -> Arc<CallerSeries> {
        let label = match unit {
            None => "none",
            Some(unit) if unit.is_session() => "users",
            Some(unit) => unit.as_str(),
        };
        let mut series = self.lock();
        let label = if series.contains_key(label) || series.len() < UNITS_MAX { label } else { "other" };
        match series.get(label) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(
                series.entry(label.to_owned()).or_insert_with(|| Arc::new(CallerSeries::new(label))),
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<CallerSeries>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerSeries {
    fn new(unit: &str) -> Self {
        let unit = unit.to_owned();
        Self {
            connections: counter!(CALLER_CONNECTIONS, "unit" => unit.clone()),
            refused: counter!(CALLER_REFUSED, "unit" => unit.clone()),
            sessions: gauge!(CALLER_SESSIONS, "unit" => unit),
        }
    }

    /// A connection of the unit was looked up.
    pub fn began(&self) {
        self.connections.increment(1);
        self.sessions.increment(1);
    }

    /// It was turned away.
    pub fn refused(&self) {
        self.refused.increment(1);
    }

    /// It ended.
    pub fn ended(&self) {
        self.sessions.decrement(1);
    }
}
