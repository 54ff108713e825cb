//! An endpoints file: read again whenever it may have changed. What it means is the configuration's to say.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use super::target::{EndpointsFile, Target};
use crate::watch::Watch;

/// A larger file is refused unread.
const FILE_MAX: usize = 1024 * 1024;

/// A file that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) file: EndpointsFile,
    watch: Watch,
    /// What was read last, well or badly.
    seen: Option<Result<Vec<u8>, String>>,
    pub(super) succeeded: Option<Instant>,
    pub(super) error: Option<String>,
}

impl Followed {
    pub(super) fn new(file: EndpointsFile) -> Self {
        let watch = Watch::new([file.path.clone()]);
        Self { file, watch, seen: None, succeeded: None, error: None }
    }

    /// Returns when it may have changed.
    pub(super) async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// What it says now; `None` if that is what it said before.
    pub(super) fn read(&mut self, now: Instant) -> Option<Result<Vec<Target>, String>> {
        let bytes = read(&self.file);
        if self.seen.as_ref() == Some(&bytes) {
            return None;
        }
        let targets = bytes.clone().and_then(|bytes| (self.file.parse)(&bytes));
        self.seen = Some(bytes);
        self.error = targets.as_ref().err().cloned();
        if targets.is_ok() {
            self.succeeded = Some(now);
        }
        Some(targets)
    }
}

fn read(file: &EndpointsFile) -> Result<Vec<u8>, String> {
    let failed = |error| format!("{}: cannot read it: {error}", file.path.display());
    let mut bytes = Vec::new();
    let most = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
    let opened = File::open(&file.path).map_err(failed)?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_MAX {
        return Err(format!("{}: it is larger than 1 MiB", file.path.display()));
    }
    Ok(bytes)
}

impl EndpointsFile {
    /// What it says now.
    ///
    /// # Errors
    /// In words, with their places: what is wrong with it.
    pub fn targets(&self) -> Result<Vec<Target>, String> {
        read(self).and_then(|bytes| (self.parse)(&bytes))
    }
}
