//! Sums that continue from those of our predecessors: parsed from their own text, and added to ours line by line.
//!
//! Text is stable between versions, and every version has it. A series is kept only while we have it, too, so that none
//! stays for ever (one that appears again begins anew); and a histogram only with the same buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::names::{CALLER_CONNECTIONS, PREFIX, histograms, is_live};

/// What another process has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct InheritedMetrics {
    /// Counters and the parts of histograms, by series.
    sums: BTreeMap<String, f64>,
    /// Live sessions there, by series.
    live: BTreeMap<String, f64>,
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
    pub(super) fn update(&mut self, process: u32, counted: InheritedMetrics) {
        self.living.insert(process, counted);
    }

    /// Ends a process: its sums stay.
    pub(super) fn end(&mut self, process: u32) {
        for (series, sum) in self.living.remove(&process).unwrap_or_default().sums {
            *self.ended.sums.entry(series).or_default() += sum;
        }
    }

    /// The inherited metrics of our successor: with our own, as text, and without series that no longer exist.
    pub(super) fn with(mut self, process: u32, own: &str) -> Self {
        let own = InheritedMetrics::read(own);
        self.ended.sums.retain(|series, _| own.sums.contains_key(series));
        self.update(process, own);
        self
    }

    /// The units whose callers they have counted.
    pub(super) fn units(&self) -> BTreeSet<String> {
        let unit = |series: &String| {
            let labels = series.strip_prefix(CALLER_CONNECTIONS)?.strip_prefix("{unit=\"")?;
            Some(unescaped(labels.strip_suffix("\"}")?))
        };
        self.all().flat_map(|one| one.sums.keys()).filter_map(unit).collect()
    }

    /// Adds the inherited sums to our own text.
    pub(super) fn add_to(&self, text: String) -> String {
        if *self == Self::default() {
            return text;
        }
        let mut both = String::with_capacity(text.len());
        for line in text.lines() {
            let of_all = |series: &str| self.all().map(|one| one.of(series)).sum::<f64>();
            let theirs = Sample::read(line).map(|sample| (of_all(sample.series), sample));
            // Writing to a string cannot fail.
            let _ = match theirs {
                Some((theirs, Sample { series, value, .. })) if theirs > 0.0 => {
                    writeln!(both, "{series} {}", value + theirs)
                }
                Some(_) | None => writeln!(both, "{line}"),
            };
        }
        both
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

    fn histogram(bounds: &[f64], each: u32) -> String {
        let mut text = "# TYPE ambassador_first_byte_seconds histogram\n".to_owned();
        for (count, bound) in (1..).zip(bounds.iter().map(ToString::to_string).chain(["+Inf".into()])) {
            let total = count * each;
            writeln!(text, "ambassador_first_byte_seconds_bucket{{cluster=\"up\",le=\"{bound}\"}} {total}")
                .unwrap();
        }
        writeln!(text, "ambassador_first_byte_seconds_sum{{cluster=\"up\"}} 1.5").unwrap();
        writeln!(text, "ambassador_first_byte_seconds_count{{cluster=\"up\"}} 17").unwrap();
        text
    }

    /// What one process, number 7, has counted.
    fn living(text: &str) -> AllInherited {
        AllInherited { living: [(7, InheritedMetrics::read(text))].into(), ..AllInherited::default() }
    }

    fn accepted(count: u32) -> String {
        format!(
            "# TYPE ambassador_accepted_total counter\nambassador_accepted_total{{listener=\"app\"}} {count}\n"
        )
    }

    #[test]
    fn several_processes_are_heard_until_each_has_ended() {
        let mut inherited = AllInherited::default().with(1, &accepted(10)).with(2, &accepted(200));
        let seen = |inherited: &AllInherited| inherited.add_to(accepted(3));
        assert_eq!(seen(&inherited), accepted(213));
        inherited.update(1, InheritedMetrics::read(&accepted(12)));
        assert_eq!(seen(&inherited), accepted(215));
        inherited.end(1);
        inherited.end(1);
        assert_eq!(seen(&inherited), accepted(215));
        let written = serde_json::to_string(&inherited).unwrap();
        let mut read: AllInherited = serde_json::from_str(&written).unwrap();
        assert_eq!(read, inherited);
        read.retain(&[]);
        assert_eq!(seen(&read), accepted(215));
        let renamed = read.with(3, "");
        assert_eq!(renamed.with(4, "").add_to(accepted(3)), accepted(3), "nobody counts them any more");
    }

    #[test]
    fn counters_go_on_where_they_were_and_what_nobody_has_any_more_is_left_out() {
        let theirs = "# HELP ambassador_accepted_total Connections accepted.\n# TYPE ambassador_accepted_total counter\n\
                      ambassador_accepted_total{listener=\"app\"} 9007199254740993\n\
                      ambassador_accepted_total{listener=\"gone {} here\"} 5\n\n\
                      # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 7\n";
        let ours = "# TYPE ambassador_accepted_total counter\nambassador_accepted_total{listener=\"app\"} 2\n\
                    ambassador_accepted_total{listener=\"new\"} 1\n\nprocess_cpu_seconds_total 1\n";
        let sum = "# TYPE ambassador_accepted_total counter\nambassador_accepted_total{listener=\"app\"} 9007199254740994\n\
                   ambassador_accepted_total{listener=\"new\"} 1\n\nprocess_cpu_seconds_total 1\n";
        assert_eq!(living(theirs).add_to(ours.into()), sum);
        assert_eq!(AllInherited::default().add_to(ours.into()), ours);
    }

    #[test]
    fn sessions_are_those_of_both_while_the_other_lives_and_other_gauges_are_ours() {
        let theirs = "# TYPE ambassador_sessions_active gauge\nambassador_sessions_active{listener=\"app\"} 5\n\
                      # TYPE ambassador_breaker_state gauge\nambassador_breaker_state{cluster=\"up\"} 2\n";
        let ours =
            "ambassador_sessions_active{listener=\"app\"} 3\nambassador_breaker_state{cluster=\"up\"} 0\n";
        let mut inherited = living(theirs);
        assert_eq!(inherited.add_to(ours.into()), ours.replace("} 3", "} 8"));
        inherited.end(7);
        assert_eq!(inherited.add_to(ours.into()), ours);
    }

    #[test]
    fn histograms_are_carried_with_the_same_buckets_only() {
        let bounds = histograms().find(|(name, _)| *name == "ambassador_first_byte_seconds").unwrap().1;
        let ours = histogram(bounds, 1);
        let both = living(&histogram(bounds, 10)).add_to(ours.clone());
        assert!(both.contains("le=\"0.0001\"} 11\n") && both.contains("le=\"+Inf\"} 187\n"), "{both}");
        assert!(both.contains("_sum{cluster=\"up\"} 3\n") && both.contains("_count{cluster=\"up\"} 34\n"));
        for other in [&bounds[1..], &[&[0.000_01], bounds].concat()] {
            assert_eq!(living(&histogram(other, 10)).add_to(ours.clone()), ours);
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
