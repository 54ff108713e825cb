//! The process' one recorder, and the text that Prometheus reads of it.

use std::sync::OnceLock;

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names::{
    BUILD_INFO, CONNECT_DURATION, DIAL_BUCKETS, FIRST_BYTE, HANDSHAKE_DURATION, LOST_LINES, SESSION_BUCKETS,
    SESSION_DURATION, WAIT_DURATION, describe,
};

/// The process-wide recorder and what is only read from it.
#[derive(Debug, Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the metrics: {0}")]
pub struct MetricsError(String);

impl Exposition {
    /// Installs the process' one recorder, or finds it installed (tests start several daemons).
    ///
    /// # Errors
    /// When some other recorder is in place.
    pub fn install() -> Result<Self, MetricsError> {
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
        Ok(Self { handle, process })
    }

    /// Folds the samples that histograms hold into their buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        if let Some(lost) = LOST.get() {
            counter!(LOST_LINES).absolute(lost() as u64);
        }
        self.handle.run_upkeep();
        self.handle.render()
    }
}

type Count = Box<dyn Fn() -> usize + Send + Sync>;
static LOST: OnceLock<Count> = OnceLock::new();

/// Where the count of dropped log lines is read at each scrape; the first one given counts.
pub fn count_lost_lines(count: impl Fn() -> usize + Send + Sync + 'static) {
    LOST.get_or_init(|| Box::new(count));
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(SESSION_DURATION), SESSION_BUCKETS)?
        .set_buckets_for_metric(full(CONNECT_DURATION), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(HANDSHAKE_DURATION), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(FIRST_BYTE), DIAL_BUCKETS)?
        .set_buckets_for_metric(full(WAIT_DURATION), DIAL_BUCKETS)
}
