//! What this process leaves to its successor: what was counted, and what is known of each cluster.
//!
//! It is written as JSON into a memory file, which is passed on like the listening sockets. Any version may read it: a
//! part that it cannot parse is ignored, and a warning is logged.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::admin::AdminState;
use crate::cluster::snapshot::Snapshot as ClusterSnapshot;
use crate::metrics::AllInherited;
use crate::name::ClusterName;
use crate::sys::MemoryFile;

#[derive(Debug, Default)]
pub(in crate::daemon) struct Snapshot {
    /// What the process counted, and its predecessors.
    pub(in crate::daemon) counted: AllInherited,
    pub(in crate::daemon) clusters: BTreeMap<ClusterName, ClusterSnapshot>,
}

/// Raised when the meaning of an existing part changes; new parts do not need it.
const FORMAT: u32 = 1;
/// The longest snapshot, in bytes: some thousands of endpoints fit.
const LENGTH_MAX: u64 = 64 * 1024 * 1024;

#[derive(Serialize)]
struct SnapshotFile<'a> {
    format: u32,
    version: &'a str,
    counted: AllInherited,
    clusters: BTreeMap<&'a str, ClusterSnapshot>,
}

#[derive(Deserialize)]
struct RestoredSnapshot {
    format: u32,
    #[serde(default)]
    version: String,
    #[serde(default)]
    counted: serde_json::Value,
    #[serde(default)]
    clusters: BTreeMap<String, serde_json::Value>,
}

/// Writes down what is known now.
///
/// # Errors
/// Errors of memfd_create(2) and write(2).
pub(in crate::daemon) fn write(admin_state: &AdminState) -> io::Result<MemoryFile> {
    let view = admin_state.view.get();
    let clusters = view.clusters.iter().map(|cluster| (cluster.settings().name.as_str(), cluster.snapshot()));
    let written = SnapshotFile {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        counted: admin_state.metrics().inherited_and_own(std::process::id()),
        clusters: clusters.collect(),
    };
    MemoryFile::holding(&serde_json::to_vec(&written)?)
}

/// Reads what a predecessor wrote, as far as it can be parsed.
pub(in crate::daemon) fn read(file: MemoryFile) -> Snapshot {
    let found = file.read(LENGTH_MAX).and_then(|text| Ok(serde_json::from_slice::<RestoredSnapshot>(&text)?));
    match found {
        Ok(found) if found.format == FORMAT => found.parse(),
        Ok(RestoredSnapshot { format, version, .. }) => {
            tracing::warn!(
                format,
                version,
                "the predecessor's state has an unknown format; beginning without it"
            );
            Snapshot::default()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot read the predecessor's state; beginning without it");
            Snapshot::default()
        }
    }
}

impl RestoredSnapshot {
    fn parse(self) -> Snapshot {
        let mut clusters = BTreeMap::new();
        for (cluster, known) in self.clusters {
            match serde_json::from_value(known) {
                Ok(known) => drop(clusters.insert(ClusterName::from(cluster.as_str()), known)),
                Err(error) => {
                    tracing::warn!(%cluster, %error, "cannot read the predecessor's state of a cluster; beginning without it");
                }
            }
        }
        let counted = serde_json::from_value(self.counted).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the predecessor's counters; counting from zero");
            AllInherited::default()
        });
        let version = (self.version != env!("CARGO_PKG_VERSION")).then_some(self.version);
        tracing::info!(clusters = clusters.len(), version, "the predecessor's state is restored");
        Snapshot { counted, clusters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Snapshot {
        read(MemoryFile::holding(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_cannot_be_understood_is_as_if_it_were_not_there() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{ "format": 2, "clusters": { "a": {} } }"#,
            r#"{ "format": 1, "counted": 5 }"#,
            r#"{ "format": "1" }"#,
        ] {
            let snapshot = of(text);
            assert!(snapshot.counted == AllInherited::default() && snapshot.clusters.is_empty(), "{text}");
        }
        let some = of(
            r#"{ "format": 1, "more": [], "counted": { "ended": { "sums": { "x": 1 } } }, "clusters": { "a": {}, "b": 5, "c": { "endpoints": {} } } }"#,
        );
        assert_ne!(some.counted, AllInherited::default());
        assert_eq!(some.clusters.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    }
}
