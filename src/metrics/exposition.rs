//! The process' only recorder, and the text that Prometheus reads.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;

use super::inherited::{AllInherited, InheritedMetrics};
use super::label_guard::{RenderPurpose, without_removed};
use super::names::{BUILD_INFO, LOST_LINES, TASKS, describe, histograms};
use crate::alarm;
use crate::clock;
use crate::sync::{Mutex, MutexGuard};

/// The recorder's handle, and what is added when it is read.
#[derive(Debug, Clone)]
pub(crate) struct Exposition {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    inherited: Arc<Mutex<AllInherited>>,
    /// Whether our predecessor has reported what it had counted at its last scrape.
    settled: Arc<watch::Sender<bool>>,
}

/// How long a scrape waits for that report. It takes milliseconds, unless the predecessor hangs.
const SETTLING: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("cannot set up the metrics: {0}")]
pub(crate) struct MetricsError(String);

impl Exposition {
    /// Installs the process' only recorder, or returns it (tests start several daemons).
    ///
    /// # Errors
    /// When another recorder is installed.
    pub(crate) fn install() -> Result<Self, MetricsError> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = match INSTALLED.get() {
            Some(handle) => handle.clone(),
            None => {
                let handle = builder()
                    .and_then(PrometheusBuilder::install_recorder)
                    .map_err(|error| MetricsError(error.to_string()))?;
                INSTALLED.get_or_init(|| handle).clone()
            }
        };
        describe();
        let process = metrics_process::Collector::default();
        process.describe();
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let (settled, _) = watch::channel(true);
        Ok(Self { handle, process, inherited: Arc::default(), settled: Arc::new(settled) })
    }

    /// Sets how many tasks run: of sessions, and all others.
    pub(crate) fn set_tasks(&self, sessions: usize, upkeep: usize) {
        gauge!(TASKS, "of" => "sessions").set(sessions as f64);
        gauge!(TASKS, "of" => "upkeep").set(upkeep as f64);
    }

    /// Folds the samples that histograms have into their buckets.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Adds to our sums what our predecessors have counted.
    pub(crate) fn set_inherited(&self, inherited: AllInherited) {
        *self.inherited() = inherited;
    }

    /// What a successor has to continue from; `process`: our id.
    #[must_use]
    pub(crate) fn inherited_and_own(&self, process: u32) -> AllInherited {
        let own = self.render_own();
        self.inherited().clone().with(process, &own)
    }

    /// Updates what another process has counted, from its own text.
    pub(crate) fn update_inherited(&self, process: u32, text: &str) {
        self.inherited().update(process, InheritedMetrics::read(text));
    }

    /// Records that the process has ended, or is no longer read from.
    pub(crate) fn end_inherited(&self, process: u32) {
        self.inherited().end(process);
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

    fn inherited(&self) -> MutexGuard<'_, AllInherited> {
        self.inherited.lock()
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let own = self.text(RenderPurpose::Scrape);
        self.inherited().add_to(own)
    }

    /// The text of this process alone.
    #[must_use]
    pub(crate) fn render_own(&self) -> String {
        self.text(RenderPurpose::Other)
    }

    fn text(&self, reader: RenderPurpose) -> String {
        self.process.collect();
        if let Some(lost) = LOST.get() {
            for (output, lines) in lost() {
                counter!(LOST_LINES, "output" => output).absolute(lines);
            }
        }
        self.handle.run_upkeep();
        without_removed(self.handle.render(), reader)
    }
}

type Counts = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;
static LOST: OnceLock<Counts> = OnceLock::new();

/// Sets the function that returns the lost log lines by kind of output; only the first one given is used.
pub(crate) fn count_lost_lines(count: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static) {
    LOST.get_or_init(|| Box::new(count));
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    histograms().try_fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
    })
}
