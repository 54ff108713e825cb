//! Which objects are measured: each set of values by the labels of its object, for as long as somebody holds it, and
//! until one more scrape has seen its last values.
//!
//! An object that is made anew while one of its labels lives (a reload, a draining listener) goes on counting in the
//! same values. One that comes back later begins at zero, which scrapers take for the restart that it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::Mutex;

/// The objects of one kind.
pub(super) struct Registry<V>(Mutex<BTreeMap<Arc<str>, Registered<V>>>);

struct Registered<V> {
    values: Arc<V>,
    departed: Departed,
}

/// How far an object that nobody holds any more has been reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Departed {
    /// Not yet: for so many calls of [`Registry::upkeep`].
    Unreported(u32),
    Reported,
}

/// Calls of [`Registry::upkeep`] after which last values are dropped without a scrape: five minutes, after which a scraper
/// takes a series for gone (<https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness>).
const UNREPORTED_MAX: u32 = 60;

/// Why the values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadPurpose {
    /// A scrape, which sees those of departed objects for the last time.
    Scrape,
    /// Anything else, which leaves them to the next scrape.
    Other,
}

/// Objects with their labels as they are written between braces, in the order of these.
pub(super) type Living<V> = Vec<(Arc<str>, Arc<V>)>;

impl<V: Default> Registry<V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The values of the object with these labels, which are new if there are none.
    pub(super) fn of(&self, labels: &str) -> Arc<V> {
        let mut known = self.0.lock();
        if let Some(registered) = known.get_mut(labels) {
            registered.departed = Departed::Unreported(0);
            return Arc::clone(&registered.values);
        }
        let values = Arc::<V>::default();
        let registered = Registered { values: Arc::clone(&values), departed: Departed::Unreported(0) };
        known.insert(labels.into(), registered);
        values
    }

    /// The objects that there are, and those that have departed since the last scrape.
    pub(super) fn read(&self, purpose: ReadPurpose) -> Living<V> {
        let mut known = self.0.lock();
        known.retain(|_, registered| !registered.is_departed() || registered.departed != Departed::Reported);
        for registered in known.values_mut().filter(|registered| registered.is_departed()) {
            if purpose == ReadPurpose::Scrape {
                registered.departed = Departed::Reported;
            }
        }
        known
            .iter()
            .map(|(labels, registered)| (Arc::clone(labels), Arc::clone(&registered.values)))
            .collect()
    }

    /// Drops what has departed and no scrape asks for. To be called every five seconds.
    pub(super) fn upkeep(&self) {
        self.0.lock().retain(|_, registered| match registered.departed {
            _ if !registered.is_departed() => true,
            Departed::Reported => false,
            Departed::Unreported(calls) => {
                registered.departed = Departed::Unreported(calls + 1);
                calls < UNREPORTED_MAX
            }
        });
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
    use crate::metrics::values::Counter;
    use ReadPurpose::{Other, Scrape};

    fn labels(registry: &Registry<Counter>, purpose: ReadPurpose) -> Vec<String> {
        registry.read(purpose).iter().map(|(labels, _)| labels.to_string()).collect()
    }

    #[test]
    fn what_is_gone_is_seen_once_more() {
        let registry = Registry::<Counter>::new();
        let (first, second) = (registry.of("1"), registry.of("2"));
        let again = registry.of("2");
        assert!(Arc::ptr_eq(&second, &again), "an object that is made anew goes on");
        drop(second);
        assert_eq!(
            (labels(&registry, Scrape), labels(&registry, Scrape)),
            (vec!["1".into(), "2".into()], vec!["1".into(), "2".into()])
        );
        again.increment(7);
        drop(again);
        assert_eq!(labels(&registry, Other), labels(&registry, Other), "no scrape has seen its last values");
        assert_eq!(registry.read(Scrape)[1].1.get(), 7);
        assert_eq!(
            (labels(&registry, Scrape), labels(&registry, Other)),
            (vec!["1".into()], vec!["1".into()])
        );
        assert_eq!(registry.of("2").get(), 0, "it begins anew");
        drop(first);
        labels(&registry, Scrape);
        assert!(labels(&registry, Scrape).is_empty());
    }

    #[test]
    fn without_a_scrape_it_is_dropped_after_five_minutes() {
        let registry = Registry::<Counter>::new();
        drop(registry.of("gone"));
        let held = registry.of("held");
        (0..UNREPORTED_MAX).for_each(|_| registry.upkeep());
        assert_eq!(labels(&registry, Other), ["gone", "held"]);
        registry.upkeep();
        assert_eq!(labels(&registry, Other), ["held"]);
        drop(held);
        (0..UNREPORTED_MAX).for_each(|_| registry.upkeep());
        let _back = registry.of("held");
        registry.upkeep();
        assert_eq!(labels(&registry, Other), ["held"], "it is held again");
    }
}
