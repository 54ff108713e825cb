//! When a cluster's endpoints are written to disk, and when those on disk are wanted (see [`super::kept`]).

use std::collections::BTreeSet;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::kept::{KeptEndpoints, KeptFile};
use crate::blocking::{BlockingQueue, BlockingTask};
use crate::clock;
use crate::cluster::{EndpointSettings as Settings, SourceIdentity};
use crate::name::{ClusterName, EndpointName};
use crate::sync::Mutex;

/// A first answer has that long before what is kept is used; reading it may take as long again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Writes of one cluster are no closer to each other than that.
const PACE: Duration = Duration::from_secs(1);
/// What stays the same is written again when it was confirmed that much later, so that its age tells when it was last right.
const CONFIRMED: Duration = Duration::from_secs(600);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(30);

/// Where endpoints are kept, for all clusters. They are written in turn: many clusters get their first answers at the same moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeepFolder {
    /// As the configuration in force has it; `None`: nothing is kept.
    folder: Arc<Mutex<Option<PathBuf>>>,
    writes: BlockingQueue,
}

impl KeepFolder {
    /// Sets it for all clusters.
    pub(crate) fn set(&self, folder: Option<PathBuf>) {
        *self.folder.lock() = folder;
    }

    fn get(&self) -> Option<PathBuf> {
        self.folder.lock().clone()
    }
}

/// What is kept of one cluster.
#[derive(Debug)]
pub(super) struct Keeping {
    folder: KeepFolder,
    cluster: ClusterName,
    /// `None`: nothing is kept of it.
    source: Option<SourceIdentity>,
    stage: Stage,
    reading: BlockingTask<Result<Option<KeptEndpoints>, String>>,
    writing: BlockingTask<Result<(), String>>,
    /// What was last written, or is being written.
    written: Option<Written>,
    /// Nothing is written before that.
    not_before: Option<Instant>,
    /// Whether the last write failed.
    is_failing: bool,
}

/// What may be read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is wanted at that moment, if nothing is heard before.
    Unread(Instant),
    /// It is being read, and waited for until then.
    Reading(Instant),
    /// It is in use, or there is nothing, or it is not needed any more.
    Over,
}

#[derive(Debug)]
struct Written {
    folder: PathBuf,
    endpoints: Vec<Settings>,
    confirmed: Instant,
}

/// Endpoints that are to be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownEndpoints<'a> {
    pub(super) endpoints: &'a [Settings],
    /// The hosts that could not be resolved: what was kept of them stays.
    pub(super) unresolved: &'a BTreeSet<String>,
    /// When the endpoints were last said to be these.
    pub(super) confirmed: Instant,
}

/// What has ended on another thread.
#[derive(Debug)]
pub(super) enum KeepEvent {
    Read(Option<KeptEndpoints>),
    Written,
}

impl Keeping {
    /// `has_some`: endpoints are in use, so that those on disk are not needed.
    pub(super) fn new(
        folder: KeepFolder,
        cluster: ClusterName,
        source: Option<SourceIdentity>,
        has_some: bool,
    ) -> Self {
        let is_kept = source.is_some() && folder.get().is_some();
        let stage = if has_some || !is_kept { Stage::Over } else { Stage::Unread(clock::now() + PATIENCE) };
        Self {
            folder,
            cluster,
            source,
            stage,
            reading: BlockingTask::default(),
            writing: BlockingTask::default(),
            written: None,
            not_before: None,
            is_failing: false,
        }
    }

    /// Whether endpoints may still come from disk.
    pub(super) fn may_give(&self) -> bool {
        self.stage != Stage::Over
    }

    /// Nothing is known: reads what was kept if that is urgent, because a first answer was no use, or has taken too long. Returns when
    /// to come back.
    pub(super) fn want(&mut self, is_urgent: bool, now: Instant) -> Option<Instant> {
        match self.stage {
            Stage::Unread(due) if !is_urgent && now < due => Some(due),
            Stage::Unread(_) => {
                let file = self.folder.get().zip(self.source.clone());
                let file = file.map(|(folder, source)| KeptFile::new(&folder, &self.cluster, source));
                let begun = file.is_some_and(|file| self.reading.begin(move || file.read()).is_ok());
                let until = now + PATIENCE;
                self.stage = if begun { Stage::Reading(until) } else { Stage::Over };
                begun.then_some(until)
            }
            Stage::Reading(until) if now < until => Some(until),
            Stage::Reading(_) => {
                let cluster = &self.cluster;
                tracing::warn!(%cluster, "reading the endpoints that were kept takes too long: their file system may hang");
                self.stage = Stage::Over;
                None
            }
            Stage::Over => None,
        }
    }

    /// Whether another thread reads or writes.
    #[cfg(test)]
    pub(super) const fn is_busy(&self) -> bool {
        self.reading.is_busy() || self.writing.is_busy()
    }

    /// Something was heard, or what was kept is in use.
    pub(super) const fn unwant(&mut self) {
        self.stage = Stage::Over;
    }

    /// Waits for what another thread does. Cancel-safe.
    pub(super) async fn event(&mut self) -> KeepEvent {
        let panicked = || String::from("ambassador itself failed while it read or wrote it");
        tokio::select! {
            read = self.reading.join() => {
                KeepEvent::Read(self.take_read(read.unwrap_or_else(|_| Err(panicked()))))
            }
            written = self.writing.join() => {
                self.take_written(written.unwrap_or_else(|_| Err(panicked())), clock::now());
                KeepEvent::Written
            }
        }
    }

    /// What was read, if it is still wanted.
    fn take_read(&mut self, read: Result<Option<KeptEndpoints>, String>) -> Option<KeptEndpoints> {
        let is_late = self.stage == Stage::Over;
        self.stage = Stage::Over;
        match read {
            Ok(kept) => kept.filter(|_| !is_late),
            Err(error) => {
                let cluster = &self.cluster;
                tracing::warn!(%cluster, error, "the endpoints that were kept on disk are not used");
                None
            }
        }
    }

    fn take_written(&mut self, result: Result<(), String>, now: Instant) {
        let Err(error) = result else {
            self.is_failing = false;
            return;
        };
        if !self.is_failing {
            let cluster = &self.cluster;
            tracing::warn!(%cluster, error, "the endpoints are not kept: after a start without discovery there would be none");
        }
        (self.is_failing, self.written, self.not_before) = (true, None, Some(now + RETRY));
    }

    /// Writes what is in use, unless that is done. Returns when to come back.
    pub(super) fn keep(
        &mut self,
        known: KnownEndpoints<'_>,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Instant> {
        let KnownEndpoints { endpoints, unresolved, confirmed } = known;
        let (folder, source) = (self.folder.get()?, self.source.clone()?);
        if self.writing.is_busy() {
            return None;
        }
        let is_written = self.written.as_ref().is_some_and(|written| {
            written.folder == folder
                && is_same(&written.endpoints, endpoints)
                && confirmed < written.confirmed + CONFIRMED
        });
        if is_written {
            return None;
        }
        if let Some(due) = self.not_before.filter(|due| now < *due) {
            return Some(due);
        }
        let file = KeptFile::new(&folder, &self.cluster, source);
        let at = wall - now.saturating_duration_since(confirmed);
        let (kept, unresolved) = (endpoints.to_vec(), unresolved.clone());
        // What this process has written itself needs no look.
        let looks = self.written.is_none() || !unresolved.is_empty();
        let write = move || write(&file, kept, &unresolved, looks, at);
        self.written = Some(Written { folder, endpoints: endpoints.to_vec(), confirmed });
        self.not_before = Some(now + PACE);
        if let Err(error) = self.writing.begin_behind(&self.folder.writes, write) {
            self.take_written(Err(format!("no thread can be started: {error}")), now);
        }
        self.not_before
    }
}

/// Writes the endpoints, with what was kept of hosts that could not be resolved, unless that is on disk already.
fn write(
    file: &KeptFile,
    mut endpoints: Vec<Settings>,
    unresolved: &BTreeSet<String>,
    looks: bool,
    at: SystemTime,
) -> Result<(), String> {
    let known = if looks { file.read().ok().flatten() } else { None };
    let before = known.iter().flat_map(|known| &known.endpoints);
    let lost: Vec<_> = before
        .filter(|one| one.host.as_deref().is_some_and(|host| unresolved.contains(host)))
        .filter(|one| !endpoints.iter().any(|other| other.is_same(one)))
        .cloned()
        .collect();
    endpoints.extend(lost);
    let is_fresh = known.is_some_and(|known| {
        let later = at.duration_since(known.written).unwrap_or_default();
        is_same(&known.endpoints, &endpoints) && later < CONFIRMED
    });
    if is_fresh { Ok(()) } else { file.write(&endpoints, at) }
}

/// Whether both are the same endpoints, in any order: name servers turn theirs round.
fn is_same(one: &[Settings], other: &[Settings]) -> bool {
    fn key(
        settings: &Settings,
    ) -> (&EndpointName, u32, u32, std::borrow::Cow<'_, str>, Vec<std::net::SocketAddr>) {
        let Settings { name, weight, priority, server_name, addresses, .. } = settings;
        (name, *weight, *priority, server_name.to_str(), addresses.iter().collect())
    }
    one.len() == other.len()
        && one.iter().map(key).collect::<BTreeSet<_>>() == other.iter().map(key).collect::<BTreeSet<_>>()
}

/// [`Keeping::event`], or never.
pub(super) async fn event(keeping: Option<&mut Keeping>) -> KeepEvent {
    match keeping {
        Some(keeping) => keeping.event().await,
        None => pending().await,
    }
}
