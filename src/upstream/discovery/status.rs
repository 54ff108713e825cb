//! What others see of a cluster's discovery, and how they hurry it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, watch};

/// What became of a question, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryResult {
    /// An answer that counts.
    Good,
    /// There is no such thing, or nothing in it that can be used.
    Negative,
    /// No answer.
    Failed,
}

/// How far a cluster's discovery is.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiscoveryStatus {
    /// Whether every question has been answered once, well or badly. Until then a session waits rather than be refused.
    pub is_settled: bool,
    /// Whether nothing more is to come of those answers either: one family of a name may be late.
    pub is_complete: bool,
    /// How many endpoints the cluster has by it.
    pub endpoints: usize,
    /// What is asked for, in the order of its names.
    pub origins: Vec<Origin>,
}

/// Something that endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// What kind of thing.
    pub kind: OriginKind,
    /// A name, or a path.
    pub name: String,
    /// How many addresses, or endpoints, are known from it.
    pub found: usize,
    /// When the last good answer came.
    pub succeeded: Option<Instant>,
    /// When it is asked for again; `None`: when it changes.
    pub due: Option<Instant>,
    /// Why the last answer was no good, or not all of it.
    pub error: Option<String>,
}

/// The kinds of things that endpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OriginKind {
    Name,
    Service,
    File,
}

/// Between a cluster and whoever finds its endpoints.
#[derive(Debug)]
pub(in crate::upstream) struct DiscoveryStatusCell {
    status: watch::Sender<Arc<DiscoveryStatus>>,
    doubts: Notify,
}

impl QueryResult {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Good, Self::Negative, Self::Failed];

    /// The label `result` in metrics.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Negative => "negative",
            Self::Failed => "failed",
        }
    }
}

impl OriginKind {
    /// The word in `/status`.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Service => "srv",
            Self::File => "file",
        }
    }
}

impl DiscoveryStatus {
    const fn is_known(&self) -> bool {
        self.is_settled || self.endpoints > 0
    }

    /// Why nobody is known, in words.
    #[must_use]
    pub(crate) fn why_empty(&self) -> Option<String> {
        let unsettled = || (!self.is_settled).then(|| "nobody has answered yet where it is".into());
        self.error().or_else(unsettled)
    }

    /// Why there is less than there should be, in words.
    fn error(&self) -> Option<String> {
        self.origins.iter().find_map(|origin| {
            let error = origin.error.as_deref()?;
            Some(match origin.kind {
                OriginKind::Name | OriginKind::Service => format!("cannot resolve {}: {error}", origin.name),
                // It says its path, its line and its column.
                OriginKind::File => error.to_owned(),
            })
        })
    }
}

impl DiscoveryStatusCell {
    /// Settled from the start, where there is nothing to be found out.
    pub(in crate::upstream) fn new(is_settled: bool, endpoints: usize) -> Self {
        let report = DiscoveryStatus { is_settled, is_complete: is_settled, endpoints, origins: Vec::new() };
        let (report, _) = watch::channel(Arc::new(report));
        Self { status: report, doubts: Notify::new() }
    }

    pub(in crate::upstream) fn status(&self) -> Arc<DiscoveryStatus> {
        Arc::clone(&self.status.borrow())
    }

    pub(super) fn publish(&self, report: DiscoveryStatus) {
        self.status.send_replace(Arc::new(report));
    }

    /// Returns when every question has been answered in full once. No deadline here: the caller has one.
    pub(super) async fn wait_complete(&self) {
        // The sender is ours, so there is no end of it.
        let _ = self.status.subscribe().wait_for(|report| report.is_complete).await;
    }

    /// Whether there is an endpoint, or it is known that there is none.
    pub(in crate::upstream) fn is_known(&self) -> bool {
        self.status.borrow().is_known()
    }

    /// Returns when that is so. No deadline here: the caller has one.
    pub(in crate::upstream) async fn wait_known(&self) {
        let _ = self.status.subscribe().wait_for(|report| report.is_known()).await;
    }

    /// An endpoint could not be reached, or there was none: what is known may be out of date.
    pub(in crate::upstream) fn request_refresh(&self) {
        self.doubts.notify_one();
    }

    pub(super) async fn refresh_requested(&self) {
        self.doubts.notified().await;
    }
}
