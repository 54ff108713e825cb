//! The committed counts, and the comparison with new ones.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::scenario::{SCENARIOS, Scenario, TOLERANCE};

/// The counts when they were last accepted.
pub(crate) struct Baseline {
    /// Architecture and versions of the count.
    pub(crate) toolchain: String,
    counts: Vec<(String, u64)>,
}

const HEAD: &str = "# Instructions of one unit of work, by benches/instructions; `scripts/instructions --accept` \
                    writes this file.\n";
const TOOLCHAIN: &str = "# counted on ";

impl Baseline {
    pub(crate) fn read(file: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let toolchain = text.lines().find_map(|line| line.strip_prefix(TOOLCHAIN)).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let count = |line: &str| {
            let (name, count) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        };
        let counts = lines.map(|line| count(line).ok_or_else(|| format!("{}: {line:?}", file.display())));
        Ok(Self { toolchain: toolchain.to_owned(), counts: counts.collect::<Result<_, _>>()? })
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Failure> {
        let mut text = format!("{HEAD}{TOOLCHAIN}{}\n", self.toolchain);
        for scenario in SCENARIOS {
            if let Some(count) = self.instructions(scenario) {
                text.push_str(&format!("{:<22} {count:>9}\n", scenario.name));
            }
        }
        Ok(fs::write(file, text)?)
    }

    pub(crate) fn instructions(&self, scenario: &Scenario) -> Option<u64> {
        self.counts.iter().find(|(name, _)| name == scenario.name).map(|(_, count)| *count)
    }

    pub(crate) fn set(&mut self, scenario: &Scenario, count: u64) {
        self.counts.retain(|(name, _)| name != scenario.name);
        self.counts.push((scenario.name.to_owned(), count));
    }
}

/// The result of a comparison.
pub(crate) enum Verdict {
    /// There is no baseline for it, so nothing guards it.
    New,
    /// The baseline is of another architecture.
    Foreign,
    Same {
        baseline: u64,
        change: f64,
    },
    Dearer {
        baseline: u64,
        change: f64,
    },
    /// So much cheaper that the baseline no longer guards it.
    Cheaper {
        baseline: u64,
        change: f64,
    },
}

impl Verdict {
    pub(crate) fn of(baseline: Option<u64>, measured: u64) -> Self {
        let Some(baseline) = baseline else { return Self::New };
        let change = (measured as f64 / baseline as f64 - 1.0) * 100.0;
        if change > f64::from(TOLERANCE) {
            Self::Dearer { baseline, change }
        } else if change < -f64::from(TOLERANCE) {
            Self::Cheaper { baseline, change }
        } else {
            Self::Same { baseline, change }
        }
    }

    pub(crate) const fn fails(&self) -> bool {
        matches!(self, Self::New | Self::Dearer { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("NO BASELINE"),
            Self::Foreign => f.write_str("not judged"),
            Self::Same { baseline, change } => write!(f, "baseline {baseline} ({change:+.1} %)"),
            Self::Dearer { baseline, change } => {
                write!(f, "TOO MANY: baseline {baseline} ({change:+.1} %, allowed is +{TOLERANCE} %)")
            }
            Self::Cheaper { baseline, change } => write!(
                f,
                "fewer than the baseline {baseline} ({change:+.1} %): lower it with scripts/instructions --accept"
            ),
        }
    }
}
