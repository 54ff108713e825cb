//! When a cluster's endpoints are written to disk, and when those on disk are used (see [`super::kept`]).

use std::collections::BTreeSet;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::kept::{KeptEndpoints, KeptFile};
use crate::blocking::BlockingTask;
use crate::clock;
use crate::cluster::EndpointSettings as Settings;
use crate::name::{ClusterName, EndpointName};
use crate::sync::Mutex;

/// A first answer has that long before what is kept is used.
const PATIENCE: Duration = Duration::from_secs(2);
/// Writes of one cluster are no closer to each other than that.
const PACE: Duration = Duration::from_secs(1);
/// What stays the same is written again after that long, so that its age tells when it was last right.
const CONFIRMED: Duration = Duration::from_secs(600);

/// The folder of kept endpoints, as the configuration in force has it; `None`: nothing is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeepFolder(Arc<Mutex<Option<PathBuf>>>);

impl KeepFolder {
    /// Sets it for all clusters.
    pub(crate) fn set(&self, folder: Option<PathBuf>) {
        *self.0.lock() = folder;
    }
}

/// What is kept of one cluster.
#[derive(Debug)]
pub(super) struct Keeping {
    folder: KeepFolder,
    cluster: ClusterName,
    /// See [`crate::cluster::Source::identity`]; `None`: nothing is kept of it.
    source: Option<String>,
    began: Instant,
    stage: Stage,
    reading: BlockingTask<Result<Option<KeptEndpoints>, String>>,
    writing: BlockingTask<Result<(), String>>,
    /// What was last written, or is being written, and when.
    written: Option<(Vec<Settings>, Instant)>,
    /// Whether the last write failed.
    is_failing: bool,
}

/// How far the use of what was kept is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may be needed.
    Unread,
    Reading,
    /// It is in use, or there is nothing, or it is not needed any more.
    Over,
}

/// What has ended on another thread.
#[derive(Debug)]
pub(super) enum KeepEvent {
    Read(Option<KeptEndpoints>),
    Written,
}

impl Keeping {
    pub(super) fn new(
        folder: KeepFolder,
        cluster: ClusterName,
        source: Option<String>,
        has_some: bool,
    ) -> Self {
        let stage = if has_some || source.is_none() { Stage::Over } else { Stage::Unread };
        Self {
            folder,
            cluster,
            source,
            began: clock::now(),
            stage,
            reading: BlockingTask::default(),
            writing: BlockingTask::default(),
            written: None,
            is_failing: false,
        }
    }

    fn file(&self) -> Option<KeptFile> {
        let folder = self.folder.0.lock().clone()?;
        Some(KeptFile::new(&folder, &self.cluster, self.source.clone()?))
    }

    /// When what is kept is needed, if nothing is heard until then.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.stage == Stage::Unread).then(|| self.began + PATIENCE)
    }

    /// Nothing is known: reads what was kept, if the first question has failed or takes too long.
    pub(super) fn want(&mut self, has_failed: bool, now: Instant) {
        if self.stage != Stage::Unread || !(has_failed || now >= self.began + PATIENCE) {
            return;
        }
        let Some(file) = self.file() else {
            self.stage = Stage::Over;
            return;
        };
        self.stage = match self.reading.begin(move || file.read()) {
            Ok(()) => Stage::Reading,
            Err(_) => Stage::Over,
        };
    }

    /// Something was heard: what is kept is not needed any more.
    pub(super) const fn unwant(&mut self) {
        self.stage = Stage::Over;
    }

    /// Whether an answer to [`Self::want`] is still of use.
    pub(super) fn is_wanted(&self) -> bool {
        self.stage == Stage::Reading
    }

    /// Waits for what another thread does. Cancel-safe.
    pub(super) async fn event(&mut self) -> KeepEvent {
        let Self { reading, writing, cluster, is_failing, .. } = self;
        let panicked = || String::from("ambassador itself failed while it read or wrote it");
        tokio::select! {
            read = reading.join() => KeepEvent::Read(read.unwrap_or_else(|_| Err(panicked())).unwrap_or_else(|error| {
                tracing::warn!(%cluster, error, "the endpoints that were kept on disk are not used");
                None
            })),
            written = writing.join() => {
                let error = written.unwrap_or_else(|_| Err(panicked())).err();
                if let Some(error) = error.as_ref().filter(|_| !*is_failing) {
                    tracing::warn!(%cluster, error, "the endpoints are not kept: after a start without discovery there would be none");
                }
                *is_failing = error.is_some();
                KeepEvent::Written
            }
        }
    }

    /// Writes what is in use now and known to be right, unless it is written already. Returns when to come back.
    pub(super) fn keep(&mut self, endpoints: &[Settings], now: Instant, at: SystemTime) -> Option<Instant> {
        let file = self.file()?;
        if self.writing.is_busy() {
            return None;
        }
        if let Some((before, written)) = &self.written {
            let due = if is_same(before, endpoints) { *written + CONFIRMED } else { *written + PACE };
            if now < due {
                return Some(due);
            }
        }
        self.written = Some((endpoints.to_vec(), now));
        let endpoints = endpoints.to_vec();
        let begun = self.writing.begin(move || {
            let known = file.read().ok().flatten();
            let is_fresh = known.is_some_and(|known| {
                let age = at.duration_since(known.written).ok();
                is_same(&known.endpoints, &endpoints) && age.is_some_and(|age| age < CONFIRMED)
            });
            if is_fresh { Ok(()) } else { file.write(&endpoints, at) }
        });
        // Without a thread now, the next time.
        begun.is_err().then(|| now + PACE)
    }
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
