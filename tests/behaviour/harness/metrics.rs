//! The Prometheus text of one scrape, read strictly: a line that is neither comment nor sample fails the test.

use std::collections::BTreeMap;

/// The table of all metrics.
const NAMES: &str = include_str!("../../../src/metrics/names.rs");

pub(crate) struct Metrics {
    samples: Vec<Sample>,
    /// Metric name → `counter`, `gauge` or `histogram`, from the TYPE lines.
    pub(crate) types: BTreeMap<String, String>,
}

pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Metrics {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        let mut samples = Vec::new();
        let mut types = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("# ") {
                Some(comment) => {
                    if let Some(rest) = comment.strip_prefix("TYPE ") {
                        let (name, kind) = rest
                            .split_once(' ')
                            .unwrap_or_else(|| panic!("a TYPE line without a type: {line}"));
                        types.insert(name.to_owned(), kind.to_owned());
                    }
                }
                None => {
                    samples.push(sample(line).unwrap_or_else(|| panic!("not a Prometheus sample: {line}")))
                }
            }
        }
        Self { samples, types }
    }

    /// The sum over every series of `name` (with the `ambassador_` prefix added) that has all these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // A series exists from its first sample on; a name that is not one would be zero for ever.
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(NAMES.contains(&format!("\"ambassador_{family}\"")), "{name} is no metric");
        let name = format!("ambassador_{name}");
        self.samples
            .iter()
            .filter(|sample| sample.name == name && sample.has(labels))
            .map(|sample| sample.value)
            .sum()
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|got| got == value))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value })
}
