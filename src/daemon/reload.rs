//! Reading the configuration again: compiled whole, off the threads that serve; one mistake, and nothing changes.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::{MistakeView, Reloaded};
use crate::alarm;
use crate::clock;
use crate::config::{Config, Reach};
use crate::log::{Log, Prepared};
use crate::metrics;
use crate::sys::{BindError, Inherited};

use super::estate::Estate;
use super::seconds_since_1970;

/// How long compiling may take: a user database or a file system may hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to close sockets that are not wanted any more.
const CLOSING: Duration = Duration::from_secs(2);

/// Reads the file that is in force again, and does what has changed in it, as far as this process may. The result is in the log
/// too.
pub(super) async fn reload(estate: &mut Estate, reach: Option<&Arc<Reach>>) -> Reloaded {
    let mistakes = match compile(estate, reach.cloned()).await {
        Ok((config, log)) => match apply(estate, config, log) {
            Ok(reloaded) => {
                estate.closed(clock::now() + CLOSING).await;
                return reloaded;
            }
            Err(mistakes) => mistakes,
        },
        Err(mistakes) => mistakes,
    };
    metrics::config_refused();
    for mistake in &mistakes {
        let place = mistake.line.zip(mistake.column).map(|(line, column)| format!("{line}:{column}"));
        tracing::error!(file = mistake.file, place, path = mistake.path, "{}", mistake.message);
    }
    tracing::error!(mistakes = mistakes.len(), "the configuration was not reloaded; nothing changed");
    Reloaded { ok: false, mistakes, ..Reloaded::default() }
}

/// Compiles the file, and opens what it wants written to.
async fn compile(estate: &Estate, reach: Option<Arc<Reach>>) -> Result<(Config, Prepared), Vec<MistakeView>> {
    let file = estate.config().map(|config| config.file.clone()).unwrap_or_default();
    let refused = |message: String| {
        let file = file.display().to_string();
        vec![MistakeView { file, line: None, column: None, path: String::new(), message, shown: None }]
    };
    let reading = {
        let (file, log) = (file.clone(), estate.means().subject.log.clone());
        estate.means().admin.spawn_blocking(move || {
            reopen(&log);
            let config = Config::load_within(&file, reach.as_deref());
            config.map(|config| (log.prepare(&config.log), config))
        })
    };
    match alarm::before(clock::now() + PATIENCE, reading).await {
        Ok(Ok(Ok((Ok(log), config)))) => Ok((config, log)),
        Ok(Ok(Ok((Err(error), _)))) => Err(refused(error.to_string())),
        Ok(Ok(Err(mistakes))) => Err(mistakes.view()),
        Ok(Err(_)) => Err(refused("ambassador itself failed while it read the file".into())),
        Err(_) => Err(refused("reading it takes too long: a file system or a user database hangs".into())),
    }
}

/// Opens the log's files again, whatever becomes of the configuration: whoever has renamed them waits for that.
pub(super) fn reopen(log: &Log) {
    for error in log.reopen() {
        tracing::error!("{error}; what is open stays in use");
    }
}

/// # Errors
/// Addresses that cannot be bound.
fn apply(estate: &mut Estate, config: Config, log: Prepared) -> Result<Reloaded, Vec<MistakeView>> {
    let warnings = config.warnings.clone();
    super::warn_of_strangers(&config);
    let needs_restart = estate.config().map_or_else(Vec::new, |before| beyond_reload(before, &config));
    let file = config.file.display().to_string();
    let mut changes = estate.change(config, &mut Inherited::default()).map_err(|errors| {
        let mistake = |error: &BindError| MistakeView {
            file: file.clone(),
            line: None,
            column: None,
            path: error.setting().unwrap_or("listeners").into(),
            message: error.words(),
            shown: None,
        };
        errors.iter().map(mistake).collect::<Vec<_>>()
    })?;
    if estate.means().subject.log.change(log) {
        changes.push("log changed".into());
    }
    estate.deposit();
    // Those that stay in use are not read by the compiler's reading alone.
    estate.means().credentials.look();
    metrics::config_loaded(seconds_since_1970(), false);
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
    Ok(Reloaded { ok: true, changes, needs_restart, warnings, mistakes: Vec::new() })
}

/// What the file says and this process cannot do any more.
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
