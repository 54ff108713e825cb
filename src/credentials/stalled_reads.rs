//! Reading the files of a credential on a thread, for a bounded time: a file system may hang.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::CredentialSource;
use crate::alarm;
use crate::blocking::{BlockingTask, Panicked};
use crate::clock;
use crate::tls::CredentialFiles;
use crate::watch::FileEvent;

/// Credentials whose reading hangs, with the thread that reads. They are not read a second time meanwhile.
#[derive(Default)]
pub(super) struct StalledReads {
    readings: Vec<(Vec<CredentialSource>, Reading)>,
    given_up: usize,
}

/// Reading the files of several credentials that have the same, once for all.
type Reading = BlockingTask<Vec<Result<Refreshed, String>>>;

/// A file that is read behind one that hangs gets at least so long.
const PATIENCE_LEAST: Duration = Duration::from_millis(200);
/// How many hanging readings may be given up because the file may have been replaced: each keeps a thread.
const GIVEN_UP_MAX: usize = 8;

/// Why the content of a credential's files is unknown, or not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadFault {
    /// Reading them takes too long.
    Hangs,
    Panicked,
    /// What was read cannot be used, or the system gave nothing to read; why, in words.
    Refused(String),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hangs => "reading its files takes too long: their file system may hang",
            Self::Panicked => "ambassador itself failed while it read its files",
            Self::Refused(reason) => reason,
        })
    }
}

impl StalledReads {
    /// After a file event, the file of a hanging reading may have been replaced: it is to be read anew.
    pub(super) fn look_again(&mut self, news: FileEvent) {
        if news == FileEvent::Changed {
            let room = GIVEN_UP_MAX.saturating_sub(self.given_up).min(self.readings.len());
            self.readings.drain(..room);
            self.given_up += room;
        }
    }

    /// Reads the files of all these again, in turn, and tells `each` of each; of one whose earlier reading still hangs there is no
    /// other. Those behind one that hangs are read on another thread. Credentials with the same files are read together, because
    /// to wake two threads for each costs more than the reading.
    pub(super) async fn refresh_all(
        &mut self,
        parts: &[CredentialSource],
        until: Instant,
        mut each: impl FnMut(&CredentialSource, Result<Refreshed, ReadFault>),
    ) {
        let (hung, rest): (Vec<_>, Vec<_>) = parts.iter().partition(|part| self.reads(part));
        // They get no more time.
        for (group, reading) in self.take_readings(&hung) {
            self.tell(group, reading, clock::now(), &mut |part, result| {
                if hung.iter().any(|hung| hung.is_same(part)) {
                    each(part, result);
                }
            })
            .await;
        }
        let mut groups: BTreeMap<Vec<PathBuf>, Vec<CredentialSource>> = BTreeMap::new();
        rest.into_iter().for_each(|part| groups.entry(part.files()).or_default().push(part.clone()));
        let mut rest: VecDeque<_> = groups.into_values().collect();
        while !rest.is_empty() {
            let works = rest.iter().cloned().map(|group| {
                move || {
                    let files = CredentialFiles::default();
                    group.iter().map(|part| part.refresh(&files)).collect()
                }
            });
            let readings = match BlockingTask::begin_in_turn(works) {
                Ok(readings) => readings,
                Err(error) => {
                    let refused = || Err(ReadFault::Refused(error.to_string()));
                    return rest.iter().flatten().for_each(|part| each(part, refused()));
                }
            };
            for reading in readings {
                let Some(group) = rest.pop_front() else { return };
                let until = until.max(clock::now() + PATIENCE_LEAST);
                if !self.tell(group, reading, until, &mut each).await {
                    // Its thread does not come to those behind.
                    break;
                }
            }
        }
    }

    fn reads(&self, part: &CredentialSource) -> bool {
        self.readings.iter().flat_map(|(group, _)| group).any(|hung| hung.is_same(part))
    }

    /// Takes out the readings of any of these.
    fn take_readings(&mut self, parts: &[&CredentialSource]) -> Vec<(Vec<CredentialSource>, Reading)> {
        let (taken, kept) = std::mem::take(&mut self.readings)
            .into_iter()
            .partition(|(group, _)| group.iter().any(|one| parts.iter().any(|part| part.is_same(one))));
        self.readings = kept;
        taken
    }

    /// Tells `each` of the results, and whether there are any; the reading of files that hang goes on.
    async fn tell(
        &mut self,
        group: Vec<CredentialSource>,
        mut reading: Reading,
        until: Instant,
        each: &mut impl FnMut(&CredentialSource, Result<Refreshed, ReadFault>),
    ) -> bool {
        let failed = match alarm::timeout_at(until, reading.join()).await {
            Ok(Ok(results)) => {
                let results = results.into_iter().map(|result| result.map_err(ReadFault::Refused));
                group.iter().zip(results).for_each(|(part, result)| each(part, result));
                return true;
            }
            Ok(Err(Panicked)) => ReadFault::Panicked,
            Err(_) => ReadFault::Hangs,
        };
        group.iter().for_each(|part| each(part, Err(failed.clone())));
        if failed == ReadFault::Hangs {
            self.readings.push((group, reading));
        }
        false
    }

    /// Returns when a hanging reading has finished.
    pub(super) async fn any_returned(&mut self) {
        std::future::poll_fn(|cx| {
            let is_back = self.readings.iter_mut().any(|(_, reading)| reading.poll_finished(cx).is_ready());
            if is_back { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// The result of reading a credential's files again.
pub(super) struct Refreshed {
    pub(super) is_new: bool,
    /// A fault of the files that does not prevent their use.
    pub(super) warning: Option<String>,
}

impl Refreshed {
    pub(super) const fn of_agent(is_new: bool) -> Self {
        Self { is_new, warning: None }
    }
}
