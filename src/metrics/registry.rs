//! Which objects are measured: each set of values by the labels of its object, for as long as somebody holds it, and
//! for a minute after a scrape has seen its last values.
//!
//! An object that is made anew while one of its labels lives (a reload, a draining listener) goes on counting in the
//! same values. One that comes back later begins at zero, which scrapers take for the restart that it is; so what
//! predecessors have counted of it is forgotten with it ([`Registry::upkeep`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::Metric;
use super::text::{Living, Series, Text};
use crate::sync::Mutex;

/// The objects of one kind.
pub(super) struct Registry<V: 'static> {
    known: Mutex<BTreeMap<Arc<str>, Registered<V>>>,
    families: &'static [Family<V>],
}

/// A metric of the objects, and how one's values of it are written.
pub(super) type Family<V> = (&'static Metric, fn(&V, &mut Series<'_, '_>));

/// The labels of an object that was dropped, with a metric that it had.
pub(super) type Dropped = (&'static Metric, Arc<str>);

struct Registered<V> {
    values: Arc<V>,
    departed: Departed,
}

/// How far an object that nobody holds any more has been reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Departed {
    /// Not yet: for so many calls of [`Registry::upkeep`].
    Unreported(u32),
    /// To one scrape at least, so many calls ago.
    Reported(u32),
}

/// Calls of [`Registry::upkeep`] after which last values are dropped without a scrape: five minutes, after which a scraper
/// takes a series for gone (<https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness>).
const UNREPORTED_MAX: u32 = 60;
/// Calls of [`Registry::upkeep`] after the first scrape: a minute, in which a second scraper comes by, too.
const REPORTED_MAX: u32 = 12;

/// Why the values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadPurpose {
    /// A scrape, after which those of departed objects stay for a minute.
    Scrape,
    /// Anything else, which leaves them to the next scrape.
    Other,
}

impl<V: Default> Registry<V> {
    pub(super) const fn new(families: &'static [Family<V>]) -> Self {
        Self { known: Mutex::new(BTreeMap::new()), families }
    }

    /// The values of the object with these labels, which are new if there are none.
    pub(super) fn of(&self, labels: &str) -> Arc<V> {
        let mut known = self.known.lock();
        if let Some(registered) = known.get_mut(labels) {
            registered.departed = Departed::Unreported(0);
            return Arc::clone(&registered.values);
        }
        let values = Arc::<V>::default();
        let registered = Registered { values: Arc::clone(&values), departed: Departed::Unreported(0) };
        known.insert(labels.into(), registered);
        values
    }

    /// The objects that there are, and those that have departed lately.
    pub(super) fn read(&self, purpose: ReadPurpose) -> Living<V> {
        let mut known = self.known.lock();
        if purpose == ReadPurpose::Scrape {
            for registered in known.values_mut().filter(|registered| registered.is_departed()) {
                if let Departed::Unreported(_) = registered.departed {
                    registered.departed = Departed::Reported(0);
                }
            }
        }
        known
            .iter()
            .map(|(labels, registered)| (Arc::clone(labels), Arc::clone(&registered.values)))
            .collect()
    }

    /// Writes all metrics of these objects.
    pub(super) fn write(&self, text: &mut Text<'_>, objects: &Living<V>) {
        for (metric, write) in self.families {
            text.family(metric, objects, write);
        }
    }

    /// Drops what has departed and was reported, or no scrape asks for; adds it to `dropped`. To be called every five seconds.
    pub(super) fn upkeep(&self, dropped: &mut Vec<Dropped>) {
        self.known.lock().retain(|labels, registered| {
            let stays = !registered.is_departed() || registered.departed.goes_on();
            if !stays {
                dropped.extend(self.families.iter().map(|(metric, _)| (*metric, Arc::clone(labels))));
            }
            stays
        });
    }
}

impl Departed {
    /// Counts a call of [`Registry::upkeep`]. Whether the last values are still shown after it.
    const fn goes_on(&mut self) -> bool {
        let (Self::Unreported(calls) | Self::Reported(calls)) = self;
        *calls += 1;
        match *self {
            Self::Unreported(calls) => calls <= UNREPORTED_MAX,
            Self::Reported(calls) => calls <= REPORTED_MAX,
        }
    }
}

impl<V> Registered<V> {
    /// Whether nobody holds the values but the registry. While somebody reads them they have not departed yet.
    fn is_departed(&self) -> bool {
        Arc::strong_count(&self.values) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::ACCEPTED;
    use crate::metrics::values::Counter;
    use ReadPurpose::{Other, Scrape};

    const NO_FAMILIES: &[Family<Counter>] = &[];

    fn labels(registry: &Registry<Counter>, purpose: ReadPurpose) -> Vec<String> {
        registry.read(purpose).iter().map(|(labels, _)| labels.to_string()).collect()
    }

    fn upkeep(registry: &Registry<Counter>, calls: u32) {
        (0..calls).for_each(|_| registry.upkeep(&mut Vec::new()));
    }

    /// Scenario: of two Prometheus servers that scrape the same process only one saw the last values of what was taken out.
    #[test]
    fn what_is_gone_is_seen_for_a_minute_more() {
        let registry = Registry::<Counter>::new(NO_FAMILIES);
        let (first, second) = (registry.of("1"), registry.of("2"));
        let again = registry.of("2");
        assert!(Arc::ptr_eq(&second, &again), "an object that is made anew goes on");
        drop(second);
        for _ in 0..2 {
            assert_eq!(labels(&registry, Scrape), ["1", "2"]);
            upkeep(&registry, 2 * UNREPORTED_MAX);
        }
        again.increment(7);
        drop(again);
        upkeep(&registry, UNREPORTED_MAX);
        assert_eq!(labels(&registry, Other), ["1", "2"], "no scrape has seen its last values");
        assert_eq!(registry.read(Scrape)[1].1.get(), 7);
        upkeep(&registry, REPORTED_MAX);
        assert_eq!(registry.read(Scrape)[1].1.get(), 7, "of another server");
        upkeep(&registry, 1);
        assert_eq!(
            (labels(&registry, Scrape), labels(&registry, Other)),
            (vec!["1".into()], vec!["1".into()])
        );
        assert_eq!(registry.of("2").get(), 0, "it begins anew");
        drop(first);
        labels(&registry, Scrape);
        upkeep(&registry, REPORTED_MAX + 1);
        assert!(labels(&registry, Scrape).is_empty());
    }

    #[test]
    fn without_a_scrape_it_is_dropped_after_five_minutes() {
        const FAMILIES: &[Family<Counter>] = &[(&ACCEPTED, |its, series| series.counter(its))];
        let registry = Registry::<Counter>::new(FAMILIES);
        drop(registry.of("gone"));
        let held = registry.of("held");
        upkeep(&registry, UNREPORTED_MAX);
        assert_eq!(labels(&registry, Other), ["gone", "held"]);
        let mut dropped = Vec::new();
        registry.upkeep(&mut dropped);
        assert_eq!(labels(&registry, Other), ["held"]);
        let dropped = dropped.iter().map(|(metric, labels)| (metric.name, &**labels));
        assert!(dropped.eq([(ACCEPTED.name, "gone")]));
        drop(held);
        upkeep(&registry, UNREPORTED_MAX);
        let _back = registry.of("held");
        upkeep(&registry, 1);
        assert_eq!(labels(&registry, Other), ["held"], "it is held again");
    }
}
