//! The published status of a cluster's discovery, and requests to refresh it early.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, watch};

/// The state of a cluster's discovery.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiscoveryStatus {
    /// Whether every query has ended once, well or badly. Until then, with no endpoint known, a session waits and is
    /// not refused.
    pub is_settled: bool,
    /// Whether no late answer is outstanding either: one family of a name may come later.
    pub is_complete: bool,
    /// How many endpoints discovery has given the cluster.
    pub endpoints: usize,
    /// Whether the endpoints in use are of the source as it is configured now: it has given them, or they were kept of it. Those of
    /// another one stay after a reload until the new one has answered.
    pub is_of_source: bool,
    /// When the endpoints in use were written to disk, if they come from there because nobody has said what they are now.
    pub kept: Option<SystemTime>,
    /// The names, services and files that are followed: the service or file first, then names in their order.
    pub origins: Vec<Origin>,
}

/// A name, service or file that endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its kind.
    pub kind: OriginKind,
    /// Its name, or the file's path.
    pub name: String,
    /// How many addresses, or targets, are known from it.
    pub found: usize,
    /// When the last good answer came.
    pub succeeded: Option<Instant>,
    /// When it is queried again; `None`: when the file changes.
    pub due: Option<Instant>,
    /// Why the last answer, or a part of it, was not usable.
    pub error: Option<String>,
}

/// The kinds of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OriginKind {
    Name,
    Service,
    File,
    /// A service in Consul's catalog.
    Consul,
    /// Keys of etcd.
    Etcd,
    /// A Service of Kubernetes.
    Kubernetes,
    /// A cluster of a control plane that speaks xDS.
    Xds,
}

/// Shared by a cluster and the task that finds its endpoints.
#[derive(Debug)]
pub(crate) struct DiscoveryStatusCell {
    status: watch::Sender<Arc<DiscoveryStatus>>,
    doubts: Notify,
}

impl OriginKind {
    /// The word in `/status`.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Service => "srv",
            Self::File => "file",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
            Self::Xds => "xds",
        }
    }
}

impl DiscoveryStatus {
    const fn is_known(&self) -> bool {
        self.is_settled || self.endpoints > 0
    }

    /// Why no endpoint is known, in words.
    #[must_use]
    pub(crate) fn why_empty(&self) -> Option<String> {
        let unsettled = || (!self.is_settled).then(|| "nobody has answered yet where it is".into());
        self.error().or_else(unsettled)
    }

    /// The error of the first origin that has one, in words.
    fn error(&self) -> Option<String> {
        self.origins.iter().find_map(|origin| {
            let error = origin.error.as_deref()?;
            Some(match origin.kind {
                OriginKind::Name | OriginKind::Service => format!("cannot resolve {}: {error}", origin.name),
                // The text says which file, with line and column where there are any, or which server.
                OriginKind::File
                | OriginKind::Consul
                | OriginKind::Etcd
                | OriginKind::Kubernetes
                | OriginKind::Xds => error.to_owned(),
            })
        })
    }
}

impl DiscoveryStatusCell {
    /// `is_settled`: from the start, for a cluster without discovery.
    pub(crate) fn new(is_settled: bool, endpoints: usize) -> Self {
        let report =
            DiscoveryStatus { is_settled, is_complete: is_settled, endpoints, ..DiscoveryStatus::default() };
        Self::of(report)
    }

    /// Of a cluster that has got new settings: with what is still true of its endpoints, if the source is the same.
    pub(crate) fn successor(&self, is_settled: bool, is_same_source: bool) -> Self {
        let before = self.status();
        Self::of(DiscoveryStatus {
            is_settled,
            is_complete: is_settled,
            endpoints: before.endpoints,
            is_of_source: is_same_source && before.is_of_source,
            kept: before.kept.filter(|_| is_same_source),
            origins: Vec::new(),
        })
    }

    fn of(report: DiscoveryStatus) -> Self {
        Self { status: watch::channel(Arc::new(report)).0, doubts: Notify::new() }
    }

    pub(crate) fn status(&self) -> Arc<DiscoveryStatus> {
        Arc::clone(&self.status.borrow())
    }

    pub(crate) fn publish(&self, report: DiscoveryStatus) {
        self.status.send_replace(Arc::new(report));
    }

    /// Waits until every query has been answered in full once. No deadline here: callers need their own.
    pub(crate) async fn wait_complete(&self) {
        // Never an error: `self` has the sender.
        let _ = self.status.subscribe().wait_for(|report| report.is_complete).await;
    }

    /// Whether there is an endpoint, or discovery has settled without one.
    pub(crate) fn is_known(&self) -> bool {
        self.status.borrow().is_known()
    }

    /// Waits until [`Self::is_known`]. No deadline here: the caller has one.
    pub(crate) async fn wait_known(&self) {
        let _ = self.status.subscribe().wait_for(|report| report.is_known()).await;
    }

    /// Requests an early refresh: an endpoint could not be reached, or there was none, so the answers may be out of
    /// date.
    pub(crate) fn request_refresh(&self) {
        self.doubts.notify_one();
    }

    pub(crate) async fn refresh_requested(&self) {
        self.doubts.notified().await;
    }
}
