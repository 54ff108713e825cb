//! The daemon's own events: what `tracing` receives, in the current form and at the current level.

use std::fmt;
use std::io;

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer as Formatter, debug_fn};
use tracing_subscriber::layer::{Context, Layered, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::journal::EventFields;
use super::queue::LineQueue;
use super::{LogTarget, OutputFormat, Settings};
use crate::escape::{escaped, escaped_lines};

type Leveled = Layered<reload::Layer<Targets, Registry>, Registry>;
type Writing = Box<dyn Layer<Leveled> + Send + Sync>;

/// The parts that can be changed later.
pub(super) struct EventLayer {
    level: reload::Handle<Targets, Registry>,
    writing: reload::Handle<Writing, Leveled>,
}

impl fmt::Debug for EventLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").finish_non_exhaustive()
    }
}

impl EventLayer {
    pub(super) fn install(settings: &Settings, queue: LineQueue) -> Self {
        let (filter, level) = reload::Layer::new(levels(settings.level, settings.level));
        let (writer, writing) = reload::Layer::new(layer(&settings.events, queue));
        // A second subscriber in one process is refused; the first stays in use.
        let _ = tracing_subscriber::registry().with(filter).with(writer).try_init();
        Self { level, writing }
    }

    /// Sets the level; `configured` is that of the file.
    pub(super) fn set_level(&self, level: LevelFilter, configured: LevelFilter) {
        // This fails where the subscriber was refused.
        let _ = self.level.reload(levels(level, configured));
    }

    /// Sets the output and the form.
    pub(super) fn set_target(&self, target: &LogTarget, queue: LineQueue) {
        let _ = self.writing.reload(layer(target, queue));
    }
}

fn layer(target: &LogTarget, queue: LineQueue) -> Writing {
    let handed_in = queue.clone();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Line(handed_in.clone()))
        // tracing would report a failed write by `eprintln!`, which panics when stderr is closed.
        .log_internal_errors(false)
        .with_ansi(target.output.is_terminal());
    match target.form() {
        OutputFormat::Text => lines.with_target(false).fmt_fields(debug_fn(field).delimited(" ")).boxed(),
        OutputFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        OutputFormat::Journal => Entries(queue).boxed(),
    }
}

/// The message, or `name=value`, escaped. The subscriber's default does not escape values.
fn field(writer: &mut Formatter<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let name = field.name();
    if name == "message" {
        // Further lines of a message are indented, so that they are not taken for lines of the log.
        return writer.write_str(&escaped_lines(&value).replace('\n', "\n    "));
    }
    let name = name.strip_prefix("r#").unwrap_or(name);
    if writer.has_ansi_escapes() {
        return write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{}", escaped(&value));
    }
    write!(writer, "{name}={}", escaped(&value))
}

/// The DNS library logs each packet, so it is limited to warnings except at `trace`. Control requests (`info`) are
/// always logged, unless the file turns the log off: otherwise a request could hide itself by lowering the level.
fn levels(level: LevelFilter, configured: LevelFilter) -> Targets {
    let audit = if configured == LevelFilter::OFF { level } else { level.max(LevelFilter::INFO) };
    let of_dns = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let dns = ["hickory_net", "hickory_proto", "hickory_resolver"];
    let targets = dns.map(|target| (target, of_dns)).into_iter().chain([("audit", audit)]);
    Targets::new().with_default(level).with_targets(targets)
}

/// The writer for one formatted event, which is queued as a whole.
struct Line(LineQueue);

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Entries(LineQueue);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        self.0.put(fields.entry(event.metadata()).into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The text log escaped a server's words in the message, but not in fields: names in a certificate could control
    /// the reader's terminal, and a line break could forge a line.
    #[test]
    fn others_words_steer_no_terminal_and_begin_no_line() {
        for is_coloured in [false, true] {
            let lines = Lines::default();
            let written = lines.clone();
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(move || written.clone())
                .with_ansi(is_coloured)
                .with_target(false)
                .fmt_fields(debug_fn(field).delimited(" "));
            let words = "a\u{1b}[2J\u{9b}\u{202e}\nb";
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::warn!(error = %words, count = 2, "said: {words}");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            let shown = "a\\u001b[2J\\u009b\\u202e";
            assert!(text.contains(&format!("said: {shown}\n    b")), "{text:?}");
            assert!(text.contains(&format!("{shown}\\u000ab")), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), is_coloured, "{text:?}");
            assert_eq!(text.contains("count=2"), !is_coloured, "{text:?}");
            assert!(!text.contains(['\u{9b}', '\u{202e}']), "{text:?}");
        }
    }
}
