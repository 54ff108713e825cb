//! Reading the configuration again: compiled as a whole, off the threads that serve; with a mistake, nothing changes.
//! The daemon does not block on it, so a signal to stop is handled meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::admin::{MistakeView, ReloadResult};
use crate::alarm::{self, Elapsed};
use crate::blocking::{BlockingTask, Panicked};
use crate::clock;
use crate::config::{Config, FileAccess, Mistakes};
use crate::log::{Log, Prepared};
use crate::metrics;
use crate::sys::{BindError, Inherited};

use super::active_config::ActiveConfig;
use super::startup_log::warn_of_strangers;

/// How long compiling may take: a user database or a file system may hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long closing dropped sockets may take.
const CLOSING: Duration = Duration::from_secs(2);

/// How many readings may hang at once: each keeps a thread until its file system responds.
const HUNG_MAX: usize = 16;

/// Readings that have begun and not ended.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingReads(Arc<()>);

/// A reload under way; it can be polled beside other work, or dropped.
pub(super) struct Reload {
    stage: Stage,
    /// The requests to answer.
    answers: Vec<oneshot::Sender<ReloadResult>>,
}

enum Stage {
    Reading {
        reading: BlockingTask<Box<Read>>,
        file: PathBuf,
        until: Instant,
    },
    /// The file is in force; dropped sockets are being closed.
    Closing {
        reloaded: ReloadResult,
        deadline: Instant,
    },
    /// The file has mistakes.
    Refused(Vec<MistakeView>),
}

/// The compiled file, and the log outputs opened for it.
type Read = Result<(Config, Result<Prepared, String>), Mistakes>;

impl Reload {
    /// Begins to read the file of the current configuration again.
    pub(super) fn begin(
        active: &ActiveConfig,
        file_access: Option<Arc<FileAccess>>,
        readings: &PendingReads,
        answers: Vec<oneshot::Sender<ReloadResult>>,
    ) -> Self {
        let file = active.config().map(|config| config.file.clone()).unwrap_or_default();
        let stage = if Arc::strong_count(&readings.0) > HUNG_MAX {
            Stage::Refused(refused(
                &file,
                "earlier readings of it hang: a file system or a user database does".into(),
            ))
        } else {
            let (counted, path, log) =
                (readings.clone(), file.clone(), active.services().admin_state.log.clone());
            let mut reading = BlockingTask::default();
            let begun = reading.begin(move || {
                let _counted = counted;
                reopen(&log);
                let config = Config::load_within(&path, file_access.as_deref());
                Box::new(config.map(|config| {
                    let prepared = log.prepare(&config.log).map_err(|error| error.to_string());
                    (config, prepared)
                }))
            });
            match begun {
                Ok(()) => Stage::Reading { reading, file, until: clock::now() + PATIENCE },
                Err(error) => Stage::Refused(refused(&file, format!("it cannot be read: {error}"))),
            }
        };
        Self { stage, answers }
    }

    /// Applies what has changed in the file, as far as this process can, once it has been read. The result is logged,
    /// too. Cancel-safe.
    pub(super) async fn finish(&mut self, active: &mut ActiveConfig) -> ReloadResult {
        loop {
            self.stage = match &mut self.stage {
                Stage::Reading { reading, file, until } => {
                    let read = alarm::timeout_at(*until, reading.join()).await;
                    match parse(read, file).and_then(|(config, log)| apply(active, config, log)) {
                        Ok(reloaded) => Stage::Closing { reloaded, deadline: clock::now() + CLOSING },
                        Err(mistakes) => Stage::Refused(mistakes),
                    }
                }
                Stage::Closing { reloaded, deadline } => {
                    active.wait_closed(*deadline).await;
                    return std::mem::take(reloaded);
                }
                Stage::Refused(mistakes) => return refuse(std::mem::take(mistakes)),
            };
        }
    }

    /// Answers the requests for this reload.
    pub(super) fn reply(self, reloaded: &ReloadResult) {
        for answer in self.answers {
            // The client may have gone.
            let _ = answer.send(reloaded.clone());
        }
    }
}

fn parse(
    read: Result<Result<Box<Read>, Panicked>, Elapsed>,
    file: &Path,
) -> Result<(Config, Prepared), Vec<MistakeView>> {
    match read.map(|read| read.map(|read| *read)) {
        Ok(Ok(Ok((config, Ok(log))))) => Ok((config, log)),
        Ok(Ok(Ok((_, Err(error))))) => Err(refused(file, error)),
        Ok(Ok(Err(mistakes))) => Err(mistakes.view()),
        Ok(Err(Panicked)) => Err(refused(file, "ambassador itself failed while it read the file".into())),
        Err(Elapsed) => {
            Err(refused(file, "reading it takes too long: a file system or a user database hangs".into()))
        }
    }
}

fn refused(file: &Path, message: String) -> Vec<MistakeView> {
    let file = file.display().to_string();
    vec![MistakeView { file, line: None, column: None, path: String::new(), message, shown: None }]
}

fn refuse(mistakes: Vec<MistakeView>) -> ReloadResult {
    metrics::record_config_refused();
    for mistake in &mistakes {
        let place = mistake.line.zip(mistake.column).map(|(line, column)| format!("{line}:{column}"));
        tracing::error!(file = mistake.file, place, path = mistake.path, "{}", mistake.message);
    }
    tracing::error!(mistakes = mistakes.len(), "the configuration was not reloaded; nothing changed");
    ReloadResult { ok: false, mistakes, ..ReloadResult::default() }
}

/// Opens the log's files again, whether or not the configuration is accepted: log rotation has renamed them and waits
/// for it.
pub(super) fn reopen(log: &Log) {
    for error in log.reopen() {
        tracing::error!("{error}; the open files stay in use");
    }
}

/// # Errors
/// Addresses that cannot be bound.
fn apply(active: &mut ActiveConfig, config: Config, log: Prepared) -> Result<ReloadResult, Vec<MistakeView>> {
    let warnings = config.warnings.clone();
    warn_of_strangers(&config);
    let needs_restart = active.config().map_or_else(Vec::new, |before| beyond_reload(before, &config));
    let file = config.file.display().to_string();
    let mut changes = active.apply(config, &mut Inherited::default()).map_err(|errors| {
        let mistake = |error: &BindError| MistakeView {
            file: file.clone(),
            line: None,
            column: None,
            path: error.setting().unwrap_or("listeners").into(),
            message: error.message(),
            shown: None,
        };
        errors.iter().map(mistake).collect::<Vec<_>>()
    })?;
    if active.services().admin_state.log.change(log) {
        changes.push("log changed".into());
    }
    active.store_sockets();
    // Credentials that stay in use were not replaced by compiling the file.
    active.services().credentials.refresh();
    record_loaded(false);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    for change in &changes {
        tracing::info!("{change}");
    }
    for needed in &needs_restart {
        tracing::warn!("{needed}");
    }
    tracing::info!(changes = changes.len(), "configuration reloaded");
    Ok(ReloadResult { ok: true, changes, needs_restart, warnings, mistakes: Vec::new() })
}

/// Records in the metrics that the configuration has come into force now; `is_first`: at the start.
pub(super) fn record_loaded(is_first: bool) {
    metrics::record_config_loaded(clock::wall(), is_first);
}

/// What the file says but this process can no longer apply.
fn beyond_reload(before: &Config, config: &Config) -> Vec<String> {
    let mut needed = Vec::new();
    if before.workers != config.workers {
        needed.push(format!(
            "runtime.workers: there are {}, and {} need a restart (SIGUSR2 is enough)",
            before.workers, config.workers
        ));
    }
    if before.is_confined != config.is_confined {
        needed.push("runtime.landlock: what has changed there needs a restart (SIGUSR2 is enough)".into());
    }
    needed
}
