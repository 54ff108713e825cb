//! Writes the text format of Prometheus (0.0.4), family by family, and adds what predecessors have counted.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>. A series that has counted
//! nothing, here or in a predecessor, is left out, and a family without series with it.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use super::inherited::AllInherited;
use super::names::Metric;
use super::values::{Bounds, Counter, Gauge, Histogram, Tally, Timestamp};

/// Objects with their labels as they are written between braces, in the order of these.
pub(super) type Living<V> = Vec<(Arc<str>, Arc<V>)>;

/// The text, as far as it is written.
pub(super) struct Text<'a> {
    out: String,
    /// `None`: nobody has counted before us.
    inherited: Option<&'a AllInherited>,
    /// One series with its labels, before it is known whether it exists.
    series: String,
}

/// One family, for one object.
pub(super) struct Series<'a, 'b> {
    text: &'a mut Text<'b>,
    metric: &'static Metric,
    labels: &'a str,
    is_described: &'a mut bool,
}

/// A value of ours.
#[derive(Clone, Copy)]
struct Sample {
    /// `None`: we have none.
    own: Option<f64>,
    /// Written even if it is zero.
    is_whole: bool,
}

impl<'a> Text<'a> {
    /// An empty text.
    pub(super) fn new(inherited: &'a AllInherited) -> Self {
        let inherited = Some(inherited).filter(|inherited| !inherited.is_empty());
        Self { out: String::new(), inherited, series: String::new() }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// One family: the values of it that each object has.
    pub(super) fn family<V>(
        &mut self,
        metric: &'static Metric,
        objects: &Living<V>,
        mut write: impl FnMut(&V, &mut Series<'_, 'a>),
    ) {
        let mut is_described = false;
        for (labels, values) in objects {
            let mut series = Series { text: self, metric, labels, is_described: &mut is_described };
            write(values, &mut series);
        }
    }

    /// One family of the process, without labels of an object.
    pub(super) fn of_process(&mut self, metric: &'static Metric, write: impl FnOnce(&mut Series<'_, 'a>)) {
        write(&mut Series { text: self, metric, labels: "", is_described: &mut false });
    }

    /// A gauge or a counter that is measured outside (of the process itself).
    pub(super) fn foreign(&mut self, name: &str, kind: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
}

impl Series<'_, '_> {
    /// A counter.
    pub(super) fn counter(&mut self, counter: &Counter) {
        self.put("", None, Sample::sum(counter.get()));
    }

    /// Counters by a label: ours, and those that only predecessors have.
    pub(super) fn tally(&mut self, label: &str, tally: &Tally) {
        let own = tally.each();
        let beginning = format!("{}{{{},{label}=\"", self.metric.name, self.labels);
        let theirs = self.text.inherited.map(|inherited| inherited.endings(&beginning)).unwrap_or_default();
        let theirs: Vec<_> = theirs.iter().filter_map(|series| series.strip_suffix("\"}")).collect();
        self.counts(label, own.iter().copied(), false);
        let is_ours = |value: &&&str| own.iter().any(|(known, _)| known == *value);
        self.counts(label, theirs.iter().filter(|value| !is_ours(value)).map(|value| (*value, 0)), false);
    }

    /// Whether a predecessor has counted another metric of the same object.
    pub(super) fn is_inherited(&self, metric: &Metric) -> bool {
        let series = || format!("{}{{{}}}", metric.name, self.labels);
        self.text.inherited.is_some_and(|inherited| inherited.of(&series()) > 0.0)
    }

    /// Counters by a label, of all of its values; `is_whole`: those that are zero, too.
    pub(super) fn counts<'v>(
        &mut self,
        label: &str,
        counts: impl IntoIterator<Item = (&'v str, u64)>,
        is_whole: bool,
    ) {
        for (value, count) in counts {
            self.put("", Some((label, &value)), Sample { is_whole, ..Sample::sum(count) });
        }
    }

    /// A gauge.
    pub(super) fn gauge(&mut self, gauge: &Gauge) {
        self.put("", None, Sample::number(gauge.get().map(|value| value as f64)));
    }

    /// A gauge by one more label.
    pub(super) fn gauge_of(&mut self, label: &str, value: &str, number: f64) {
        self.put("", Some((label, &value)), Sample::number(Some(number)));
    }

    /// A moment.
    pub(super) fn timestamp(&mut self, timestamp: &Timestamp) {
        self.put("", None, Sample::number(timestamp.get()));
    }

    /// A histogram.
    pub(super) fn histogram<B: Bounds>(&mut self, histogram: &Histogram<B>) {
        let sums = histogram.get();
        if sums.is_none() && self.inherited("_count", None) == 0.0 {
            return;
        }
        let none = || (vec![0; B::BOUNDS.len() + 1], 0.0);
        let (buckets, sum) = sums.map_or_else(none, |sums| (sums.buckets, sums.sum));
        let bounds = B::BOUNDS.iter().map(|bound| bound as &dyn Display).chain([&"+Inf" as &dyn Display]);
        let mut total = 0;
        for (bound, count) in bounds.zip(buckets) {
            total += count;
            self.put("_bucket", Some(("le", bound)), Sample { is_whole: true, ..Sample::sum(total) });
        }
        self.put("_sum", None, Sample::number(Some(sum)));
        self.put("_count", None, Sample { is_whole: true, ..Sample::sum(total) });
    }

    fn put(&mut self, suffix: &str, label: Option<(&str, &dyn Display)>, sample: Sample) {
        let own = sample.own.unwrap_or_default();
        if self.text.inherited.is_none() && !sample.exists() {
            return;
        }
        let theirs = self.inherited(suffix, label);
        if !sample.exists() && theirs == 0.0 {
            return;
        }
        self.describe();
        self.name(suffix, label);
        let Text { out, series, .. } = &mut *self.text;
        let _ = writeln!(out, "{series} {}", own + theirs);
    }

    /// What predecessors have counted of that series.
    fn inherited(&mut self, suffix: &str, label: Option<(&str, &dyn Display)>) -> f64 {
        let Some(inherited) = self.text.inherited else { return 0.0 };
        self.name(suffix, label);
        inherited.of(&self.text.series)
    }

    /// Puts the name of the series into `Text::series`.
    fn name(&mut self, suffix: &str, label: Option<(&str, &dyn Display)>) {
        let series = &mut self.text.series;
        series.clear();
        series.extend([self.metric.name, suffix]);
        if self.labels.is_empty() && label.is_none() {
            return;
        }
        series.extend(["{", self.labels]);
        if let Some((name, value)) = label {
            let comma = if self.labels.is_empty() { "" } else { "," };
            let _ = write!(series, "{comma}{name}=\"{value}\"");
        }
        series.push('}');
    }

    fn describe(&mut self) {
        if !std::mem::replace(self.is_described, true) {
            let Metric { name, help, .. } = self.metric;
            let _ =
                write!(self.text.out, "# HELP {name} {help}\n# TYPE {name} {}\n", self.metric.type_word());
        }
    }
}

impl Sample {
    const fn sum(count: u64) -> Self {
        Self { own: Some(count as f64), is_whole: false }
    }

    const fn number(own: Option<f64>) -> Self {
        Self { own, is_whole: true }
    }

    fn exists(self) -> bool {
        self.own.is_some_and(|own| self.is_whole || own != 0.0)
    }
}

/// The labels of an object, as they stand between braces; their values are escaped.
pub(super) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> String {
    let mut labels = String::new();
    for (name, value) in pairs {
        let comma = if labels.is_empty() { "" } else { "," };
        labels.extend([comma, name, "=\""]);
        for character in value.chars() {
            match character {
                '\\' => labels.push_str("\\\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str("\\n"),
                other => labels.push(other),
            }
        }
        labels.push('"');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::inherited::InheritedMetrics;
    use crate::metrics::names::{ACCEPTED, CONNECTIONS, DialBounds, FIRST_BYTE, SESSIONS_ACTIVE};
    use std::time::Duration;

    fn objects<V: Default>(names: &[&str]) -> Living<V> {
        names.iter().map(|name| (labels([("listener", name)]).into(), Arc::default())).collect()
    }

    fn counted(text: &str) -> AllInherited {
        AllInherited::default().with(7, text, "")
    }

    #[test]
    fn what_has_counted_nothing_is_left_out() {
        let (mut text, all) = (AllInherited::default(), objects::<Counter>(&["a", "b"]));
        let write = |inherited: &AllInherited| {
            let mut text = Text::new(inherited);
            text.family(&ACCEPTED, &all, |its, series| series.counter(its));
            text.finish()
        };
        assert_eq!(write(&text), "");
        all[1].1.increment(2);
        let described = "# HELP ambassador_accepted_total Connections accepted.\n# TYPE ambassador_accepted_total counter\n";
        assert_eq!(write(&text), format!("{described}ambassador_accepted_total{{listener=\"b\"}} 2\n"));
        // What a predecessor has counted exists, too, but only of objects that there are.
        let theirs = |name| format!("ambassador_accepted_total{{listener=\"{name}\"}} 40\n");
        text = counted(&format!("{described}{}{}{}", theirs("a"), theirs("b"), theirs("gone")));
        assert_eq!(write(&text), format!("{described}{}{}", theirs("a"), theirs("b").replace("40", "42")));
    }

    /// A restart made the results of earlier attempts disappear until the first of the same kind.
    #[test]
    fn results_that_only_a_predecessor_has_are_there_too() {
        let all = objects::<Tally>(&["a", "b"]);
        all[0].1.increment("new");
        all[0].1.increment("both");
        let theirs = |name: &str, outcome: &str| {
            format!("ambassador_connections_total{{listener=\"{name}\",outcome=\"{outcome}\"}} 3\n")
        };
        let described = "# TYPE ambassador_connections_total counter\n";
        let inherited = counted(
            &[described, &theirs("a", "both"), &theirs("a", "old"), &theirs("b", "old"), &theirs("c", "old")]
                .concat(),
        );
        let mut text = Text::new(&inherited);
        text.family(&CONNECTIONS, &all, |its, series| {
            assert!(!series.is_inherited(&ACCEPTED));
            series.tally("outcome", its);
        });
        let text = text.finish();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            theirs("a", "new").replace(" 3", " 1"),
            theirs("a", "both").replace(" 3", " 4"),
            theirs("a", "old"),
            theirs("b", "old"),
        ];
        assert_eq!(lines, expected.each_ref().map(|line| line.trim_end()));
    }

    #[test]
    fn labels_are_escaped_and_added() {
        let inherited = AllInherited::default();
        let mut text = Text::new(&inherited);
        text.family(&CONNECTIONS, &objects::<()>(&["a\"b\\c\nd"]), |(), series| {
            series.counts("outcome", [("completed", 1), ("denied", 0)], true);
            series.counts("outcome", [("drained", 0)], false);
        });
        text.of_process(&CONNECTIONS, |series| series.gauge_of("of", "x", 0.0));
        let text = text.finish();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let of = |outcome| {
            format!("ambassador_connections_total{{listener=\"a\\\"b\\\\c\\nd\",outcome=\"{outcome}\"}}")
        };
        let expected = [
            format!("{} 1", of("completed")),
            format!("{} 0", of("denied")),
            "ambassador_connections_total{of=\"x\"} 0".to_owned(),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_histogram_is_cumulated_and_goes_on_where_a_predecessor_was() {
        let all = objects::<Histogram<DialBounds>>(&["a"]);
        let write = |inherited: &AllInherited| {
            let mut text = Text::new(inherited);
            text.family(&FIRST_BYTE, &all, |its, series| series.histogram(its));
            text.finish()
        };
        assert_eq!(write(&AllInherited::default()), "");
        all[0].1.record(Duration::from_micros(100));
        all[0].1.record(Duration::from_secs(60));
        let own = write(&AllInherited::default());
        let has = |text: &str, rest: &str| {
            assert!(text.contains(&format!("ambassador_first_byte_seconds{rest}\n")), "{text}")
        };
        has(&own, "_bucket{listener=\"a\",le=\"0.0001\"} 1");
        has(&own, "_bucket{listener=\"a\",le=\"10\"} 1");
        has(&own, "_bucket{listener=\"a\",le=\"+Inf\"} 2");
        has(&own, "_sum{listener=\"a\"} 60.0001");
        has(&own, "_count{listener=\"a\"} 2");
        let both = write(&counted(&own));
        has(&both, "_bucket{listener=\"a\",le=\"+Inf\"} 4");
        has(&both, "_count{listener=\"a\"} 4");
        let before = objects::<Histogram<DialBounds>>(&["a"]);
        let inherited = counted(&own);
        let mut text = Text::new(&inherited);
        text.family(&FIRST_BYTE, &before, |its, series| series.histogram(its));
        assert_eq!(text.finish(), own, "before the first of our own");
    }

    #[test]
    fn live_gauges_are_added_up_and_others_are_ours() {
        let theirs =
            "# TYPE ambassador_sessions_active gauge\nambassador_sessions_active{listener=\"a\"} 5\n";
        let all = objects::<Gauge>(&["a"]);
        let mut inherited = counted(theirs);
        let write = |inherited: &AllInherited| {
            let mut text = Text::new(inherited);
            text.family(&SESSIONS_ACTIVE, &all, |its, series| series.gauge(its));
            text.finish().lines().last().map(ToOwned::to_owned)
        };
        let shown = |sessions: u32| Some(format!("ambassador_sessions_active{{listener=\"a\"}} {sessions}"));
        assert_eq!(write(&inherited), shown(5));
        all[0].1.increment();
        assert_eq!(write(&inherited), shown(6));
        inherited.end(7);
        assert_eq!(write(&inherited), shown(1));
        assert_eq!(
            InheritedMetrics::read("# TYPE ambassador_breaker_state gauge\nambassador_breaker_state 2\n"),
            InheritedMetrics::default()
        );
    }
}
