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

/// A number that goes up and down. It begins to exist with the first change from zero.
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
    nanoseconds: AtomicU64,
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
        let cells = self.0.get_or_init(|| {
            let buckets = (0..=B::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect();
            Box::new(HistogramCells { buckets, nanoseconds: AtomicU64::new(0) })
        });
        let seconds = duration.as_secs_f64();
        let bucket = B::BOUNDS.partition_point(|bound| *bound < seconds);
        cells.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        // Enough for 584 years.
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        cells.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// `None` before the first.
    pub(super) fn get(&self) -> Option<HistogramSums> {
        let cells = self.0.get()?;
        let buckets = cells.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let nanoseconds = Duration::from_nanos(cells.nanoseconds.load(Ordering::Relaxed));
        Some(HistogramSums { buckets, sum: nanoseconds.as_secs_f64() })
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
        histogram.record(Duration::MAX);
        assert_eq!(histogram.get().expect("recorded").buckets, [2, 2, 2]);
    }
}
