//! A server that is asked over the network for a cluster's endpoints: by requests of the cluster's own, or over a stream that all
//! clusters share.

mod asking;
mod lines;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::asking::Asking;
use super::resolver::Resolver;
use super::server_access::ServerAccess;
use super::source_update::{LastUpdate, RemoteResult, SourceUpdate};
use super::xds_streams::{XdsStreams, XdsSubscription};
use crate::alarm;
use crate::cluster::{MakeQuery, RemoteQuestion, RemoteSource};
use crate::policy::ask_schedule::RETRY_MAX_EMPTY;
use crate::tls::HttpVersion;

/// The longest answer, and the longest line of one, in bytes: 4096 services of Consul with long metadata have some 10 MB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// A server that is asked.
#[derive(Debug)]
pub(super) struct WatchedRemote {
    pub(super) source: RemoteSource,
    asked: Asked,
    pub(super) last: LastUpdate,
}

/// How it is asked.
#[derive(Debug)]
enum Asked {
    Alone(Box<AskedAlone>),
    Shared(XdsSubscription),
}

/// By a task of its own.
struct AskedAlone {
    source: RemoteSource,
    make: MakeQuery,
    resolver: Arc<Resolver>,
    rng: Rng,
    results: mpsc::Receiver<RemoteResult>,
    /// The task that asks; it ends with this.
    task: JoinSet<()>,
    /// Whether endpoints are in use, so that there is no hurry.
    has_some: Arc<AtomicBool>,
}

impl std::fmt::Debug for AskedAlone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskedAlone").field("source", &self.source).finish_non_exhaustive()
    }
}

impl WatchedRemote {
    pub(super) fn new(source: RemoteSource, streams: &XdsStreams, resolver: Arc<Resolver>, rng: Rng) -> Self {
        let asked = match &source.question {
            RemoteQuestion::Http(make) => {
                Asked::Alone(Box::new(AskedAlone::begin(source.clone(), Arc::clone(make), resolver, rng)))
            }
            RemoteQuestion::Xds(question) => {
                Asked::Shared(streams.subscribe(&source.control_plane, question, resolver, rng))
            }
        };
        Self { source, asked, last: LastUpdate::default() }
    }

    /// The next result. Cancel-safe.
    pub(super) async fn result(&mut self) -> RemoteResult {
        match &mut self.asked {
            Asked::Alone(alone) => alone.result().await,
            Asked::Shared(subscription) => subscription.result().await,
        }
    }

    /// Says whether endpoints are in use.
    pub(super) fn set_has_some(&self, has_some: bool) {
        if let Asked::Alone(alone) = &self.asked {
            alone.has_some.store(has_some, Ordering::Relaxed);
        }
    }

    /// Whether that is an answer without any endpoint, which is believed only if nothing speaks against it.
    pub(super) fn is_doubtful(&self, result: &RemoteResult) -> bool {
        !self.source.accepts_empty
            && matches!(result, Some(SourceUpdate::Targets(targets, _)) if targets.is_empty())
    }

    /// Takes a result in; `None` if it is the same as before. `has_own`: endpoints are in use that came from here.
    pub(super) fn take(
        &mut self,
        result: RemoteResult,
        has_own: bool,
        now: Instant,
    ) -> Option<&SourceUpdate> {
        let is_refused = has_own && self.is_doubtful(&result);
        match result {
            _ if is_refused => {
                let origin = self.source.describe();
                let error = format!(
                    "{origin} knows no endpoint any more, which is believed only with `empty: accept`"
                );
                self.last.take(SourceUpdate::Error(error), now)
            }
            Some(update) => self.last.take(update, now),
            None => {
                self.last.confirm(now);
                None
            }
        }
    }
}

impl AskedAlone {
    fn begin(source: RemoteSource, make: MakeQuery, resolver: Arc<Resolver>, rng: Rng) -> Self {
        let (results, task, has_some) = (mpsc::channel(1).1, JoinSet::new(), Arc::default());
        let mut alone = Self { source, make, resolver, rng, results, task, has_some };
        alone.restart(Duration::ZERO);
        alone
    }

    fn restart(&mut self, after: Duration) {
        let (sender, results) = mpsc::channel(1);
        let access =
            ServerAccess::new(&self.source.control_plane, HttpVersion::Http1, Arc::clone(&self.resolver));
        let (source, make, has_some) =
            (self.source.clone(), Arc::clone(&self.make), Arc::clone(&self.has_some));
        let asking = Asking::new(source, make, access, self.rng.fork(), has_some, sender);
        self.results = results;
        self.task = JoinSet::new();
        self.task.spawn(async move {
            if !after.is_zero() {
                alarm::sleep(after).await;
            }
            asking.forever().await;
        });
    }

    async fn result(&mut self) -> RemoteResult {
        match self.results.recv().await {
            Some(result) => result,
            // It ends only by a panic.
            None => {
                self.restart(RETRY_MAX_EMPTY);
                let origin = self.source.describe();
                Some(SourceUpdate::Error(format!("{origin}: ambassador itself failed while it asked")))
            }
        }
    }
}

fn too_long() -> String {
    format!("the answer has more than {} MiB", ANSWER_MAX / 1024 / 1024)
}
