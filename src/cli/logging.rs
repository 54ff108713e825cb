//! Sets up what is written to stderr: `tracing` for events, and the access log in the same dress.
//!
//! Both go through one bounded queue and a thread of its own. A reader that stalls loses lines, which a metric
//! counts; it does not stall the sessions. A reader that is gone loses all of them.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::config::{Log, LogFormat};
use crate::metrics;
use crate::session::{AccessLog, Format};

/// Lines that may wait for the reader of stderr.
const LINES_MAX: usize = 16 * 1024;

/// Installs the process' one subscriber. Dropping the guard writes what still waits, within a second.
pub(super) fn install(log: &Log) -> (AccessLog, WorkerGuard) {
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
    // A second subscriber in one process is refused; the first stays, and nothing is lost.
    let (_installed, format) = match format {
        LogFormat::Text => (builder.with_target(false).try_init(), Format::Text),
        LogFormat::Json => {
            (builder.json().flatten_event(true).with_current_span(false).try_init(), Format::Json)
        }
    };
    let is_on = log.access && log.level >= LevelFilter::INFO;
    (if is_on { AccessLog::new(format, writer) } else { AccessLog::off() }, guard)
}
