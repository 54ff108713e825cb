//! What replaced processes go on counting, for as long as they have sessions: they report it regularly to the process
//! that took their place.
//!
//! A report is the text of a process' own metrics, so a lost one does no harm. It goes through a pipe: a length of four
//! bytes, and the text. The pipes of all live processes are passed on from successor to successor; one process reads
//! them.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;

use crate::admin::AdminState;
use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};

/// How often a process reports.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long sending a report may take; the rest of it is sent before the next.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a report that has begun may take to arrive, the wait for the next included.
const READING: Duration = Duration::from_secs(20);
/// A process that is silent for this long is no longer read from.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest report, in bytes.
const LENGTH_MAX: u32 = 64 * 1024 * 1024;
/// How many processes are read from at once; of older ones the last sums are kept.
const REPORTERS_MAX: usize = 64;

pub(in crate::daemon) struct Reporter {
    /// `None`: the reader is gone, or the pipe could not be set up.
    sender: Option<Sender>,
    /// The rest of a report that has begun: the reader takes whatever follows for it.
    unsent: Vec<u8>,
}

/// The processes that report to us.
#[derive(Debug)]
pub(in crate::daemon) struct Predecessors {
    each: Vec<Arc<Predecessor>>,
    /// Whether another process reads the pipes.
    is_paused: watch::Sender<bool>,
}

#[derive(Debug)]
struct Predecessor {
    process: u32,
    pipe: OwnedFd,
    has_ended: AtomicBool,
}

impl Reporter {
    /// Reports to the other end of that pipe.
    pub(in crate::daemon) fn to(pipe: OwnedFd) -> Self {
        let sender = Sender::from_owned_fd(pipe);
        let sender =
            sender.inspect_err(|error| tracing::warn!(%error, "cannot report to the successor")).ok();
        Self { sender, unsent: Vec::new() }
    }

    /// Sends what was counted until now. Cancel-safe: the next call continues where this one stopped.
    pub(in crate::daemon) async fn report(&mut self, admin_state: &AdminState) {
        let until = clock::now() + PATIENCE;
        let sent = alarm::timeout_at(until, async {
            self.finish().await?;
            let text = admin_state.metrics().render_own();
            if let Some(length) = u32::try_from(text.len()).ok().filter(|length| *length <= LENGTH_MAX) {
                self.unsent.extend_from_slice(&length.to_be_bytes());
                self.unsent.extend_from_slice(text.as_bytes());
            }
            self.finish().await
        });
        if let Ok(Err(_)) = sent.await {
            // The reader is gone, or is a version that does not read.
            self.sender = None;
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        let Some(sender) = &mut self.sender else {
            self.unsent.clear();
            return Ok(());
        };
        while !self.unsent.is_empty() {
            // A cancelled write has written nothing.
            let count = sender.write(&self.unsent).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.unsent.drain(..count);
        }
        Ok(())
    }

    pub(in crate::daemon) async fn keep_reporting(&mut self, admin_state: &AdminState) -> Infallible {
        loop {
            alarm::sleep(INTERVAL).await;
            self.report(admin_state).await;
        }
    }
}

impl Predecessors {
    /// The newest of these, each with its pipe; the oldest first.
    pub(in crate::daemon) fn new(mut pipes: Vec<(u32, OwnedFd)>) -> Self {
        pipes.drain(..pipes.len().saturating_sub(REPORTERS_MAX));
        let each = pipes.into_iter().map(|(process, pipe)| {
            Arc::new(Predecessor { process, pipe, has_ended: AtomicBool::new(false) })
        });
        Self { each: each.collect(), is_paused: watch::channel(false).0 }
    }

    pub(in crate::daemon) fn processes(&self) -> Vec<u32> {
        self.each.iter().map(|one| one.process).collect()
    }

    /// Adds what they go on counting to our metrics. The sums are settled when the last one, whose place we took, has
    /// reported what it had counted at its last response.
    pub(in crate::daemon) fn listen(&self, admin_state: &Arc<AdminState>, drain: &Drain) {
        for (place, one) in (1..).zip(&self.each) {
            let reader = ReportReader {
                one: Arc::clone(one),
                admin_state: Arc::clone(admin_state),
                is_paused: self.is_paused.subscribe(),
                settles: place == self.each.len(),
            };
            drain.spawn(reader.run(drain.watch()));
        }
    }

    /// Leaves the pipes to another process, or reads them again.
    pub(in crate::daemon) fn pause(&self, is_paused: bool) {
        self.is_paused.send_replace(is_paused);
    }

    /// The pipes of those that have not ended.
    pub(in crate::daemon) fn pipes(&self) -> impl Iterator<Item = (u32, &OwnedFd)> {
        let living = self.each.iter().filter(|one| !one.has_ended.load(Ordering::Acquire));
        living.map(|one| (one.process, &one.pipe))
    }
}

/// Reads the reports of one predecessor.
struct ReportReader {
    one: Arc<Predecessor>,
    admin_state: Arc<AdminState>,
    is_paused: watch::Receiver<bool>,
    settles: bool,
}

impl ReportReader {
    async fn run(mut self, watch: DrainWatch) {
        tokio::select! {
            () = watch.begun() => return,
            result = self.receive_all() => if let Err(error) = result {
                let process = self.one.process;
                tracing::warn!(process, %error, "the counters of a predecessor are no longer received");
            },
        }
        self.one.has_ended.store(true, Ordering::Release);
        self.admin_state.exposition.end_inherited(self.one.process);
        self.settle();
    }

    /// # Errors
    /// Anything but the end of the pipe before a report.
    async fn receive_all(&mut self) -> io::Result<()> {
        let mut receiver = Receiver::from_owned_fd(self.one.pipe.try_clone()?)?;
        loop {
            let begins = alarm::timeout_at(clock::now() + SILENCE, self.begins(&receiver)).await;
            if begins.is_err() && *self.is_paused.borrow() {
                continue;
            }
            begins.map_err(|_| io::ErrorKind::TimedOut)??;
            let mut first = [0];
            match receiver.try_read(&mut first) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            // A report that has begun is read to its end: another process could not use the rest.
            let report = alarm::timeout_at(clock::now() + READING, rest(first, &mut receiver)).await;
            let report = report.map_err(|_| io::ErrorKind::TimedOut)??;
            self.admin_state.exposition.update_inherited(self.one.process, &report);
            self.settle();
        }
    }

    /// Waits for a report to begin, while reading is not paused.
    async fn begins(&mut self, receiver: &Receiver) -> io::Result<()> {
        loop {
            // The watch's sender lives as long as the daemon.
            let _ = self.is_paused.wait_for(|is_paused| !is_paused).await;
            tokio::select! {
                biased;
                _ = self.is_paused.wait_for(|is_paused| *is_paused) => {}
                ready = receiver.readable() => return ready,
            }
        }
    }

    fn settle(&self) {
        if self.settles {
            self.admin_state.exposition.set_settled(true);
        }
    }
}

/// Reads a report after its first byte.
async fn rest(first: [u8; 1], receiver: &mut Receiver) -> io::Result<String> {
    let mut length = [first[0], 0, 0, 0];
    receiver.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length);
    if length > LENGTH_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut report = String::new();
    // The buffer grows with what arrives, whatever length was announced.
    receiver.take(length.into()).read_to_string(&mut report).await?;
    if report.len() < length as usize { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(report) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_report_that_was_given_up_in_the_middle_goes_on_where_it_was() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        // More than a pipe's buffer.
        let report: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        runtime.block_on(async {
            let mut reporter = Reporter::to(writer.into());
            reporter.unsent.clone_from(&report);
            while reporter.unsent.len() == report.len() {
                tokio::select! {
                    biased;
                    finished = reporter.finish() => panic!("nobody reads, and it ends: {finished:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
            let reading = std::thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            reporter.finish().await.unwrap();
            drop(reporter);
            assert!(reading.join().unwrap().unwrap() == report, "the same bytes, each once");
        });
    }
}
