//! The metrics of callers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::{CALLER_CONNECTIONS, CALLER_REFUSED, CALLER_SESSIONS};
use super::registry::{Family, ReadPurpose, Registry};
use super::text::{Text, labels};
use super::values::{Counter, Gauge};
use crate::caller;
use crate::sync::{Mutex, MutexGuard};

/// The series of callers, by unit; at most `UNITS_MAX` and three. The three are for units that users start themselves
/// (they may make any number), for callers without a unit and strangers, and for the units after the first
/// `UNITS_MAX`. Their labels are no possible names of units.
#[derive(Default)]
pub(crate) struct CallerMetrics(Mutex<BTreeMap<String, Arc<CallerSeries>>>);

const NO_UNIT: &str = "none";
const USERS: &str = "users";
const OTHERS: &str = "other";
const SHARED: [&str; 3] = [NO_UNIT, USERS, OTHERS];

/// How many units have series of their own.
const UNITS_MAX: usize = 100;

static CALLERS: Registry<CallerSeries> = Registry::new(FAMILIES);

/// The metrics of one unit's callers.
#[derive(Default)]
pub(crate) struct CallerSeries {
    connections: Counter,
    refused: Counter,
    sessions: Gauge,
}

impl CallerMetrics {
    /// Continues the series that another process had, by the values of their label.
    pub(crate) fn resume(&self, labels: impl Iterator<Item = String>) {
        let mut series = self.lock();
        for label in labels.take(UNITS_MAX + SHARED.len()) {
            let new = CallerSeries::of(&label);
            series.entry(label).or_insert(new);
        }
    }

    #[must_use]
    pub(crate) fn of(&self, unit: Option<&caller::Unit>) -> Arc<CallerSeries> {
        let mut series = self.lock();
        let label = match unit.filter(|unit| !unit.is_session()).map(caller::Unit::as_str) {
            None if unit.is_some() => USERS,
            None => NO_UNIT,
            Some(name) if series.contains_key(name) || units_in(&series) < UNITS_MAX => name,
            Some(_) => OTHERS,
        };
        match series.get(label) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(series.entry(label.to_owned()).or_insert_with(|| CallerSeries::of(label))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<CallerSeries>>> {
        self.0.lock()
    }
}

/// How many units have series of their own.
fn units_in(series: &BTreeMap<String, Arc<CallerSeries>>) -> usize {
    series.len() - SHARED.iter().filter(|label| series.contains_key(**label)).count()
}

impl CallerSeries {
    fn of(unit: &str) -> Arc<Self> {
        CALLERS.of(&labels([("unit", unit)]))
    }

    /// Records a connection of the unit.
    pub(crate) fn record_connection(&self) {
        self.connections.increment(1);
        self.sessions.increment();
    }

    /// Records that it was refused.
    pub(crate) fn record_refusal(&self) {
        self.refused.increment(1);
    }

    pub(crate) fn record_end(&self) {
        self.sessions.decrement();
    }
}

const FAMILIES: &[Family<CallerSeries>] = &[
    (&CALLER_CONNECTIONS, |its, series| series.counter(&its.connections)),
    (&CALLER_REFUSED, |its, series| series.counter(&its.refused)),
    (&CALLER_SESSIONS, |its, series| series.gauge(&its.sessions)),
];

/// Writes those of all units.
pub(super) fn write(text: &mut Text<'_>, purpose: ReadPurpose) {
    CALLERS.write(text, &CALLERS.read(purpose));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> caller::Unit {
        caller::Unit::of(path).expect("a unit")
    }

    #[test]
    fn the_first_hundred_units_have_names_and_whoever_belongs_to_none_is_never_among_the_others() {
        let metrics = CallerMetrics::default();
        let service = |number: usize| unit(&format!("/system.slice/u{number}.service"));
        let first: Vec<_> = (0..UNITS_MAX).map(|number| metrics.of(Some(&service(number)))).collect();
        let inherited = metrics.of(Some(&service(UNITS_MAX)));
        for number in UNITS_MAX..3 * UNITS_MAX {
            assert!(Arc::ptr_eq(&inherited, &metrics.of(Some(&service(number)))));
        }
        let (none, users) = (metrics.of(None), metrics.of(Some(&unit("/user.slice/user-7.slice/a.scope"))));
        assert!(!Arc::ptr_eq(&none, &inherited) && !Arc::ptr_eq(&users, &inherited));
        for (number, series) in first.iter().enumerate() {
            assert!(Arc::ptr_eq(series, &metrics.of(Some(&service(number)))), "it keeps its name");
        }
        let known = metrics.0.lock();
        let shared: Vec<_> = known.keys().filter(|label| !label.ends_with(".service")).collect();
        assert_eq!((known.len(), shared.len()), (UNITS_MAX + SHARED.len(), SHARED.len()), "{shared:?}");
    }
}
