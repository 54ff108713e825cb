//! An endpoints file: read again whenever it may have changed. The configuration parses its contents.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use super::source_update::{LastUpdate, SourceUpdate};
use crate::alarm;
use crate::blocking::BlockingTask;
use crate::clock;
use crate::cluster::{EndpointsFile, Target};
use crate::watch::{FileEvent, Watch};

/// A larger file is refused unparsed.
const FILE_MAX: usize = 1024 * 1024;

/// How long reading may take before it is reported. The task goes on waiting for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most reads that are abandoned because the file was changed while they hung: each keeps a thread.
const GIVEN_UP_MAX: u32 = 8;

/// A file that is followed. It is read on a thread of its own: its file system may hang.
#[derive(Debug)]
pub(super) struct WatchedFile {
    pub(super) file: EndpointsFile,
    watch: Option<Watch>,
    reading: BlockingTask<Contents>,
    /// When a read that takes too long is reported; `None`: it has been.
    late: Option<Instant>,
    given_up: u32,
    /// The targets are compared, not the text: the same text may mean another interface of this host by now.
    pub(super) last: LastUpdate,
}

/// The file's bytes, or why they could not be read.
pub(super) type Contents = Result<Vec<u8>, String>;

impl WatchedFile {
    pub(super) fn new(file: EndpointsFile) -> Self {
        Self {
            file,
            watch: None,
            reading: BlockingTask::default(),
            late: None,
            given_up: 0,
            last: LastUpdate::default(),
        }
    }

    /// Reads the file: at once for the first time, then whenever it may have changed. Cancel-safe.
    pub(super) async fn contents(&mut self) -> Contents {
        if !self.reading.is_busy() {
            match &mut self.watch {
                Some(watch) => drop(watch.changed().await),
                None => self.watch = Some(Watch::new([self.file.path.clone()]).await),
            }
            self.begin()?;
        }
        let read = loop {
            let Some(late) = self.late else {
                tokio::select! {
                    biased;
                    read = self.reading.join() => break read,
                    news = changed(self.watch.as_mut()) => {
                        if news == FileEvent::Changed && self.given_up < GIVEN_UP_MAX {
                            self.given_up += 1;
                            self.begin()?;
                        }
                        continue;
                    }
                }
            };
            match alarm::timeout_at(late, self.reading.join()).await {
                Ok(read) => break read,
                Err(_) => {
                    self.late = None;
                    let path = self.file.path.display();
                    return Err(format!("{path}: reading it takes too long: its file system may hang"));
                }
            }
        };
        let failed = |_| format!("{}: ambassador itself failed while it read it", self.file.path.display());
        read.map_err(failed).flatten()
    }

    /// Begins to read it. The watch reports changes from here on.
    fn begin(&mut self) -> Result<(), String> {
        let file = self.file.clone();
        let begun = self.reading.begin(move || read(&file));
        self.late = Some(clock::now() + PATIENCE);
        begun.map_err(|error| format!("{}: cannot read it: {error}", self.file.path.display()))
    }

    /// Parses the contents; `None` if the result is the same as before.
    pub(super) fn take(&mut self, contents: Contents, now: Instant) -> Option<&SourceUpdate> {
        let said = match contents.and_then(|bytes| (self.file.parse)(&bytes)) {
            Ok(targets) => SourceUpdate::Targets(targets, None),
            Err(error) => SourceUpdate::Error(error),
        };
        self.last.take(said, now)
    }
}

async fn changed(watch: Option<&mut Watch>) -> FileEvent {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn read(file: &EndpointsFile) -> Contents {
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
    /// Reads and parses the file now.
    ///
    /// # Errors
    /// What is wrong with it, in words, with the places.
    pub fn targets(&self) -> Result<Vec<Target>, String> {
        read(self).and_then(|bytes| (self.parse)(&bytes))
    }
}
