//! The text that Prometheus reads: what is measured here, and what our predecessors have counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::inherited::{AllInherited, InheritedMetrics};
use super::registry::ReadPurpose;
use super::text::Text;
use super::{caller, cluster, endpoint, listener, process};
use crate::alarm;
use crate::clock;
use crate::sync::Mutex;

/// Reads the process' metrics, and adds what predecessors have counted. Clones share that.
#[derive(Debug, Clone)]
pub(crate) struct Exposition {
    /// Read without the lock: a text may take long, and the main thread must not wait for it.
    inherited: Arc<Mutex<Arc<AllInherited>>>,
    /// Whether our predecessor has reported what it had counted at its last scrape.
    settled: Arc<watch::Sender<bool>>,
}

/// How long a scrape waits for that report. It takes milliseconds, unless the predecessor hangs.
const SETTLING: Duration = Duration::from_secs(2);

impl Default for Exposition {
    /// Without predecessors.
    fn default() -> Self {
        let (settled, _) = watch::channel(true);
        Self { inherited: Arc::default(), settled: Arc::new(settled) }
    }
}

impl Exposition {
    /// Sets how many tasks run: of sessions, and all others.
    pub(crate) fn set_tasks(&self, sessions: usize, upkeep: usize) {
        process::set_tasks(sessions, upkeep);
    }

    /// Forgets what is gone, even without a scrape. To be called every five seconds.
    pub(crate) fn upkeep(&self) {
        let mut dropped = Vec::new();
        listener::upkeep(&mut dropped);
        cluster::upkeep(&mut dropped);
        endpoint::upkeep(&mut dropped);
        if !dropped.is_empty() {
            self.change_inherited(|inherited| {
                dropped.iter().for_each(|(metric, labels)| inherited.forget(metric, labels));
            });
        }
    }

    /// Adds to our sums what our predecessors have counted.
    pub(crate) fn set_inherited(&self, inherited: AllInherited) {
        *self.inherited.lock() = Arc::new(inherited);
    }

    /// What a successor has to continue from; `process`: our id.
    #[must_use]
    pub(crate) fn inherited_and_own(&self, process: u32) -> AllInherited {
        let inherited = self.inherited();
        // What is shown matters for the sums of those that have ended.
        let shown = inherited.has_ended().then(|| written(&inherited, ReadPurpose::Other));
        let inherited = AllInherited::clone(&inherited);
        inherited.with(process, &self.render_own(), &shown.unwrap_or_default())
    }

    /// Updates what another process has counted, from its own text.
    pub(crate) fn update_inherited(&self, process: u32, text: &str) {
        let counted = InheritedMetrics::read(text);
        self.change_inherited(|inherited| inherited.update(process, counted));
    }

    /// Records that the process has ended, or is no longer read from.
    pub(crate) fn end_inherited(&self, process: u32) {
        self.change_inherited(|inherited| inherited.end(process));
    }

    /// The callers' units that our predecessors have counted.
    #[must_use]
    pub(crate) fn inherited_units(&self) -> Vec<String> {
        self.inherited().units().into_iter().collect()
    }

    /// Sets whether all predecessors' sums are known; until then a scrape waits for a moment, or sums would seem
    /// to fall.
    pub(crate) fn set_settled(&self, is_settled: bool) {
        self.settled.send_replace(is_settled);
    }

    /// Waits for that, for a limited time.
    pub(crate) async fn wait_settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as this does; after a timeout, a scrape with incomplete sums is better than
        // none.
        let _ = alarm::timeout_at(clock::now() + SETTLING, settled.wait_for(|settled| *settled)).await;
    }

    fn inherited(&self) -> Arc<AllInherited> {
        Arc::clone(&self.inherited.lock())
    }

    /// Copies it where a text is being written from it.
    fn change_inherited(&self, change: impl FnOnce(&mut AllInherited)) {
        change(Arc::make_mut(&mut self.inherited.lock()));
    }

    /// The text that Prometheus reads. `is_scrape`: whoever asks reads it, which ends the series of what has departed.
    #[must_use]
    pub(crate) fn render(&self, is_scrape: bool) -> String {
        written(&self.inherited(), if is_scrape { ReadPurpose::Scrape } else { ReadPurpose::Other })
    }

    /// The text of this process alone.
    #[must_use]
    pub(crate) fn render_own(&self) -> String {
        written(&AllInherited::default(), ReadPurpose::Other)
    }
}

fn written(inherited: &AllInherited, purpose: ReadPurpose) -> String {
    let mut text = Text::new(inherited);
    let clusters = cluster::write(&mut text, purpose);
    listener::write(&mut text, purpose, &clusters);
    endpoint::write(&mut text, purpose);
    caller::write(&mut text, purpose);
    process::write(&mut text);
    text.finish()
}
