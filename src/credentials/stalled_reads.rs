//! Reading the files of a credential on a thread, for a bounded time: a file system may hang.

use std::fmt;
use std::time::{Duration, Instant};

use super::CredentialSource;
use crate::alarm;
use crate::blocking::{BlockingTask, Panicked};
use crate::clock;
use crate::watch::FileEvent;

/// Credentials whose reading hangs, with the thread that reads. They are not read a second time meanwhile.
#[derive(Default)]
pub(super) struct StalledReads {
    readings: Vec<(CredentialSource, BlockingTask<Result<Refreshed, String>>)>,
    given_up: usize,
}

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
    /// other. Those behind one that hangs are read on another thread.
    pub(super) async fn refresh_all(
        &mut self,
        parts: &[CredentialSource],
        until: Instant,
        mut each: impl FnMut(&CredentialSource, Result<Refreshed, ReadFault>),
    ) {
        let (hung, mut rest): (Vec<_>, Vec<_>) =
            parts.iter().partition(|part| self.readings.iter().any(|(hung, _)| hung.is_same(part)));
        for part in hung {
            let Some(position) = self.readings.iter().position(|(hung, _)| hung.is_same(part)) else {
                continue;
            };
            let reading = self.readings.swap_remove(position).1;
            // It gets no more time.
            each(part, self.result(part, reading, clock::now()).await);
        }
        while !rest.is_empty() {
            let works = rest.iter().map(|part| (*part).clone()).map(|part| move || part.refresh());
            let readings = match BlockingTask::begin_in_turn(works) {
                Ok(readings) => readings,
                Err(error) => {
                    let refused = || Err(ReadFault::Refused(error.to_string()));
                    return rest.iter().for_each(|part| each(part, refused()));
                }
            };
            let mut done = 0;
            for (part, reading) in rest.iter().zip(readings) {
                let until = until.max(clock::now() + PATIENCE_LEAST);
                let result = self.result(part, reading, until).await;
                let goes_on = !matches!(result, Err(ReadFault::Hangs | ReadFault::Panicked));
                each(part, result);
                done += 1;
                if !goes_on {
                    break;
                }
            }
            rest.drain(..done);
        }
    }

    async fn result(
        &mut self,
        part: &CredentialSource,
        mut reading: BlockingTask<Result<Refreshed, String>>,
        until: Instant,
    ) -> Result<Refreshed, ReadFault> {
        match alarm::timeout_at(until, reading.join()).await {
            Ok(Ok(refreshed)) => refreshed.map_err(ReadFault::Refused),
            Ok(Err(Panicked)) => Err(ReadFault::Panicked),
            Err(_) => {
                self.readings.push((part.clone(), reading));
                Err(ReadFault::Hangs)
            }
        }
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
