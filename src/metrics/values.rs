//! What is measured, as plain atomics: counters, gauges, times and histograms that the objects themselves own.
//!
//! A value that was never touched takes no memory beyond its cell and is no series: `text` leaves it out. Reading is
//! not atomic over several values, as no scrape is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::sync::Mutex;

/// A sum that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds to it.
    pub(crate) fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Raises it to a sum that is kept elsewhere.
    pub(crate) fn absolute(&self, sum: u64) {
        self.0.fetch_max(sum, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. It begins to exist with the first change from zero, or when it is shown.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    value: AtomicI64,
    exists: AtomicBool,
}

impl Gauge {
    /// One more.
    pub(crate) fn increment(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
        self.exists.store(true, Ordering::Relaxed);
    }

    /// One less; an increment has come before.
    pub(crate) fn decrement(&self) {
        self.value.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets it.
    pub(crate) fn set(&self, value: usize) {
        self.value.store(i64::try_from(value).unwrap_or(i64::MAX), Ordering::Relaxed);
        if value != 0 {
            self.exists.store(true, Ordering::Relaxed);
        }
    }

    /// Sets it, and lets it exist even as zero.
    pub(super) fn show(&self, value: usize) {
        self.set(value);
        self.exists.store(true, Ordering::Relaxed);
    }

    /// Ends it, until the next change.
    pub(super) fn unset(&self) {
        self.exists.store(false, Ordering::Relaxed);
        self.value.store(0, Ordering::Relaxed);
    }

    /// `None` before the first change from zero.
    pub(super) fn get(&self) -> Option<i64> {
        self.exists.load(Ordering::Relaxed).then(|| self.value.load(Ordering::Relaxed))
    }
}

/// A moment, exported as seconds since 1970. It begins to exist when it is set.
#[derive(Debug, Default)]
pub(crate) struct Timestamp(AtomicU64);

impl Timestamp {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets it; times before 1970 are that moment.
    pub(crate) fn set(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.store(since.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// Makes it as if it had never been set.
    pub(crate) fn unset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// `None` before it was set.
    pub(super) fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Ordering::Relaxed))).filter(|seconds| *seconds > 0.0)
    }
}

/// Counters by one label whose values are a closed set, each from its first increment on. For what happens once in a
/// connection or more rarely: it locks.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Vec<(&'static str, u64)>>);

impl Tally {
    /// Counts one more of these.
    pub(crate) fn increment(&self, label: &'static str) {
        // Mostly it is the same word of the program, and comparing its letters costs more than counting.
        let is_same = |known: &str| std::ptr::eq(known, label) || known == label;
        let mut counts = self.0.lock();
        match counts.iter_mut().find(|(known, _)| is_same(known)) {
            Some((_, count)) => *count += 1,
            None => counts.push((label, 1)),
        }
    }

    pub(super) fn each(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().clone()
    }
}

/// Durations, counted in buckets. Its memory is allocated with the first one.
#[derive(Debug, Default)]
pub(crate) struct Histogram<B: Bounds>(OnceLock<Box<HistogramCells>>, core::marker::PhantomData<B>);

/// The upper bounds of a histogram's buckets, in seconds, rising.
pub(crate) trait Bounds {
    /// The bounds without the last, which is infinite.
    const BOUNDS: &'static [f64];
}

#[derive(Debug)]
struct HistogramCells {
    /// One for each bound, and one for what is above the last.
    buckets: Box<[AtomicU64]>,
    microseconds: AtomicU64,
}

/// What a histogram has counted.
pub(super) struct HistogramSums {
    /// By bucket, not cumulated; the last has no upper bound.
    pub(super) buckets: Vec<u64>,
    /// In seconds.
    pub(super) sum: f64,
}

impl<B: Bounds> Histogram<B> {
    /// Counts a duration.
    pub(crate) fn record(&self, duration: Duration) {
        let cells = self.cells();
        let seconds = duration.as_secs_f64();
        let bucket = B::BOUNDS.partition_point(|bound| *bound < seconds);
        cells.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        // Durations of any number of sessions are added up: of nanoseconds ten thousand sessions fill the cell within weeks. Rounded,
        // as connects on the same host take few.
        let rounded = duration.saturating_add(Duration::from_nanos(500));
        let microseconds = u64::try_from(rounded.as_micros()).unwrap_or(u64::MAX);
        let add = |sum: u64| Some(sum.saturating_add(microseconds));
        // It adds always.
        let _ = cells.microseconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn cells(&self) -> &HistogramCells {
        self.0.get_or_init(|| {
            let buckets = (0..=B::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect();
            Box::new(HistogramCells { buckets, microseconds: AtomicU64::new(0) })
        })
    }

    /// `None` before the first has been counted.
    pub(super) fn get(&self) -> Option<HistogramSums> {
        let cells = self.0.get()?;
        let buckets: Vec<_> = cells.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let sum = Duration::from_micros(cells.microseconds.load(Ordering::Relaxed)).as_secs_f64();
        buckets.iter().any(|count| *count > 0).then_some(HistogramSums { buckets, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Two;
    impl Bounds for Two {
        const BOUNDS: &'static [f64] = &[0.001, 1.0];
    }

    #[test]
    fn nothing_exists_before_its_first_change() {
        let (gauge, time, tally, histogram) =
            (Gauge::default(), Timestamp::new(), Tally::default(), Histogram::<Two>::default());
        gauge.set(0);
        assert_eq!((gauge.get(), time.get()), (None, None));
        assert!(tally.each().is_empty() && histogram.get().is_none());
        gauge.increment();
        gauge.decrement();
        assert_eq!(gauge.get(), Some(0), "it stays, or a scraper would take it for gone");
        gauge.set(0);
        assert_eq!(gauge.get(), Some(0));
        gauge.unset();
        gauge.set(0);
        assert_eq!(gauge.get(), None);
        gauge.show(0);
        assert_eq!(gauge.get(), Some(0));
        time.set(SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(time.get(), Some(1.5));
        tally.increment("ok");
        tally.increment("failed");
        tally.increment("ok");
        assert_eq!(tally.each(), [("ok", 2), ("failed", 1)]);
    }

    #[test]
    fn a_sum_that_is_kept_elsewhere_never_falls() {
        let counter = Counter::new();
        counter.absolute(5);
        counter.absolute(3);
        counter.increment(1);
        assert_eq!(counter.get(), 6);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::<Two>::default();
        for millis in [0, 1, 2, 1000, 1001] {
            histogram.record(Duration::from_millis(millis));
        }
        let sums = histogram.get().expect("recorded");
        assert_eq!((sums.buckets, sums.sum), (vec![2, 2, 1], 2.004));
        histogram.record(Duration::from_nanos(1_500));
        assert_eq!(histogram.get().expect("recorded").sum, 2.004_002);
        histogram.record(Duration::MAX);
        let sums = histogram.get().expect("recorded");
        assert_eq!(sums.buckets, [3, 2, 2]);
        histogram.record(Duration::from_secs(1));
        assert!(histogram.get().expect("recorded").sum >= sums.sum, "it never falls");
    }

    /// Scenario: ten thousand sessions of a day each are 27 years in a day. Within three weeks the sum in nanoseconds was at its end and
    /// began at zero: an increase, to scrapers, of all of it.
    #[test]
    fn a_sum_is_that_of_very_many_sessions() {
        let (histogram, century) = (Histogram::<Two>::default(), Duration::from_secs(100 * 365 * 86_400));
        (0..1000).for_each(|_| histogram.record(century));
        assert_eq!(histogram.get().expect("recorded").sum, 1000.0 * century.as_secs_f64());
    }

    /// Scenario: a scrape came between the first duration's memory and its count, and read buckets without their `_count`.
    #[test]
    fn what_is_not_counted_yet_is_no_histogram() {
        let histogram = Histogram::<Two>::default();
        histogram.cells();
        assert!(histogram.get().is_none());
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.get().expect("recorded").buckets, [1, 0, 0]);
    }
}
