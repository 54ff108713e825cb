//! Sets up what is written to stderr: `tracing` for events, and the access log in the same dress.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;

use crate::config::{Log, LogFormat};
use crate::session::{AccessLog, Format};

/// Installs the process' one subscriber.
pub(super) fn install(log: &Log) -> AccessLog {
    let on_terminal = std::io::stderr().is_terminal();
    let format = log.format.unwrap_or(if on_terminal { LogFormat::Text } else { LogFormat::Json });
    // A log that cannot be written must not stop the traffic: a failed write would be reported by `eprintln!`,
    // to the same place, which panics.
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_max_level(log.level)
        .with_writer(std::io::stderr)
        .with_ansi(on_terminal);
    // A second subscriber in one process is refused; the first stays, and nothing is lost.
    let (_installed, format) = match format {
        LogFormat::Text => (builder.with_target(false).try_init(), Format::Text),
        LogFormat::Json => {
            (builder.json().flatten_event(true).with_current_span(false).try_init(), Format::Json)
        }
    };
    AccessLog::new((log.access && log.level >= LevelFilter::INFO).then_some(format))
}
