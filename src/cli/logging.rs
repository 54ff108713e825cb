//! Sets up what is written to stderr: `tracing` for events, and the access log in the same dress.
//!
//! Both go through one bounded queue and a thread of its own. A reader that stalls loses lines, which a metric
//! counts; it does not stall the sessions. A reader that is gone loses all of them.

use std::io::IsTerminal;
use std::sync::mpsc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};
use crate::metrics;
use crate::session::{AccessLog, Format};

/// Lines that may wait for the reader of stderr.
const LINES_MAX: usize = 16 * 1024;

/// Dropping it writes what still waits, as far as its reader takes it soon.
#[derive(Debug)]
pub(super) struct Flush(Option<WorkerGuard>);

/// The queue's own patience is a little over a second.
const PATIENCE: Duration = Duration::from_secs(2);

impl Drop for Flush {
    /// On a thread of its own: where its reader stalls, the queue's guard complains by `println!`, which would wait
    /// for the same reader for ever.
    fn drop(&mut self) {
        let Some(guard) = self.0.take() else { return };
        let (done, is_done) = mpsc::channel();
        let flushing = std::thread::Builder::new().name("log-flush".into()).spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        if flushing.is_ok() {
            let _ = is_done.recv_timeout(PATIENCE);
        }
    }
}

/// Installs the process' one subscriber.
pub(super) fn install(log: &Log) -> (AccessLog, Flush) {
    let on_terminal = std::io::stderr().is_terminal();
    let format = log.format.unwrap_or(if on_terminal { LogFormat::Text } else { LogFormat::Json });
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let dropped = writer.error_counter();
    metrics::count_lost_lines(move || dropped.dropped_lines());
    let queue = writer.clone();
    let builder = tracing_subscriber::fmt()
        // A failed write would be reported by `eprintln!`, to the same place, which panics.
        .log_internal_errors(false)
        .with_max_level(log.level)
        .with_writer(move || queue.clone())
        .with_ansi(on_terminal);
    let levels = levels(log.level);
    // A second subscriber in one process is refused; the first stays, and nothing is lost.
    let (_installed, format) = match format {
        LogFormat::Text => (builder.with_target(false).finish().with(levels).try_init(), Format::Text),
        LogFormat::Json => {
            let subscriber = builder.json().flatten_event(true).with_current_span(false).finish();
            (subscriber.with(levels).try_init(), Format::Json)
        }
    };
    let is_on = log.access && log.level >= LevelFilter::INFO;
    (if is_on { AccessLog::new(format, writer) } else { AccessLog::off() }, Flush(Some(guard)))
}

/// A DNS library that tells of each packet is heard where everything is, and else only when something is wrong.
fn levels(level: LevelFilter) -> Targets {
    let of_dns = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let dns = ["hickory_net", "hickory_proto", "hickory_resolver"];
    Targets::new().with_default(level).with_targets(dns.map(|target| (target, of_dns)))
}
