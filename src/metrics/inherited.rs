//! Sums that continue from those of our predecessors: parsed from their own text, and added to ours series by series
//! (`text`).
//!
//! Text is stable between versions, and every version has it. A series is forgotten when its object is dropped here, so that one
//! that comes back begins anew as our own does, and is passed on only while we show it, so that none stays for ever; a histogram
//! counts only with the same buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::names::{CALLER_CONNECTIONS, Metric, PREFIX, histograms, is_live};

/// What another process has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct InheritedMetrics {
    /// Counters and the parts of histograms, by series.
    sums: BTreeMap<String, f64>,
    /// Live sessions there, by series.
    live: BTreeMap<String, f64>,
    /// How the series begin that were forgotten; its later reports have them again.
    forgotten: BTreeSet<String>,
}

/// What all our predecessors have counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AllInherited {
    /// The sums of those that have ended.
    ended: InheritedMetrics,
    /// Those that still have sessions, by process id.
    living: BTreeMap<u32, InheritedMetrics>,
}

/// A parsed line of the text.
struct Sample<'a> {
    series: &'a str,
    name: &'a str,
    value: f64,
}

impl InheritedMetrics {
    /// Parses a text; lines that are not understood are ignored.
    #[must_use]
    pub(crate) fn read(text: &str) -> Self {
        let mut read = Self::default();
        let mut bounds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            if let Some((name, of)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                (family, kind) = (name, of);
            }
            let Some(Sample { series, name, value }) = Sample::read(line) else { continue };
            if is_live(name) {
                read.live.insert(series.to_owned(), value);
            } else if matches!(kind, "counter" | "histogram") && name.starts_with(family) {
                bounds.entry(family).or_default().extend(bound(series));
                read.sums.insert(series.to_owned(), value);
            }
        }
        for (family, bounds) in bounds {
            if !has_our_buckets(family, &bounds) {
                let is_of = |series: &String| series.strip_prefix(family).is_some_and(is_part_of_a_histogram);
                read.sums.retain(|series, _| !is_of(series));
            }
        }
        read
    }

    /// Forgets the sums of all series that begin like this. Whether there were any.
    fn forget(&mut self, beginning: &str) -> bool {
        let from = (Bound::Included(beginning), Bound::Unbounded);
        let series = self.sums.range::<str, _>(from).map(|(series, _)| series);
        let gone: Vec<_> = series.take_while(|series| series.starts_with(beginning)).cloned().collect();
        for series in &gone {
            self.sums.remove(series);
        }
        !gone.is_empty()
    }

    fn of(&self, series: &str) -> f64 {
        self.sums.get(series).or_else(|| self.live.get(series)).copied().unwrap_or_default()
    }
}

impl AllInherited {
    /// Ends all but these processes, as no others can report.
    pub(crate) fn retain(&mut self, processes: &[u32]) {
        let gone: Vec<_> =
            self.living.keys().filter(|process| !processes.contains(process)).copied().collect();
        gone.into_iter().for_each(|process| self.end(process));
    }

    /// Updates what a process has counted.
    pub(super) fn update(&mut self, process: u32, mut counted: InheritedMetrics) {
        counted.forgotten = self.living.remove(&process).unwrap_or_default().forgotten;
        for beginning in std::mem::take(&mut counted.forgotten) {
            counted.forget(&beginning);
            counted.forgotten.insert(beginning);
        }
        self.living.insert(process, counted);
    }

    /// Forgets what they have counted of an object, which is gone here.
    pub(super) fn forget(&mut self, metric: &Metric, labels: &str) {
        for part in metric.parts() {
            // A label's value ends with a quote, so no longer value begins like it.
            let beginning = format!("{}{part}{{{labels}", metric.name);
            self.ended.forget(&beginning);
            for living in self.living.values_mut() {
                if living.forget(&beginning) {
                    living.forgotten.insert(beginning.clone());
                }
            }
        }
    }

    /// Ends a process: its sums stay.
    pub(super) fn end(&mut self, process: u32) {
        for (series, sum) in self.living.remove(&process).unwrap_or_default().sums {
            *self.ended.sums.entry(series).or_default() += sum;
        }
    }

    /// The inherited metrics of our successor: with our own, as text, and without series that are not shown any more; `shown`:
    /// the text of both.
    pub(super) fn with(mut self, process: u32, own: &str, shown: &str) -> Self {
        let shown = InheritedMetrics::read(shown);
        self.ended.sums.retain(|series, _| shown.sums.contains_key(series));
        self.update(process, InheritedMetrics::read(own));
        self
    }

    /// The units whose callers they have counted.
    pub(super) fn units(&self) -> BTreeSet<String> {
        let unit = |series: &String| {
            let labels = series.strip_prefix(CALLER_CONNECTIONS.name)?.strip_prefix("{unit=\"")?;
            Some(unescaped(labels.strip_suffix("\"}")?))
        };
        self.all().flat_map(|one| one.sums.keys()).filter_map(unit).collect()
    }

    /// What all of them have counted of a series, as it is written.
    pub(super) fn of(&self, series: &str) -> f64 {
        self.all().map(|one| one.of(series)).sum()
    }

    /// How the series go on that begin like this, each once.
    pub(super) fn endings(&self, beginning: &str) -> BTreeSet<String> {
        let of_one = |one: &InheritedMetrics| {
            let from = (Bound::Included(beginning), Bound::Unbounded);
            let series =
                one.sums.range::<str, _>(from).map_while(|(series, _)| series.strip_prefix(beginning));
            series.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        self.all().flat_map(of_one).collect()
    }

    /// Whether there are sums of processes that have ended.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.sums.is_empty()
    }

    /// Whether nobody has counted anything.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn all(&self) -> impl Iterator<Item = &InheritedMetrics> {
        std::iter::once(&self.ended).chain(self.living.values())
    }
}

impl<'a> Sample<'a> {
    /// `None` for anything but a sample of ours.
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let value = value.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
        name.starts_with(PREFIX).then_some(Self { series, name, value })
    }
}

/// The upper bound of a bucket's series, as it is written.
fn bound(series: &str) -> Option<&str> {
    series.split_once("le=\"")?.1.split('"').next()
}

/// Reverses the escaping of a label's value.
pub(super) fn unescaped(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => break,
            },
            other => other,
        });
    }
    plain
}

fn is_part_of_a_histogram(rest: &str) -> bool {
    ["_bucket", "_sum", "_count"].iter().any(|part| rest.starts_with(part))
}

/// Whether a family has no buckets, or exactly those that it has here.
fn has_our_buckets(family: &str, bounds: &BTreeSet<&str>) -> bool {
    let theirs: Vec<_> = bounds.iter().filter_map(|bound| bound.parse::<f64>().ok()).collect();
    let ours = histograms().find(|(name, _)| *name == family).map(|(_, bounds)| bounds);
    match ours {
        None => bounds.is_empty(),
        Some(ours) => {
            theirs.len() == ours.len() + 1
                && ours.iter().chain([&f64::INFINITY]).all(|bound| theirs.contains(bound))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::{EJECTIONS, FIRST_BYTE};

    fn histogram(bounds: &[f64]) -> String {
        let mut text = "# TYPE ambassador_first_byte_seconds histogram\n".to_owned();
        for (count, bound) in (1..).zip(bounds.iter().map(ToString::to_string).chain(["+Inf".into()])) {
            text +=
                &format!("ambassador_first_byte_seconds_bucket{{cluster=\"up\",le=\"{bound}\"}} {count}\n");
        }
        text + "ambassador_first_byte_seconds_count{cluster=\"up\"} 17\n"
    }

    const ACCEPTED: &str = "ambassador_accepted_total{listener=\"app\"}";

    /// What one process, number 7, has counted.
    fn living(text: &str) -> AllInherited {
        AllInherited { living: [(7, InheritedMetrics::read(text))].into(), ..AllInherited::default() }
    }

    fn accepted(count: u32) -> String {
        format!("# TYPE ambassador_accepted_total counter\n{ACCEPTED} {count}\n")
    }

    #[test]
    fn several_processes_are_heard_until_each_has_ended() {
        let with =
            |inherited: AllInherited, process, own| inherited.with(process, &accepted(own), &accepted(1));
        let mut inherited = with(with(AllInherited::default(), 1, 10), 2, 200);
        assert_eq!(inherited.of(ACCEPTED), 210.0);
        inherited.update(1, InheritedMetrics::read(&accepted(12)));
        assert_eq!(inherited.of(ACCEPTED), 212.0);
        inherited.end(1);
        inherited.end(1);
        assert_eq!(inherited.of(ACCEPTED), 212.0);
        let written = serde_json::to_string(&inherited).unwrap();
        let mut read: AllInherited = serde_json::from_str(&written).unwrap();
        assert_eq!(read, inherited);
        read.retain(&[]);
        assert_eq!(read.of(ACCEPTED), 212.0);
        assert_eq!(read.clone().with(3, "", &accepted(212)).of(ACCEPTED), 212.0, "it is shown");
        assert!(read.with(3, "", "").with(4, "", "").of(ACCEPTED) == 0.0, "nobody shows them any more");
    }

    /// Scenario: an endpoint left, and came back: our own count began anew and the predecessor's stayed, so that the sum fell to a
    /// number that was not its own, and scrapers took all of it for an increase.
    #[test]
    fn what_is_dropped_here_is_forgotten_here() {
        let text = "# TYPE ambassador_ejections_total counter\n\
                    ambassador_ejections_total{cluster=\"up\",endpoint=\"a\",fault=\"dial\"} 40\n\
                    ambassador_ejections_total{cluster=\"up\",endpoint=\"ab\",fault=\"dial\"} 2\n";
        let of = |endpoint| {
            format!("ambassador_ejections_total{{cluster=\"up\",endpoint=\"{endpoint}\",fault=\"dial\"}}")
        };
        let mut inherited = living(text);
        inherited.update(8, InheritedMetrics::read(text));
        inherited.end(8);
        assert_eq!(inherited.of(&of("a")), 80.0);
        inherited.forget(&EJECTIONS, "cluster=\"up\",endpoint=\"a\"");
        inherited.update(7, InheritedMetrics::read(text));
        assert_eq!((inherited.of(&of("a")), inherited.of(&of("ab"))), (0.0, 4.0));
        // Our successor has our own count of the one that is back.
        let theirs = inherited.with(9, text, text);
        assert_eq!((theirs.of(&of("a")), theirs.of(&of("ab"))), (40.0, 6.0));
        let bounds = histograms().find(|(name, _)| *name == FIRST_BYTE.name).unwrap().1;
        let mut inherited = living(&histogram(bounds));
        inherited.forget(&FIRST_BYTE, "cluster=\"up\"");
        assert!(inherited.living[&7].sums.is_empty());
    }

    #[test]
    fn counters_are_read_and_those_of_the_process_are_not() {
        let theirs = "# HELP ambassador_accepted_total Connections accepted.\n# TYPE ambassador_accepted_total counter\n\
                      ambassador_accepted_total{listener=\"app\"} 9007199254740993\n\
                      ambassador_accepted_total{listener=\"gone {} here\"} 5\n\n\
                      # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 7\n";
        let inherited = living(theirs);
        assert_eq!(inherited.of(ACCEPTED), 9_007_199_254_740_992.0);
        assert_eq!(inherited.of("ambassador_accepted_total{listener=\"gone {} here\"}"), 5.0);
        assert_eq!(inherited.of("process_cpu_seconds_total"), 0.0);
        assert!(AllInherited::default().is_empty() && !inherited.is_empty());
    }

    #[test]
    fn histograms_are_carried_with_the_same_buckets_only() {
        let bounds = histograms().find(|(name, _)| *name == "ambassador_first_byte_seconds").unwrap().1;
        let count = |bounds: &[f64]| {
            living(&histogram(bounds)).of("ambassador_first_byte_seconds_count{cluster=\"up\"}")
        };
        assert_eq!(count(bounds), 17.0);
        for other in [&bounds[1..], &[&[0.000_01], bounds].concat()] {
            assert_eq!(count(other), 0.0);
        }
    }

    #[test]
    fn units_are_read_off_their_series() {
        let text = "# TYPE ambassador_caller_connections_total counter\n\
                    ambassador_caller_connections_total{unit=\"none\"} 1\n\
                    ambassador_caller_connections_total{unit=\"a\\\\x2db.service\"} 1\n";
        assert!(living(text).units().iter().eq(["a\\x2db.service", "none"]));
    }

    #[test]
    fn nonsense_is_passed_over() {
        let text = "# TYPE\n# TYPE ambassador_a_total counter\nambassador_a_total NaN\nambassador_a_total\nambassador_a_total -1\n\
                    \u{1F980} 1\nambassador_a_total{x=\"y\" 1e400\n";
        assert_eq!(InheritedMetrics::read(text), InheritedMetrics::default());
    }
}
