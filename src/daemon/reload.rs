//! Reading the configuration again: compiled whole, off the threads that serve; one mistake, and nothing changes.

use std::time::Duration;

use crate::admin::{MistakeView, Reloaded};
use crate::alarm;
use crate::clock;
use crate::config::{Config, Mistakes};
use crate::metrics;
use crate::sys::Inherited;

use super::estate::Estate;
use super::seconds_since_1970;

/// How long compiling may take: a user database or a file system may hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads the file that is in force again, and does what has changed in it. The result is in the log too.
pub(super) async fn reload(estate: &mut Estate) -> Reloaded {
    let mistakes = match compile(estate).await {
        Ok(config) => match apply(estate, config) {
            Ok(reloaded) => return reloaded,
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

async fn compile(estate: &Estate) -> Result<Config, Vec<MistakeView>> {
    let file = estate.config().map(|config| config.file.clone()).unwrap_or_default();
    let refused = |message: &str| {
        let file = file.display().to_string();
        vec![MistakeView { file, line: None, column: None, path: String::new(), message: message.into() }]
    };
    let reading = {
        let file = file.clone();
        estate.means().admin.spawn_blocking(move || Config::load(&file))
    };
    match alarm::before(clock::now() + PATIENCE, reading).await {
        Ok(Ok(compiled)) => compiled.map_err(|mistakes: Mistakes| mistakes.view()),
        Ok(Err(_)) => Err(refused("ambassador itself failed while it read the file")),
        Err(_) => Err(refused("reading it takes too long: a file system or a user database hangs")),
    }
}

/// # Errors
/// Addresses that cannot be bound.
fn apply(estate: &mut Estate, config: Config) -> Result<Reloaded, Vec<MistakeView>> {
    let warnings = config.warnings.clone();
    super::warn_of_strangers(&config);
    let needs_restart = estate.config().map_or_else(Vec::new, |before| beyond_reload(before, &config));
    let file = config.file.display().to_string();
    let changes = estate.change(config, &mut Inherited::default()).map_err(|errors| {
        let mistake = |message: String| MistakeView {
            file: file.clone(),
            line: None,
            column: None,
            path: "listeners".into(),
            message,
        };
        errors.iter().map(|error| mistake(error.to_string())).collect::<Vec<_>>()
    })?;
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
    if before.log != config.log {
        needed.push("log: what has changed there needs a restart (SIGUSR2 is enough)".into());
    }
    needed
}
