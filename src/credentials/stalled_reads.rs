//! Reading the files of a credential on a thread, for a bounded time: a file system may hang.

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

impl StalledReads {
    /// After a file event, the file of a hanging reading may have been replaced: it is to be read anew.
    pub(super) fn look_again(&mut self, news: FileEvent) {
        if news == FileEvent::Changed {
            let room = GIVEN_UP_MAX.saturating_sub(self.given_up).min(self.readings.len());
            self.readings.drain(..room);
            self.given_up += room;
        }
    }

    /// Reads the files of `part` again, unless an earlier reading of them still hangs.
    pub(super) async fn refresh(
        &mut self,
        part: &CredentialSource,
        until: Instant,
    ) -> Result<Refreshed, String> {
        let known = self.readings.iter().position(|(hung, _)| hung.is_same(part));
        let mut reading = match known {
            Some(position) => self.readings.swap_remove(position).1,
            None => {
                let (mut reading, part) = (BlockingTask::default(), part.clone());
                reading.begin(move || part.refresh()).map_err(|error| error.to_string())?;
                reading
            }
        };
        // A reading that was hanging already gets no more time.
        let now = clock::now();
        let until = if known.is_some() { now } else { until.max(now + PATIENCE_LEAST) };
        match alarm::timeout_at(until, reading.join()).await {
            Ok(Ok(refreshed)) => refreshed,
            Ok(Err(Panicked)) => Err("ambassador itself failed while it read its files".into()),
            Err(_) => {
                self.readings.push((part.clone(), reading));
                Err("reading its files takes too long: their file system may hang".into())
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
