//! Where the daemon's own events (`tracing`) and the lines of the access log are written, each to an output of its own
//! if the file says so.
//!
//! A line is put into the bounded queue of its output without waiting; one thread per output writes. A reader that
//! stalls or a full disk loses lines, which a metric counts, but delays no session. The format of access records is
//! `session`'s.

mod event_layer;
mod journal;
mod json;
mod output;
mod queue;
mod timestamp;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::metrics;
use crate::sync::{Mutex, MutexGuard};

use event_layer::EventLayer;
pub(crate) use journal::JournalEntry;
pub(crate) use json::{JsonValue, append_members, append_object, append_pairs, append_serialized};
use output::Sink;
pub(crate) use output::accepts;
use queue::LineQueue;
pub(crate) use timestamp::{append_timestamp, timestamp};

/// Outputs and level of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The least important level of events.
    pub level: LevelFilter,
    pub events: LogTarget,
    /// Where access records go; each listener decides whether it writes any.
    pub access: LogTarget,
}

/// An output and its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTarget {
    pub output: Output,
    /// `None`: text on a terminal, JSON elsewhere. The journal has its own format.
    pub format: Option<Format>,
}

/// A destination of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// journald, at its socket.
    Journal(PathBuf),
    /// A file, or anything else that can be opened as one.
    File(PathBuf),
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line for people.
    Text,
    /// One object per line.
    Json,
}

/// The format that an output takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// A line of text.
    Text,
    /// A line with an object.
    Json,
    /// Fields of a [`JournalEntry`].
    Journal,
}

/// Takes the lines of one kind. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    /// The format of its lines.
    pub form: OutputFormat,
    queue: LineQueue,
}

impl Writer {
    /// Queues a line with its line break, or an entry. What does not fit is lost and counted.
    pub(crate) fn put(&self, line: impl Into<Box<[u8]>>) {
        self.queue.put(line.into());
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write the log to {output}: {error}")]
pub(crate) struct OutputError {
    output: Output,
    error: io::Error,
}

/// The process' log. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: EventLayer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    outputs: Outputs,
    ordered: LevelOverride,
}

/// The level that was set instead of the configured one.
#[derive(Debug, Clone, Copy, Default)]
struct LevelOverride {
    /// `None`: the configured one.
    level: Option<LevelFilter>,
    /// The number of the request that set it, so that the end of an older one does not end it.
    number: u64,
}

/// The queues of the outputs in use: for events, and for access records.
#[derive(Debug, Clone)]
struct Outputs {
    events: LineQueue,
    access: Writer,
}

/// Settings whose outputs are open.
#[derive(Debug)]
pub(crate) struct Prepared(State);

/// Every level with its name.
pub(crate) const LEVELS: [(&str, LevelFilter); 6] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
    ("off", LevelFilter::OFF),
];
/// How long the process' end may wait for queued lines.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a request to reopen files waits for it.
const REOPENING: Duration = Duration::from_secs(5);

impl Log {
    /// Opens the outputs and becomes the process' only subscriber; a second one in a process is refused, and the first
    /// stays.
    ///
    /// # Errors
    /// An output that cannot be opened.
    pub(crate) fn install(settings: &Settings) -> Result<Self, OutputError> {
        let state = State::open(settings, None)?;
        let events = EventLayer::install(settings, state.outputs.events.clone());
        metrics::count_lost_lines(lost);
        Ok(Self(Arc::new(Shared { events, state: Mutex::new(state) })))
    }

    /// The writer for access records.
    #[must_use]
    pub(crate) fn access_writer(&self) -> Writer {
        self.state().outputs.access.clone()
    }

    /// Opens the outputs of those settings that are not open yet. It may block as opening files does.
    ///
    /// # Errors
    /// An output that cannot be opened; nothing has changed then.
    pub(crate) fn prepare(&self, settings: &Settings) -> Result<Prepared, OutputError> {
        let before = self.state();
        let known = (before.settings.clone(), before.outputs.clone());
        drop(before);
        State::open(settings, Some(&known)).map(Prepared)
    }

    /// Applies settings. Returns whether they are different.
    pub(crate) fn change(&self, prepared: Prepared) -> bool {
        let Prepared(mut new) = prepared;
        let mut state = self.state();
        new.ordered.number = state.ordered.number;
        let is_different = state.settings != new.settings;
        if state.settings.events != new.settings.events {
            self.0.events.set_target(&new.settings.events, new.outputs.events.clone());
        }
        self.0.events.set_level(new.settings.level, new.settings.level);
        *state = new;
        is_different
    }

    /// The level in force, and the configured one.
    #[must_use]
    pub(crate) fn levels(&self) -> (LevelFilter, LevelFilter) {
        let state = self.state();
        let configured = state.settings.level;
        (state.ordered.level.unwrap_or(configured), configured)
    }

    /// Sets the level until the next change. Returns the number for [`Log::end_override`].
    pub(crate) fn override_level(&self, level: LevelFilter) -> u64 {
        let mut state = self.state();
        state.ordered = LevelOverride { level: Some(level), number: state.ordered.number + 1 };
        self.0.events.set_level(level, state.settings.level);
        state.ordered.number
    }

    /// Returns to the configured level, if that override is still in force.
    pub(crate) fn end_override(&self, number: u64) {
        let mut state = self.state();
        if state.ordered.number == number && state.ordered.level.take().is_some() {
            self.0.events.set_level(state.settings.level, state.settings.level);
        }
    }

    /// Opens every file again by its name, which may be another file by now (logrotate). It may block as opening files
    /// does.
    ///
    /// # Errors
    /// Those that cannot be opened; the old ones stay in use.
    pub(crate) fn reopen(&self) -> Vec<OutputError> {
        let state = self.state();
        let settings = state.settings.clone();
        let Outputs { events, access } = state.outputs.clone();
        drop(state);
        let mut files = vec![(events, settings.events.output)];
        if settings.access.output != files[0].1 {
            files.push((access.queue, settings.access.output));
        }
        let reopened = |(queue, output): (LineQueue, Output)| {
            let reopened = matches!(output, Output::File(_)).then(|| queue.reopen(REOPENING))?;
            reopened.err().map(|error| OutputError { output, error })
        };
        files.into_iter().filter_map(reopened).collect()
    }

    /// Has queued lines written, for a limited time.
    pub(crate) fn close(&self) {
        let Outputs { events, access } = self.state().outputs.clone();
        let (done, is_done) = mpsc::channel();
        // On a thread of its own: where the queue is full, a flush request waits as well.
        let flushing = std::thread::Builder::new().name("log-flush".into()).spawn(move || {
            access.queue.flush();
            events.flush();
            let _ = done.send(());
        });
        if flushing.is_ok() {
            let _ = is_done.recv_timeout(PATIENCE);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl State {
    /// An output that is in use keeps its queue, and so the order of its lines.
    fn open(settings: &Settings, known: Option<&(Settings, Outputs)>) -> Result<Self, OutputError> {
        let find = |output: &Output| {
            let (before, outputs) = known?;
            match () {
                () if before.events.output == *output => Some(outputs.events.clone()),
                () if before.access.output == *output => Some(outputs.access.queue.clone()),
                () => None,
            }
        };
        let open = |output: &Output| match find(output) {
            Some(queue) => Ok(queue),
            None => Sink::open(output)
                .and_then(LineQueue::begin)
                .map_err(|error| OutputError { output: output.clone(), error }),
        };
        let events = open(&settings.events.output)?;
        let access = &settings.access;
        let queue =
            if access.output == settings.events.output { events.clone() } else { open(&access.output)? };
        let access = Writer { form: access.form(), queue };
        let ordered = LevelOverride::default();
        Ok(Self { settings: settings.clone(), outputs: Outputs { events, access }, ordered })
    }
}

impl LogTarget {
    /// The format that the output takes.
    fn form(&self) -> OutputFormat {
        match (&self.output, self.format) {
            (Output::Journal(_), _) => OutputFormat::Journal,
            (_, Some(Format::Text)) => OutputFormat::Text,
            (_, Some(Format::Json)) => OutputFormat::Json,
            (output, None) if output.is_terminal() => OutputFormat::Text,
            (_, None) => OutputFormat::Json,
        }
    }
}

impl Output {
    fn is_terminal(&self) -> bool {
        match self {
            Self::Stderr => io::stderr().is_terminal(),
            Self::Stdout => io::stdout().is_terminal(),
            Self::Journal(_) | Self::File(_) => false,
        }
    }

    /// Its index in [`KINDS`].
    const fn kind(&self) -> usize {
        match self {
            Self::Stderr => 0,
            Self::Stdout => 1,
            Self::Journal(_) => 2,
            Self::File(_) => 3,
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stderr | Self::Stdout => f.write_str(KINDS[self.kind()]),
            Self::Journal(path) => write!(f, "journald at {}", path.display()),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The labels of outputs.
const KINDS: [&str; 4] = ["stderr", "stdout", "journald", "file"];
/// Lines lost on the way to the outputs of each kind, since the start.
static LOST: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn lost() -> Vec<(&'static str, u64)> {
    let used = |(kind, lost): (&'static str, &AtomicU64)| (kind, lost.load(Ordering::Relaxed));
    KINDS.into_iter().zip(&LOST).map(used).collect()
}
